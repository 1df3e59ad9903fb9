"""Rows of data in memory, and `sum_over_rows`, the one loop that full-batch training runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from xclf._xp import Array, accumulator, device, is_host, namespace

#: Up to this many classes the true classes are kept as a boolean mask, made once (C bytes a row);
#: past it as integers, and each kernel call makes its own.
MASK_CLASSES = 64

# Bytes of one chunk, features and activations together. On a CPU a chunk is read forward and
# backward while it is in cache; a device only wants few launches and bounded memory.
_HOST_CHUNK, _DEVICE_CHUNK = 4 << 20, 1 << 30
_MIN_ROWS = 64


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
    weights : None, (N,) or (K, N), in `dtype`
    dtype : float32 or float64 of the namespace, in which the products run
    """

    x: Array
    labels: Array
    weights: Array | None
    dtype: Any

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Consecutive chunks of at most `size` rows."""
        for start in range(0, len(self), size):
            where = slice(start, min(start + size, len(self)))
            weights = None if self.weights is None else self.weights[..., where]
            yield Chunk(self._widen(self.x[where, :]), self.labels[..., where], weights, where)

    def take(self, index: Array) -> Chunk:
        """The rows that `index` (n,) names: a minibatch, one array call for each part."""
        xp = namespace(self.x)
        x = self._widen(xp.take(self.x, index, axis=0))
        labels = xp.take(self.labels, index, axis=-1)
        weights = None if self.weights is None else xp.take(self.weights, index, axis=-1)
        return Chunk(x, labels, weights, slice(0, 0))

    def _widen(self, x: Array) -> Array:
        return x if x.dtype == self.dtype else namespace(x).astype(x, self.dtype)

    def chunk_rows(self, width: int) -> int:
        """Rows of a chunk for a model whose widest layer has `width` outputs, heads included."""
        return _chunk_rows(self.x, self.dtype, width)


def _chunk_rows(x: Array, dtype: Any, width: int) -> int:
    # Half a dozen temporaries of the scores' shape are alive at once in a loss kernel.
    itemsize = 8 if dtype == namespace(x).float64 else 4
    bytes_per_row = itemsize * (int(x.shape[1]) + 6 * width)
    local = is_host(x) or "cpu" in str(device(x)).lower()
    return max(_MIN_ROWS, (_HOST_CHUNK if local else _DEVICE_CHUNK) // bytes_per_row)


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
    f: Callable[[Chunk], tuple[Array, ...]], rows: Rows, width: int = 1, size: int | None = None
) -> tuple[Array, ...]:
    """Sum of f over chunks of rows, array by array.

    f : a chunk -> a tuple of arrays that are sums over its rows; always the same shapes
    width : outputs per row, for the chunk size
    size : rows of a chunk, where the caller knows better

    Returns the totals, accumulated in float64 where the device has it. Serial, in row order: the
    same input gives the same bits.
    """
    totals: list[Array] | None = None
    for chunk in rows.chunks(size or rows.chunk_rows(width)):
        parts = f(chunk)
        xp = namespace(*parts)
        wide = accumulator(xp, device(parts[0]))
        widened = [xp.astype(part, wide, copy=False) for part in parts]
        totals = (
            widened
            if totals is None
            else [total + part for total, part in zip(totals, widened, strict=True)]
        )
    if totals is None:
        raise ValueError("there are no rows to sum over")
    return tuple(totals)
