"""Rows of data, and the one loop over them: `sum_over_rows`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

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
)
from xclf._sparse import SparseMatrix, as_dtype, take_rows
from xclf.rows import _transfer
from xclf.rows._memory_budget import MemoryBudget
from xclf.rows._shards import PerRow, add_up, copy_to_shard, is_copyable, on_each_device
from xclf.rows._stream import Sharded, Streamed, slices
from xclf.rows._sums import sparse_sums
from xclf.rows._sums import total as _total
from xclf.rows._threads import blas_width, in_threads

#: Up to this many classes the labels are a boolean mask, computed once (C bytes a row); for more
#: they are integers, and each kernel call computes its own mask.
MASK_CLASSES = 64

# Bytes of one chunk, features and activations together. On a CPU a chunk is read forward and
# backward while it is in cache; a device only wants few launches and bounded memory.
_HOST_CHUNK, _DEVICE_CHUNK = 4 << 20, 1 << 30
_MIN_ROWS = 64  # counted in the memory that a fit needs in any case
_ROWS_PER_SUM = 1024

# On a CPU chunks are added up in so many runs: enough to share among its cores, few enough that a
# sum for each takes little memory.
_RUNS = 16


@dataclass
class Chunk:
    """Some rows: raw (n, D), weights (n,) or (K, n) or None, and labels.

    raw : in the dtype of X, until `x` is read
    label_sets, tasks : as `Rows` has labels and tasks
    """

    raw: Array
    label_sets: Array
    weights: Array | None
    where: slice
    dtype: Any
    tasks: Array | None = None

    @cached_property
    def labels(self) -> Array:
        """Mask (C, n), integers (n,) or, of several label sets, integers (K, n): as the kernels
        take them with class axis -2."""
        return _of_heads(self.label_sets, self.tasks)

    @property
    def x(self) -> Array:
        """(n, D) in the computing dtype, converted once."""
        if self.raw.dtype != self.dtype:
            self.raw = as_dtype(self.raw, self.dtype)
        return self.raw


@dataclass(frozen=True)
class Rows:
    """All rows of a fit.

    x : (N, D), any real dtype, converted to `dtype` one chunk at a time; `Streamed` from host
        memory, or a `SparseMatrix`. Labels and weights are on the device of x.
    labels : (C, N) boolean or (N,) integer; of T label sets (T, N) integer
    weights : None, (N,), or (G, N), in `dtype`
    dtype : float32 or float64 of the namespace, in which the products run
    heads : (K,) integers: head k has weights[heads[k]], so that heads with equal weights, such as
        all candidates of a fold, share memory; None with (G, N) weights: head k has weights[k]
    tasks : (K,) integers: head k has labels[tasks[k]], of several label sets; None for one
    budget : the memory that a fit may take, one object for all its rows
    precision : of products in float32, if lower than that
    """

    x: Array
    labels: Array
    weights: Array | None
    dtype: Any
    heads: Array | None = None
    tasks: Array | None = None
    budget: MemoryBudget = field(default_factory=MemoryBudget)
    precision: str | None = None

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def chunks(self, size: int, start: int = 0) -> Generator[Chunk]:
        """Consecutive chunks of at most `size` rows; a streamed one is valid until the next."""
        pieces = slices(len(self), size, start)
        if not isinstance(self.x, Streamed):
            yield from map(self.chunk, pieces)
            return
        with closing(self.x.parts(pieces)) as parts:
            for where, x in zip(pieces, parts, strict=True):
                yield self._picked(x, where)

    def chunk(self, where: slice) -> Chunk:
        """The rows of one slice."""
        return self._picked(self.x[where, :], where)

    def _picked(self, x: Array, where: slice | Array) -> Chunk:
        """x with the labels and weights of its rows, see `_beside`."""
        labels, weights = self._beside(where)
        if not isinstance(where, slice):
            where = slice(0, 0)
        weights = _of_heads(weights, self.heads)
        return Chunk(x, labels, weights, where, self.dtype, self.tasks)

    def _beside(self, where: slice | Array) -> tuple[Array, Array | None]:
        """Labels and weights of the rows in a slice, or numbered by integers on their device."""
        w = self.weights
        if isinstance(where, slice):
            return self.labels[..., where], None if w is None else w[..., where]
        take = namespace(self.x).take  # one array call each, in every minibatch
        return take(self.labels, where, axis=-1), None if w is None else take(w, where, axis=-1)

    def _with_rows(self, x: Array, where: slice | Array) -> Rows:
        labels, weights = self._beside(where)
        return replace(self, x=x, labels=labels, weights=weights)

    @cached_property
    def shards(self) -> list[Rows]:
        """The rows of each device, with their labels and weights there; [] on a single device."""
        if not isinstance(self.x, Sharded):
            return []
        shards = []
        for k, (where, x) in enumerate(self.x.shards):
            held = (*self._beside(where), self.heads, self.tasks)
            names = ("labels", "weights", "heads", "tasks")
            copies = dict(zip(names, copy_to_shard(held, x, k), strict=True))
            shards.append(replace(self, x=x, **copies))
        return shards

    def _apply(self, change: Callable[[Rows], Rows]) -> Rows:
        """change(self), which keeps x and the labels. Shards change on their devices: their labels
        are not copied there again."""
        rows = change(self)
        if self.shards:
            shards = []
            for shard in self.shards:
                with on_device(shard.x):
                    shards.append(change(shard))
            rows.__dict__["shards"] = shards  # as cached_property keeps them
        return rows

    #: Whether X is in blocks elsewhere: then sums over rows are `sums`, and there are no others.
    in_blocks: ClassVar[bool] = False
    sums: ClassVar[Callable[..., tuple[Array, ...]]]

    @property
    def devices(self) -> list[Rows]:
        """The rows of each device: themselves, on a single one."""
        return self.shards or [self]

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> PerRow:
        """(*shape, N) zeros, on the devices of the rows."""
        return PerRow.zeros(self.devices, shape, dtype)

    def per_row(self, parts: Sequence[np.ndarray]) -> PerRow:
        """Numbers on the host, a part for each device, on the devices of the rows."""
        return PerRow.from_host(parts, self.devices)

    def order(self, train: np.ndarray | None, rng: np.random.Generator) -> Any:
        """The row numbers `train` in the order in which an epoch takes them."""
        assert train is not None, "only rows in blocks know which have weight"
        return train[rng.permutation(len(train))]

    def numbers(self, order: np.ndarray) -> Array:
        """Host integers that number rows, as an index for `take`: where rows are gathered."""
        return order if isinstance(self.x, Streamed) else from_host(order, self.x)

    def take(self, index: Array) -> Chunk:
        """The rows numbered by `index` (n,), of `numbers`: a minibatch, one array call a part."""
        if isinstance(self.x, Streamed):
            return self._picked(self.x.take(index), from_host(index, self.x))
        return self._picked(take_rows(self.x, index), index)

    def batches(self, indices: Sequence[Array]) -> Generator[Chunk]:
        """`take` of each index in turn. Streamed rows are gathered and sent while those before are
        in use, and valid until the next."""
        if not isinstance(self.x, Streamed):
            yield from map(self.take, indices)
            return
        if not indices:
            return
        # All indices are sent at once, ahead of the first step, to pick labels and weights on the
        # device: a copy for every batch would cost a launch or two.
        index, start = from_host(np.concatenate(indices), self.x), 0
        with closing(self.x.parts(indices)) as parts:
            for batch in indices:  # `zip` would keep a part until the next one is complete
                yield self._picked(next(parts), index[start : start + len(batch)])
                start += len(batch)

    def only(self, index: np.ndarray) -> Rows:
        """The rows numbered by host integers: a copy, but streamed rows stay on the host."""
        there = from_host(index, self.x)
        if isinstance(self.x, Streamed):
            return self._with_rows(self.x.at(index), there)
        return self._with_rows(take_rows(self.x, there), there)

    def every(self, stride: int) -> Rows:
        """Every `stride`-th row."""
        if isinstance(self.x, Streamed):
            return self.only(np.arange(0, len(self), stride))
        return self._with_rows(self.x[::stride, :], slice(None, None, stride))

    def take_heads(self, kept: np.ndarray) -> Rows:
        """The same rows for the heads numbered by host integers."""
        names = ["tasks"] if self.tasks is not None else []
        if self.weights is not None and self.weights.ndim > 1:
            names.append("weights" if self.heads is None else "heads")

        def take(rows: Rows) -> Rows:
            index, xp = from_host(kept, rows.x), namespace(rows.x)
            own = {name: xp.take(getattr(rows, name), index, axis=0) for name in names}
            return replace(rows, **own)

        return self._apply(take) if names else self

    def widened(self, dtype: Any) -> Rows:
        """The same rows, whose products run in `dtype`."""

        def widen(rows: Rows) -> Rows:
            weights, xp = rows.weights, namespace(rows.x)
            weights = None if weights is None else xp.astype(weights, dtype, copy=False)
            return replace(rows, weights=weights, dtype=dtype)

        return self if dtype == self.dtype else self._apply(widen)

    def total_weight(self) -> Array:
        """Sum of the weights, () or (K,), in the widest dtype; the number of rows without any."""
        xp, wide = namespace(self.x), accumulator(namespace(self.x), device(self.x))
        if self.weights is None:
            return xp.asarray(float(len(self)), dtype=wide, device=device(self.x))
        return _of_heads(xp.sum(self.weights, axis=-1, dtype=wide), self.heads)

    def chunk_rows(self, width: int) -> int:
        """Rows of a chunk for a model whose widest layer has `width` outputs, heads included."""
        return _chunk_rows(self.x, self.dtype, width, self.budget)


def _of_heads(values: Any, which: Array | None) -> Any:
    """values[which[k]] for each head k; `values` as they are if nothing says which."""
    if values is None or which is None:
        return values
    return namespace(values).take(values, which, axis=0)


def bytes_per_row(x: Array, dtype: Any, width: int) -> int:
    """Bytes for one row of a chunk and its intermediate arrays in a pass."""
    # Half a dozen temporaries of the scores' shape are alive at once in a loss kernel.
    itemsize = 8 if dtype == namespace(x).float64 else 4
    values = 3 * x.row_values if isinstance(x, SparseMatrix) else int(x.shape[1])
    size = itemsize * (values + 6 * width)
    return size + x.bytes_under_way if isinstance(x, Streamed) else size


def _chunk_rows(x: Array, dtype: Any, width: int, budget: MemoryBudget) -> int:
    each = bytes_per_row(x, dtype, width)
    if "cpu" not in str(device(x)).lower():
        rows = max(_MIN_ROWS, _DEVICE_CHUNK // each)
    else:
        # Every chunk adds a gradient to the sum, which costs as much as the products of some forty
        # rows: a few hundred rows are worth leaving the nearest cache for.
        few = min(_ROWS_PER_SUM, 2 * _HOST_CHUNK // each)
        rows = max(_MIN_ROWS, few, _HOST_CHUNK // each)
    if isinstance(x, Streamed):
        rows = min(rows, max(_MIN_ROWS, _transfer.CHUNK // x.bytes_per_row))
    if budget.size is not None:
        workers = blas_width() if is_host(x) else getattr(x, "workers", 1)
        share = budget.for_chunks(workers)
        rows = min(rows, max(_MIN_ROWS, share // each))
    return rows if budget.chunk is None else min(rows, max(1, budget.chunk // each))


def sum_over_rows(
    f: Callable[[Chunk], tuple[Array, ...]],
    rows: Rows,
    width: int = 1,
    size: int | None = None,
    *,
    serial: bool = False,
    writes: PerRow | None = None,
) -> tuple[Array, ...]:
    """Sum of f over chunks of rows, array by array, in float64 where the device has it.

    f : a chunk -> a tuple of arrays that are sums over its rows, always of the same shapes. NumPy
        calls it in several threads at once, each with BLAS held to one thread. It may write
        elsewhere only what belongs to the chunk's own rows, and only at its end: a chunk that did
        not fit into memory is computed again. For rows on several devices a dataclass or a
        `functools.partial` is copied to each, with its arrays and the device's part of a `PerRow`;
        for any other function one device computes all rows.
    width : outputs per row, for the chunk size
    size : rows of a chunk, instead of the size for `width`
    serial : one chunk at a time, and BLAS with all its threads: for sums so large that one in each
        thread would take much memory
    writes : the numbers of rows that f writes to, which rows in blocks have to know

    Chunks are added up in a fixed order, whatever thread was first: the same input, in chunks of
    the same size, gives the same bits. A small memory budget shared by many threads makes chunks
    smaller, and changes the last bits.
    """
    if not len(rows):
        raise ValueError("there are no rows to sum over")
    if rows.in_blocks:
        return rows.sums(f, width, size, serial, writes)
    if rows.shards and is_copyable(f):

        def sums(f: Any, shard: Rows) -> list[Array]:
            return _total(chunk_results(f, shard, size or shard.chunk_rows(width), width))

        return add_up(on_each_device(sums, f, rows.shards), rows.x)
    size = size or rows.chunk_rows(width)
    if isinstance(rows.x, SparseMatrix) and is_host(rows.x):
        return tuple(sparse_sums(f, rows, size))
    pieces = slices(len(rows), size)
    if serial or len(pieces) == 1 or not is_host(rows.x):
        return tuple(_total(chunk_results(f, rows, size, width)))

    def run_sum(run: list[slice]) -> list[Array]:
        return _total(f(rows.chunk(where)) for where in run)

    # Runs of chunks, each with a sum of its own, which are then added up in their order.
    ends = [len(pieces) * k // _RUNS for k in range(_RUNS + 1)]
    runs = [pieces[first:last] for first, last in pairwise(ends)]
    with closing(in_threads(run_sum, [run for run in runs if run])) as run_sums:
        totals = next(run_sums)
        for part in run_sums:
            for k, more in enumerate(part):
                totals[k] += more
            del part, more  # before the next is computed: sums may be large
    return tuple(totals)


def chunk_results(f: Callable[[Chunk], Any], rows: Rows, size: int, width: int) -> Iterator[Any]:
    """f of one chunk after the other. A chunk that does not fit into memory is halved, and so are
    those after it."""
    done = 0
    chunk: Chunk | None = None
    result: Any = None
    while done < len(rows):
        failure: BaseException | None = None
        with closing(rows.chunks(size, done)) as chunks:
            try:
                for chunk in chunks:
                    result = f(chunk)
                    done = chunk.where.stop
                    yield result
            except Exception as error:
                if not out_of_memory(error):
                    raise
                # Without its traceback, whose frames hold the arrays of the chunk.
                failure = error.with_traceback(None)
        if failure is not None:
            chunk = result = None  # they hold memory too
            size = min(size, len(rows) - done)
            size = rows.budget.halve(size, bytes_per_row(rows.x, rows.dtype, width), failure)
