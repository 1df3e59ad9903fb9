"""The parts of an objective that an accelerator may replace, and the formulas that they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xclf._array_api import Array, accumulator, device, namespace
from xclf.kernels import proximal_hinge, relu, relu_grad
from xclf.objectives._loss import Loss, RowChunk


def hidden(out: Array, b: Array | None) -> Array:
    """relu(out + b): a hidden layer behind its product.

    out : (*heads, M, n), which a replacement may overwrite;  b : (*heads, M, 1), (M, 1) or None
    """
    return relu(out if b is None else out + b)


def hidden_grad(dout: Array, x: Array) -> Array:
    """The gradient through `hidden`, whose result is x; a replacement may overwrite dout."""
    return relu_grad(dout, x)


def score(
    network: Any,
    layers: Any,
    loss: Loss,
    chunk: RowChunk,
    *,
    weights: Array | None = None,
    reduction: str = "none",
    need_loss: bool = True,
) -> tuple[Array | None, Array, Any]:
    """(losses, dscores, tape): `loss` of the network's scores, with class axis -2.

    layers : `Network.prepared`;  weights, reduction, need_loss : as the kernels take them
    """
    scores, tape = network.apply(layers, chunk.x)
    losses, dscores = loss(
        scores, chunk.labels, weights=weights, reduction=reduction, axis=-2, need_loss=need_loss
    )
    return losses, dscores, tape


def row_sums(sums: Any, chunk: RowChunk) -> tuple[Array, ...]:
    """(loss (*heads,), dw, db, dw, db, ...): `RowSums` over a chunk, layer by layer."""
    network, operations = sums.network, sums.network.operations
    losses, dscores, tape = operations.score(
        network, sums.layers, sums.loss, chunk, weights=chunk.weights
    )
    gradients = network.gradients(dscores, tape)
    return (sum_last(losses), *(part for pair in gradients for part in pair))


def proximal_sums(sums: Any, chunk: RowChunk, where: slice) -> tuple[Array, ...]:
    """(phi, slack, plain hinge (K,), dw, db, ...) and, where a move measures it, the curvature:
    `ProximalSums` over a chunk, whose rows are those of `where`."""
    scores, tape = sums.network.apply(sums.layers, chunk.x)
    before = anchor = sums.anchor[..., where]
    more: tuple[Array, ...] = ()
    options: dict[str, Any] = {"margin": sums.margin, "weights": chunk.weights, "axis": -2}
    if sums.move is not None:
        a = proximal_hinge(scores, chunk.labels, before, sums.move.smoothing, **options)[3]
        more = sums.curvature(a, chunk)
        anchor = sums.moved(before, a)
    losses, dscores, slack, a = proximal_hinge(
        scores, chunk.labels, anchor, sums.smoothing, **options
    )
    # phi is a m - smoothing/2 (a - a0)^2, slack max(m, 0) - a m: the plain hinge is their sum.
    far = namespace(a).sum((a - anchor) ** 2, axis=-2) * (0.5 * sums.smoothing[:, None])
    plain = slack + losses + (far if chunk.weights is None else far * chunk.weights)
    gradients = sums.network.gradients(dscores, tape)
    totals = (sum_last(losses), sum_last(slack), sum_last(plain))
    if sums.move is not None:  # last: a chunk that runs out of memory is done again
        sums.anchor[..., where] = anchor
    return (*totals, *(part for pair in gradients for part in pair), *more)


def sum_last(losses: Array) -> Array:
    """Sum over rows, in float64 where the device has it."""
    xp = namespace(losses)
    return xp.sum(losses, axis=-1, dtype=accumulator(xp, device(losses)))


@dataclass(frozen=True)
class Operations:
    """The operations of a fit: the formulas, or their replacements from `xclf.accelerate`."""

    hidden: Callable[[Array, Array | None], Array] = hidden
    hidden_grad: Callable[[Array, Array], Array] = hidden_grad
    score: Callable[..., tuple[Array | None, Array, Any]] = score
    row_sums: Callable[[Any, RowChunk], tuple[Array, ...]] = row_sums
    proximal_sums: Callable[[Any, RowChunk, slice], tuple[Array, ...]] = proximal_sums


FORMULAS = Operations()
