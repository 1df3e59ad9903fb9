"""Searches over rows on a cluster: labels and folds stay there too, and so do predictions.

scikit-learn's search runs over the numbers of the folds in the place of row numbers, and scorers
get the pairs of true and predicted classes that were counted where the rows are, with their counts
as weights.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics import accuracy_score, get_scorer
from sklearn.model_selection import KFold, ParameterGrid, StratifiedKFold

from xclf.estimators import (
    Targets,
    block_targets,
    fitted_shape,
    stacked_guess,
    uses_full_batches,
)
from xclf.rows import (
    BlockFolds,
    Blocks,
    Judged,
    consecutive_folds,
    count_guesses,
    given_folds,
    stratified_folds,
)
from xclf.sweep._fits import Fit, Fold, first_steps

# Splitters of scikit-learn that hold out each row once, and splits that are listed.
_PARTITIONS = (
    "KFold",
    "StratifiedKFold",
    "GroupKFold",
    "StratifiedGroupKFold",
    "PredefinedSplit",
    "_CVIterableWrapper",
)

#: Bytes of counts that are added up at a time, and of parameters that travel for these.
BUDGET = 64 << 20

# Class of scikit-learn's named scorers and of those of `make_scorer`.
_Scorer = type(get_scorer("accuracy"))


@dataclass(frozen=True)
class RowsBeside:
    """Labels of all rows in blocks and the fold of each, beside the rows.

    y : the labels as the user has them
    """

    y: Any
    targets: Targets
    folds: BlockFolds

    @property
    def classes(self) -> np.ndarray:
        return self.targets.tasks[0][0]

    @property
    def splits(self) -> list[Fold]:
        """Splits of the numbers of the folds."""
        every = np.arange(len(self.folds.counts))
        return [Fold(np.delete(every, k), every[k : k + 1]) for k in every.tolist()]


def rows_beside(search: Any, X: Any, y: Any, params: dict[str, Any]) -> RowsBeside | None:
    """For a search whose labels and folds need not come to this process; None where they have to:
    for splits that are shuffled or the user's own (`split_beside`), scorers that need more than
    predictions, what is passed along with the rows, minibatches, several columns of labels, and
    classes with fewer rows than there are folds.
    """
    make, folds = _unshuffled(search.cv)
    if make is None or any(value is not None for value in params.values()):
        return None
    targets = _targets(search, X, y)
    if targets is None:
        return None
    classes, index = targets.tasks[0]
    return _with_folds(y, targets, make(X, index, len(classes), folds))


def split_beside(
    search: Any, X: Any, y: Any, params: dict[str, Any], splitter: Any, splits: Iterable[Any]
) -> RowsBeside | None:
    """`rows_beside` of splits that are made here, one after the other, where each row is held out
    once and trained on else: the number of its fold goes to it. The labels leave this process.

    params : beside `groups`, for the splitter
    """
    if type(splitter).__name__ not in _PARTITIONS or set(params) - {"groups"}:
        return None
    targets = _targets(search, X, y)
    if targets is None:
        return None
    numbers = np.full(X.shape[0], -1, np.int32)
    for number, (train, test) in enumerate(splits):
        inside = np.zeros(len(numbers), bool)
        inside[train] = True
        whole = len(train) + len(test) == len(numbers) and inside.sum() == len(train)
        if not whole or inside[test].any() or np.any(numbers[test] >= 0):
            return None
        numbers[test] = number
    if numbers.min() < 0:
        return None
    classes, index = targets.tasks[0]
    return _with_folds(y, targets, given_folds(X, index, len(classes), numbers))


def _targets(search: Any, X: Any, y: Any) -> Targets | None:
    """The labels beside the rows; None where a search needs more than these."""
    if not isinstance(X, Blocks) or first_steps(search.estimator) or not _all_full_batch(search):
        return None
    if not all(map(_counts_do, _scorers(search.scoring))):
        return None
    targets = block_targets(X, y)
    if targets is None or targets.names is not None:
        return None
    many = len(targets.tasks[0][0]) ** 2 * 8 > BUDGET
    return None if many and not _accuracy_alone(search.scoring) else targets


def _with_folds(y: Any, targets: Targets, folds: BlockFolds | None) -> RowsBeside | None:
    # A class that is in one fold alone is not among those of a model.
    if folds is None or np.any(folds.counts.sum(axis=0) == folds.counts):
        return None
    return RowsBeside(y, targets, folds)


def _unshuffled(cv: Any) -> tuple[Any, int]:
    """(what makes such folds, how many) of a `cv` of scikit-learn that does not shuffle; else
    None."""
    if cv is None or (isinstance(cv, numbers.Integral) and int(cv) > 1):
        return stratified_folds, 5 if cv is None else int(cv)
    known = {StratifiedKFold: stratified_folds, KFold: consecutive_folds}
    if type(cv) in known and not cv.shuffle:
        return known[type(cv)], int(cv.n_splits)
    return None, 0


def _all_full_batch(search: Any) -> bool:
    """Whether all candidates are; False too where parameters are not as they should be."""
    candidates = ParameterGrid(search.param_grid)
    solvers = {repr(own["solver"]): own["solver"] for own in candidates if "solver" in own}
    try:
        models = [clone(search.estimator).set_params(solver=own) for own in solvers.values()]
        return all(map(uses_full_batches, models or [search.estimator]))
    except Exception:  # which the fits of the search will say
        return False


def _scorers(scoring: Any) -> list[Any]:
    """The scorers of a `scoring` of scikit-learn; [] for the estimator's own."""
    if scoring is None:
        return []
    single = isinstance(scoring, str) or callable(scoring)
    listed = [scoring] if single else scoring.values() if isinstance(scoring, dict) else scoring
    return [get_scorer(own) if isinstance(own, str) else own for own in listed]


def _counts_do(scorer: Any) -> bool:
    """Whether a scorer is a function of scikit-learn's of true and predicted labels alone, with
    weights."""
    if not isinstance(scorer, _Scorer) or scorer._response_method != "predict":
        return False
    function = scorer._score_func
    weighted = "sample_weight" in inspect.signature(function).parameters
    return weighted and function.__module__.startswith("sklearn.metrics.")


def _accuracy_alone(scoring: Any) -> bool:
    return all(scorer._score_func is accuracy_score for scorer in _scorers(scoring))


class BlockScores:
    """Right and wrong predictions of fits' models, counted where the rows are, for all fits at
    once.

    fits : of all candidates, fold by fold
    """

    def __init__(self, X: Blocks, beside: RowsBeside, fits: list[Fit], scoring: Any) -> None:
        self.X, self.beside, self.fits = X, beside, fits
        self.train_too, self.pairs = False, not _accuracy_alone(scoring)
        self._counts: dict[tuple[int, bool], np.ndarray] = {}

    def prepare(self, number: int) -> list[Fit]:
        """Count for fit `number`, and for all other fits; returns those that are new."""
        if (id(self.fits[number]), self.train_too) in self._counts:
            return []
        fits = [fit for fit in self.fits if fit.error is None]
        for train in (False, True)[: 1 + self.train_too]:
            self._count([fit for fit in fits if (id(fit), train) not in self._counts], train)
        return fits

    def accuracies(self, fits: list[Fit]) -> list[float]:
        """Of each on the rows of its fold."""
        self._count([fit for fit in fits if (id(fit), False) not in self._counts], False)
        return [self.accuracy(fit, np.asarray([fit.split])) for fit in fits]

    def accuracy(self, fit: Fit, folds: np.ndarray) -> float:
        truth, guess, counts = self.counted(fit, folds)
        return float(accuracy_score(truth, guess, sample_weight=counts))

    def counted(self, fit: Fit, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(true classes, predicted ones, rows of which these are) in the fold of a fit, or in all
        others; where rows are counted as right and wrong alone, of some class."""
        train, classes = folds.tolist() != [fit.split], self.beside.classes
        counts = self._counts[id(fit), train]
        truth, guess = np.divmod(np.arange(len(counts)), len(classes))
        if not self.pairs:
            rows, right = self.beside.folds.counts[folds].sum(), counts.sum()
            truth, guess = np.zeros(2, np.int64), np.arange(2)
            counts = np.asarray([right, rows - right])
        some = counts > 0
        return classes[truth[some]], classes[guess[some]], counts[some]

    def _count(self, fits: list[Fit], train: bool) -> None:
        alike: dict[Any, list[Fit]] = {}
        for fit in fits:
            alike.setdefault(fitted_shape(fit.template), []).append(fit)
        counts = 8 * len(self.beside.classes) ** (2 if self.pairs else 1)
        for (widths, dtype), some in alike.items():
            each = max(counts, dtype.itemsize * sum((m + 1) * n for m, n in pairwise(widths)))
            size = max(1, BUDGET // each)
            for start in range(0, len(some), size):
                self._count_together(some[start : start + size], train)

    def _count_together(self, fits: list[Fit], train: bool) -> None:
        by_fold: dict[int, list[Fit]] = {}
        for fit in fits:
            by_fold.setdefault(fit.split, []).append(fit)
        index, folds = self.beside.targets.tasks[0][1], self.beside.folds
        judged = [
            Judged(
                stacked_guess([fit.template for fit in own], self.X),
                len(own),
                folds.inside(fold).numbers if train else (fold,),
            )
            for fold, own in by_fold.items()
        ]
        classes = len(self.beside.classes)
        found = count_guesses(
            judged, self.X, index, folds.column, classes=classes, pairs=self.pairs
        )
        for own, counts in zip(by_fold.values(), found, strict=True):
            for fit, row in zip(own, counts, strict=True):
                self._counts[id(fit), train] = row

    def scored(self, scorer: Any, fit: Fit, folds: np.ndarray) -> Any:
        """What a scorer gives for a fit's model on the rows of some folds."""
        truth, guess, counts = self.counted(fit, folds)
        model = _Guesses(self.beside.classes, guess)
        return scorer(model, guess, truth, sample_weight=counts)


class _Guesses(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier that predicts what it is given."""

    def __init__(self, classes: np.ndarray, guess: np.ndarray) -> None:
        self.classes, self.guess = classes, guess
        self.classes_ = classes

    def predict(self, X: Any) -> np.ndarray:
        return self.guess
