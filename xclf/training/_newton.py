"""Newton's method for a linear softmax model of few parameters, and the proof that it has ended.

Where rounding ends L-BFGS, or leaves its end in doubt, the exact Hessian of a small problem settles
it. Features are centred and scaled, z = (x - m) / s, and all is computed in float64 on the host:

    min f(V, b') + reg sum_j (V_j / s_j)^2,    V = W s, b' = b + W m

so that columns of any scale and offset are alike. The cross-entropy's third derivative is bounded
by its second: |D^3 f[u, u, v]| <= M D^2 f[u, u] where v changes no row's scores by more than M
against each other. With H the Hessian, l^2 = g^T H^-1 g and k the most that a step of length 1 in
the norm of H changes them, the optimum is a step of length d <= -log(1 - k l) / k away, and

    P - P* <= l^2 / (2 (1 - k d / 3)).

Source: Bach (2010), Self-concordant analysis for logistic regression; Sun & Tran-Dinh (2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from xclf._array_api import namespace, to_host
from xclf._sparse import SparseMatrix
from xclf.kernels import cross_entropy
from xclf.objectives import Softmax, true_index
from xclf.training._precision import rounding_bounds
from xclf.training.problem import Problem

#: Parameters, entries of X and multiply-adds of a Hessian, up to which it is worth its time.
MOST_PARAMETERS, MOST_FEATURES, MOST_OPERATIONS = 1500, 1 << 22, 4e9

EPS = 2.0**-52

# Share of the diagonal that is added to it, against directions without curvature.
_RIDGE = 1e-14

# Operations that could be done in the time that a pass, and a Newton step of one head, take beside
# their arithmetic.
_PASS_OVERHEAD, _STEP_OVERHEAD = 4e7, 4e7

# Entries of the products of probabilities and features that are in memory at once.
_MIXED = 1 << 20


class Step(NamedTuple):
    """Newton step (C, m), l^2, the most that the step changes scores, and the Hessian's Cholesky
    factor in units of its diagonal: H + ridge = (L / unit) (L / unit)^T."""

    change: np.ndarray
    square: float
    reach: float
    factor: np.ndarray
    unit: np.ndarray
    ridge: float


class Point(NamedTuple):
    """theta (C, m), the objective, its gradient, p - y (N, C), and the step from there, None
    without one."""

    theta: np.ndarray
    value: float
    grad: np.ndarray
    d: np.ndarray
    step: Step | None


class Proof(NamedTuple):
    """l^2 with rounding, what lies along directions without curvature at most, and the inverse
    Hessian."""

    square: float
    hidden: float
    inverse: np.ndarray


def steps_in_passes(problem: Problem, heads: int) -> float:
    """What a Newton step of one head costs, in passes of L-BFGS over the rows for that head, where
    so many heads share a pass."""
    (d, c), n = problem.objective.network.widths, len(problem.rows)
    size = c * (d + 1)
    step = n * size**2 + size**3 + _STEP_OVERHEAD
    return step / (4.0 * n * size + _PASS_OVERHEAD / heads)


def is_small(problem: Problem) -> bool:
    """Whether the Hessian of a softmax problem is worth its time, and float64 is there for it."""
    (d, c), rows = problem.objective.network.widths, problem.rows
    size = c * (d + 1)
    needed = 8 * (8 * size**2 + 6 * len(rows) * (d + c))  # Hessians, and copies of the rows
    return (
        isinstance(problem.objective.loss, Softmax)
        and needed <= rows.budget.for_basis()
        and rows.dtype == namespace(rows.x).float64
        and not rows.shards
        and size <= MOST_PARAMETERS
        and len(rows) * d <= MOST_FEATURES
        and len(rows) * size**2 <= MOST_OPERATIONS
    )


class Newton:
    """One head's problem in centred, scaled coordinates; parameters are (C, m), m = D + bias.

    problem : of one head (K = 1), with rows in float64;  stored : raw (w, b) -> what a model keeps
    """

    def __init__(self, problem: Problem, stored: Callable[..., Any]) -> None:
        network, self.stored = problem.objective.network, stored
        x, y, weights = on_host(problem)
        self.share = weights / weights.sum()
        self.classes, self.bias = network.widths[1], network.bias
        mean = self.share @ x
        self.centre = mean if self.bias else np.zeros_like(mean)
        x -= self.centre
        if self.bias:  # twice: the mean of many large numbers is off by more than one rounding
            rest = self.share @ x
            self.centre = self.centre + rest.astype(np.longdouble)
            x -= rest
        top = np.abs(x).max(axis=0)
        top = np.where(top > 0.0, top, 1.0)
        spread = top * np.sqrt(self.share @ (x / top) ** 2)
        # A spread at rounding level of the mean is that of a constant column.
        size = np.abs(mean)
        unknown = ~(spread > 10.0 * EPS * size) | ~np.isfinite(spread)
        self.scale = np.where(unknown, np.where(size > 0.0, size, 1.0), spread)
        x /= self.scale
        self.z = np.concatenate([x, np.ones((len(x), 1))], axis=1) if self.bias else x
        self.y = y
        old = 1.0 if network.scale is None else np.asarray(to_host(network.scale))
        reg = float(np.ravel(to_host(problem.objective.reg))[0])
        with np.errstate(all="ignore"):
            penalty = reg * (old / self.scale) ** 2
        self.penalty = np.append(penalty, 0.0) if self.bias else penalty
        #: An objective below it has separated the classes: without a penalty there is no optimum.
        self.separated = math.log(2.0) * float(self.share.min()) if reg == 0.0 else 0.0
        #: Classes of the rows; without biases the others take part all the same.
        self.present = np.bincount(y, self.share, self.classes) > 0.0
        if not self.bias:
            self.present[:] = True

    def inside(self, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(C, m) from raw weights and biases."""
        v = w * self.scale
        if not self.bias:
            return np.asarray(v)
        # Where columns are far off, all digits of this sum are needed.
        place = w.astype(np.longdouble) @ self.centre + b
        return np.concatenate([v, place.astype(float)[:, None]], axis=1)

    def outside(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw weights and biases."""
        if not self.bias:
            return theta / self.scale, np.zeros(self.classes)
        w = theta[:, :-1] / self.scale
        place = theta[:, -1] - w.astype(np.longdouble) @ self.centre
        return w, place.astype(float)

    def value(self, theta: np.ndarray) -> float:
        """The objective."""
        return self._loss(theta)[0]

    def balanced(self, theta: np.ndarray) -> np.ndarray:
        """theta without what all classes have in common, which costs penalty alone."""
        return np.asarray(theta - theta[self.present].mean(axis=0) * (self.penalty > 0.0))

    def _loss(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """(objective, p - y (N, C))."""
        losses, d = cross_entropy(self.z @ theta.T, self.y, reduction="none")
        value = float(self.share @ losses) + float(np.sum(self.penalty * theta * theta))
        return value, d

    def gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """(objective, gradient (C, m), p - y)."""
        value, d = self._loss(theta)
        grad = (d * self.share[:, None]).T @ self.z + 2.0 * self.penalty * theta
        return value, grad, d

    def step(self, grad: np.ndarray, d: np.ndarray) -> Step | None:
        """The Newton step from where the gradient is `grad`; None where there is none."""
        hessian = self._hessian(d)
        flat = grad[self.present].ravel()
        diagonal = np.diagonal(hessian)
        unit = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
        hessian *= unit[:, None]
        hessian *= unit
        factor, ridge = factor_of(hessian)
        if factor is None:
            return None
        along = scipy.linalg.solve_triangular(factor, flat * unit, lower=True, check_finite=False)
        back = scipy.linalg.solve_triangular(factor, along, lower=True, trans=1, check_finite=False)
        change = np.zeros_like(grad)
        change[self.present] = -(unit * back).reshape(-1, grad.shape[1])
        moved = self.z @ change[self.present].T
        reach = float(np.max(moved.max(axis=1) - moved.min(axis=1)))
        return Step(change, float(along @ along), reach, factor, unit, ridge)

    def proof(self, at: Point) -> Proof:
        """What is certain of the step from `at`."""
        assert at.step is not None
        step, (c, m) = at.step, (int(self.present.sum()), self.z.shape[1])
        inverse, _ = scipy.linalg.lapack.dpotri(step.factor, lower=1)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        inverse *= step.unit[:, None]
        inverse *= step.unit
        theta, present = at.theta[self.present], self.present
        d = np.abs(at.d[:, present]) * self.share[:, None]
        relative, noise = self._rounding(at)
        off = (d * relative[:, None]).T @ np.abs(self.z)
        off = (off + 8.0 * EPS * self.penalty * np.abs(theta)).ravel()
        square = (math.sqrt(step.square) + math.sqrt(float(np.diagonal(inverse) @ off**2))) ** 2
        # What all classes have in common costs penalty alone.
        shared = theta.mean(axis=0)
        square += 2.0 * float(np.sum(self.penalty * shared * shared)) * c
        size = (theta**2 + step.change[present] ** 2).ravel() / step.unit**2
        hidden = 4.0 * step.ridge * float(size.sum()) + noise
        return Proof(square, hidden, inverse.reshape(c, m, c, m))

    def _rounding(self, at: Point) -> tuple[np.ndarray, float]:
        """Rounding errors at `at`: relative ones of p - y of each row, (n,), and the objective's.

        Scores are off by e: in products of m terms, each rounded twice before, and in the shift of
        all rows. As p_j changes by p_j (1 - p_j) times what its score does beside the mean of the
        others, p - y is off by exp(2 e) - 1 of itself at most; so is a loss, by 2 e |p_y - 1|.
        """
        inner, outer = rounding_bounds(EPS / 2, self.z.shape[1], len(self.z))
        far = float(np.finfo(np.longdouble).eps) * (np.abs(self.centre / self.scale))
        sizes = np.abs(self.z) if not self.bias else np.abs(self.z) + np.append(far / EPS, 0.0)
        scores = (inner + 2.0 * EPS) * np.max(sizes @ np.abs(at.theta[self.present]).T, axis=1)
        relative = outer + np.expm1(2.0 * scores)
        own = np.abs(np.take_along_axis(at.d, self.y[:, None], axis=1)[:, 0])
        return relative, outer * at.value + float(self.share @ (own * np.expm1(2.0 * scores)))

    def _hessian(self, d: np.ndarray) -> np.ndarray:
        """(C m, C m) of the classes of the rows."""
        p = d.copy()
        p[np.arange(len(p)), self.y] += 1.0
        p = p[:, self.present]
        (n, c), m = p.shape, self.z.shape[1]
        root = np.sqrt(self.share)[:, None]
        hessian = np.zeros((c * m, c * m))
        rows = max(_MIXED // (c * m), 1)
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            mixed = ((p[part] * root[part])[:, :, None] * self.z[part, None, :]).reshape(-1, c * m)
            hessian -= mixed.T @ mixed  # BLAS computes half of it
        blocks = hessian.reshape(c, m, c, m)
        # p (1 - p) of a class, from the sum of the others: 1 - p would lose it where p is near 1.
        variance = p * (p @ (1.0 - np.eye(c)))
        for k in range(c):
            half = self.z * np.sqrt(self.share * variance[:, k])[:, None]
            blocks[k, :, k, :] = half.T @ half
        # What all classes have in common changes no score: curvature of its own keeps it at 0.
        most = np.einsum("jdjd->jd", blocks).max(axis=0) + 2.0 * self.penalty
        common = np.where(most > 0.0, most, 1.0) / c
        for column in range(m):
            blocks[:, column, :, column] += common[column]
        hessian[np.diag_indices(c * m)] += np.tile(2.0 * self.penalty, c)
        return np.asarray(hessian)

    def bound(self, proof: Proof) -> float:
        """At most P - P* where the step of `proof` starts, but for what is `hidden`; infinite where
        nothing is known."""
        diagonal = [self._square(proof.inverse[j, :, j, :]) for j in range(len(proof.inverse))]
        # Without what two classes have in common, a pair's change is at most the sum of both.
        largest = np.sort(np.sqrt(np.max(diagonal, axis=1)))
        most = float(largest[-1] + largest[-2]) if len(largest) > 1 else 0.0
        product = most * math.sqrt(proof.square)
        if not product < 0.9:
            return math.inf
        return proof.square / (2.0 * (1.0 + math.log1p(-product) / 3.0))

    def _square(self, matrix: np.ndarray) -> np.ndarray:
        """(N,): z^T matrix z of every row."""
        return np.asarray(np.maximum(np.sum((self.z @ matrix) * self.z, axis=1), 0.0))


def factor_of(matrix: np.ndarray) -> tuple[np.ndarray | None, float]:
    """L (lower triangle) with L L^T = matrix + ridge, and the ridge; matrix has diagonal 1."""
    if not np.isfinite(matrix).all():
        return None, 0.0
    eye, ridge = np.eye(len(matrix)), _RIDGE
    while ridge < 1.0:
        try:
            factor = scipy.linalg.cholesky(matrix + ridge * eye, lower=True, check_finite=False)
            return factor, ridge
        except np.linalg.LinAlgError:
            ridge *= 10.0
    return None, 0.0


def on_host(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x (n, D), labels (n,), weights (n,)) of a head's rows that have weight, as they are."""
    rows, classes = problem.rows, problem.objective.network.widths[-1]
    parts: list[tuple[np.ndarray, ...]] = []
    for chunk in rows.chunks(rows.chunk_rows(classes)):
        weights = (
            np.ones(int(chunk.x.shape[0])) if chunk.weights is None else to_host(chunk.weights)
        )
        weights = np.asarray(weights, dtype=float).reshape(-1)
        kept = weights > 0.0
        dense = chunk.x.dense() if isinstance(chunk.x, SparseMatrix) else chunk.x
        x = np.array(to_host(dense), dtype=float)
        labels = to_host(true_index(chunk.labels)).reshape(-1)
        parts.append((x[kept], labels[kept], weights[kept]))
    x, y, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    return x, y, weights
