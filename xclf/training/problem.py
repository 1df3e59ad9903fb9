"""An objective over all its rows, as full-batch methods minimise it; moments of the rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from xclf._array_api import Array, namespace
from xclf._sparse import SparseMatrix
from xclf.objectives import Layer, Objective
from xclf.rows import Chunk, Rows, sum_over_rows

# Bytes of a sum up to which every thread may have its own.
_SUM_EACH = 4 << 20


@dataclass(frozen=True)
class Problem:
    """`objective` over `rows`; theta is (P,) for one head, (K, P) for K."""

    objective: Objective
    rows: Rows

    @property
    def linear(self) -> bool:
        """Whether the model has no hidden layer: then the problem is convex."""
        return len(self.objective.network.widths) == 2

    @cached_property
    def total(self) -> Array:
        """Sum of the row weights, () or (K,), in float64 where the device has it."""
        return self.rows.total_weight()

    def take_heads(self, kept: np.ndarray) -> Problem:
        """The problem of the heads that host integers `kept` name."""
        return Problem(self.objective.take_heads(kept), self.rows.take_heads(kept))

    def width(self, theta: Array) -> int:
        """Widest layer's outputs over all heads, for the size of a chunk."""
        heads = theta.shape[0] if theta.ndim > 1 else 1
        return int(heads) * max(self.objective.network.widths[1:])

    def value_and_grad(self, theta: Array) -> tuple[Array, Array]:
        """Objective and its flat gradient over all rows."""
        sums = self.objective.sums_at(theta, self.rows.dtype)
        totals = sums.finish(sum_over_rows(sums, self.rows, self.width(theta)))
        return self.objective.complete(theta, totals, self.total)

    def value(self, theta: Array) -> Array:
        """Objective over all rows."""
        layers = self.objective.network.prepared(theta, self.rows.dtype)
        loss_at = partial(_loss, self.objective, theta, layers)
        (loss,) = sum_over_rows(loss_at, self.rows, self.width(theta))
        penalty, _ = self.objective.network.penalty(theta, self.objective.reg)
        return loss / self.total + penalty

    def curvature(self, theta: Array) -> Array:
        """The loss's mean curvature in the scores, (*heads, C, C)."""
        layers = self.objective.network.prepared(theta, self.rows.dtype)
        curvature_at = partial(_curvature, self.objective, theta, layers)
        width = self.width(theta)
        # A sum for each thread is for small ones: these are of width x C entries.
        serial = 8 * width * self.objective.network.widths[-1] > _SUM_EACH
        (total,) = sum_over_rows(curvature_at, self.rows, width, serial=serial)
        return total / self.total[..., None, None]


def _loss(objective: Objective, theta: Array, layers: list[Layer], chunk: Chunk) -> tuple[Array]:
    return (objective.loss_sum(theta, chunk, layers),)


def _curvature(
    objective: Objective, theta: Array, layers: list[Layer], chunk: Chunk
) -> tuple[Array]:
    curvature = objective.curvature_sum(theta, chunk, layers)
    assert curvature is not None, f"{objective.loss.name} has no curvature"
    return (curvature,)


def column_moments(rows: Rows, size: int | None = None) -> tuple[Array, Array]:
    """Weighted mean and variance (population) of every feature, (D,) each, in float64.

    Two passes, the second about the mean, so that a large offset does not cancel the variance.

    size : rows of a chunk, where memory is short
    """
    total = rows.total_weight()
    # Their temporaries are float64 and as wide as the rows.
    width = int(rows.x.shape[1])
    if isinstance(rows.x, SparseMatrix):
        return _sparse_moments(rows, total)
    mean = sum_over_rows(partial(_sums, total.dtype), rows, width, size)[0] / total
    return mean, sum_over_rows(partial(_squares, mean), rows, width, size)[0] / total


def _sparse_moments(rows: Rows, total: Array) -> tuple[Array, Array]:
    """`column_moments` of sparse rows: what is not written down is zero, as far as the mean from
    the mean."""
    xp = namespace(total)
    mean = sum_over_rows(partial(_sparse_sums, total.dtype), rows, 1)[0][0, :] / total
    far, weight = sum_over_rows(partial(_sparse_squares, mean), rows, 1)
    zeros = xp.maximum(total - weight[0, :], 0.0)
    return mean, (far[0, :] + zeros * mean * mean) / total


def _sparse_sums(wide: Any, chunk: Chunk) -> tuple[Any]:
    return (chunk.x.pull(_row_weights(chunk, wide)),)


def _sparse_squares(mean: Array, chunk: Chunk) -> tuple[Array, Array]:
    """Squares about the mean and weights, of the entries of each column, (1, D)."""
    x, xp = chunk.x.astype(mean.dtype), namespace(mean)
    far, weights = x.values - x.at_entries(mean), _row_weights(chunk, mean.dtype)
    there = x.with_values(xp.ones_like(far))
    return x.with_values(far * far).pull(weights), there.pull(weights)


def _row_weights(chunk: Chunk, dtype: Any) -> Array:
    """(1, n): the weights of a chunk's rows, 1 without any."""
    xp = namespace(chunk.x)
    if chunk.weights is None:
        return xp.ones((1, len(chunk.x)), dtype=dtype, device=chunk.x.device)
    return xp.astype(chunk.weights, dtype, copy=False)[None, :]


def _sums(wide: Any, chunk: Chunk) -> tuple[Array]:
    xp, x = namespace(chunk.x), chunk.x
    if (
        chunk.weights is not None
    ):  # products in float32 would move the mean of columns that are far off
        x = xp.astype(x, wide, copy=False)
    return (xp.sum(_weighted(x, chunk), axis=0, dtype=wide),)


def _squares(mean: Array, chunk: Chunk) -> tuple[Array]:
    xp = namespace(chunk.x)
    centred = xp.astype(chunk.x, mean.dtype, copy=False) - mean
    return (xp.sum(_weighted(centred * centred, chunk), axis=0),)


def covariance(rows: Rows, mean: Array) -> Array:
    """Weighted second moment about `mean`, (D, D): 1/W sum_i w_i (x_i - mean)(x_i - mean)^T."""
    xp = namespace(rows.x)
    if isinstance(rows.x, SparseMatrix):
        return _sparse_covariance(rows, mean)
    products = partial(_products, xp.astype(mean, rows.dtype, copy=False))
    # A quarter of D rows: enough for the product to outweigh adding up its (D, D) result.
    size = max(rows.chunk_rows(1), int(rows.x.shape[1]) // 4)
    (total,) = sum_over_rows(products, rows, size=size, serial=True)
    total /= rows.total_weight()
    return total


def _sparse_covariance(rows: Rows, mean: Array) -> Array:
    """`covariance` of sparse rows, from products about zero."""
    xp, total = namespace(mean), rows.total_weight()
    sums, moment = sum_over_rows(partial(_sparse_products, mean.dtype), rows, int(mean.shape[0]))
    cross = sums[0, :, None] * mean
    spread = moment - cross - xp.matrix_transpose(cross) + total * mean[:, None] * mean
    return spread / total


def _sparse_products(wide: Any, chunk: Chunk) -> tuple[Any, Array]:
    weights = _row_weights(chunk, wide)
    return chunk.x.pull(weights), chunk.x.astype(wide).moment(weights[0, :])


def _products(centre: Array, chunk: Chunk) -> tuple[Array]:
    xp = namespace(chunk.x)
    centred = chunk.x - centre
    return (xp.matmul(xp.matrix_transpose(centred), _weighted(centred, chunk)),)


def _weighted(x: Array, chunk: Chunk) -> Array:
    return x if chunk.weights is None else x * namespace(x).astype(chunk.weights, x.dtype)[:, None]
