"""Predictions of many models on the rows they are judged by, in few products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from sklearn.utils import _safe_indexing

from xclf import _array_api
from xclf.estimators import fitted_shape, stacked_scores
from xclf.kernels import log_softmax

#: Bytes of scores that are kept on the host at a time.
BUDGET = 256 << 20


class _FoldLike(Protocol):
    train: np.ndarray
    test: np.ndarray


class _FitLike(Protocol):
    split: int
    template: Any
    error: Exception | None


class _LedgerLike(Protocol):
    X: Any
    splits: Any
    fits: Any


class Scores:
    """Scores (n, C) of fits' models on their folds, computed for many candidates at once.

    The search asks candidate by candidate, so the next candidates of a fold, as many as `BUDGET`
    allows over all folds, are computed with the one that is asked for.
    """

    def __init__(self, ledger: _LedgerLike) -> None:
        self.ledger = ledger
        self.train_too = False
        self._held: dict[tuple[int, bool], dict[int, np.ndarray]] = {}

    def prepare(self, place: int) -> list[Any]:
        """Compute scores of the fit at `place`, and of fits to come; returns those computed."""
        fit, splits = self.ledger.fits[place], self.ledger.splits
        done: list[Any] = []
        for train in (False, True)[: 1 + self.train_too]:
            key = (fit.split, train)
            if id(fit) in self._held.get(key, {}):
                continue
            last = place + len(splits) * self._window(fit)
            fits = [f for f in self.ledger.fits[place : last : len(splits)] if f.error is None]
            split = splits[fit.split]
            self._held[key] = _scores(fits, self.ledger.X, split.train if train else split.test)
            done += fits
        return done

    def _window(self, fit: _FitLike) -> int:
        """Candidates whose scores on all folds fit in the budget; one at least."""
        rows = sum(len(s.test) + self.train_too * len(s.train) for s in self.ledger.splits)
        return int(max(1, BUDGET // (8 * rows * len(fit.template.classes_))))

    def answer(self, fit: _FitLike, method: str, rows: np.ndarray) -> np.ndarray:
        """What `method` of the fit's model gives for the rows of these numbers, on the host."""
        split = self.ledger.splits[fit.split]
        for train, own in ((False, split.test), (True, split.train)):
            scores = self._held.get((fit.split, train), {}).get(id(fit))
            if scores is not None and np.array_equal(rows, own):
                return _finish(scores, method, fit.template.classes_)
        # Scores that could not be computed with the others': the model itself says why.
        return _array_api.to_host(getattr(fit.template, method)(rows_of(self.ledger.X, rows)))


def rows_of(X: Any, rows: np.ndarray) -> Any:
    """The rows of X that host integers name, in the kind of X."""
    if _array_api.is_host(X):
        return _safe_indexing(X, rows)
    return _array_api.namespace(X).take(X, _array_api.from_host(rows, X), axis=0)


def scores_of(
    fits: list[Any], X: Any, splits: list[Any], number: int
) -> Iterator[tuple[Any, np.ndarray]]:
    """(fit, scores) on the test rows of split `number`, some fits of it at a time."""
    rows = splits[number].test
    size = max(1, BUDGET // (8 * max(1, len(rows)) * max(len(f.template.classes_) for f in fits)))
    for start in range(0, len(fits), size):
        some = fits[start : start + size]
        found = _scores(some, X, rows)
        yield from ((fit, found[id(fit)]) for fit in some if id(fit) in found)


def _scores(fits: list[Any], X: Any, rows: np.ndarray) -> dict[int, np.ndarray]:
    """id(fit) -> scores; without those whose rows cannot be scored."""
    alike: dict[Any, list[Any]] = {}
    for fit in fits:
        steps = tuple(id(step) for _, step in first_steps(fit.template))
        alike.setdefault((steps, fitted_shape(last_step(fit.template))), []).append(fit)
    plain = rows_of(X, rows)
    held: dict[int, np.ndarray] = {}
    for some in alike.values():
        try:
            moved = transformed(some[0].template, plain)
            scores = stacked_scores([last_step(fit.template) for fit in some], moved)
        except Exception:  # any of a transformer's: scoring alone raises it again, and says so
            continue
        held |= {id(fit): scores[:, k, :] for k, fit in enumerate(some)}
    return held


def _finish(scores: np.ndarray, method: str, classes: np.ndarray) -> np.ndarray:
    """Scores (n, C) as the estimators' methods give them."""
    if method == "predict":
        return np.asarray(classes[scores.argmax(axis=1)])
    if method == "decision_function":
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores
    log_p = log_softmax(scores, axis=-1)
    return np.asarray(log_p if method == "predict_log_proba" else np.exp(log_p))


def last_step(template: Any) -> Any:
    """The estimator itself, or the last step of a Pipeline."""
    return template.steps[-1][1] if hasattr(template, "steps") else template


def first_steps(template: Any) -> list[Any]:
    """The steps of a Pipeline before the last one."""
    return list(template.steps[:-1]) if hasattr(template, "steps") else []


def transformed(template: Any, X: Any) -> Any:
    """X as the last step of a fitted Pipeline sees it."""
    return template[:-1].transform(X) if first_steps(template) else X
