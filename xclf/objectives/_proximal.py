"""The inner objective of the augmented Lagrangian for the hinge, summed over chunks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xclf._array_api import Array, device, namespace
from xclf.kernels import one_hot, proximal_hinge
from xclf.objectives._network import Layer, Network
from xclf.objectives._protocols import RowChunk
from xclf.objectives._sums import sum_last

# What a pair of classes at a bound counts in the curvature, beside 1 for an active one: an empty
# active set must leave something to divide by.
_INACTIVE = 1e-3


@dataclass(frozen=True)
class Move:
    """Multipliers of some heads change in the course of an evaluation, before it.

    heads : (K,) booleans: those whose anchor goes on to the multipliers found there
    smoothing : (K,), with which these are found
    relaxation : how far it goes: 1 to them, more beyond; in (0, 2) the method converges
    measure : whether the curvature of all heads is wanted, at the multipliers found
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

    def __call__(self, rows: RowChunk, where: slice) -> tuple[Array, ...]:
        """Sums over the rows of a chunk, which are those of `where`.

        (phi, slack, plain hinge (K,), then dw, db layer by layer), and where a `move` measures it
        the curvature (K, C, C) of `pair_curvature`.
        """
        scores, tape = self.network.apply(self.layers, rows.x)
        anchor = self.anchor[..., where]
        more: tuple[Array, ...] = ()
        if self.move is not None:
            anchor, more = self._moved(scores, rows, anchor, self.move)
        losses, dscores, slack, a = self._kernel(scores, rows, anchor, self.smoothing)
        # phi is a m - smoothing/2 (a - a0)^2, slack max(m, 0) - a m: the plain hinge is their sum.
        far = namespace(a).sum((a - anchor) ** 2, axis=-2) * (0.5 * self.smoothing[:, None])
        plain = slack + losses + (far if rows.weights is None else far * rows.weights)
        gradients = self.network.gradients(dscores, tape)
        sums = (sum_last(losses), sum_last(slack), sum_last(plain))
        if self.move is not None:
            self.anchor[..., where] = anchor
        return (*sums, *(part for pair in gradients for part in pair), *more)

    def _moved(
        self, scores: Array, rows: RowChunk, anchor: Array, move: Move
    ) -> tuple[Array, tuple[Array, ...]]:
        xp = namespace(scores)
        a = self._kernel(scores, rows, anchor, move.smoothing)[3]
        more = (pair_curvature(a, rows, self.smoothing),) if move.measure else ()
        beyond = anchor + move.relaxation * (a - anchor)
        return xp.where(move.heads[:, None, None], beyond, anchor), more

    def _kernel(
        self, scores: Array, rows: RowChunk, anchor: Array, smoothing: Array
    ) -> tuple[Array, ...]:
        return proximal_hinge(
            scores,
            rows.labels,
            anchor,
            smoothing,
            margin=self.margin,
            weights=rows.weights,
            axis=-2,
        )


def pair_curvature(a: Array, rows: RowChunk, smoothing: Array) -> Array:
    """sum_i w_i sum_j (e_j - e_y)(e_j - e_y)^T / smoothing over active pairs, (K, C, C).

    a : (K, C, n) multipliers; a pair is active where 0 < a < 1, and counts a thousandth elsewhere
    """
    xp = namespace(a)
    active = xp.maximum(xp.astype((a > 0.0) & (a < 1.0), a.dtype), _INACTIVE)
    active = xp.where(true_mask(rows.labels, a.shape[-2]), 0.0, active)
    if rows.weights is not None:
        active = active * rows.weights[..., None, :]
    flow = class_flows(active, rows.labels) / smoothing[:, None, None]
    flow = flow + xp.matrix_transpose(flow)
    eye = xp.eye(a.shape[-2], dtype=a.dtype, device=device(a))
    return xp.sum(flow, axis=-1)[..., None] * eye - flow


def class_flows(values: Array, labels: Array) -> Array:
    """(K, C, C): values (K, C, n) summed over the rows of each true class, which is the last axis.

    labels : as the rows of a chunk have them
    """
    xp = namespace(values)
    mask = xp.astype(true_mask(labels, values.shape[-2]), values.dtype)
    return xp.matmul(values, xp.matrix_transpose(mask))


def true_mask(labels: Array, n_classes: int) -> Array:
    """The boolean mask (C, n) of labels that may be integers (n,)."""
    xp = namespace(labels)
    return labels if xp.isdtype(labels.dtype, "bool") else one_hot(xp, labels, n_classes)
