"""An objective over all its rows, as full-batch methods minimise it; moments of the rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from xclf._array_api import Array, namespace
from xclf.objectives import Objective
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
        loss_at = partial(_loss, self.objective, theta)
        (loss,) = sum_over_rows(loss_at, self.rows, self.width(theta))
        penalty, _ = self.objective.network.penalty(theta, self.objective.reg)
        return loss / self.total + penalty

    def curvature(self, theta: Array) -> Array:
        """The loss's mean curvature in the scores, (*heads, C, C)."""
        curvature_at = partial(_curvature, self.objective, theta)
        width = self.width(theta)
        # A sum for each thread is for small ones: these are of width x C entries.
        serial = 8 * width * self.objective.network.widths[-1] > _SUM_EACH
        (total,) = sum_over_rows(curvature_at, self.rows, width, serial=serial)
        return total / self.total[..., None, None]


def _loss(objective: Objective, theta: Array, chunk: Chunk) -> tuple[Array]:
    return (objective.loss_sum(theta, chunk),)


def _curvature(objective: Objective, theta: Array, chunk: Chunk) -> tuple[Array]:
    curvature = objective.curvature_sum(theta, chunk)
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
    mean = sum_over_rows(partial(_sums, total.dtype), rows, width, size)[0] / total
    return mean, sum_over_rows(partial(_squares, mean), rows, width, size)[0] / total


def _sums(wide: Any, chunk: Chunk) -> tuple[Array]:
    xp = namespace(chunk.x)
    return (xp.sum(_weighted(chunk.x, chunk), axis=0, dtype=wide),)


def _squares(mean: Array, chunk: Chunk) -> tuple[Array]:
    xp = namespace(chunk.x)
    centred = xp.astype(chunk.x, mean.dtype, copy=False) - mean
    return (xp.sum(_weighted(centred * centred, chunk), axis=0),)


def covariance(rows: Rows, mean: Array) -> Array:
    """Weighted second moment about `mean`, (D, D): 1/W sum_i w_i (x_i - mean)(x_i - mean)^T."""
    xp = namespace(rows.x)
    products = partial(_products, xp.astype(mean, rows.dtype, copy=False))
    # A quarter of D rows: enough for the product to outweigh adding up its (D, D) result.
    size = max(rows.chunk_rows(1), int(rows.x.shape[1]) // 4)
    (total,) = sum_over_rows(products, rows, size=size, serial=True)
    total /= rows.total_weight()
    return total


def _products(centre: Array, chunk: Chunk) -> tuple[Array]:
    xp = namespace(chunk.x)
    centred = chunk.x - centre
    return (xp.matmul(xp.matrix_transpose(centred), _weighted(centred, chunk)),)


def _weighted(x: Array, chunk: Chunk) -> Array:
    return x if chunk.weights is None else x * namespace(x).astype(chunk.weights, x.dtype)[:, None]
