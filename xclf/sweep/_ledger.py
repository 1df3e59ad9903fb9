"""How scikit-learn's own search runs over fits that were trained together.

Splitting, cloning, scoring, routing, failures and the table of results are scikit-learn's business,
and stay there: `GridSearchCV` runs twice, over row numbers instead of rows and a
`RecordingEstimator` instead of the estimator. In the first run these record the fits of the search;
then all fits are trained in few passes; in the second run each recording estimator predicts what
its fitted model predicts.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics import accuracy_score, get_scorer
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if

from xclf import _array_api
from xclf.estimators import computed, exact_match, label_columns
from xclf.rows import Blocks
from xclf.sweep._block_scores import BlockScores
from xclf.sweep._block_search import RowsBeside
from xclf.sweep._fits import Fit, Fold, rows_of
from xclf.sweep._scores import Scores

#: Class of scikit-learn's named scorers and of those of `make_scorer`: they need predictions alone.
_Scorer = type(get_scorer("accuracy"))


@dataclass(frozen=True)
class Folds:
    """Splits that are known, as a splitter."""

    splits: list[Fold] = field(repr=False)

    def get_n_splits(self, *_: Any, **__: Any) -> int:
        return len(self.splits)

    def split(self, *_: Any, **__: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((split.train, split.test) for split in self.splits)


class FitLedger:
    """The fits of one search, candidate by candidate, split by split.

    beside : labels and folds of rows in blocks, where they stay there: splits are then those of the
        numbers of the folds
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        candidates: list[Any],
        splits: list[Fold],
        refit: Callable[..., None],
        beside: RowsBeside | None = None,
        scoring: Any = None,
    ) -> None:
        self.X, self.y, self.beside = X, y, beside
        self.candidates, self.splits = candidates, splits
        self.refit = refit
        self.fits: list[Fit] = []
        self.scoring = scoring
        self.scores = self._scores(False)
        self.recording, self.calls = True, 0
        self.interrupted = False  # while the refit was under way

    def _scores(self, train_too: bool) -> Scores | BlockScores:
        scores: Scores | BlockScores = (
            Scores(self.X, self.splits, self.fits)
            if self.beside is None
            else BlockScores(self.beside, self.splits, self.fits, self.scoring)
        )
        scores.train_too = train_too
        return scores

    def on_fit(
        self, model: RecordingEstimator, rows: np.ndarray, y: Any, params: dict[str, Any]
    ) -> None:
        """Handle a call of `fit`: they come in a fixed order, candidates, then splits, then the
        refit."""
        call, self.calls = self.calls, self.calls + 1
        if self.recording:
            number = call % len(self.splits)
            split = self.splits[number]
            if call < len(self.splits):
                split.y, split.params = y, params
            assert np.array_equal(rows[:, 0], split.train)
            self.fits.append(Fit(number, model.template))
        elif call < len(self.fits):
            fit = self.fits[call]
            model.template, model.fit_ = fit.template, fit
            if fit.error is not None:
                raise fit.error.with_traceback(fit.trace)
            start = time.perf_counter()
            scored = self.scores.prepare(call)
            for other in scored:
                other.score_seconds += (time.perf_counter() - start) / len(scored)
        else:
            if self.beside is not None:
                y, params = self.beside.targets, {"sample_weight": self.beside.weights}
            self.refit(self, model.template, y, params)

    @property
    def classes(self) -> np.ndarray:
        """The sorted distinct labels."""
        return np.unique(np.asarray(self.y)) if self.beside is None else self.beside.classes

    def replay(self) -> None:
        """Switch to the second run of the search."""
        self.recording, self.calls = False, 0

    def keep_folds(self, folds: list[int]) -> None:
        """Keep the splits of these numbers, and their fits."""
        fits = [fit for fit in self.fits if fit.split in folds]
        for fit in fits:
            fit.split = folds.index(fit.split)
        self.fits, self.splits = fits, [self.splits[k] for k in folds]
        self.scores = self._scores(self.scores.train_too)


class RecordingEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The estimator of scikit-learn's search and scorers, whose X is a column of row numbers.

    Parameters, tags and routing are those of `template`; predictions are on the host.
    """

    def __init__(self, template: Any, ledger: FitLedger) -> None:
        self.template, self.ledger = template, ledger
        self.fit_: Fit | None = None
        if hasattr(template, "_metadata_request"):  # where older versions read what `score` takes
            self._metadata_request = template._metadata_request

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return dict(self.template.get_params(deep))

    def set_params(self, **params: Any) -> RecordingEstimator:
        self.template.set_params(**params)
        return self

    def get_metadata_routing(self) -> Any:
        return self.template.get_metadata_routing()

    def __sklearn_clone__(self) -> RecordingEstimator:
        return type(self)(clone(self.template), self.ledger)

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.template)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: np.ndarray, y: Any = None, **params: Any) -> RecordingEstimator:
        self.ledger.on_fit(self, X, y, params)
        return self

    @property
    def classes_(self) -> Any:
        own = self.template.classes_
        return own if isinstance(own, list) else np.asarray(own)

    def _answer(self, method: str, X: np.ndarray) -> np.ndarray:
        assert self.fit_ is not None
        assert isinstance(self.ledger.scores, Scores)
        return self.ledger.scores.answer(self.fit_, method, X[:, 0])

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self._answer("predict", X)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return self._answer("decision_function", X)

    @available_if(lambda self: hasattr(self.template, "predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self._answer("predict_proba", X)

    @available_if(lambda self: hasattr(self.template, "predict_log_proba"))  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: np.ndarray) -> np.ndarray:
        return self._answer("predict_log_proba", X)

    def score(self, X: np.ndarray, y: Any, sample_weight: Any = None) -> float:
        """Mean accuracy, as the estimators' own `score`."""
        scores = self.ledger.scores
        if isinstance(scores, BlockScores):
            assert self.fit_ is not None
            return scores.accuracy(self.fit_, X[:, 0])
        columns = label_columns(y)
        if columns is not None:
            labels = [own for _, own in columns]
            return exact_match(labels, self.predict(X), sample_weight)
        return float(accuracy_score(y, self.predict(X), sample_weight=sample_weight))


def recording_estimator(template: Any, ledger: FitLedger) -> RecordingEstimator:
    """A `RecordingEstimator` with the class name of `template`, for messages."""
    named: type[RecordingEstimator] = type(type(template).__name__, (RecordingEstimator,), {})
    return named(template, ledger)


class OnRows:
    """A scorer that may need anything of a model: it gets the fitted model, and its rows. Of rows
    on a cluster, one that gets what was counted there."""

    def __init__(self, scorer: Callable[..., Any], ledger: FitLedger) -> None:
        self.scorer, self.ledger = scorer, ledger
        self.__signature__ = inspect.signature(scorer)  # where the search finds `sample_weight`

    def __call__(self, model: RecordingEstimator, X: np.ndarray, *args: Any, **params: Any) -> Any:
        own, numbers, scores = self.ledger.X, X[:, 0], self.ledger.scores
        if isinstance(scores, BlockScores):
            assert model.fit_ is not None
            return scores.scored(self.scorer, model.fit_, numbers)
        rows = own.take(numbers) if isinstance(own, Blocks) else rows_of(own, numbers)
        return self.scorer(model.template, rows, *args, **params)

    def __getattr__(self, name: str) -> Any:
        if name in ("scorer", "ledger"):
            raise AttributeError(name)
        return getattr(self.scorer, name)


def needs_predictions_only(scorer: Any) -> bool:
    """Whether a scorer needs predictions alone, no model and no rows."""
    return isinstance(scorer, _Scorer)


def on_row_numbers(scoring: Any, ledger: FitLedger) -> Any:
    """`scoring` for a search over row numbers."""
    if isinstance(scoring, dict):
        return {name: on_row_numbers(scorer, ledger) for name, scorer in scoring.items()}
    if ledger.beside is not None and scoring is not None:
        if not isinstance(scoring, str) and not callable(scoring):
            return {name: on_row_numbers(name, ledger) for name in scoring}
        return OnRows(get_scorer(scoring) if isinstance(scoring, str) else scoring, ledger)
    if callable(scoring) and not needs_predictions_only(scoring):
        return OnRows(scoring, ledger)
    return scoring


def on_rows(scorer: Any) -> Any:
    """The user's own scorers back from `on_row_numbers`."""
    if isinstance(scorer, dict):
        return {name: on_rows(one) for name, one in scorer.items()}
    return scorer.scorer if isinstance(scorer, OnRows) else scorer


class OnHost:
    """A fitted model whose predictions are on the host, whatever X is: for scorers."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__dict__["_model"], name)
        if name not in ("predict", "decision_function", "predict_proba", "predict_log_proba"):
            return value

        @functools.wraps(value)  # scorers read a method's name
        def on_host(X: Any) -> np.ndarray:
            return _array_api.to_host(computed(value(X)))

        return on_host

    def __sklearn_tags__(self) -> Any:
        return get_tags(self._model)
