"""How scikit-learn's own search runs over fits that were trained together.

Splitting, cloning, scoring, routing, failures and the table of results are scikit-learn's business,
and stay there: `GridSearchCV` runs twice, over row numbers instead of rows and a
`RecordingEstimator` instead of the estimator. The first time the stand-ins write down which fits
are asked for; then all of them are trained in few passes; the second time each stand-in answers for
its fit.
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
from xclf.sweep._scores import Scores, rows_of

#: What makes scorers of scikit-learn's names, and those of `make_scorer`: they ask for predictions
#: alone, which a stand-in has.
_Scorer = type(get_scorer("accuracy"))


@dataclass
class Fold:
    """One fold: host row numbers; the labels and the parameters of `fit` of its training rows."""

    train: np.ndarray
    test: np.ndarray
    y: Any = None
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Folds:
    """Splits that are known, as a splitter."""

    splits: list[Fold] = field(repr=False)

    def get_n_splits(self, *_: Any, **__: Any) -> int:
        return len(self.splits)

    def split(self, *_: Any, **__: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((split.train, split.test) for split in self.splits)


@dataclass(eq=False)
class Fit:
    """One fit that the search asks for: a candidate's parameters on a fold.

    template : the estimator, or a Pipeline that ends in one, parameters set; once trained, fitted
    error, trace : what the fit raised, if it did, and from where
    seconds : its share of the time that training took, and of that of predicting
    """

    split: int
    template: Any
    error: Exception | None = None
    trace: Any = None
    fit_seconds: float = 0.0
    score_seconds: float = 0.0

    def fail(self, error: Exception) -> None:
        self.error, self.trace = error, error.__traceback__


class FitLedger:
    """The fits of one search, candidate by candidate, split by split."""

    def __init__(
        self, X: Any, y: Any, candidates: list[Any], splits: list[Fold], refit: Callable[..., None]
    ) -> None:
        self.X, self.y = X, y
        self.candidates, self.splits = candidates, splits
        self.refit = refit
        self.fits: list[Fit] = []
        self.scores = Scores(self)
        self.recording, self.turn = True, 0

    def asked(
        self, asking: RecordingEstimator, rows: np.ndarray, y: Any, params: dict[str, Any]
    ) -> None:
        """`fit` of a stand-in. One process asks, in a fixed order: candidates, then splits."""
        place, self.turn = self.turn, self.turn + 1
        if self.recording:
            number = place % len(self.splits)
            split = self.splits[number]
            if place < len(self.splits):
                split.y, split.params = y, params
            assert np.array_equal(rows[:, 0], split.train)
            self.fits.append(Fit(number, asking.template))
        elif place < len(self.fits):
            fit = self.fits[place]
            asking.template, asking.fit_ = fit.template, fit
            if fit.error is not None:
                raise fit.error.with_traceback(fit.trace)
            start = time.perf_counter()
            shared = self.scores.prepare(place)
            for other in shared:
                other.score_seconds += (time.perf_counter() - start) / len(shared)
        else:
            self.refit(self, asking.template, y, params)

    def replay(self) -> None:
        """From now on stand-ins answer for their fits."""
        self.recording, self.turn = False, 0


class RecordingEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """An estimator to scikit-learn's search and scorers; X is a column of row numbers.

    Parameters, tags and routing are those of `template`; predictions are on the host.
    """

    def __init__(self, template: Any, ledger: FitLedger) -> None:
        self.template, self.ledger = template, ledger
        self.fit_: Fit | None = None
        if hasattr(template, "_metadata_request"):  # older versions ask there what `score` takes
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
        self.ledger.asked(self, X, y, params)
        return self

    @property
    def classes_(self) -> np.ndarray:
        return np.asarray(self.template.classes_)

    def _answer(self, method: str, X: np.ndarray) -> np.ndarray:
        assert self.fit_ is not None
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
        return float(accuracy_score(y, self.predict(X), sample_weight=sample_weight))


def recording_estimator(template: Any, ledger: FitLedger) -> RecordingEstimator:
    """A stand-in for `template` by whose name messages call it."""
    kind: type[RecordingEstimator] = type(type(template).__name__, (RecordingEstimator,), {})
    return kind(template, ledger)


class OnRows:
    """A scorer that may want anything of a model: it gets the fitted model, and its rows."""

    def __init__(self, scorer: Callable[..., Any], ledger: FitLedger) -> None:
        self.scorer, self.ledger = scorer, ledger
        # The search looks there for `sample_weight`.
        self.__signature__ = inspect.signature(scorer)

    def __call__(self, asked: RecordingEstimator, X: np.ndarray, *args: Any, **params: Any) -> Any:
        return self.scorer(asked.template, rows_of(self.ledger.X, X[:, 0]), *args, **params)

    def __getattr__(self, name: str) -> Any:
        if name in ("scorer", "ledger"):
            raise AttributeError(name)
        return getattr(self.scorer, name)


def wants_predictions(scorer: Any) -> bool:
    """Whether a scorer asks for predictions alone."""
    return isinstance(scorer, _Scorer)


def on_row_numbers(scoring: Any, ledger: FitLedger) -> Any:
    """`scoring` as the search takes it, for stand-ins."""
    if isinstance(scoring, dict):
        return {name: on_row_numbers(scorer, ledger) for name, scorer in scoring.items()}
    if callable(scoring) and not wants_predictions(scoring):
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
        found = getattr(self.__dict__["_model"], name)
        if name not in ("predict", "decision_function", "predict_proba", "predict_log_proba"):
            return found

        @functools.wraps(found)  # scorers ask a method for its name
        def on_host(X: Any) -> np.ndarray:
            return _array_api.to_host(found(X))

        return on_host

    def __sklearn_tags__(self) -> Any:
        return get_tags(self._model)
