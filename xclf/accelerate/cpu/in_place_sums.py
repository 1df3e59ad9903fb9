"""Sums over rows of linear softmax and hinge models on a CPU, done in place.

A kernel allocates half a dozen arrays of the scores' shape; here the product writes into memory
that a thread keeps, and the loss turns the scores there into their gradient. The formulas are those
of `cross_entropy` and `proximal_hinge`, step by step, and are tested against them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xclf.accelerate._registry import Accelerated, Accelerator, Request
from xclf.accelerate.cpu.products import InPlaceSums, scratch, sum_classes, true_places
from xclf.objectives import Hinge, ProximalSums, RowChunk, Softmax


@dataclass(frozen=True)
class SoftmaxRowSums(InPlaceSums):
    """`Operations.row_sums` of a linear softmax model on NumPy rows."""

    def __call__(self, sums: Any, chunk: RowChunk) -> tuple[np.ndarray, ...]:
        heads, (classes, features) = sums.layers[0].w.shape[:-2], sums.layers[0].w.shape[-2:]
        products, x, scores = self.scores(sums.network, sums.layers, chunk)
        losses = softmax_in_place(scores, chunk.labels, chunk.weights)
        flat = scores.reshape(-1, len(x))
        dw = products.gradient(flat, x).reshape(*heads, classes, features)
        db = flat.sum(axis=-1).reshape(*heads, classes)
        return losses.sum(axis=-1, dtype=np.float64).reshape(heads), dw, db


def softmax_in_place(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """`cross_entropy` with axis -2 and reduction "none": losses (K, n); the gradient in `scores`.

    scores : (K, C, n), contiguous, overwritten;  labels, weights : as a chunk has them
    """
    flat = scores.reshape(-1)
    true = true_places(labels, scores.shape)
    scores -= scores.max(axis=1)[:, None, :]
    lead = flat.take(true)
    np.exp(scores, out=scores)
    own = flat.take(true)
    flat[true] = 0.0
    others = sum_classes(scores)
    factor = 1.0 / (others + own)
    losses: np.ndarray = np.log1p(others + np.expm1(lead)) - lead
    if weights is not None:
        factor *= weights
        losses *= weights
    scores *= factor[:, None, :]
    flat[true] = -others * factor
    return losses


@dataclass(frozen=True)
class HingeProximalSums(InPlaceSums):
    """`Operations.proximal_sums` of a linear model on NumPy rows."""

    def __call__(self, sums: Any, chunk: RowChunk, where: slice) -> tuple[np.ndarray, ...]:
        products, x, m = self.scores(sums.network, sums.layers, chunk)
        true = true_places(chunk.labels, m.shape)
        m -= m.reshape(-1).take(true)[:, None, :]
        m += sums.margin[:, None, None]
        m.reshape(-1)[true] = 0.0
        before = sums.anchor[..., where]
        anchor, more = _moved(sums, m, chunk, before)
        a = _multipliers(m, anchor, sums.smoothing)
        losses = _losses(m, a, anchor, sums.smoothing)
        if chunk.weights is not None:
            a *= chunk.weights[..., None, :]
            losses *= chunk.weights
        a.reshape(-1)[true] = -sum_classes(a)
        gradient = a.reshape(-1, len(x))
        dw = products.gradient(gradient, x).reshape(sums.layers[0].w.shape)
        db = gradient.sum(axis=-1).reshape(m.shape[:2])
        totals = losses.sum(axis=-1, dtype=np.float64)
        if sums.move is not None:
            before[...] = anchor
        return *totals, dw, db, *more


def _moved(
    sums: ProximalSums, m: np.ndarray, chunk: RowChunk, before: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The anchor after the move of some heads, and the curvature if it is measured."""
    if sums.move is None:
        return before, ()
    a = _multipliers(m, before, sums.move.smoothing)
    more = sums.curvature(a, chunk)
    anchor = scratch("anchor", before.shape, before.dtype)
    anchor[...] = before
    for k in np.flatnonzero(sums.move.heads):
        a[k] -= before[k]
        a[k] *= sums.move.relaxation
        anchor[k] += a[k]
    return anchor, more


def _multipliers(m: np.ndarray, anchor: np.ndarray, smoothing: np.ndarray) -> np.ndarray:
    """clip(anchor + m / smoothing, 0, 1), in this thread's memory; both are 0 at the true class."""
    a = scratch("multipliers", m.shape, m.dtype)
    np.divide(m, smoothing[:, None, None], out=a)
    a += anchor
    return np.clip(a, 0.0, 1.0, out=a)


def _losses(m: np.ndarray, a: np.ndarray, anchor: np.ndarray, smoothing: Any) -> np.ndarray:
    """(3, K, n): phi, slack and the plain hinge per row; m is overwritten."""
    out = np.empty((3, m.shape[0], m.shape[2]), dtype=m.dtype)
    t = scratch("products", m.shape, m.dtype)
    np.subtract(a, anchor, out=t)
    t *= t
    far = sum_classes(t)
    far *= 0.5 * smoothing[:, None]
    np.multiply(a, m, out=t)
    pairs = sum_classes(t)
    np.subtract(pairs, far, out=out[0])
    np.maximum(m, 0.0, out=m)
    m -= t
    out[1] = sum_classes(m)
    np.add(pairs, out[1], out=out[2])
    return out


def accelerate(chosen: Accelerated, request: Request) -> Accelerated:
    """In-place sums for linear models on NumPy rows."""
    linear = len(request.network.widths) == 2
    if not (linear and isinstance(request.x, np.ndarray) and request.rule is None):
        return chosen
    operations = chosen.operations
    if type(request.loss) is Softmax:
        operations = replace(operations, row_sums=SoftmaxRowSums())
    if type(request.loss) is Hinge:
        operations = replace(operations, proximal_sums=HingeProximalSums())
    return chosen._replace(operations=operations)


IN_PLACE_SUMS = Accelerator(
    "in_place_sums",
    "full-batch sums of linear softmax and hinge models on NumPy rows, without temporaries",
    default=True,
    missing=lambda: None,
    accelerate=accelerate,
)
