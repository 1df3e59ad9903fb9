"""The two products of a linear model over rows, by BLAS, and memory for their results."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf.objectives import Network, RowChunk

# A float32 sum of many terms in sequence loses digits: blocks of so many classes are summed in
# float32, and their sums in float64.
_BLOCK = 64

_kept = threading.local()


class Products:
    """The products by BLAS: of w (M, D), x (n, D) and e (M, n), all of one float dtype."""

    def scores(self, w: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
        """out (M, n) = w x^T"""
        np.matmul(w, x.T, out=out)

    def gradient(self, e: np.ndarray, x: np.ndarray) -> np.ndarray:
        """e x, (M, D)"""
        return np.asarray(e @ x)


BLAS = Products()


def use_blas(w: np.ndarray) -> Products:
    """BLAS, whatever w is."""
    return BLAS


@dataclass(frozen=True)
class InPlaceSums:
    """Base of sums over NumPy rows without temporaries.

    products : chooses what multiplies w (*heads, C, D) with rows
    """

    products: Callable[[np.ndarray], Products] = use_blas

    def scores(
        self, network: Network, layers: Any, chunk: RowChunk
    ) -> tuple[Products, np.ndarray, np.ndarray]:
        """(products, x, scores (K, C, n)) of a linear model; scores are in this thread's memory."""
        w, b = layers[0]
        classes, features = w.shape[-2:]
        flat_w = w.reshape(-1, features)
        x, products = network.shifted(chunk.x), self.products(w)
        flat = scratch("scores", (len(flat_w), len(x)), w.dtype)
        products.scores(flat_w, x, flat)
        if b is not None:
            flat += b.reshape(-1, 1)
        return products, x, flat.reshape(-1, classes, len(x))


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """This thread's own memory under `name`: its contents last until the next request for it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    held = getattr(_kept, name, None)
    if held is None or not size <= held.nbytes <= 4 * size + (1 << 16):
        held = np.empty(size, dtype=np.uint8)
        setattr(_kept, name, held)
    return np.ndarray(shape, dtype, buffer=held)


def sum_classes(values: np.ndarray) -> np.ndarray:
    """(K, n): the sum over axis 1, in the dtype of `values`."""
    if values.shape[1] <= _BLOCK or values.dtype == np.float64:
        return np.asarray(values.sum(axis=1))
    blocks = [values[:, k : k + _BLOCK, :].sum(axis=1) for k in range(0, values.shape[1], _BLOCK)]
    return np.asarray(np.add.reduce(blocks, axis=0, dtype=np.float64).astype(values.dtype))


def true_places(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(K, n): where the true class of every row is in a flattened (K, C, n) array.

    labels : integers (n,) or a boolean mask (C, n)
    """
    heads, classes, n = shape
    index = labels.argmax(axis=0) if labels.ndim == 2 else labels
    return (index * n + np.arange(n)) + (classes * n) * np.arange(heads)[:, None]
