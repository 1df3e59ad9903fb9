"""Fits of wide sparse rows, in the space of their scores.

The optimum of a linear model with a penalty is W = a^T U with a number a_ij for each row and class,
U the rows in fitting coordinates, about their mean if there are biases. (Representer theorem:
Kimeldorf & Wahba, 1971.) With K = U U^T the scores are K a, and the gradient in W is r^T U,
r = w_i dL_i/ds + 2 reg a. Inner products of weights are those of rows under K,
<a^T U, r^T U> = sum a . (K r), and L-BFGS is run on pairs

    theta = (a, b, K a, b),    gradient = (K r, g_b, r, g_b) / 2,

whose plain dot product is that inner product, b among them. Steps, curvature pairs and scores are
N C numbers a head rather than D C; scores along a step need no product, and one evaluation is one
of K, that is U^T and U once each. It starts in float32, which is good for a gradient a ten
thousandth of the first, whatever the dtype of the rows.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from xclf._array_api import Array, to_host
from xclf._sparse import SparseMatrix
from xclf.kernels import l2
from xclf.objectives import Layer, Objective
from xclf.rows import Chunk, Rows, feature_parts, in_threads, slices
from xclf.training.preconditioner import shared_weights
from xclf.training.problem import Problem

#: Rows of a chunk of scores, and curvature pairs that are kept.
CHUNK, PAIRS = 2048, 20

# Parts of the features at most, each with scores of its own for a while; columns of a product.
_PARTS, _COLUMNS = 8, 80

#: Times the bytes of X that the spaces and certificates hold of it, at most: by columns, in float32
#: and float64, and with its numbers in float64.
COPIES = 5

#: Tolerance up to which fits are good in float32.
COARSE = 1e-4

#: Share of the features that rows may be at most: a vector has two numbers for each of them.
FEW = 1.0


def is_wide(problem: Problem) -> bool:
    """Whether the space of its scores is smaller than that of a problem's parameters, and there is
    a penalty."""
    rows = problem.rows
    return (
        isinstance(rows.x, SparseMatrix)
        and rows.x.in_host_memory
        and problem.linear
        and len(rows) <= FEW * rows.x.shape[1]
        and holds_copies(rows.x, rows.budget.size)
        and bool(np.all(to_host(problem.objective.reg) > 0.0))
    )


def holds_copies(x: SparseMatrix, size: int | None) -> bool:
    """Whether a budget of so many bytes has room for what the space holds of X."""
    return size is None or COPIES * x.nbytes <= size


def score_space(problem: Problem, dtype: Any) -> ScoreSpace:
    """A problem that `is_wide`, in the space of its scores; products run in `dtype`."""
    rows = problem.rows.widened(np.dtype(dtype))
    return ScoreSpace(problem.objective, rows, Kernel(problem, dtype))


class Kernel:
    """K = U U^T, never formed: U^T, then U, both from X by columns, whose parts threads share; with
    it weights are read in order, and products take half the time. With biases U is
    taken about the rows' mean, by two sums beside the products: the mean, which all rows have in
    common, is the direction in which they spread the most.

    share : (N,) each row's share of the weights;  centre : (D,) their mean, in fitting coordinates
    """

    def __init__(self, problem: Problem, dtype: Any) -> None:
        x, network = problem.rows.x.astype(np.dtype(dtype)), problem.objective.network
        self.dtype, self.features, self.size = np.dtype(dtype), x.shape[1], len(x)
        columns = x.matrix.T.tocsr()
        del x
        parts = feature_parts(columns, _PARTS)
        self.columns = [(slice(*ends), _some_rows(columns, *ends)) for ends in parts]
        scale = network.scale
        self.scale = None if scale is None else np.asarray(scale, self.dtype)[:, None] ** 2
        self.share, self.centre = None, np.zeros(self.features)
        if network.bias:
            weights = shared_weights(problem.rows).weights
            share = np.ones(self.size) if weights is None else np.asarray(weights, np.float64)
            share = share / share.sum()
            self.share = share.astype(self.dtype)
            mean = np.concatenate([own @ share for _, own in self.columns])
            self.centre = mean if scale is None else mean / scale

    def weights(self, a: np.ndarray) -> np.ndarray:
        """U^T a (D, M), of a (N, M), but for one of the scale's two factors."""
        if self.share is not None:
            a = a - self.share[:, None] * (np.ones(len(a), self.dtype) @ a)
        out = np.empty((self.features, a.shape[1]), self.dtype)

        def part(own: tuple[slice, Any]) -> None:
            out[own[0]] = own[1] @ a
            if self.scale is not None:
                out[own[0]] /= self.scale[own[0]]

        with closing(in_threads(part, self.columns)) as done:
            for _ in done:
                pass
        return out

    def scores(self, w: np.ndarray) -> np.ndarray:
        """U w (N, M), of w (D, M) with both of the scale's factors."""
        out: Any = None
        with closing(in_threads(lambda own: own[1].T @ w[own[0]], self.columns)) as parts:
            for part in parts:  # in order, whatever thread is the first
                out = part if out is None else np.add(out, part, out=out)
        if self.share is not None:
            out -= self.share @ out
        return np.asarray(out)

    def __call__(self, a: np.ndarray) -> np.ndarray:
        """K a (N, M), of a (N, M), some columns at a time: their weights stay in cache."""
        out = np.empty_like(a)
        for part in slices(a.shape[1], _COLUMNS):
            out[:, part] = self.scores(self.weights(np.ascontiguousarray(a[:, part])))
        return out


def _some_rows(matrix: Any, first: int, last: int) -> Any:
    """Rows of a CSR matrix, whose entries are views."""
    start, end = int(matrix.indptr[first]), int(matrix.indptr[last])
    parts = (matrix.data[start:end], matrix.indices[start:end])
    shape = (last - first, matrix.shape[1])
    return type(matrix)((*parts, matrix.indptr[first : last + 1] - start), shape=shape)


@dataclass(frozen=True)
class ScoreSpace:
    """A `Problem` of pairs, see above, that `LBFGS` minimises as it does any other.

    theta : (K, P), P = 2 (N C + C)
    """

    objective: Objective
    rows: Rows
    kernel: Kernel

    linear = True

    @cached_property
    def total(self) -> np.ndarray:
        """Sum of the row weights, (1,) or (K,)."""
        return np.atleast_1d(to_host(self.rows.total_weight()))

    def take_heads(self, kept: np.ndarray) -> ScoreSpace:
        """The problem of the heads that host integers `kept` name."""
        rows, objective = self.rows.take_heads(kept), self.objective.take_heads(kept)
        return ScoreSpace(objective, rows, self.kernel)

    @property
    def _classes(self) -> int:
        return int(self.objective.network.widths[-1])

    def start(self, heads: int) -> np.ndarray:
        """(K, P): weights and biases 0."""
        size = 2 * (len(self.rows) + 1) * self._classes
        return np.zeros((heads, size), self.kernel.dtype)

    def inside(self, theta: Array) -> np.ndarray:
        """Where to start for weights theta (K, P): of those near the optimum a is close to
        -r / (2 reg), if that is better than zeros."""
        start = self.start(len(theta))
        if not theta.any():
            return start
        layer = self.objective.network.prepared(theta, self.kernel.dtype)[0]
        heads, c, features = layer.w.shape
        x = self.rows.x.astype(self.kernel.dtype)
        scores = np.swapaxes((x.dot(layer.w.reshape(-1, features).T)).reshape(-1, heads, c), 0, 1)
        b = start[:, :c].reshape(heads, 1, c)
        if layer.b is not None:
            assert self.kernel.share is not None
            middle = np.einsum("n,knc->kc", self.kernel.share, scores)[:, None, :]
            scores, b = scores - middle, np.swapaxes(layer.b, 1, 2) + middle
        reg = np.broadcast_to(self.reg, (heads,)).astype(start.dtype)
        a = self._pushed(scores, b)[2] / (-2.0 * reg[:, None, None])
        near = self._joined(a, self._apply(a), b)
        better = self.value_and_grad(near)[0] < self.value_and_grad(start)[0]
        return np.where(better[:, None], near, start)

    def exact(self, theta: np.ndarray) -> np.ndarray:
        """theta of a space in another dtype, its scores computed anew."""
        a, b, _, _ = self._split(np.asarray(theta, self.kernel.dtype))
        return self._joined(a, self._apply(a), b)

    def _split(self, theta: np.ndarray) -> list[np.ndarray]:
        """[a (K, N, C), b (K, 1, C), K a, b again]: views of theta."""
        heads, c = len(theta), self._classes
        halves = theta.reshape(heads, 2, len(self.rows) + 1, c)
        return [halves[:, k, part] for k in (0, 1) for part in (slice(None, -1), slice(-1, None))]

    def _joined(self, first: np.ndarray, second: np.ndarray, b: np.ndarray) -> np.ndarray:
        heads = len(first)
        return np.concatenate([first, b, second, b], axis=1, dtype=first.dtype).reshape(heads, -1)

    def value_and_grad(self, theta: np.ndarray) -> tuple[np.ndarray, ...]:
        """Objective (K,), gradient (K, P) as pairs have it, and what the weights' gradient proves:
        the objective is |g|^2 / (4 reg) above the optimum at most, but for the biases' share."""
        (losses,), penalty, grad, square, _ = self.evaluate(theta)
        return losses + penalty, grad, square / (4.0 * self.reg)

    @property
    def reg(self) -> np.ndarray:
        """(K,), or (1,) for all."""
        return np.atleast_1d(to_host(self.objective.reg))

    def evaluate(
        self, theta: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Sums over the rows (M, K), penalty (K,), gradient (K, P), the squared norm (K,) of the
        weights' part of it, and its biases' part (K, 1, C)."""
        a, b, scores, _ = self._split(theta)
        sums, push, r = self._pushed(scores, b)
        reg = np.broadcast_to(self.reg, (len(theta),)).astype(theta.dtype)
        penalty = np.einsum("kij,kij->k", a, scores, dtype=np.float64) * reg
        r += l2(a, reg, need_loss=False)[1]
        image = self._apply(r)
        square = np.einsum("kij,kij->k", image, r, dtype=np.float64)
        return sums, penalty, 0.5 * self._joined(image, r, push), square, push

    def row_losses(
        self, chunk: Chunk, scores: np.ndarray, where: slice
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Of the rows `where`, scores (K, C, n): their losses (K, n), first of what is summed, and
        the gradient in the scores."""
        losses, dscores = self.objective.loss(
            scores, chunk.labels, weights=chunk.weights, reduction="none", axis=-2
        )
        assert losses is not None
        return (losses,), dscores

    def _pushed(
        self, scores: np.ndarray, b: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(sums of `row_losses` over the weights (M, K), the gradient of the first in the biases
        (K, 1, C), and in the scores (K, N, C))."""
        dtype = scores.dtype
        out = np.empty_like(scores)
        share = (1.0 / self.total).astype(dtype)[:, None, None]

        def part(where: slice) -> np.ndarray:
            own = np.ascontiguousarray(np.swapaxes(scores[:, where] + b, 1, 2))
            terms, dscores = self.row_losses(self.rows.chunk(where), own, where)
            np.multiply(np.swapaxes(dscores, 1, 2), share, out=out[:, where])
            return np.asarray([term.sum(axis=-1, dtype=np.float64) for term in terms])

        with closing(in_threads(part, slices(len(self.rows), CHUNK))) as sums:
            total: Any = sum(sums)
        push = out.sum(axis=1, keepdims=True, dtype=np.float64)
        if not self.objective.network.bias:
            push[:] = 0.0
        return total / self.total, push.astype(dtype), out

    def _apply(self, r: np.ndarray) -> np.ndarray:
        """K r of every head, (K, N, C): one product for all."""
        heads, n, c = r.shape
        flat = np.ascontiguousarray(np.swapaxes(r, 0, 1)).reshape(n, heads * c)
        return np.swapaxes(self.kernel(flat).reshape(n, heads, c), 0, 1)

    def outside(self, theta: np.ndarray) -> Array:
        """theta (P,) of the whole problem, in float64, from that of one head here."""
        a, b, _, _ = self._split(theta[None, :])
        network = self.objective.network
        weights = self.kernel.weights(np.ascontiguousarray(a[0])).T
        weights = np.ascontiguousarray(weights, np.float64)
        if network.scale is not None:
            weights *= network.scale
        bias = None
        if network.bias:
            bias = b[0].T.astype(np.float64) - (weights @ self.kernel.centre)[:, None]
        return network.flatten([Layer(weights, bias)])

    def preconditioner(self, theta: np.ndarray) -> Swap:
        """From gradients to weights and biases, with the curvature at theta along its gradient."""
        return Swap.of(self, theta)


class Swap:
    """The preconditioner of pairs: (K r, g_b, r, g_b) / 2 to (r, f g_b, K r, f g_b) times a length.

    length : (K,) of the first step;  factor : f (K,), of biases beside weights
    """

    def __init__(self, shape: tuple[int, int], length: np.ndarray, factor: np.ndarray) -> None:
        self.shape, self.length, self.factor = shape, length, factor

    @classmethod
    def of(cls, space: ScoreSpace, theta: np.ndarray) -> Swap:
        """Weights step to the minimum along their gradient; biases, of curvature that is the mean
        of the classes', by as much as that is worth."""
        heads, c = len(theta), space.objective.network.widths[-1]
        _, _, grad, _, _ = space.evaluate(theta)
        image, push, r, _ = space._split(2.0 * grad)
        _, b, scores, _ = space._split(theta)
        _, _, at = space._pushed(scores, b)
        square = np.einsum("kij,kij->k", image, r, dtype=np.float64)
        # The change of the gradient along a short step says how curved the way is.
        norm = np.abs(image).max(axis=(1, 2), initial=1e-30)
        step = (1e-2 / norm).astype(theta.dtype)[:, None, None]
        moved = space._pushed(scores - step * image, b)[2] - at
        reg = np.broadcast_to(space.reg, (heads,))
        along = -np.einsum("kij,kij->k", moved, image, dtype=np.float64) / step[:, 0, 0]
        curved = along / np.maximum(square, 1e-300) + 2.0 * reg
        tilt = (1e-2 / np.abs(push).max(axis=(1, 2), initial=1e-30)).astype(theta.dtype)
        tilted = space._pushed(scores, b - tilt[:, None, None] * push)[1] - push
        bias = -np.einsum("kij,kij->k", tilted, push, dtype=np.float64) / tilt
        pushed = np.einsum("kij,kij->k", push, push, dtype=np.float64)
        bias = np.where(pushed > 0.0, bias / np.maximum(pushed, 1e-300), 1.0 / c)
        bias = np.maximum(bias, 1e-3 / c)
        length = 1.0 / np.maximum(curved, 2.0 * reg)
        return cls((len(space.rows), c), length, 1.0 / (bias * length))

    def state(self) -> dict[str, Any]:
        """All it holds, for `from_state`."""
        return dict(vars(self))

    def bias_cost(self, push: np.ndarray) -> np.ndarray:
        """(K,): twice what a step in the biases alone gains, push (K, 1, C) their gradient."""
        square = np.einsum("kij,kij->k", push, push, dtype=np.float64)
        return np.asarray(square * self.factor * self.length)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Swap:
        """The one whose `state` this was."""
        return cls(tuple(state["shape"]), state["length"], state["factor"])

    def keep(self, kept: np.ndarray) -> None:
        """Go on with the heads that host integers `kept` name."""
        self.length, self.factor = self.length[kept], self.factor[kept]

    def __call__(self, v: np.ndarray) -> np.ndarray:
        """Apply to v (K, P)."""
        n, c = self.shape
        halves = v.reshape(len(v), 2, n + 1, c)[:, ::-1]
        out = halves * (2.0 * self.length).astype(v.dtype)[:, None, None, None]
        out[:, :, -1] *= self.factor.astype(v.dtype)[:, None, None]
        return np.asarray(out.reshape(len(v), -1))
