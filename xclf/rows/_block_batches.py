"""Minibatches of rows in blocks: a group of blocks after the other, the rows of each shuffled.

An epoch is a seed and the order of the groups: nothing here grows with the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xclf._array_api import Array
from xclf._sparse import stacked_rows, take_rows
from xclf.rows._block_draws import HeldOut, drawn_rows
from xclf.rows._block_tasks import Beside
from xclf.rows._rows import Chunk


@dataclass(frozen=True, eq=False)
class Order:
    """The rows of an epoch, as an index of them has its shape and slices.

    groups : numbers of the groups that have such rows, in their order
    count : rows of all groups
    seed : of the order of rows within a group
    own : of each group the numbers of its rows; None for all those with weight
    held : of each group the rows that are held out;  every : whether rows without weight are taken
    """

    groups: Sequence[int]
    count: int
    seed: int
    own: Mapping[int, np.ndarray] | None = None
    held: Sequence[HeldOut] | None = None
    every: bool = False

    @property
    def shape(self) -> tuple[int]:
        return (self.count,)

    def __getitem__(self, where: slice) -> Batch:
        start, stop, _ = where.indices(self.count)
        return Batch(self, stop - start)

    def rows(self, group: int, beside: Beside) -> np.ndarray:
        """Numbers of a group's rows, in the order in which they are taken."""
        if self.own is not None:
            own = self.own[group]
        else:
            held = None if self.held is None else self.held[group]
            own = drawn_rows(beside, held, self.every)
        return np.random.default_rng((self.seed, group)).permutation(own)


@dataclass(frozen=True, eq=False)
class Batch:
    """The next `count` rows of an order."""

    order: Order
    count: int

    def __len__(self) -> int:
        return self.count


def cut(loaded: Iterator[Chunk], batches: Sequence[Batch]) -> Iterator[Chunk]:
    """A chunk for each batch, of the chunks that follow each other in `loaded`."""
    parts: list[Chunk] = []
    held = 0
    for batch in batches:
        while held < len(batch):
            parts.append(next(loaded))
            held += len(parts[-1].raw)
        yield _first(parts, len(batch))
        held -= len(batch)


def taken(
    x: Array, beside: Beside, index: np.ndarray, dtype: np.dtype, tasks: np.ndarray | None
) -> Chunk:
    """The rows of a group that integers name, in their order."""
    weights = None if beside.weights is None else beside.weights[..., index]
    labels = beside.labels[..., index]
    return Chunk(take_rows(x, index), labels, weights, slice(0, 0), dtype, tasks)


def _first(parts: list[Chunk], count: int) -> Chunk:
    """The first `count` rows of `parts`, which keeps the others."""
    some: list[Chunk] = []
    while count:
        part = parts.pop(0)
        size = len(part.raw)
        if size > count:
            parts.insert(0, _rows_of(part, slice(count, size)))
            part, size = _rows_of(part, slice(0, count)), count
        some.append(part)
        count -= size
    if len(some) == 1:
        return some[0]
    weights = None
    if some[0].weights is not None:
        weights = np.concatenate([part.weights for part in some], axis=-1)
    return replace(
        some[0],
        raw=stacked_rows([part.raw for part in some]),
        label_sets=np.concatenate([part.label_sets for part in some], axis=-1),
        weights=weights,
    )


def _rows_of(chunk: Chunk, where: slice) -> Chunk:
    weights = None if chunk.weights is None else chunk.weights[..., where]
    labels = chunk.label_sets[..., where]
    raw = take_rows(chunk.raw, np.arange(where.start, where.stop))
    return replace(chunk, raw=raw, label_sets=labels, weights=weights)
