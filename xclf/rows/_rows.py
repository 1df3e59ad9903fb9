"""Rows of data, and `sum_over_rows`, the one loop that full-batch training runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from xclf._array_api import (
    Array,
    accumulator,
    device,
    from_host,
    is_host,
    namespace,
    on_device,
    out_of_memory,
    to_host,
)
from xclf.rows import _transfer
from xclf.rows._memory_budget import MemoryBudget
from xclf.rows._shards import PerRow, movable, moved, on_each_device, together
from xclf.rows._stream import Split, Streamed
from xclf.rows._threads import blas_width, in_threads

#: Up to this many classes the true classes are kept as a boolean mask, made once (C bytes a row);
#: past it as integers, and each kernel call makes its own.
MASK_CLASSES = 64

# Bytes of one chunk, features and activations together. On a CPU a chunk is read forward and
# backward while it is in cache; a device only wants few launches and bounded memory.
_HOST_CHUNK, _DEVICE_CHUNK = 4 << 20, 1 << 30
_MIN_ROWS = 64  # counted among what a fit needs in any case
_ROWS_PER_SUM = 1024

# Sums are made of so many runs of chunks on a CPU: enough to share among its cores, few enough
# that a sum for each costs little memory.
_RUNS = 16


@dataclass
class Chunk:
    """Some rows: raw (n, D) as they are kept until `x` is asked for, labels, weights (n,) or (K, n)
    or None.

    labels are a mask (C, n) or integers (n,), as the kernels take them with class axis -2.
    """

    raw: Array
    labels: Array
    weights: Array | None
    where: slice
    dtype: Any

    @property
    def x(self) -> Array:
        """(n, D) in the computing dtype, made when first asked for, and raw from then on."""
        if self.raw.dtype != self.dtype:
            self.raw = namespace(self.raw).astype(self.raw, self.dtype)
        return self.raw


@dataclass(frozen=True)
class Rows:
    """All rows of a fit.

    x : (N, D), any real dtype, widened to `dtype` one chunk at a time; or `Streamed`, which sends
        rows from host memory. What is beside it, and what is computed, lives where x says it does.
    labels : (C, N) boolean or (N,) integer
    weights : None, (N,), or (G, N), in `dtype`
    dtype : float32 or float64 of the namespace, in which the products run
    heads : None, or (K,) integers: head k has weights[heads[k]]. Heads that share weights, as all
        candidates of a fold do, share their memory. None with (G, N) weights: one head a line.
    budget : the memory that a fit may take, one object for all its rows
    precision : that of products in float32, where `products` has asked for less than that
    """

    x: Array
    labels: Array
    weights: Array | None
    dtype: Any
    heads: Array | None = None
    budget: MemoryBudget = field(default_factory=MemoryBudget)
    precision: str | None = None

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def chunks(self, size: int, start: int = 0) -> Generator[Chunk]:
        """Consecutive chunks of at most `size` rows; streamed ones are good until the next."""
        starts = range(start, len(self), size)
        slices = [slice(first, min(first + size, len(self))) for first in starts]
        if not isinstance(self.x, Streamed):
            yield from map(self.chunk, slices)
            return
        with closing(self.x.parts(slices)) as parts:
            for where, x in zip(slices, parts, strict=True):
                yield self._beside(x, where)

    def chunk(self, where: slice) -> Chunk:
        """The rows of one slice."""
        return self._beside(self.x[where, :], where)

    def _beside(self, x: Array, where: slice) -> Chunk:
        weights = None if self.weights is None else self._shared(self.weights[..., where])
        return Chunk(x, self.labels[..., where], weights, where, self.dtype)

    @cached_property
    def shards(self) -> list[Rows]:
        """The rows of each device, with all that is beside them there; [] where all are in one."""
        if not isinstance(self.x, Split):
            return []
        made = []
        for k, (where, x) in enumerate(self.x.shards):
            weights = None if self.weights is None else self.weights[..., where]
            labels, weights, heads = moved((self.labels[..., where], weights, self.heads), x, k)
            made.append(replace(self, x=x, labels=labels, weights=weights, heads=heads))
        return made

    def changed(self, change: Callable[[Rows], Rows]) -> Rows:
        """change(self), which keeps x and the labels. Rows of each device change where they are:
        what is beside them does not travel again."""
        made = change(self)
        if self.shards:
            shards = []
            for shard in self.shards:
                with on_device(shard.x):
                    shards.append(change(shard))
            made.__dict__["shards"] = shards  # as cached_property keeps them
        return made

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> PerRow:
        """(*shape, N) zeros, beside the rows."""
        return PerRow.zeros(self.shards or [self], shape, dtype)

    def numbers(self, order: np.ndarray) -> Array:
        """Host integers that name rows, as `take` wants them: where rows are gathered."""
        return order if isinstance(self.x, Streamed) else from_host(order, self.x)

    def take(self, index: Array) -> Chunk:
        """The rows that `index` (n,), of `numbers`, names: a minibatch, one array call a part."""
        if isinstance(self.x, Streamed):
            return self._picked(self.x.take(index), from_host(index, self.x))
        return self._picked(namespace(self.x).take(self.x, index, axis=0), index)

    def batches(self, indices: Sequence[Array]) -> Generator[Chunk]:
        """`take` of one after the other; streamed rows are good until the next, which are gathered
        and sent while those before are computed with."""
        if not isinstance(self.x, Streamed):
            yield from map(self.take, indices)
            return
        if not indices:
            return
        # What is beside the rows is picked where it is: by numbers that all travel at once, ahead
        # of the first step, since a copy of its own for every batch would cost a launch or two.
        index, start = from_host(np.concatenate(indices), self.x), 0
        with closing(self.x.batches(indices)) as parts:
            for mine in indices:  # `zip` would keep a part until the next one is made
                yield self._picked(next(parts), index[start : start + len(mine)])
                start += len(mine)

    def _picked(self, x: Array, index: Array) -> Chunk:
        """x, gathered, with what is beside the rows that `index`, where the labels are, names."""
        xp = namespace(self.x)
        labels = xp.take(self.labels, index, axis=-1)
        weights = None
        if self.weights is not None:
            weights = self._shared(xp.take(self.weights, index, axis=-1))
        return Chunk(x, labels, weights, slice(0, 0), self.dtype)

    def only(self, index: np.ndarray) -> Rows:
        """The rows that host integers name: a copy, but streamed rows stay where they are."""
        xp, where = namespace(self.x), from_host(index, self.x)
        streamed = isinstance(self.x, Streamed)
        weights = None if self.weights is None else xp.take(self.weights, where, axis=-1)
        return replace(
            self,
            x=self.x.at(index) if streamed else xp.take(self.x, where, axis=0),
            labels=xp.take(self.labels, where, axis=-1),
            weights=weights,
        )

    def every(self, stride: int) -> Rows:
        """Every `stride`-th row."""
        if isinstance(self.x, Streamed):
            return self.only(np.arange(0, len(self), stride))
        weights = None if self.weights is None else self.weights[..., ::stride]
        x, labels = self.x[::stride, :], self.labels[..., ::stride]
        return replace(self, x=x, labels=labels, weights=weights)

    def keep(self, kept: np.ndarray) -> Rows:
        """The same rows for the heads that host integers `kept` name."""
        if self.weights is None or self.weights.ndim == 1:
            return self

        def narrow(rows: Rows) -> Rows:
            index, xp = from_host(kept, rows.x), namespace(rows.x)
            if rows.heads is None:
                return replace(rows, weights=xp.take(rows.weights, index, axis=0))
            return replace(rows, heads=xp.take(rows.heads, index, axis=0))

        return self.changed(narrow)

    def widened(self, dtype: Any) -> Rows:
        """The same rows, whose products run in `dtype`."""

        def widen(rows: Rows) -> Rows:
            weights, xp = rows.weights, namespace(rows.x)
            weights = None if weights is None else xp.astype(weights, dtype, copy=False)
            return replace(rows, weights=weights, dtype=dtype)

        return self if dtype == self.dtype else self.changed(widen)

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

    def chunk_rows(self, width: int) -> int:
        """Rows of a chunk for a model whose widest layer has `width` outputs, heads included."""
        return _chunk_rows(self.x, self.dtype, width, self.budget)


def bytes_per_row(x: Array, dtype: Any, width: int) -> int:
    """What one row of a chunk takes, with what is made from it in a pass."""
    # Half a dozen temporaries of the scores' shape are alive at once in a loss kernel.
    itemsize = 8 if dtype == namespace(x).float64 else 4
    size = itemsize * (int(x.shape[1]) + 6 * width)
    return size + x.bytes_under_way if isinstance(x, Streamed) else size


def _chunk_rows(x: Array, dtype: Any, width: int, budget: MemoryBudget) -> int:
    each = bytes_per_row(x, dtype, width)
    if "cpu" not in str(device(x)).lower():
        rows = max(_MIN_ROWS, _DEVICE_CHUNK // each)
    else:
        # Every chunk adds a gradient to the sum, which costs as much as the products of some forty
        # rows: a few hundred are worth leaving the nearest cache for.
        few = min(_ROWS_PER_SUM, 2 * _HOST_CHUNK // each)
        rows = max(_MIN_ROWS, few, _HOST_CHUNK // each)
    if isinstance(x, Streamed):
        rows = min(rows, max(_MIN_ROWS, _transfer.CHUNK // x.bytes_per_row))
    if budget.size is not None:
        share = budget.for_chunks(blas_width() if is_host(x) else 1)
        rows = min(rows, max(_MIN_ROWS, share // each))
    return rows if budget.chunk is None else min(rows, max(1, budget.chunk // each))


def map_rows(
    f: Callable[[Array], Array],
    x: Array,
    dtype: Any,
    width: int,
    budget: MemoryBudget | None = None,
) -> Array:
    """f of every chunk of x (N, D), widened to `dtype`, put together along the first axis.

    Of `Streamed` rows the results come to the host, where the rows are. For rows on several devices
    f is copied to each as in `sum_over_rows`.
    """
    xp, streamed = namespace(x), isinstance(x, Streamed)
    rows = Rows(x, xp.zeros((int(x.shape[0]),), dtype=xp.int8, device=device(x)), None, dtype)
    rows = rows if budget is None else replace(rows, budget=budget)

    def some(f: Callable[[Array], Array], rows: Rows) -> list[Array]:
        found = _parts(lambda chunk: f(chunk.x), rows, rows.chunk_rows(width), width)
        return [to_host(part) if streamed else part for part in found]

    if rows.shards and movable(f):
        parts = [part for shard in on_each_device(some, f, rows.shards) for part in shard]
    else:
        parts = some(f, rows)
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if streamed else xp.concat(parts, axis=0)


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
        it is called from several threads at once, each with BLAS held to one thread. What it
        writes to elsewhere must belong to the chunk's own rows, and be written at its very end: a
        chunk for which there was no memory is done again. For rows on several devices a dataclass
        or a `functools.partial` is copied to each, with the arrays that it holds, of a `PerRow`
        those of the device's rows; any other function sees all rows on the first of them.
    width : outputs per row, for the chunk size
    size : rows of a chunk, where the caller knows better
    serial : one chunk at a time, and BLAS with its threads: for sums so large that one for each
        thread would cost much memory

    Returns the totals, accumulated in float64 where the device has it. Chunks are added up in a
    fixed order, whatever thread was first: the same input, in chunks of the same size, gives the
    same bits. Little memory for many threads makes chunks smaller, and the last bits others.
    """
    if not len(rows):
        raise ValueError("there are no rows to sum over")
    if rows.shards and movable(f):

        def sums(f: Any, shard: Rows) -> list[Array]:
            return _total(_parts(f, shard, size or shard.chunk_rows(width), width))

        return together(on_each_device(sums, f, rows.shards), rows.x)
    size = size or rows.chunk_rows(width)
    starts = range(0, len(rows), size)
    if serial or len(starts) == 1 or not is_host(rows.x):
        return tuple(_total(_parts(f, rows, size, width)))

    def span(some: range) -> list[Array]:
        slices = (slice(start, min(start + size, len(rows))) for start in some)
        return _total(f(rows.chunk(where)) for where in slices)

    # Runs of chunks, each with a sum of its own, which are then added up in their order.
    runs = [starts[k * len(starts) // _RUNS : (k + 1) * len(starts) // _RUNS] for k in range(_RUNS)]
    with closing(in_threads(span, [some for some in runs if some])) as found:
        totals = next(found)
        for part in found:
            for place, more in enumerate(part):
                totals[place] += more
            del part, more  # before the next is made: sums may be large
    return tuple(totals)


def _parts(f: Callable[[Chunk], Any], rows: Rows, size: int, width: int) -> Iterator[Any]:
    """f of one chunk after the other. A chunk for which there is no memory is done in halves, and
    so are those after it."""
    done = 0
    chunk: Chunk | None = None
    part: Any = None
    while done < len(rows):
        failure: BaseException | None = None
        with closing(rows.chunks(size, done)) as chunks:
            try:
                for chunk in chunks:
                    part = f(chunk)
                    done = chunk.where.stop
                    yield part
            except Exception as error:
                if not out_of_memory(error):
                    raise
                # Without its traceback, whose frames hold what was made of the chunk.
                failure = error.with_traceback(None)
        if failure is not None:
            chunk = part = None  # they hold memory too
            size = min(size, len(rows) - done)
            size = rows.budget.halve(size, bytes_per_row(rows.x, rows.dtype, width), failure)


def _total(found: Iterator[tuple[Array, ...]]) -> list[Array]:
    """Sums of tuples of arrays, one after the other, in the widest dtype."""
    totals: list[Array] = []
    for parts in found:
        if not totals:
            xp = namespace(*parts)
            wide = accumulator(xp, device(parts[0]))
            # A copy: it is added to in place, and f may hand out what it keeps.
            totals = [xp.astype(part, wide, copy=True) for part in parts]
        else:
            for place, part in enumerate(parts):
                totals[place] += part
            del part
        del parts  # before the next is made: sums may be large
    return totals
