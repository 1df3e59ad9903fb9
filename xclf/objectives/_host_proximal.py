"""`ProximalSums` on a CPU without temporaries: what NumPy can do in place, done in place.

The formulas are those of `proximal_hinge`, step by step, and are tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf._array_api import Array, is_host
from xclf.objectives._compiled import BLAS, Products, products
from xclf.objectives._host import scratch, sum_classes, true_index
from xclf.objectives._network import Network, stacked
from xclf.objectives._protocols import RowChunk
from xclf.objectives._proximal import Move, ProximalSums, pair_curvature


@dataclass(frozen=True)
class HostProximalSums(ProximalSums):
    """`ProximalSums` of a linear model on NumPy rows."""

    products: Products = BLAS

    def __call__(self, rows: RowChunk, where: slice) -> tuple[np.ndarray, ...]:
        layer = self.layers[0]
        (heads, classes, features), n = layer.w.shape, len(rows.x)
        w, b = stacked(np, *layer)
        x = self.network.shifted(rows.x)
        flat = scratch("scores", (len(w), n), w.dtype)
        self.products.scores(w, x, flat)
        if b is not None:
            flat += b
        m = flat.reshape(heads, classes, n)
        true = _devices(true_index(rows.labels), m.shape)
        m -= m.reshape(-1).take(true)[:, None, :]
        m += self.margin[:, None, None]
        m.reshape(-1)[true] = 0.0
        before = self.anchor[..., where]
        anchor, more = self._moved_on(m, rows, before)
        a = _multipliers(m, anchor, self.smoothing)
        losses = _losses(m, a, anchor, self.smoothing)
        if rows.weights is not None:
            a *= rows.weights[..., None, :]
            losses *= rows.weights
        a.reshape(-1)[true] = -sum_classes(a)
        gradient = a.reshape(len(w), n)
        dw = self.products.gradient(gradient, x).reshape(heads, classes, features)
        db = gradient.sum(axis=-1).reshape(heads, classes)
        sums = losses.sum(axis=-1, dtype=np.float64)
        if self.move is not None:
            before[...] = anchor
        return *sums, dw, db, *more

    def _moved_on(
        self, m: np.ndarray, rows: RowChunk, before: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """The anchor after the move of some heads, and the curvature if it is wanted."""
        if self.move is None:
            return before, ()
        a = _multipliers(m, before, self.move.smoothing)
        more = (pair_curvature(a, rows, self.smoothing),) if self.move.measure else ()
        anchor = scratch("anchor", before.shape, before.dtype)
        anchor[...] = before
        for k in np.flatnonzero(self.move.heads):
            a[k] -= before[k]
            a[k] *= self.move.relaxation
            anchor[k] += a[k]
        return anchor, more


def _devices(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(K, n): where the true class of every row is in a flattened (K, C, n) array."""
    heads, classes, n = shape
    return (labels * n + np.arange(n)) + (classes * n) * np.arange(heads)[:, None]


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


def proximal_sums(
    network: Network,
    theta: Array,
    dtype: Any,
    *,
    margin: Array,
    smoothing: Array,
    anchor: Any,
    move: Move | None = None,
    rows: int = 0,
) -> ProximalSums:
    """`ProximalSums` at theta (K, P) for rows in `dtype`, in place where that is possible.

    anchor : (K, C, N), or what gives and takes that of a chunk by index as an array does
    rows : of all chunks, if known: what is worth preparing for them
    """
    layers = network.prepared(theta, dtype)
    if not is_host(theta) or len(layers) > 1:
        return ProximalSums(network, layers, margin, smoothing, anchor, move)
    made = products(layers[0].w, rows)
    return HostProximalSums(network, layers, margin, smoothing, anchor, move, made)
