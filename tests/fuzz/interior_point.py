"""The hinge's quadratic program by Mehrotra's predictor and corrector."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tests.fuzz.problems import Problem, along_pairs, hessian, laplacians

MOST_STEPS = 60

#: Steps in a row that lower nothing, after which rounding leaves nothing to gain.
IDLE = 5


class Point(NamedTuple):
    """Multipliers a and cost - a, (N, C); slack and t, (N, C); theta (C, P). Or a step of these."""

    a: np.ndarray
    rest: np.ndarray
    slack: np.ndarray
    t: np.ndarray
    theta: np.ndarray


class InteriorPoint:
    """min  sum_ij c_i t_ij + sum(penalty theta^2),   t_ij >= 0,   t_ij >= margin + s_ij - s_iy

    with multipliers a of the second constraint and c - a of the first. A step solves for theta
    alone: the Hessian is that of a loss with curvature 1 / (slack / a + t / (c - a)) in each pair.
    """

    def __init__(self, task: Problem) -> None:
        n, c = len(task.y), task.classes
        self.task, self.rows = task, np.arange(n)
        self.pairs = np.ones((n, c), bool)
        self.pairs[self.rows, task.y] = False
        self.ridge = np.diag(np.tile(2 * task.penalty, c))
        cost = np.where(self.pairs, task.share[:, None], 1.0)
        a = np.where(self.pairs, cost / 2, 0.0)
        far, near = np.full((n, c), 2.0 * task.margin), np.full((n, c), task.margin)
        self.at = Point(a, cost - a, near, far, np.zeros((c, task.z.shape[1])))

    def minimise(self) -> float:
        """The least objective of all points on the way."""
        best, idle = self.task.value(self.at.theta), 0
        for _ in range(MOST_STEPS):
            mean = self._complementarity(self.at)
            step = self._step(mean)
            if step is None or idle >= IDLE or mean <= 1e-16 * max(best, 1e-300):
                break
            length = 0.995 * self._length(step)
            at = _moved(self.at, step, length)
            # Biases that all classes have in common change nothing, and would grow.
            self.at = at._replace(theta=at.theta - at.theta.mean(axis=0))
            new = self.task.value(self.at.theta)
            idle = 0 if new < best * (1 - 1e-12) else idle + 1
            best = min(best, new)
        return best

    def _step(self, mean: float) -> Point | None:
        """The corrector's step; None where rounding has spoilt the system."""
        at, task = self.at, self.task
        with np.errstate(all="ignore"):
            weight = np.where(self.pairs, 1 / (at.slack / at.a + at.t / at.rest), 0.0)
        if not np.isfinite(weight).all():
            return None
        matrix = hessian(task, laplacians(weight, task.y)) + self.ridge
        unit = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-290))
        matrix = matrix * unit[:, None] * unit
        matrix[np.diag_indices(len(unit))] += 1e-14
        try:
            inverse = np.linalg.inv(matrix) * unit[:, None] * unit
        except np.linalg.LinAlgError:
            return None
        ahead = self._solve(inverse, weight, (0.0, 0.0))
        there = _moved(at, ahead, self._length(ahead))
        aim = mean * (self._complementarity(there) / mean) ** 3
        return self._solve(
            inverse, weight, (aim - ahead.a * ahead.slack, aim - ahead.rest * ahead.t)
        )

    def _solve(
        self, inverse: np.ndarray, weight: np.ndarray, aims: tuple[np.ndarray | float, ...]
    ) -> Point:
        """The step to a slack = aims[0], (c - a) t = aims[1] and all else met, to first order."""
        at, task = self.at, self.task
        dual = self._gradient(np.where(self.pairs, at.a, 0.0)) + 2 * task.penalty * at.theta
        gap = at.slack - at.t + self._margins(at.theta) + task.margin
        a, rest = np.where(self.pairs, at.a, 1.0), np.where(self.pairs, at.rest, 1.0)
        one, two = (aims[0] - at.a * at.slack) / a, (aims[1] - at.rest * at.t) / rest
        shift = one - two + gap  # da (slack / a + t / (c - a)) = shift + the margins' step
        right = self._gradient(weight * shift) + dual
        theta = -(inverse @ right.ravel()).reshape(at.theta.shape)
        da = weight * (shift + self._margins(theta))
        return Point(da, -da, one - at.slack / a * da, two + at.t / rest * da, theta)

    def _margins(self, theta: np.ndarray) -> np.ndarray:
        scores = self.task.z @ theta.T
        return np.asarray(scores - scores[self.rows, self.task.y][:, None])

    def _gradient(self, a: np.ndarray) -> np.ndarray:
        """Of sum_ij a_ij (s_ij - s_iy) in theta."""
        return np.asarray(along_pairs(a, self.rows, self.task.y).T @ self.task.z)

    def _complementarity(self, at: Point) -> float:
        both = (at.a * at.slack + at.rest * at.t) * self.pairs
        return float(both.sum() / (2 * self.pairs.sum()))

    def _length(self, step: Point) -> float:
        """The longest part of a step, at most all, that leaves everything positive."""
        length = 1.0
        for at, move in zip(self.at[:4], step[:4], strict=True):
            down = self.pairs & (move < 0.0)
            if down.any():
                length = min(length, float((-at[down] / move[down]).min()))
        return length


def _moved(at: Point, step: Point, length: float) -> Point:
    return Point(*(one + length * move for one, move in zip(at, step, strict=True)))
