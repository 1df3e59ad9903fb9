"""Scores of models on rows in blocks: counted where the rows are, for all fits at once.

Scorers of scikit-learn that take predicted labels get the pairs of true and predicted classes, with
their counts as weights. Others that need no rows get true classes and scores of the rows of a fold,
those that need rows get these: of one model at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score, get_scorer

from xclf._array_api import Array
from xclf._sparse import stacked_rows
from xclf.estimators import fitted_shape, stacked_guess, stacked_values
from xclf.rows import (
    BlockColumn,
    Blocks,
    Judged,
    Subset,
    class_counts,
    count_guesses,
    map_pieces,
)
from xclf.sweep._block_search import RowsBeside
from xclf.sweep._fits import Fit, Fold
from xclf.sweep._scores import finish

#: Bytes of counts that are added up at a time, and of parameters that travel for these.
BUDGET = 64 << 20

# Class of scikit-learn's named scorers and of those of `make_scorer`.
_Scorer = type(get_scorer("accuracy"))


def _scorers(scoring: Any) -> list[Any]:
    """The scorers of a `scoring` of scikit-learn; [] for the estimator's own."""
    if scoring is None:
        return []
    single = isinstance(scoring, str) or callable(scoring)
    listed = [scoring] if single else scoring.values() if isinstance(scoring, dict) else scoring
    return [get_scorer(own) if isinstance(own, str) else own for own in listed]


def counts_do(scorer: Any) -> bool:
    """Whether a scorer is a function of scikit-learn's of true and predicted labels alone, with
    weights."""
    if not isinstance(scorer, _Scorer) or scorer._response_method != "predict":
        return False
    function = scorer._score_func
    weighted = "sample_weight" in inspect.signature(function).parameters
    return weighted and function.__module__.startswith("sklearn.metrics.")


def _is_accuracy(scorer: Any) -> bool:
    return scorer._score_func is accuracy_score


class BlockScores:
    """What scorers need of fits' models.

    splits : of the numbers of the folds;  fits : of all candidates, split by split
    """

    def __init__(
        self, beside: RowsBeside, splits: list[Fold], fits: list[Fit], scoring: Any
    ) -> None:
        self.beside, self.splits, self.fits = beside, splits, fits
        self.X: Blocks = beside.X
        self.train_too, self.scoring = False, scoring
        scorers = _scorers(scoring)
        counted = [own for own in scorers if counts_do(own)]
        self.few = beside.several or 8 * len(beside.classes) ** 2 <= BUDGET
        # Rows that are right are enough for accuracies.
        self.pairs = self.few and not all(map(_is_accuracy, counted))
        self.counts = not beside.several and (bool(counted) or not scorers)
        self._counts: dict[tuple[int, bool], np.ndarray] = {}
        self._masses: np.ndarray | None = None
        self._last: tuple[Any, Any] = (None, None)

    def prepare(self, number: int) -> list[Fit]:
        """Count for fit `number`, and for all other fits; returns those that are new."""
        if not self.counts or (id(self.fits[number]), self.train_too) in self._counts:
            return []
        fits = [fit for fit in self.fits if fit.error is None]
        for train in (False, True)[: 1 + self.train_too]:
            self._count([fit for fit in fits if (id(fit), train) not in self._counts], train)
        return fits

    def accuracies(self, fits: list[Fit]) -> list[float]:
        """Of each on the rows of its fold."""
        self._count([fit for fit in fits if (id(fit), False) not in self._counts], False)
        return [self.accuracy(fit, self.splits[fit.split].test) for fit in fits]

    def accuracy(self, fit: Fit, folds: np.ndarray) -> float:
        """The (weighted) share of rows whose labels, in all columns, are right."""
        if self.beside.several:
            return self._exact(fit, folds)
        truth, guess, counts = self._counted(fit, folds)
        return float(accuracy_score(truth, guess, sample_weight=counts))

    def scored(self, scorer: Any, fit: Fit, folds: np.ndarray) -> Any:
        """What a scorer gives for a fit's model on the rows of some folds."""
        if self._by_counts(scorer):
            truth, guess, counts = self._counted(fit, folds)
            model = _Guesses(self.beside.classes, guess)
            return scorer(model, guess, truth, sample_weight=counts)
        key = (id(fit), folds.tolist())
        if self._last[0] != key:
            # Scores are enough for scorers of scikit-learn, of labels of one column.
            with_rows = self.beside.several or not isinstance(scorer, _Scorer)
            self._last = (None, None)  # before the next ones come
            self._last = key, (self._rows if with_rows else self._scores)(fit, folds)
        model, rows, truth, weights = self._last[1]
        return scorer(model, rows, truth, **({} if weights is None else {"sample_weight": weights}))

    def _by_counts(self, scorer: Any) -> bool:
        if self.beside.several or not counts_do(scorer):
            return False
        return self.few or _is_accuracy(scorer)

    def _counted(self, fit: Fit, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(true classes, predicted ones, rows of which these are, or their weights) in some folds;
        where rows are counted as right and wrong alone, of some class."""
        train, classes = not np.array_equal(folds, self.splits[fit.split].test), self.beside.classes
        counts = self._counts[id(fit), train]
        truth, guess = np.divmod(np.arange(len(counts)), len(classes))
        if not self.pairs:
            truth, guess = np.zeros(2, np.int64), np.arange(2)
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
        by_split: dict[int, list[Fit]] = {}
        for fit in fits:
            by_split.setdefault(fit.split, []).append(fit)
        judged = []
        for number, own in by_split.items():
            models, split = [fit.template for fit in own], self.splits[number]
            folds = split.train if train else split.test
            guess = partial(
                _numbered, stacked_guess(models, self.X), self._places(models[0].classes_, 0)
            )
            judged.append(Judged(guess, len(own), tuple(folds.tolist())))
        index, column = self.beside.targets.tasks[0][1], self.beside.folds.column
        beside, classes = (index, column, self.beside.weights), len(self.beside.classes)
        found = count_guesses(judged, self.X, *beside, classes=classes, pairs=self.pairs)
        for own, judge, counts in zip(by_split.values(), judged, found, strict=True):
            assert judge.numbers is not None
            every = 0.0 if self.pairs else self._mass(judge.numbers)
            for fit, row in zip(own, counts, strict=True):
                right = row.sum()
                kept = row if self.pairs else np.asarray([right, every - right])
                self._counts[id(fit), train] = kept

    def _mass(self, numbers: tuple[int, ...]) -> float:
        """Rows of some folds, or the sum of their weights."""
        if self.beside.weights is None:
            return len(Subset(self.beside.folds, numbers))
        if self._masses is None:
            index, column = self.beside.targets.tasks[0][1], self.beside.folds.column
            own = (len(self.beside.classes), column, len(self.beside.folds.counts))
            self._masses = class_counts(index, *own, self.beside.weights).sum(axis=1)
        return float(self._masses[list(numbers)].sum())

    def _places(self, classes: np.ndarray, task: int) -> np.ndarray:
        """Numbers of a model's classes among those of all rows."""
        return np.asarray(np.searchsorted(self.beside.targets.tasks[task][0], classes))

    def _exact(self, fit: Fit, folds: np.ndarray) -> float:
        tasks = [
            (stacked_guess([one], self.X), self._places(one.classes_, t))
            for t, one in enumerate(fit.template.estimators_)
        ]
        found = self._pieces(partial(_right, tasks), folds)
        right, every = np.sum([own for _, own in found], axis=0)
        return float(right / every)

    # What comes to this process.

    def _pieces(self, call: Callable[..., Any], folds: np.ndarray) -> Iterator[tuple[int, Any]]:
        columns = [index for _, index in self.beside.targets.tasks]
        index = BlockColumn.joined(columns) if self.beside.several else columns[0]
        subset = Subset(self.beside.folds, tuple(folds.tolist()))
        return map_pieces(call, self.X, index, subset, self.beside.weights)

    def _scores(self, fit: Fit, folds: np.ndarray) -> tuple[Any, ...]:
        """(model, rows, true labels, weights) of scorers that need no rows."""
        model = fit.template
        call = partial(_values, stacked_values([model], self.X))
        scores, truth, weights = self._joined(self._pieces(call, folds))
        kind = _Probable if hasattr(model, "predict_proba") else _Scored
        return kind(model.classes_), scores, truth, weights

    def _rows(self, fit: Fit, folds: np.ndarray) -> tuple[Any, ...]:
        """(model, rows, true labels, weights)."""
        return fit.template, *self._joined(self._pieces(_whole, folds))

    def _joined(self, pieces: Iterator[tuple[int, Any]]) -> tuple[Any, np.ndarray, Any]:
        values, labels, weights = zip(*(own for _, own in pieces), strict=True)
        index = np.concatenate(labels, axis=-1)
        tables = [classes for classes, _ in self.beside.targets.tasks]
        truth = tables[0][index] if index.ndim == 1 else None
        if truth is None:
            columns = zip(tables, index, strict=True)
            truth = np.stack([classes[own] for classes, own in columns], axis=1)
        return stacked_rows(values), truth, None if weights[0] is None else np.concatenate(weights)


def _numbered(guess: Any, places: np.ndarray, x: Array) -> np.ndarray:
    return np.asarray(places[guess(x)])


def _right(
    tasks: list[Any], x: Array, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[float, float]:
    """(rows that are right in all tasks, all rows), or the sums of their weights."""
    own = [
        places[guess(x)[:, 0]] == row for (guess, places), row in zip(tasks, labels, strict=True)
    ]
    each = np.ones(labels.shape[-1]) if weights is None else weights
    return float(each[np.all(own, axis=0)].sum()), float(each.sum())


def _values(values: Any, x: Array, labels: np.ndarray, weights: Any) -> tuple[Any, ...]:
    return values(x)[:, 0, :], labels, weights


def _whole(x: Array, labels: np.ndarray, weights: Any) -> tuple[Any, ...]:
    return x, labels, weights


class _Guesses(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier that predicts what it is given."""

    def __init__(self, classes: np.ndarray, guess: np.ndarray) -> None:
        self.classes, self.guess = classes, guess
        self.classes_ = classes

    def predict(self, X: Any) -> np.ndarray:
        return self.guess


class _Scored(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier of rows that are their scores."""

    def __init__(self, classes: np.ndarray) -> None:
        self.classes = self.classes_ = classes

    def predict(self, X: np.ndarray) -> np.ndarray:
        return finish(X, "predict", self.classes_)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return finish(X, "decision_function", self.classes_)


class _Probable(_Scored):
    """One that has probabilities."""

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return finish(X, "predict_proba", self.classes_)

    def predict_log_proba(self, X: np.ndarray) -> np.ndarray:
        return finish(X, "predict_log_proba", self.classes_)
