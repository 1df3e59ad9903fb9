"""Work on a group of blocks: pure functions, which run where the blocks are.

A group is a list of blocks, consecutive rows each. What belongs to its rows lies beside it
(`Beside`), whatever differs from call to call is in a `Call`, and arrays go back to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from xclf import _sparse
from xclf._array_api import Array, from_host, is_array, is_host, namespace, on_device, to_host
from xclf._sparse import SparseMatrix, stacked_rows
from xclf.kernels import one_hot
from xclf.rows._memory_budget import MemoryBudget
from xclf.rows._rows import MASK_CLASSES, Rows, sum_over_rows
from xclf.rows._shards import PerRow, rebuilt

# Bytes up to which consecutive blocks are joined.
_JOINED = 4 << 20


class Slot(NamedTuple):
    """The place of the numbers of a group's rows (a `PerRow`) in a function that travels."""

    number: int


class Beside(NamedTuple):
    """Labels and weights of a group's rows, on the host: masks (C, n), integers (n,) or (T, n);
    None, (n,) or (G, n)."""

    labels: np.ndarray
    weights: np.ndarray | None


@dataclass(frozen=True)
class Call:
    """What all groups of one pass share.

    f : of a chunk, with a `Slot` for each `PerRow`
    dtype : name of the dtype in which products run
    heads, tasks, precision : as `Rows` has them
    size : rows of a chunk;  writes : the slot that f writes to, or None
    bounded : whether the memory of the fit is, so that nothing is kept beside the rows
    """

    f: Any
    dtype: str
    heads: np.ndarray | None
    tasks: np.ndarray | None
    precision: str | None
    size: int
    writes: int | None = None
    serial: bool = False
    bounded: bool = False


def join_blocks(_: None, *blocks: Array) -> list[Array]:
    """A group of these blocks, those of a few rows joined: a product is to have something to do."""
    joined: list[list[Array]] = []
    size = _JOINED
    for block in blocks:
        size += _bytes_of(block)
        if size > _JOINED or not isinstance(block, np.ndarray | SparseMatrix):
            joined.append([])
            size = _bytes_of(block)
        joined[-1].append(block)
    return [_one_after_the_other(part) for part in joined]


def _one_after_the_other(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else stacked_rows(parts)


def _bytes_of(block: Array) -> int:
    if isinstance(block, SparseMatrix):
        return block.nbytes
    return int(block.shape[0]) * int(block.shape[1]) * int(getattr(block.dtype, "itemsize", 8))


class Layout(NamedTuple):
    """How labels and weights lie beside rows.

    classes : of a mask, where all heads have the same few classes; else 0
    columns : which of the columns of labels, as `BlockColumn` has them
    dtype : the name of that of weights
    """

    classes: int
    columns: int | list[int] | None
    dtype: str


def set_beside(layout: Layout, labels: np.ndarray, *vectors: np.ndarray | None) -> Beside:
    """What belongs to the rows of a group, in the form in which passes read it.

    vectors : weights (n,), one for each vector of the heads; None for ones
    """
    index = labels if layout.columns is None else labels[layout.columns]
    index = index.astype(np.int64, copy=False)
    weights = None
    if vectors:
        ones = np.ones(index.shape[-1])
        weights = np.stack([ones if own is None else own for own in vectors]).astype(layout.dtype)
        weights = weights if len(vectors) > 1 else weights[0]
    if 0 < layout.classes <= MASK_CLASSES:
        return Beside(one_hot(namespace(index), index, layout.classes), weights)
    return Beside(index, weights)


def weigh_group(_: None, beside: Beside) -> tuple[np.ndarray, int]:
    """(sums (G,) of the weights of a group, its rows with weight)."""
    weights = np.atleast_2d(np.asarray(beside.weights))
    sums: np.ndarray = weights.sum(axis=-1, dtype=np.float64)
    return sums, int(np.any(weights, axis=0).sum())


def sum_group(call: Call, blocks: Sequence[Array], beside: Beside, *states: np.ndarray) -> Any:
    """Sums of `call.f` over the rows of a group, in float64; with the new numbers of the rows where
    `call.writes` says that f writes to them."""
    held = list(states)
    if call.writes is not None:  # those before may be needed again, if this work is lost
        held[call.writes] = held[call.writes].copy()
    totals: list[np.ndarray] = []
    for x, where in zip(blocks, _places(blocks), strict=True):
        rows = _rows_of(x, call, beside, where)
        views = [numbers[..., where] for numbers in held]
        with on_device(x):
            f = _beside_block(call.f, x, views)
            parts = sum_over_rows(f, rows, size=_even(len(rows), call.size), serial=call.serial)
            if call.writes is not None and not is_host(x):
                views[call.writes][...] = to_host(_written(f, call.writes))
            _add(totals, [to_host(part) for part in parts])
    sums = tuple(totals)
    return sums if call.writes is None else (sums, held[call.writes])


def _even(rows: int, most: int) -> int:
    """Rows of chunks of about the same size, `most` or less: a short last one costs as much as a
    long one, and there is one in every block."""
    return -(-rows // -(-rows // most))


def map_numbers(f: Any, *numbers: np.ndarray) -> np.ndarray:
    """f of the numbers of a group's rows, which it may overwrite, and of others of the same."""
    return np.array(f(numbers[0].copy(), *numbers[1:]))


def take_rows(_: None, blocks: Sequence[Array], index: np.ndarray) -> Array:
    """The rows of a group that integers name, in the order of the integers, on the host."""
    if not len(index):
        return _to_host(blocks[0][:0, :])
    parts, order = [], np.argsort(index, kind="stable")
    ranks = index[order]
    for x, where in zip(blocks, _places(blocks), strict=True):
        first, last = np.searchsorted(ranks, (where.start, where.stop))
        if first < last:
            own = ranks[first:last] - where.start
            parts.append(_to_host(_sparse.take_rows(x, from_host(own, x))))
    if isinstance(parts[0], SparseMatrix):
        return _one_after_the_other(parts).take(np.argsort(order))
    rows = np.empty((len(index), *parts[0].shape[1:]), parts[0].dtype)
    rows[order] = np.concatenate(parts)
    return rows


def take_beside(_: None, beside: Beside, index: np.ndarray) -> Beside:
    """Labels and weights of the rows of a group that integers name; labels as integers."""
    labels = beside.labels
    labels = labels.argmax(axis=0) if labels.dtype == np.bool_ else labels
    weights = beside.weights
    return Beside(labels[..., index], None if weights is None else weights[..., index])


def whole_group(_: None, blocks: Sequence[Array], beside: Beside) -> tuple[Array, Beside]:
    """All rows of a group on the host, and what lies beside them."""
    return _one_after_the_other([_to_host(block) for block in blocks]), beside


def _to_host(x: Array) -> Array:
    return x if isinstance(x, SparseMatrix) else to_host(x)


def _add(totals: list[np.ndarray], parts: Sequence[np.ndarray]) -> None:
    if not totals:
        totals.extend(np.array(part, dtype=np.float64) for part in parts)
        return
    for k, part in enumerate(parts):
        totals[k] += part


def _places(blocks: Sequence[Array]) -> list[slice]:
    ends = np.cumsum([0, *(int(x.shape[0]) for x in blocks)]).tolist()
    return [slice(*pair) for pair in pairwise(ends)]


def _rows_of(x: Array, call: Call, beside: Beside, where: slice) -> Rows:
    """One block with what lies beside it, there where it is."""
    xp = namespace(x)
    dtype = getattr(xp, call.dtype)
    weights = None if beside.weights is None else beside.weights[..., where]
    return Rows(
        x,
        from_host(beside.labels[..., where], x),
        None if weights is None else from_host(weights, x, dtype),
        dtype,
        None if call.heads is None else from_host(call.heads, x),
        None if call.tasks is None else from_host(call.tasks, x),
        MemoryBudget(0 if call.bounded else None),
        call.precision,
    )


def _beside_block(f: Any, x: Array, views: Sequence[np.ndarray]) -> Any:
    """f with the numbers of a block's rows in their slots, and its arrays where the block is."""
    host, xp = is_host(x), namespace(x)
    if host and not views:
        return f

    def moved(part: Any) -> Any:
        if isinstance(part, Slot):
            view = views[part.number]
            return PerRow([view if host else from_host(view, x)])
        if host:
            return None
        if isinstance(part, np.dtype) or (isinstance(part, type) and issubclass(part, np.generic)):
            return getattr(xp, np.dtype(part).name)
        return from_host(part, x) if is_array(part) else None

    return rebuilt(f, moved)


def _written(f: Any, slot: int) -> Array:
    """The numbers that f, of `_beside_block`, has in the slot now."""
    found: list[PerRow] = []

    def look(part: Any) -> Any:
        if isinstance(part, PerRow):
            found.append(part)
        return None

    rebuilt(f, look)
    return found[slot].parts[0]
