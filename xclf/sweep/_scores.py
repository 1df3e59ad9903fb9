"""Predictions of many models on the rows they are judged by, in few products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from xclf import _array_api
from xclf.estimators import fitted_shape, stacked_best, stacked_scores
from xclf.kernels import log_softmax
from xclf.rows import Blocks
from xclf.sweep._fits import Fit, Fold, first_steps, last_step, rows_of, transformed

#: Bytes of scores that are kept on the host at a time.
BUDGET = 256 << 20


class Scores:
    """Scores (n, C) of fits' models on their folds, computed for many candidates at once.

    The search needs them candidate by candidate: with those of one the scores of the next
    candidates on the same fold are computed, as many as `BUDGET` allows over all folds.

    fits : of all candidates, fold by fold
    """

    def __init__(self, X: Any, splits: list[Fold], fits: list[Fit]) -> None:
        self.X, self.splits, self.fits = X, splits, fits
        self.train_too = False
        self._computed: dict[tuple[int, bool], dict[int, np.ndarray]] = {}

    def prepare(self, number: int) -> list[Fit]:
        """Compute scores of fit `number`, and of later ones; returns the fits of new scores."""
        fit, splits = self.fits[number], self.splits
        done: list[Fit] = []
        for train in (False, True)[: 1 + self.train_too]:
            key = (fit.split, train)
            if id(fit) in self._computed.get(key, {}):
                continue
            end = number + len(splits) * self._window(fit)
            fits = [f for f in self.fits[number : end : len(splits)] if f.error is None]
            split = splits[fit.split]
            rows = split.train if train else split.test
            of = _best if isinstance(self.X, Blocks) else _scores
            self._computed[key] = of(fits, self.X, rows)
            done += fits
        return done

    def _window(self, fit: Fit) -> int:
        """Candidates whose scores on all folds fit in the budget; one at least."""
        rows = sum(len(s.test) + self.train_too * len(s.train) for s in self.splits)
        return int(max(1, BUDGET // (8 * rows * len(fit.template.classes_))))

    def answer(self, fit: Fit, method: str, rows: np.ndarray) -> np.ndarray:
        """What `method` of the fit's model gives for the rows of these numbers, on the host."""
        split = self.splits[fit.split]
        for train, own in ((False, split.test), (True, split.train)):
            scores = self._computed.get((fit.split, train), {}).get(id(fit))
            if scores is None or not np.array_equal(rows, own):
                continue
            if scores.ndim == 1 and method == "predict":
                return np.asarray(fit.template.classes_[scores])
            if scores.ndim == 1:  # of X in blocks: a pass for those who need more
                scores = _scores([fit], self.X, rows)[id(fit)]
            return finish(scores, method, fit.template.classes_)
        # Scores that could not be computed with the others': the model itself raises the reason.
        own_rows = self.X.take(rows) if isinstance(self.X, Blocks) else rows_of(self.X, rows)
        return _array_api.to_host(getattr(fit.template, method)(own_rows))


def _best(fits: list[Fit], X: Blocks, rows: np.ndarray) -> dict[int, np.ndarray]:
    """id(fit) -> indices (n,) of the largest scores; as `_scores`."""
    best: dict[int, np.ndarray] = {}
    picked = X.at(rows)
    for some in _alike(fits).values():
        models = [last_step(fit.template) for fit in some]
        parts = [part.astype(np.int32) for _, part in stacked_best(models, picked, len(rows))]
        together = np.concatenate(parts)
        best |= {id(fit): together[:, k] for k, fit in enumerate(some)}
    return best


def scores_of(
    fits: list[Fit], X: Any, splits: list[Fold], number: int
) -> Iterator[tuple[Fit, np.ndarray]]:
    """(fit, scores) on the test rows of split `number`, some fits of it at a time."""
    rows = splits[number].test
    size = max(1, BUDGET // (8 * max(1, len(rows)) * max(len(f.template.classes_) for f in fits)))
    for start in range(0, len(fits), size):
        some = fits[start : start + size]
        scores = _scores(some, X, rows)
        yield from ((fit, scores[id(fit)]) for fit in some if id(fit) in scores)


def _scores(fits: list[Fit], X: Any, rows: np.ndarray) -> dict[int, np.ndarray]:
    """id(fit) -> scores; without those whose rows cannot be scored, and those of several tasks,
    whose models predict all of these at once."""
    plain = rows_of(X, rows)
    scores_by_fit: dict[int, np.ndarray] = {}
    for some in _alike(fits).values():
        try:
            moved = transformed(some[0].template, plain)
            scores = stacked_scores([last_step(fit.template) for fit in some], moved)
        except Exception:  # any of a transformer's: scoring one fit alone raises it again
            continue
        scores_by_fit |= {id(fit): scores[:, k, :] for k, fit in enumerate(some)}
    return scores_by_fit


def _alike(fits: list[Fit]) -> dict[Any, list[Fit]]:
    """Fits of one column of labels by what they must share to be scored together."""
    alike: dict[Any, list[Fit]] = {}
    for fit in fits:
        if fit.several_tasks:
            continue
        steps = tuple(id(step) for _, step in first_steps(fit.template))
        alike.setdefault((steps, fitted_shape(last_step(fit.template))), []).append(fit)
    return alike


def finish(scores: np.ndarray, method: str, classes: np.ndarray) -> np.ndarray:
    """Scores (n, C) as the estimators' methods give them."""
    if method == "predict":
        return np.asarray(classes[scores.argmax(axis=1)])
    if method == "decision_function":
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores
    log_p = log_softmax(scores, axis=-1)
    return np.asarray(log_p if method == "predict_log_proba" else np.exp(log_p))
