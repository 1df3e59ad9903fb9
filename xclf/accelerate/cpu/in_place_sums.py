"""Sums over rows of linear softmax and hinge models on a CPU, done in place.

A kernel allocates half a dozen arrays of the scores' shape; here the product writes into memory
that a thread keeps, and the loss turns the scores there into their gradient. The formulas are those
of `cross_entropy` and `proximal_hinge`, step by step, and are tested against them.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Any

import numpy as np

from xclf.accelerate._registry import Accelerated, Accelerator, Request
from xclf.objectives import Hinge, Network, ProximalSums, RowChunk, Softmax

# A float32 sum of many terms in sequence loses digits: blocks of so many classes are summed in
# float32, and their sums in float64.
_BLOCK = 64

_kept = threading.local()


def softmax_row_sums(sums: Any, chunk: RowChunk) -> tuple[np.ndarray, ...]:
    """`Operations.row_sums` of a linear softmax model on NumPy rows."""
    heads, (classes, features) = sums.layers[0].w.shape[:-2], sums.layers[0].w.shape[-2:]
    x, scores = _scores(sums.network, sums.layers, chunk)
    losses = softmax_in_place(scores, chunk.labels, chunk.weights)
    flat = scores.reshape(-1, len(x))
    dw = (flat @ x).reshape(*heads, classes, features)
    db = flat.sum(axis=-1).reshape(*heads, classes)
    return losses.sum(axis=-1, dtype=np.float64).reshape(heads), dw, db


def softmax_in_place(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """`cross_entropy` with axis -2 and reduction "none": losses (K, n); the gradient in `scores`.

    scores : (K, C, n), contiguous, overwritten;  labels, weights : as a chunk has them
    """
    flat = scores.reshape(-1)
    true = _true_places(labels, scores.shape)
    scores -= scores.max(axis=1)[:, None, :]
    lead = flat.take(true)
    np.exp(scores, out=scores)
    own = flat.take(true)
    flat[true] = 0.0
    others = _sum_classes(scores)
    factor = 1.0 / (others + own)
    losses: np.ndarray = np.log1p(others + np.expm1(lead)) - lead
    if weights is not None:
        factor *= weights
        losses *= weights
    scores *= factor[:, None, :]
    flat[true] = -others * factor
    return losses


def hinge_proximal_sums(sums: Any, chunk: RowChunk, where: slice) -> tuple[np.ndarray, ...]:
    """`Operations.proximal_sums` of a linear hinge model on NumPy rows."""
    x, m = _scores(sums.network, sums.layers, chunk)
    true = _true_places(chunk.labels, m.shape)
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
    a.reshape(-1)[true] = -_sum_classes(a)
    gradient = a.reshape(-1, len(x))
    dw = (gradient @ x).reshape(sums.layers[0].w.shape)
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
    anchor = _scratch("anchor", before.shape, before.dtype)
    anchor[...] = before
    for k in np.flatnonzero(sums.move.heads):
        a[k] -= before[k]
        a[k] *= sums.move.relaxation
        anchor[k] += a[k]
    return anchor, more


def _multipliers(m: np.ndarray, anchor: np.ndarray, smoothing: np.ndarray) -> np.ndarray:
    """clip(anchor + m / smoothing, 0, 1), in this thread's memory; both are 0 at the true class."""
    a = _scratch("multipliers", m.shape, m.dtype)
    np.divide(m, smoothing[:, None, None], out=a)
    a += anchor
    return np.clip(a, 0.0, 1.0, out=a)


def _losses(m: np.ndarray, a: np.ndarray, anchor: np.ndarray, smoothing: Any) -> np.ndarray:
    """(3, K, n): phi, slack and the plain hinge per row; m is overwritten."""
    out = np.empty((3, m.shape[0], m.shape[2]), dtype=m.dtype)
    t = _scratch("products", m.shape, m.dtype)
    np.subtract(a, anchor, out=t)
    t *= t
    far = _sum_classes(t)
    far *= 0.5 * smoothing[:, None]
    np.multiply(a, m, out=t)
    pairs = _sum_classes(t)
    np.subtract(pairs, far, out=out[0])
    np.maximum(m, 0.0, out=m)
    m -= t
    out[1] = _sum_classes(m)
    np.add(pairs, out[1], out=out[2])
    return out


def _scores(network: Network, layers: Any, chunk: RowChunk) -> tuple[np.ndarray, np.ndarray]:
    """(x, scores (K, C, n)) of a linear model; scores are in this thread's memory."""
    w, b = layers[0]
    classes, features = w.shape[-2:]
    flat_w, x = w.reshape(-1, features), network.shifted(chunk.x)
    flat = _scratch("scores", (len(flat_w), len(x)), w.dtype)
    np.matmul(flat_w, x.T, out=flat)
    if b is not None:
        flat += b.reshape(-1, 1)
    return x, flat.reshape(-1, classes, len(x))


def _scratch(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """This thread's own memory under `name`: its contents last until the next request for it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    held = getattr(_kept, name, None)
    if held is None or not size <= held.nbytes <= 4 * size + (1 << 16):
        held = np.empty(size, dtype=np.uint8)
        setattr(_kept, name, held)
    return np.ndarray(shape, dtype, buffer=held)


def _sum_classes(values: np.ndarray) -> np.ndarray:
    """(K, n): the sum over axis 1, in the dtype of `values`."""
    if values.shape[1] <= _BLOCK or values.dtype == np.float64:
        return np.asarray(values.sum(axis=1))
    blocks = [values[:, k : k + _BLOCK, :].sum(axis=1) for k in range(0, values.shape[1], _BLOCK)]
    return np.asarray(np.add.reduce(blocks, axis=0, dtype=np.float64).astype(values.dtype))


def _true_places(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(K, n): where the true class of every row is in a flattened (K, C, n) array.

    labels : integers (n,) or (K, n), or a boolean mask (C, n)
    """
    heads, classes, n = shape
    index = labels.argmax(axis=0) if labels.dtype == np.bool_ else labels
    return (index * n + np.arange(n)) + (classes * n) * np.arange(heads)[:, None]


def accelerate(chosen: Accelerated, request: Request) -> Accelerated:
    """In-place sums for linear models on NumPy rows."""
    linear = len(request.network.widths) == 2
    if not (linear and isinstance(request.x, np.ndarray) and request.rule is None):
        return chosen
    operations = chosen.operations
    if type(request.loss) is Softmax:
        operations = replace(operations, row_sums=softmax_row_sums)
    if type(request.loss) is Hinge:
        operations = replace(operations, proximal_sums=hinge_proximal_sums)
    return chosen._replace(operations=operations)


IN_PLACE_SUMS = Accelerator(
    "in_place_sums",
    "full-batch sums of linear softmax and hinge models on NumPy rows, without temporaries",
    default=True,
    missing=lambda: None,
    accelerate=accelerate,
)
