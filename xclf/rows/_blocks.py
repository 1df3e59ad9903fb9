"""Rows in blocks that are somewhere else: on the workers of a cluster, or not loaded yet.

Loss and gradient are sums over rows, so blocks stay where they are: functions travel to them, and
sums come back. Blocks are in groups, one after the other, by their sizes alone, and sums are added
up along a fixed tree over the groups: the same rows in the same blocks give the same bits, whoever
computes them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from xclf._array_api import Array, Namespace, compat_namespace
from xclf._sparse import SparseMatrix, as_dtype, stacked_rows
from xclf.rows._block_tasks import (
    join_blocks,
    map_numbers,
    take_rows,
)
from xclf.rows._shards import PerRow
from xclf.rows._sum_tree import Sums

# Bytes of a group: what a task is worth, or more, so that there are no more groups than a scheduler
# likes to have; less for little data, which several workers are to share all the same.
_GROUP, _MOST_GROUPS, _FEW_GROUPS = 32 << 20, 1024, 16

#: Entries of X up to which a collection comes to the process that fits, as an array.
FEW = 1 << 21

#: Small results that may be on their way to the process that fits.
MANY = 64

#: Bytes of rows that may come to the process that fits, for what needs rows at random.
GATHERED = 128 << 20


class Engine(ABC):
    """Where groups of blocks are, and how work gets there.

    A function is called as function(shared, *args) for each entry `args` of `per_group`, which
    holds the group, what else was kept beside it, and host values.
    """

    #: Groups that are worked on at a time in one process.
    workers: int

    @abstractmethod
    def sums(self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]) -> Sums:
        """The functions' results added up along the tree."""

    @abstractmethod
    def sums_and_keep(
        self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]
    ) -> tuple[Sums, list[Any]]:
        """Of functions that return (sums, something): the sums, and something, which stays."""

    @abstractmethod
    def keep(
        self,
        function: Any,
        shared: Any,
        per_group: Sequence[tuple[Any, ...]],
        near: Sequence[Any] | None = None,
    ) -> list[Any]:
        """The functions' results, which stay.

        near : groups beside which they are to be, where no argument is one
        """

    @abstractmethod
    def derive(self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Groups that the functions make of groups."""

    @abstractmethod
    def collect(
        self,
        function: Any,
        shared: Any,
        per_group: Sequence[tuple[Any, ...]],
        ahead: int | None = None,
    ) -> Generator[Any]:
        """The functions' results on the host, one after the other.

        ahead : those that may be under way beside the one in use; by default as many as keep all
            workers busy; MANY of small ones
        """

    @abstractmethod
    def describe(self) -> str:
        """For messages."""


def group_blocks(sizes: Sequence[int], bound: int | None = None) -> list[slice]:
    """Groups of consecutive blocks, by the bytes of each block alone.

    bound : bytes that a group of several blocks has at most
    """
    total = sum(sizes)
    most = max(min(_GROUP, total // _FEW_GROUPS), total // _MOST_GROUPS, 1)
    most = most if bound is None else min(most, bound)
    groups, start, held = [], 0, 0
    for k, size in enumerate(sizes):
        if k > start and held + size > most:
            groups.append(slice(start, k))
            start, held = k, 0
        held += size
    groups.append(slice(start, len(sizes)))
    return groups


class Blocks:
    """X (N, D) in groups of blocks, with the shape and dtype of an array in host memory.

    groups : a handle of each group, as `engine` takes it
    rows : of each group
    kind : an array like the blocks, without rows
    share : of all rows, about those that one process holds
    taken : bytes of groups that are loaded at a time, where they do not stay
    row_values : numbers of a row, if not those of all features
    named : what X was in the beginning, without rows: a data frame's has names
    """

    ndim, device = 2, "cpu"

    def __init__(
        self,
        engine: Engine,
        groups: Sequence[Any],
        rows: Sequence[int],
        features: int,
        dtype: np.dtype,
        kind: Array,
        share: float = 1.0,
        named: Any = None,
        taken: int = 0,
        row_values: int | None = None,
    ) -> None:
        self.taken, self._row_values = taken, row_values or features
        self.engine, self.groups, self.kind, self._share = engine, list(groups), kind, share
        self.named = kind if named is None else named
        self.ends = np.cumsum([0, *rows])
        self.shape, self.dtype = (int(self.ends[-1]), features), np.dtype(dtype)

    def __array_namespace__(self, *, api_version: str | None = None) -> Namespace:
        return compat_namespace(np)

    @property
    def workers(self) -> int:
        """Groups that are worked on at a time in one process."""
        return self.engine.workers

    @property
    def counted(self) -> np.ndarray:
        """An array of the shape of one process's share, which takes no memory: for planning it."""
        rows = math.ceil(self._share * self.shape[0])
        return np.broadcast_to(np.zeros(1, self.dtype), (rows, self.shape[1]))

    @property
    def row_values(self) -> int:
        """Numbers of a row."""
        return self._row_values

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    @property
    def places(self) -> list[slice]:
        """The rows of each group."""
        return [slice(*pair) for pair in pairwise(self.ends.tolist())]

    def take(self, index: np.ndarray) -> Array:
        """The rows numbered by host integers, on the host."""
        out = np.empty((len(index), self.shape[1]), self.dtype)
        order, split = self.split(index)
        groups = [(self.groups[g], own) for g, own in split]
        done = 0
        for part in self.engine.collect(take_rows, None, groups, few_bytes(out.nbytes)):
            out[order[done : done + len(part)]] = part
            done += len(part)
        return out

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        """`x[start:stop, :]`: consecutive rows, on the host."""
        where, columns = key
        start, stop, step = where.indices(self.shape[0])
        if step != 1 or columns != slice(None):
            raise IndexError(f"only consecutive rows with all columns can be read, got {key}")
        return self.take(np.arange(start, stop))

    def at(self, index: np.ndarray) -> Blocks:
        """The rows numbered by host integers, in order, still in blocks: copies where they are."""
        if np.any(np.diff(index) < 0):
            raise ValueError("rows in blocks are picked in their order")
        _, split = self.split(index)
        parts = [(self.groups[g], own) for g, own in split]
        groups = self.engine.derive(_picked, None, parts)
        return self._of(groups, [len(own) for _, own in split])

    def mapped(self, f: Callable[[Array], Array], dtype: Any) -> Blocks:
        """f of every block, rows (n, D) to rows of `dtype`."""
        groups = self.engine.derive(_mapped, f, [(group,) for group in self.groups])
        return self._of(groups, np.diff(self.ends).tolist(), np.dtype(dtype))

    def joined(self, others: Sequence[Any]) -> Blocks:
        """All rows of these blocks, then those of others: blocks, or arrays in memory."""
        groups, rows = list(self.groups), np.diff(self.ends).tolist()
        for other in others:
            if isinstance(other, Blocks):
                groups += other.groups
                rows += np.diff(other.ends).tolist()
            else:
                own = other if isinstance(other, SparseMatrix) else np.asarray(other)
                groups += self.engine.keep(join_blocks, None, [(own,)])
                rows.append(len(own))
        return self._of(groups, rows)

    def groups_from(self, first: int) -> Blocks:
        """The rows of all groups but the first ones."""
        return self._of(self.groups[first:], np.diff(self.ends)[first:].tolist())

    def _of(self, groups: Sequence[Any], rows: Sequence[int], dtype: Any = None) -> Blocks:
        kind = self.kind if dtype is None else as_dtype(self.kind, dtype)
        own = (self.shape[1], dtype or self.dtype, kind, self._share, self.named, self.taken)
        return type(self)(self.engine, groups, rows, *own, self.row_values)

    def split(self, index: np.ndarray) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
        """(order, [(group, its rows by number)]) of row numbers; `order` sorts them by group."""
        owner = np.searchsorted(self.ends, index, side="right") - 1
        order = np.argsort(owner, kind="stable")
        counts = np.bincount(owner, minlength=len(self.groups))
        parts, done = [], 0
        for g in np.flatnonzero(counts).tolist():
            own = index[order[done : done + counts[g]]] - self.ends[g]
            parts.append((g, own))
            done += int(counts[g])
        return order, parts


class SparseBlocks(Blocks, SparseMatrix):
    """`Blocks` of sparse rows, a `SparseMatrix` each; they are a `SparseMatrix` by their products,
    which chunks make, and have no entries here."""

    in_host_memory = False

    @property
    def row_bytes(self) -> int:
        return self.row_values * (self.dtype.itemsize + 4) + 8

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.row_bytes

    @property
    def counted(self) -> Array:
        return _Counted(self, math.ceil(self._share * self.shape[0]))

    def take(self, index: np.ndarray) -> Array:
        if not len(index):
            return self.kind
        order, split = self.split(index)
        groups = [(self.groups[g], own) for g, own in split]
        size = few_bytes(len(index) * self.row_bytes)
        parts = list(self.engine.collect(take_rows, None, groups, size))
        return stacked_rows(parts).take(np.argsort(order))


class _Counted(SparseMatrix):
    """Some of the rows of sparse blocks, without entries: for planning memory."""

    device, in_host_memory = "cpu", True
    row_values, nbytes = 0, 0

    def __init__(self, blocks: SparseBlocks, rows: int) -> None:
        self.shape, self.dtype = (rows, blocks.shape[1]), blocks.dtype
        self.row_values, self.nbytes = blocks.row_values, rows * blocks.row_bytes

    def __array_namespace__(self, *, api_version: str | None = None) -> Namespace:
        return compat_namespace(np)


def few_bytes(size: int) -> int | None:
    """`ahead` of `collect`, for results of so many bytes together."""
    return MANY if size <= GATHERED else None


def _picked(_: None, blocks: Sequence[Array], index: np.ndarray) -> list[Array]:
    return [take_rows(None, blocks, index)]


def _mapped(f: Callable[[Array], Array], blocks: Sequence[Array]) -> list[Array]:
    return [f(block) for block in blocks]


class BlockColumn:
    """A number for every row (N,), or T of them (T, N): a handle for each group, beside its rows.

    parts : handles of (n,); or of the columns (T', n) of which these are some
    columns : which of these: one, or a list of T; None where the parts have one each
    nbytes : those that the process with the most rows holds
    """

    def __init__(
        self,
        engine: Engine,
        parts: Sequence[Any],
        rows: int,
        columns: int | list[int] | None = None,
        nbytes: int = 0,
    ) -> None:
        self.engine, self.parts, self.columns, self.nbytes = engine, parts, columns, nbytes
        self.shape = (len(columns), rows) if isinstance(columns, list) else (rows,)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @staticmethod
    def joined(columns: Sequence[BlockColumn]) -> BlockColumn:
        """(T, N), of T columns (N,)."""
        first, which = columns[0], [column.columns for column in columns]
        own = [k for k in which if isinstance(k, int)]
        parts = first.parts
        if len(own) < len(which) or any(column.parts is not parts for column in columns):
            parts = list(zip(*(column.parts for column in columns), strict=True))
            parts = first.engine.keep(_stacked, which, parts, [part[0] for part in parts])
            own = list(range(len(columns)))
        return BlockColumn(first.engine, parts, first.shape[-1], own)


class BlockWeights(BlockColumn):
    """Weights >= 0 of all rows, beside them.

    lightest : the least weight above 0, over the largest
    drawn : equal where the same rows have weight
    """

    def __init__(
        self, engine: Engine, parts: Sequence[Any], rows: int, lightest: float, drawn: bytes
    ) -> None:
        super().__init__(engine, parts, rows)
        self.lightest, self.drawn = lightest, drawn


class BlockState(PerRow):
    """Numbers of all rows (..., n), rows last: a handle for each group, beside its rows."""

    def __init__(self, engine: Engine, parts: Sequence[Any]) -> None:
        super().__init__(parts)
        self.engine = engine

    def map(self, f: Callable[..., Array], *others: PerRow) -> BlockState:
        parts = zip(self.parts, *(other.parts for other in others), strict=True)
        return BlockState(self.engine, self.engine.keep(map_numbers, f, list(parts)))

    def to_host(self) -> list[np.ndarray]:
        return list(self.engine.collect(plain, None, [(part,) for part in self.parts]))


def own_labels(labels: np.ndarray, columns: Any) -> np.ndarray:
    """Those of a part (n,), or (T, n), that a `BlockColumn` of these columns has."""
    own: np.ndarray = labels if columns is None else labels[columns]
    return own


def _stacked(columns: Sequence[Any], *parts: np.ndarray) -> np.ndarray:
    return np.stack([own_labels(*own) for own in zip(parts, columns, strict=True)])


def plain(_: None, value: Any) -> Any:
    return value
