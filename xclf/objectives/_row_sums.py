"""Loss and gradient at one theta, summed over chunks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xclf._array_api import Array
from xclf.objectives._loss import Loss, RowChunk
from xclf.objectives._network import Layer, Network


@dataclass(frozen=True)
class RowSums:
    """sum_i w_i L_i and its gradient at one theta, as a function of a chunk.

    layers : `Network.prepared` at theta, in the dtype of the rows
    """

    network: Network
    loss: Loss
    layers: list[Layer]

    def __call__(self, chunk: RowChunk) -> tuple[Array, ...]:
        """(loss (*heads,), dw, db, dw, db, ...): sums over the chunk's rows, layer by layer."""
        return self.network.operations.row_sums(self, chunk)

    def finish(self, sums: tuple[Array, ...]) -> tuple[Array, Array]:
        """(loss (*heads,), flat gradient (*heads, P)) from the sums over all chunks."""
        gradients: list[Any] = list(zip(sums[1::2], sums[2::2], strict=True))
        return sums[0], self.network.flatten(self.network.unscaled(gradients))
