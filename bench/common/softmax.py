"""The softmax problem of the fits, its objective in float64 apart from the library, and its
optimum, found once and certified."""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.common.measuring import progress
from bench.common.record import remembered
from xclf import SoftmaxClassifier

_ROWS = 8192  # rows widened to float64 at a time
_MOST = 1000  # iterations of the fit that finds the optimum; the bound tells if they do
_TOL = 1e-12


@dataclass(frozen=True)
class Problem:
    """min  mean_i (logsumexp(s_i) - s_i[y_i]) + reg * sum(W^2),   s_i = W x_i + b

    best : the optimum's objective;  floor : a proven lower bound on it
    gap : relative, to which the fits go
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    reg: float
    gap: float = 1e-4
    best: float = math.nan
    floor: float = math.nan

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1

    @property
    def shape(self) -> str:
        return f"{self.x.shape[0]} x {self.x.shape[1]} x {self.classes} {self.x.dtype}"

    @property
    def goal(self) -> float:
        return self.best * (1.0 + self.gap)

    def objective(self, coef: np.ndarray, intercept: np.ndarray) -> float:
        """In float64, whatever the rows are."""
        w, b = _wide(coef), _wide(intercept)
        loss = sum(float(_losses(s + b, y).sum()) for s, _, y in self._scores(w))
        return loss / len(self.x) + self.reg * float((w**2).sum())

    def bound(self, coef: np.ndarray, intercept: np.ndarray) -> float:
        """A lower bound on the optimum, from any weights.

        With the biases at their optimum for these weights, what is left is a function F of the
        weights alone, F - reg * sum(W^2) convex, and so F* >= F - sum(F'^2) / (4 reg). Minus
        infinity where the biases' optimum was not found.
        """
        w, b = _wide(coef), _wide(intercept)
        scores = np.concatenate([s for s, _, _ in self._scores(w)])
        b = _best_biases(scores, b, self.y)
        value = float(_losses(scores + b, self.y).mean()) + self.reg * float((w**2).sum())
        gradient, left = 2.0 * self.reg * w, np.zeros(len(b))
        for s, x, y in self._scores(w):
            p = _softmax(s + b)
            p[np.arange(len(y)), y] -= 1.0
            gradient += p.T @ x / len(self.x)
            left += p.sum(axis=0) / len(self.x)
        if np.abs(left).max() > 1e-10:
            return -math.inf
        return value - float((gradient**2).sum()) / (4.0 * self.reg)

    def _scores(self, w: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for start in range(0, len(self.x), _ROWS):
            x = self.x[start : start + _ROWS].astype(np.float64)
            yield x @ w.T, x, self.y[start : start + _ROWS]

    def key(self) -> str:
        """Names the problem by its labels, and its numbers up to rounding: BLAS makes some rows."""
        labels = hashlib.blake2b(self.y.astype(np.int64).tobytes(), digest_size=4).hexdigest()
        size = float(np.abs(self.x).mean(dtype=np.float64))
        return f"{self.name}, {self.shape}, reg {self.reg:g}, labels {labels}, size {size:.6g}"


def with_optimum(problem: Problem, file: Path | None) -> Problem:
    """The problem with its optimum, from `file` if it is there, else found and kept there."""
    results = remembered(file, problem.key(), lambda: _find(problem))
    return replace(problem, best=results["objective"], floor=results["lower_bound"])


def _find(problem: Problem) -> dict[str, Any]:
    progress(f"{problem.name}, reg {problem.reg:g}: finding the optimum, in float64")
    began = time.perf_counter()
    model = SoftmaxClassifier(problem.reg, tol=_TOL, max_iter=_MOST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rounding may end it before its tolerance
        model.fit(problem.x.astype(np.float64), problem.y)
    best = problem.objective(model.coef_, model.intercept_)
    floor = min(best, problem.bound(model.coef_, model.intercept_))  # rounding may lift it
    return {
        "objective": best,
        "lower_bound": floor,
        "certified_relative_gap": (best - floor) / best,
        "iterations": model.n_iter_,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _best_biases(scores: np.ndarray, b: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Newton's method in the biases alone, steps halved until they lower the loss."""
    shares = np.bincount(y, minlength=scores.shape[1]) / len(y)
    value = float(_losses(scores + b, y).mean())
    for _ in range(100):
        p = _softmax(scores + b)
        mean = p.mean(axis=0)
        gradient = mean - shares
        curvature = np.diag(mean) - p.T @ p / len(y)
        step = np.linalg.lstsq(curvature, gradient, rcond=1e-12)[0]  # singular along equal shifts
        while (after := float(_losses(scores + b - step, y).mean())) > value:
            step = step / 2.0
            if np.abs(step).max() < 1e-12:
                return b
        b, value = b - step, after
        if np.abs(gradient).max() < 1e-15:
            return b
    return b


def _losses(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    top = scores.max(axis=1)
    sums = np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top
    return np.asarray(sums - scores[np.arange(len(y)), y])


def _softmax(scores: np.ndarray) -> np.ndarray:
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return np.asarray(p)


def _wide(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)
