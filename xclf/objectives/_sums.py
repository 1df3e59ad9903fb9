"""Loss and gradient at one theta, summed over chunks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xclf._xp import Array, accumulator, device, namespace
from xclf.objectives._fused import scored
from xclf.objectives._one_read import one_read
from xclf.objectives._protocols import DataLoss, RowChunk
from xclf.objectives._stack import Layer, Stack


@dataclass(frozen=True)
class RowSums:
    """sum_i w_i L_i and its slope at one theta, as a function of a chunk.

    layers : `Stack.prepared` at theta, in the dtype of the rows
    """

    stack: Stack
    loss: DataLoss
    layers: list[Layer]

    def __call__(self, rows: RowChunk) -> tuple[Array, ...]:
        """(loss (*heads,), dw, db, dw, db, ...): sums over the chunk's rows, layer by layer."""
        at_once = one_read(self.stack, self.layers, self.loss, rows)
        if at_once is not None:
            return at_once
        losses, dscores, tape = scored(
            self.stack, self.layers, self.loss, rows, weights=rows.weights
        )
        slopes = self.stack.slopes(dscores, tape)
        return (sum_last(losses), *(part for pair in slopes for part in pair))

    def finish(self, sums: tuple[Array, ...]) -> tuple[Array, Array]:
        """(loss (*heads,), flat slope (*heads, P)) from the sums over all chunks."""
        slopes: list[Any] = list(zip(sums[1::2], sums[2::2], strict=True))
        return sums[0], self.stack.flatten(self.stack.unscaled(slopes))


def sum_last(losses: Array) -> Array:
    """Sum over rows, in float64 where the device has it."""
    xp = namespace(losses)
    return xp.sum(losses, axis=-1, dtype=accumulator(xp, device(losses)))
