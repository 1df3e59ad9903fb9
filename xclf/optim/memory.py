"""Curvature pairs of L-BFGS for K heads, and the direction they give."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from xclf._array_api import Array, accumulator, device, namespace
from xclf._heads import take_heads

Apply: TypeAlias = Callable[[Array], Array]

# Bytes of a head's pairs from which a product for each head costs no more than a stacked one, for
# which some libraries copy what is not contiguous, as the pairs in use of several heads.
_LARGE = 1 << 20

#: Pairs that are kept even beyond the memory budget: with fewer the method is another one.
LEAST_PAIRS = 5


class Memory:
    """The last `size` pairs s, y of K heads, and the scale (K, 1) of the first direction.

    With S, Y (K, m, P) the pairs and R the upper triangle of S Y^T in order of age, the two-loop
    recursion (Nocedal & Wright, 2006, algorithm 7.4) is four products with all pairs at once:

        alpha = R^-1 S g,    r = H0 (g - Y^T alpha),    gamma = R^-T (D alpha - Y r),
        H g   = r + S^T gamma,                          D = diag(R)

    so it costs the same few array calls for any number of pairs and heads, and reads each pair
    twice. R^-1 (K, m, m) is kept up to date: a new pair adds a column, an old one leaves its row
    and column, which for a triangular matrix is the inverse of what remains. A pair that a head
    sits out has a row and column of zeros.

    dtype : in which pairs are kept; the small matrices are always in the widest
    """

    def __init__(self, size: int, dtype: Any = None) -> None:
        self.size = size
        self.dtype = dtype
        self.scale: Array | None = None
        self._next = 0
        self._s: Array = None
        self._y: Array = None
        self._inverse: Array = None
        self._diagonal: Array = None

    def __len__(self) -> int:
        return min(self._next, self.size)

    def add(self, s: Array, y: Array, good: Array) -> Array:
        """Keep a pair s, y (K, P) where `good` (K,) says so; returns s . y (K,), 0 elsewhere."""
        xp = namespace(s)
        if self._s is None:
            self._allocate(xp, s)
        slot = self._next % self.size
        self._next += 1
        keep = good[:, None]
        s = xp.where(keep, xp.astype(s, self.dtype, copy=False), 0.0)
        y = xp.where(keep, xp.astype(y, self.dtype, copy=False), 0.0)
        wide = self._inverse.dtype
        size = xp.astype(dots(s, y), wide)
        good = good & (size >= xp.finfo(wide).smallest_normal)  # below, 1 / size overflows
        size = xp.where(good, size, 0.0)
        inverse = xp.where(good, 1.0 / xp.where(good, size, 1.0), 0.0)
        self._inverse[:, slot, :] = 0.0
        self._inverse[:, :, slot] = 0.0
        column = self._times(self._inverse, self._project(self._s, y))
        self._inverse[:, :, slot] = column * (-inverse[:, None])
        self._inverse[:, slot, slot] = inverse
        self._s[:, slot, :], self._y[:, slot, :] = s, y
        self._diagonal[:, slot] = size
        return size

    def direction(self, grad: Array, precondition: Apply) -> Array:
        """H g (K, P): `precondition` (scaled) is H0, approximately the inverse Hessian."""
        if self._s is None:
            return self.scale * precondition(grad)
        xp = namespace(grad)
        alpha = self._times(self._inverse, self._project(self._s, grad))
        r = self.scale * precondition(grad - self._combine(self._y, alpha, grad.dtype))
        gap = self._diagonal * alpha - self._project(self._y, r)
        gamma = self._times(xp.matrix_transpose(self._inverse), gap)
        return r + self._combine(self._s, gamma, grad.dtype)

    def forget(self, keep: Array) -> None:
        """Drop the pairs of heads where `keep` (K,) is False."""
        if self._inverse is not None:
            xp = namespace(self._inverse)
            self._inverse = xp.where(keep[:, None, None], self._inverse, 0.0)

    def keep(self, kept: np.ndarray) -> None:
        """Go on with the heads that host integers `kept` name, in that order."""
        self.scale = take_heads(self.scale, kept)
        self._inverse = take_heads(self._inverse, kept)
        self._diagonal = take_heads(self._diagonal, kept)
        self._s = take_heads(self._s, kept)  # one by one: the pairs may be as large as X
        self._y = take_heads(self._y, kept)

    def state(self) -> dict[str, Any]:
        """All pairs and numbers, for `restore`; slots that were never used are left out."""
        pairs = [None if part is None else part[:, : len(self), :] for part in (self._s, self._y)]
        return {
            "size": self.size,
            "next": self._next,
            "scale": self.scale,
            "pairs": pairs,
            "inverse": self._inverse,
            "diagonal": self._diagonal,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave; the pairs are in the dtype that they were in."""
        self.size, self._next, self.scale = state["size"], state["next"], state["scale"]
        s, y = state["pairs"]
        if s is None:
            return
        self.dtype = s.dtype
        self._allocate(namespace(s), s[:, 0, :])
        used = len(self)
        self._s[:, :used, :], self._y[:, :used, :] = s, y
        self._inverse, self._diagonal = state["inverse"], state["diagonal"]

    def _allocate(self, xp: Any, s: Array) -> None:
        self.dtype = self.dtype or s.dtype
        (k, p), m, where = s.shape, self.size, device(s)
        wide = accumulator(xp, where)
        self._s = xp.zeros((k, m, p), dtype=self.dtype, device=where)
        self._y = xp.zeros((k, m, p), dtype=self.dtype, device=where)
        self._inverse = xp.zeros((k, m, m), dtype=wide, device=where)
        self._diagonal = xp.zeros((k, m), dtype=wide, device=where)

    def _project(self, pairs: Array, v: Array) -> Array:
        """(K, m): every pair's product with v (K, P); only the slots in use are read."""
        xp = namespace(v)
        used = pairs[:, : len(self), :]
        products = _products(used, xp.astype(v, pairs.dtype, copy=False)[:, :, None])[:, :, 0]
        products = xp.astype(products, self._inverse.dtype, copy=False)
        if len(self) == self.size:
            return products
        rest = (products.shape[0], self.size - len(self))
        unused = xp.zeros(rest, dtype=products.dtype, device=device(v))
        return xp.concat([products, unused], axis=-1)

    def _combine(self, pairs: Array, shares: Array, dtype: Any) -> Array:
        """(K, P): the sum of all pairs, each times its share (K, m)."""
        xp = namespace(shares)
        used = pairs[:, : len(self), :]
        shares = xp.astype(shares[:, None, : len(self)], pairs.dtype, copy=False)
        return xp.astype(_products(shares, used)[:, 0, :], dtype, copy=False)

    def _times(self, matrix: Array, v: Array) -> Array:
        return namespace(v).matmul(matrix, v[:, :, None])[:, :, 0]


def dots(a: Array, b: Array) -> Array:
    """(K,): a . b per head, without a product of their size in between."""
    return _products(a[:, None, :], b[:, :, None])[:, 0, 0]


def _products(a: Array, b: Array) -> Array:
    """a @ b for each of K heads, (K, M, N) and (K, N, P)."""
    xp = namespace(a)
    heads = int(a.shape[0])
    size = max(math.prod(a.shape), math.prod(b.shape)) * (8 if a.dtype == xp.float64 else 4)
    if heads > 1 and size >= _LARGE * heads:
        return xp.stack([xp.matmul(a[k, ...], b[k, ...]) for k in range(heads)])
    return xp.matmul(a, b)


def memory_size(heads: int, parameters: int, itemsize: int, budget: int, most: int) -> int:
    """Pairs per head, between LEAST_PAIRS and `most`, that fit into `budget` bytes together."""
    return max(LEAST_PAIRS, min(most, math.floor(budget / (2 * heads * parameters * itemsize))))
