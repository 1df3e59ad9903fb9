"""The same sums on a CPU without temporaries: what NumPy can do in place, done in place.

A kernel makes half a dozen arrays of the scores' shape; here the product writes into memory that a
thread keeps, and the loss turns the scores there into their gradient. The formulas are those of
`cross_entropy`, step by step, and are tested against it.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xclf._array_api import Array
from xclf.kernels import cross_entropy
from xclf.objectives._compiled import BLAS, Products, products
from xclf.objectives._network import Layer, Network, stacked
from xclf.objectives._protocols import RowChunk
from xclf.objectives._sums import RowSums

# A float32 sum of many terms in sequence loses digits: blocks of so many classes are summed in
# float32, and their sums in float64.
_BLOCK = 64

_kept = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """This thread's own memory under `name`: its contents last until the next request for it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    held = getattr(_kept, name, None)
    if held is None or not size <= held.nbytes <= 4 * size + (1 << 16):
        held = np.empty(size, dtype=np.uint8)
        setattr(_kept, name, held)
    return np.ndarray(shape, dtype, buffer=held)


@dataclass(frozen=True)
class HostSoftmaxSums(RowSums):
    """`RowSums` of a linear softmax model on NumPy rows."""

    products: Products = BLAS

    def __call__(self, rows: RowChunk) -> tuple[np.ndarray, ...]:
        layer = self.layers[0]
        heads, (classes, features) = layer.w.shape[:-2], layer.w.shape[-2:]
        w, b = stacked(np, *layer)
        x = self.network.shifted(rows.x)
        flat = scratch("scores", (len(w), len(x)), w.dtype)
        self.products.scores(w, x, flat)
        if b is not None:
            flat += b
        scores = flat.reshape(-1, classes, len(x))
        losses = softmax_in_place(scores, true_index(rows.labels), rows.weights)
        dw = self.products.gradient(flat, x).reshape(*heads, classes, features)
        db = flat.sum(axis=-1).reshape(*heads, classes)
        return losses.sum(axis=-1, dtype=np.float64).reshape(heads), dw, db


class _Batch(NamedTuple):
    x: np.ndarray
    raw: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def batch_gradients(
    network: Network, layers: list[Layer], rows: RowChunk, total: int
) -> list[tuple[Array, Array | None]]:
    """(dw, db) of 1/n sum_i w_i L_i, of the softmax loss on a minibatch.

    layers : `Network.prepared`;  total : rows of an epoch, as `products` takes them
    """
    share = 1.0 / len(rows.x)
    if rows.weights is None:
        weights = np.full(len(rows.x), share, dtype=rows.x.dtype)
    else:
        weights = rows.weights * share
    sums = HostSoftmaxSums(network, cross_entropy, layers, products(layers[0].w, total))
    _, dw, db = sums(_Batch(rows.x, rows.raw, rows.labels, weights))
    return network.unscaled([(dw, db)])


def true_index(labels: np.ndarray) -> np.ndarray:
    """Integers (n,) of labels that may be a boolean mask (C, n)."""
    return np.asarray(labels.argmax(axis=0)) if labels.ndim == 2 else labels


def softmax_in_place(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """`cross_entropy` with axis -2 and reduction "none": the losses (K, n); the gradient in
    `scores`.

    scores : (K, C, n), contiguous, overwritten;  labels : integers (n,);  weights : as there
    """
    heads, classes, rows = scores.shape
    flat = scores.reshape(-1)
    true = labels * rows + np.arange(rows)
    true = true + (classes * rows) * np.arange(heads)[:, None]
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


def sum_classes(values: np.ndarray) -> np.ndarray:
    """(K, n): the sum over axis 1, in the dtype of `values`."""
    if values.shape[1] <= _BLOCK or values.dtype == np.float64:
        return np.asarray(values.sum(axis=1))
    blocks = [values[:, k : k + _BLOCK, :].sum(axis=1) for k in range(0, values.shape[1], _BLOCK)]
    return np.asarray(np.add.reduce(blocks, axis=0, dtype=np.float64).astype(values.dtype))
