"""The inner sums of the hinge's augmented Lagrangian on a CPU, done in place.

The formulas are those of `proximal_hinge`, step by step, and are tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf.accelerate.cpu.products import InPlaceSums, scratch, sum_classes, true_places
from xclf.objectives import ProximalSums, RowChunk


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
