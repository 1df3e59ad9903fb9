"""The inner objective of the augmented Lagrangian for the hinge, summed over chunks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xclf._array_api import Array, namespace
from xclf.objectives._loss import RowChunk
from xclf.objectives._network import Layer, Network
from xclf.objectives._true_class import pair_laplacian, true_mask

# The weight of a pair of classes whose multiplier is at a bound, beside 1 for one within: an empty
# active set must leave something to divide by.
_INACTIVE = 1e-3


@dataclass(frozen=True)
class Move:
    """A step of the multipliers of some heads, which an evaluation makes before anything else.

    heads : (K,) booleans: those whose anchor goes to the multipliers at theta
    smoothing : (K,), with which these are computed
    relaxation : how far the anchor goes: 1 to them, more beyond; in (0, 2) the method converges
    measure : whether to return the curvature of all heads at these multipliers
    """

    heads: Array
    smoothing: Array
    relaxation: float = 1.0
    measure: bool = True


@dataclass(frozen=True)
class ProximalSums:
    """sum_i w_i phi_i of `proximal_hinge` at one theta of K heads, as a function of a chunk.

    layers : `Network.prepared` at theta (K, P), in the dtype of the rows
    margin, smoothing : (K,) in that dtype
    anchor : (K, C, N) multipliers of all rows, 0 at the true class; written to by a `move` alone,
        only where the chunk is, and last of all: a chunk that ends early may be done again
    """

    network: Network
    layers: list[Layer]
    margin: Array
    smoothing: Array
    anchor: Any
    move: Move | None = None

    def __call__(self, chunk: RowChunk, where: slice) -> tuple[Array, ...]:
        """(phi, slack, plain hinge (K,), then dw, db layer by layer): sums over the rows of a
        chunk, which are those of `where`; and where a `move` measures it the curvature (K, C, C).
        """
        return self.network.operations.proximal_sums(self, chunk, where)

    def moved(self, anchor: Array, a: Array) -> Array:
        """The anchor after the move, given the multipliers `a` there."""
        assert self.move is not None
        beyond = anchor + self.move.relaxation * (a - anchor)
        return namespace(a).where(self.move.heads[:, None, None], beyond, anchor)

    def curvature(self, a: Array, chunk: RowChunk) -> tuple[Array, ...]:
        """(sum_i w_i sum_j (e_j - e_y)(e_j - e_y)^T / smoothing over active pairs,) where the move
        measures it, else (); a pair is active where 0 < a < 1, and counts a thousandth elsewhere.
        """
        if self.move is None or not self.move.measure:
            return ()
        xp = namespace(a)
        active = xp.maximum(xp.astype((a > 0.0) & (a < 1.0), a.dtype), _INACTIVE)
        mask = true_mask(chunk.labels, int(a.shape[-2]))
        return (pair_laplacian(active, mask, chunk.weights) / self.smoothing[:, None, None],)
