"""Rows of data in memory, and `sum_over_rows`, the one loop that full-batch training runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from xclf._xp import Array, accumulator, device, from_host, is_host, namespace
from xclf.rows._threads import in_threads

#: Up to this many classes the true classes are kept as a boolean mask, made once (C bytes a row);
#: past it as integers, and each kernel call makes its own.
MASK_CLASSES = 64

# Bytes of one chunk, features and activations together. On a CPU a chunk is read forward and
# backward while it is in cache; a device only wants few launches and bounded memory.
_HOST_CHUNK, _DEVICE_CHUNK = 4 << 20, 1 << 30
_MIN_ROWS = 64
_ROWS_PER_SUM = 1024

# Sums are made of so many runs of chunks on a CPU: enough to share among its cores, few enough
# that a sum for each costs little memory.
_RUNS = 16


class Chunk(NamedTuple):
    """Some rows: x (n, D) in the computing dtype, labels, weights (n,) or (K, n) or None.

    labels are a mask (C, n) or integers (n,), as the kernels take them with class axis -2.
    """

    x: Array
    labels: Array
    weights: Array | None
    where: slice


@dataclass(frozen=True)
class Rows:
    """All rows of a fit, in memory.

    x : (N, D), any real dtype; widened to `dtype` one chunk at a time
    labels : (C, N) boolean or (N,) integer
    weights : None, (N,), or (G, N), in `dtype`
    dtype : float32 or float64 of the namespace, in which the products run
    heads : None, or (K,) integers: head k has weights[heads[k]]. Heads that share weights, as all
        candidates of a fold do, share their memory. None with (G, N) weights: one head a line.
    """

    x: Array
    labels: Array
    weights: Array | None
    dtype: Any
    heads: Array | None = None

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Consecutive chunks of at most `size` rows."""
        for start in range(0, len(self), size):
            yield self.chunk(slice(start, min(start + size, len(self))))

    def chunk(self, where: slice) -> Chunk:
        """The rows of one slice."""
        weights = None if self.weights is None else self._shared(self.weights[..., where])
        return Chunk(self._widen(self.x[where, :]), self.labels[..., where], weights, where)

    def take(self, index: Array) -> Chunk:
        """The rows that `index` (n,) names: a minibatch, one array call for each part."""
        xp = namespace(self.x)
        x = self._widen(xp.take(self.x, index, axis=0))
        labels = xp.take(self.labels, index, axis=-1)
        weights = None
        if self.weights is not None:
            weights = self._shared(xp.take(self.weights, index, axis=-1))
        return Chunk(x, labels, weights, slice(0, 0))

    def keep(self, kept: np.ndarray) -> Rows:
        """The same rows for the heads that host integers `kept` name."""
        if self.weights is None or self.weights.ndim == 1:
            return self
        index = from_host(kept, self.x)
        xp = namespace(self.x)
        if self.heads is None:
            return replace(self, weights=xp.take(self.weights, index, axis=0))
        return replace(self, heads=xp.take(self.heads, index, axis=0))

    def total_weight(self) -> Array:
        """Sum of the weights, () or (K,), in the widest dtype; without weights, of rows."""
        xp, wide = namespace(self.x), accumulator(namespace(self.x), device(self.x))
        if self.weights is None:
            return xp.asarray(float(len(self)), dtype=wide, device=device(self.x))
        return self._shared(xp.sum(self.weights, axis=-1, dtype=wide))

    def _shared(self, weights: Array) -> Array:
        if self.heads is None:
            return weights
        return namespace(weights).take(weights, self.heads, axis=0)

    def _widen(self, x: Array) -> Array:
        return x if x.dtype == self.dtype else namespace(x).astype(x, self.dtype)

    def chunk_rows(self, width: int) -> int:
        """Rows of a chunk for a model whose widest layer has `width` outputs, heads included."""
        return _chunk_rows(self.x, self.dtype, width)


def _chunk_rows(x: Array, dtype: Any, width: int) -> int:
    # Half a dozen temporaries of the scores' shape are alive at once in a loss kernel.
    itemsize = 8 if dtype == namespace(x).float64 else 4
    bytes_per_row = itemsize * (int(x.shape[1]) + 6 * width)
    if "cpu" not in str(device(x)).lower():
        return max(_MIN_ROWS, _DEVICE_CHUNK // bytes_per_row)
    # Every chunk adds a gradient to the sum, which costs as much as the products of some forty
    # rows: a few hundred are worth leaving the nearest cache for.
    few = min(_ROWS_PER_SUM, 2 * _HOST_CHUNK // bytes_per_row)
    return max(_MIN_ROWS, few, _HOST_CHUNK // bytes_per_row)


def map_rows(f: Callable[[Array], Array], x: Array, dtype: Any, width: int) -> Array:
    """f of every chunk of x (N, D), widened to `dtype`, put together along the first axis."""
    xp = namespace(x)
    size = _chunk_rows(x, dtype, width)
    parts = []
    rows = int(x.shape[0])
    for start in range(0, rows, size):
        part = x[start : min(start + size, rows), :]
        parts.append(f(part if part.dtype == dtype else xp.astype(part, dtype)))
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)


def sum_over_rows(
    f: Callable[[Chunk], tuple[Array, ...]],
    rows: Rows,
    width: int = 1,
    size: int | None = None,
    *,
    serial: bool = False,
) -> tuple[Array, ...]:
    """Sum of f over chunks of rows, array by array.

    f : a chunk -> a tuple of arrays that are sums over its rows; always the same shapes. With NumPy
        it is called from several threads at once, each with BLAS held to one thread; what it
        writes to elsewhere must belong to the chunk's own rows.
    width : outputs per row, for the chunk size
    size : rows of a chunk, where the caller knows better
    serial : one chunk at a time, and BLAS with its threads: for sums so large that one for each
        thread would cost much memory

    Returns the totals, accumulated in float64 where the device has it. Chunks are added up in a
    fixed order, whatever the number of threads: the same input gives the same bits.
    """
    if not len(rows):
        raise ValueError("there are no rows to sum over")
    size = size or rows.chunk_rows(width)
    starts = range(0, len(rows), size)

    def spans(some: range) -> Iterator[Chunk]:
        return (rows.chunk(slice(start, min(start + size, len(rows)))) for start in some)

    if serial or len(starts) == 1 or not is_host(rows.x):
        return tuple(_total(f, spans(starts)))
    # Runs of chunks, each with a sum of its own, which are then added up in their order.
    runs = [starts[k * len(starts) // _RUNS : (k + 1) * len(starts) // _RUNS] for k in range(_RUNS)]
    sums = in_threads(lambda some: _total(f, spans(some)), [some for some in runs if some])
    totals = next(sums)
    for part in sums:
        for place, more in enumerate(part):
            totals[place] += more
    return tuple(totals)


def _total(f: Callable[[Chunk], tuple[Array, ...]], chunks: Iterator[Chunk]) -> list[Array]:
    """Sums of f over some chunks, one after the other, in the widest dtype."""
    totals: list[Array] = []
    for chunk in chunks:
        parts = f(chunk)
        if not totals:
            xp = namespace(*parts)
            wide = accumulator(xp, device(parts[0]))
            # A copy: it is added to in place, and f may hand out what it keeps.
            totals = [xp.astype(part, wide, copy=True) for part in parts]
        else:
            for place, part in enumerate(parts):
                totals[place] += part
    return totals
