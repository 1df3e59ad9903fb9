"""The exact optimum of a small linear hinge problem, from multipliers that are nearly right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg

from xclf._array_api import Array, is_host, to_host
from xclf.training.problem import Problem

# Largest problem: pairs of a row and a class at their margin, which are the system's rows, and
# entries of the features, which are copied.
_PAIRS, _ENTRIES = 1000, 4_000_000
# Pairs stop changing sides after a few rounds, or never.
_ROUNDS = 30
# Cubes of the systems' sizes, all rounds together: about a second.
_WORK = 4_000_000_000
_ROUNDING = 1e-10


class Exact(NamedTuple):
    """Parameters theta (P,) in fitting coordinates, and multipliers (C, N)."""

    theta: np.ndarray
    multipliers: np.ndarray


def exact_hinge(problem: Problem, margin: float, multipliers: Array) -> Exact | None:
    """The optimum of one head by the primal-dual active set method, or None where that fails.

    Pairs (i, j) with multiplier strictly between 0 and 1 are at their margin, m_ij = 0; the others
    stay at 0 or 1. Given these sets, these equations, V = -G^T X / (2 reg) and the balance of the
    flows between classes are linear in the multipliers and biases. A pair whose multiplier leaves
    [0, 1], or whose margin has the wrong sign, changes sides, until none does. Source:
    Hintermueller, Ito & Kunisch (2002).

    problem : linear, reg > 0, float64 rows on the host and one weight a row; None is returned for
        others, and for problems of more than some hundred such pairs
    multipliers : (C, N) near the optimal ones, as `proximal_hinge` gives them
    """
    if not is_small(problem):
        return None
    rows, network = problem.rows, problem.objective.network
    chunk = rows.chunk(slice(0, len(rows)))
    share = np.ones(len(rows)) if chunk.weights is None else chunk.weights.reshape(-1)
    z = network.shifted(chunk.x)
    z = z if network.scale is None else z / network.scale
    reg = float(np.reshape(to_host(problem.objective.reg), ()))
    system = _System(z, _class_index(chunk.labels), share / share.sum(), margin, reg, network.bias)
    solution = system.solve(np.asarray(to_host(multipliers), dtype=np.float64))
    if solution is None:
        return None
    v, b, a = solution
    return Exact(np.asarray(network.flatten([(v, b if network.bias else None)])), a)


def _class_index(labels: np.ndarray) -> np.ndarray:
    """Integers (n,) of labels that may be a boolean mask (C, n)."""
    return np.asarray(labels.argmax(axis=0)) if labels.ndim == 2 else labels


def is_small(problem: Problem) -> bool:
    """Whether `exact_hinge` would try: float64 rows on the host, and not too many."""
    rows, network = problem.rows, problem.objective.network
    size = len(rows) * max(network.widths)
    return bool(is_host(rows.x) and rows.dtype == np.float64 and size <= _ENTRIES)


@dataclass
class _System:
    """Rows z (N, D) in fitting coordinates, with shares that sum to 1."""

    z: np.ndarray
    labels: np.ndarray
    share: np.ndarray
    margin: float
    reg: float
    bias: bool

    def solve(self, multipliers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(V (C, D), b (C,), multipliers (C, N)) at the optimum."""
        classes = len(multipliers)
        other = (np.arange(classes)[:, None] != self.labels) & (self.share > 0.0)
        upper = other & (multipliers >= 1.0)
        free = other & (multipliers > 0.0) & ~upper
        work = 0
        for _ in range(_ROUNDS):
            work += int(free.sum()) ** 3
            if work > _WORK:
                return None
            solution = self._solution(upper, free)
            if solution is None:
                return None
            v, b, a = solution
            m = v @ self.z.T + b[:, None]
            m = m - np.take_along_axis(m, self.labels[None, :], axis=0) + self.margin
            tiny = _ROUNDING * np.abs(m).max()
            above, below = free & (a > 1.0 + _ROUNDING), free & (a < -_ROUNDING)
            freed = (upper & (m < -tiny)) | (other & ~upper & ~free & (m > tiny))
            if not (above.any() or below.any() or freed.any()):
                return v, b, np.clip(a, 0.0, 1.0)
            upper = (upper | above) & ~freed
            free = (free | freed) & ~above & ~below
        return None

    def _solution(
        self, upper: np.ndarray, free: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(V, b, multipliers) of the equations for pairs in `upper` at 1, in `free` at their
        margin; None if there are too many, or the equations contradict each other."""
        classes = len(upper)
        j, i = np.nonzero(free)
        if len(i) > _PAIRS:
            return None
        gradient = self._gradient(upper.astype(np.float64))
        v0 = -(gradient @ self.z) / (2.0 * self.reg)
        signs = np.zeros((len(i), classes))
        signs[np.arange(len(i)), j] += 1.0
        signs[np.arange(len(i)), self.labels[i]] -= 1.0
        z = self.z[i]
        matrix = (signs @ signs.T) * (z @ z.T) / (2.0 * self.reg)
        right = np.sum(signs * (z @ v0.T), axis=1) + self.margin
        if self.bias:
            none = np.zeros((classes, classes))
            matrix = np.block([[matrix, -signs], [-signs.T, none]])
            right = np.concatenate([right, gradient.sum(axis=1)])
        # With more pairs than directions the equations are dependent.
        flows, *_ = scipy.linalg.lstsq(matrix, right, lapack_driver="gelsy", check_finite=False)
        rest = np.abs(matrix @ flows - right).max(initial=0.0)
        if rest > _ROUNDING * np.abs(right).max(initial=1.0):
            return None
        b = flows[len(i) :] if self.bias else np.zeros(classes)
        a = upper.astype(np.float64)
        a[j, i] = flows[: len(i)] / self.share[i]
        return -(self._gradient(a) @ self.z) / (2.0 * self.reg), b, a

    def _gradient(self, a: np.ndarray) -> np.ndarray:
        """G^T (C, N), the objective's gradient in the scores."""
        gradient: np.ndarray = a * self.share
        np.put_along_axis(gradient, self.labels[None, :], -gradient.sum(axis=0)[None, :], axis=0)
        return gradient
