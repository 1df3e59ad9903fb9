"""Loss and gradient at one theta, summed over chunks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xclf._array_api import Array, accumulator, device, namespace
from xclf.objectives._fused import scored
from xclf.objectives._network import Layer, Network
from xclf.objectives._protocols import DataLoss, RowChunk


@dataclass(frozen=True)
class RowSums:
    """sum_i w_i L_i and its gradient at one theta, as a function of a chunk.

    layers : `Network.prepared` at theta, in the dtype of the rows
    """

    network: Network
    loss: DataLoss
    layers: list[Layer]

    def __call__(self, rows: RowChunk) -> tuple[Array, ...]:
        """(loss (*heads,), dw, db, dw, db, ...): sums over the chunk's rows, layer by layer."""
        losses, dscores, tape = scored(
            self.network, self.layers, self.loss, rows, weights=rows.weights
        )
        gradients = self.network.gradients(dscores, tape)
        return (sum_last(losses), *(part for pair in gradients for part in pair))

    def finish(self, sums: tuple[Array, ...]) -> tuple[Array, Array]:
        """(loss (*heads,), flat gradient (*heads, P)) from the sums over all chunks."""
        gradients: list[Any] = list(zip(sums[1::2], sums[2::2], strict=True))
        return sums[0], self.network.flatten(self.network.unscaled(gradients))


def sum_last(losses: Array) -> Array:
    """Sum over rows, in float64 where the device has it."""
    xp = namespace(losses)
    return xp.sum(losses, axis=-1, dtype=accumulator(xp, device(losses)))
