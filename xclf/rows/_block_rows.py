"""The rows of a fit whose X is in blocks, with labels and weights beside them."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xclf._array_api import Array
from xclf.rows._block_batches import Order, cut, taken
from xclf.rows._block_draws import HeldOut, drawn_rows, held_rows, hold_out
from xclf.rows._block_tasks import (
    Beside,
    Call,
    Layout,
    Slot,
    set_beside,
    sum_group,
    take_beside,
    weigh_group,
    whole_group,
)
from xclf.rows._blocks import (
    GATHERED,
    MANY,
    BlockColumn,
    Blocks,
    BlockState,
    few_bytes,
    plain,
)
from xclf.rows._rows import Chunk, Rows
from xclf.rows._shards import PerRow, is_copyable, rebuilt
from xclf.rows._sum_tree import Sums

# Groups on their way to this process while minibatches are taken of one.
_AHEAD = 2


@dataclass(frozen=True)
class Elsewhere:
    """The shape of labels or weights that are beside their blocks."""

    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)


@dataclass(frozen=True)
class BlockRows(Rows):
    """Rows of a fit whose X is `Blocks`.

    labels, weights : their shapes, `Elsewhere`
    beside : handles of `Beside` of each group
    totals : sums (G,) of the weights (G, N), or (1,) of (N,); None without weights
    drawn : rows of each group that minibatches and samples are of: with weight, and not held out
    held : those that are held out of each group;  every_row : whether minibatches take rows without
        weight too
    samples : rows that were gathered before, by their number
    one_weight : whether samples have one weight a row, the mean of what the heads give it
    """

    x: Blocks
    beside: list[Any] = field(default_factory=list)
    totals: np.ndarray | None = None
    drawn: np.ndarray | None = None
    samples: dict[int, Rows] = field(default_factory=dict)
    one_weight: bool = False
    held: list[HeldOut] | None = None
    every_row: bool = False

    @classmethod
    def of(
        cls,
        x: Blocks,
        labels: np.ndarray | BlockColumn,
        weights: np.ndarray | Sequence[np.ndarray | BlockColumn | None] | None,
        dtype: Any,
        classes: int,
        **more: Any,
    ) -> BlockRows:
        """Rows with labels (N,) or (T, N) and weights (N,), (G, N) or None, or a list of G vectors
        (N,), None for ones. What is on the host is sent to the blocks that it belongs to."""
        single = isinstance(weights, np.ndarray) and weights.ndim == 1
        vectors: list[Any] = [] if weights is None else [weights] if single else list(weights)
        columns = labels.columns if isinstance(labels, BlockColumn) else None
        layout = Layout(classes if labels.ndim == 1 else 0, columns, np.dtype(dtype).name)
        parts = zip(*(parts_of(own, x) for own in (labels, *vectors)), strict=True)
        beside = x.engine.keep(set_beside, layout, list(parts), x.groups)
        totals = drawn = shape = None
        if vectors:
            weighed = list(x.engine.collect(weigh_group, None, [(own,) for own in beside], MANY))
            totals = np.sum([sums for sums, _ in weighed], axis=0)
            drawn = np.asarray([count for _, count in weighed])
            shape = Elsewhere(x.shape[:1] if len(vectors) == 1 else (len(vectors), x.shape[0]))
        there = Elsewhere(labels.shape)
        return cls(x, there, shape, dtype, beside=beside, totals=totals, drawn=drawn, **more)

    def shared_weights(self) -> Rows:
        """The same rows, whose samples have one weight a row."""
        return replace(self, one_weight=True)

    @property
    def shards(self) -> list[Any]:
        """The groups: nothing that needs all rows in one place is for these."""
        return self.x.groups

    in_blocks = True

    def sums(
        self, f: Any, width: int, size: int | None, serial: bool, writes: PerRow | None
    ) -> Sums:
        """`sum_over_rows`."""
        if not is_copyable(f):
            raise TypeError(f"a function of blocks is a dataclass or a partial, got {f!r}")
        states: list[BlockState] = []

        def leave(part: Any) -> Any:
            if not isinstance(part, BlockState):
                return None
            states.append(part)
            return Slot(len(states) - 1)

        travelling = rebuilt(f, leave)
        slot = next((k for k, state in enumerate(states) if state is writes), None)
        call = self._call(travelling, size or self.chunk_rows(width), slot, serial)
        engine = self.x.engine
        parts = zip(self.x.groups, self.beside, *(state.parts for state in states), strict=True)
        if slot is None:
            return engine.sums(sum_group, call, list(parts))
        sums, states[slot].parts = engine.sums_and_keep(sum_group, call, list(parts))
        return sums

    def _call(self, f: Any, size: int, writes: int | None, serial: bool) -> Call:
        name = np.dtype(self.dtype).name
        own = (f, name, self.heads, self.tasks, self.precision, size, writes, serial)
        return Call(*own, bounded=self.budget.size is not None)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> PerRow:
        counts = [(int(where.stop - where.start),) for where in self.x.places]
        made = (shape, np.dtype(dtype).name)
        return BlockState(self.x.engine, self.x.engine.keep(_zeros, made, counts, self.x.groups))

    def per_row(self, parts: Sequence[np.ndarray]) -> PerRow:
        kept = self.x.engine.keep(plain, None, [(part,) for part in parts], self.x.groups)
        return BlockState(self.x.engine, kept)

    def take_heads(self, kept: np.ndarray) -> Rows:
        names = [name for name in ("heads", "tasks") if getattr(self, name) is not None]
        return replace(self, **{name: getattr(self, name)[kept] for name in names})

    def widened(self, dtype: Any) -> Rows:
        return self if dtype == self.dtype else replace(self, dtype=dtype)

    def total_weight(self) -> Array:
        if self.totals is None:
            return np.asarray(float(len(self)))
        if self.heads is None:
            return np.asarray(self.totals[0])
        return self.totals[self.heads]

    def only(self, index: np.ndarray) -> Rows:
        """The rows numbered by host integers, in this process."""
        order, split = self.x.split(index)
        besides = [(self.beside[g], own) for g, own in split]
        size = few_bytes(len(index) * self._bytes_beside)
        parts = list(self.x.engine.collect(take_beside, None, besides, size))
        back = np.argsort(order, kind="stable")
        labels = np.concatenate([part.labels for part in parts], axis=-1)[..., back]
        weights = None
        if self.weights is not None:
            weights = np.concatenate([part.weights for part in parts], axis=-1)[..., back]
        x = self.x.take(index)
        own = (self.dtype, self.heads, self.tasks, self.budget, self.precision)
        return Rows(x, labels, weights, *own)

    @property
    def _bytes_beside(self) -> int:
        """Those of a row's labels and weights."""
        shapes = [values.shape[:-1] for values in (self.labels, self.weights) if values is not None]
        return 8 * int(sum(math.prod(shape) for shape in shapes))

    def every(self, stride: int) -> Rows:
        return self.only(np.arange(0, len(self), stride))

    @property
    def count_drawn(self) -> int:
        """Rows with weight."""
        return len(self) if self.drawn is None else int(self.drawn.sum())

    def sample(self, most: int) -> Rows:
        """At least `most` rows of those with weight, if so many may be gathered, spread over all
        groups and drawn at random within strata of them. In this process."""
        most = max(1, min(most, len(self), self.most_gathered))
        if most not in self.samples:
            self.samples[most] = self.only(self._spread(most))
        own = replace(self.samples[most], heads=self.heads, tasks=self.tasks, budget=self.budget)
        own = _shared(own, self.totals) if self.one_weight else own
        return own.widened(self.dtype)

    def _spread(self, most: int) -> np.ndarray:
        """Row numbers, in order."""
        rng = np.random.default_rng(0)
        total = self.count_drawn
        most = min(most, total)
        # One of each stratum of the rows with weight: a period of the rows may not matter.
        edges = np.linspace(0, total, most + 1)
        picked = (edges[:-1] + rng.random(most) * np.diff(edges)).astype(np.int64)
        if self.drawn is None:
            return picked
        ends = np.cumsum([0, *self.drawn])
        owner = np.searchsorted(ends, picked, side="right") - 1
        counts = np.bincount(owner, minlength=len(self.drawn))
        parts, done = [], 0
        for g, count in enumerate(counts.tolist()):
            own = picked[done : done + count] - ends[g]
            parts.append((self.beside[g], None if self.held is None else self.held[g], own))
            done += count
        found = list(self.x.engine.collect(_some_drawn, None, parts, MANY))
        return np.concatenate([own + start for own, start in zip(found, self.x.ends, strict=False)])

    def order(self, train: np.ndarray | None, rng: np.random.Generator) -> Any:
        """Group by group: the groups in random order, and the rows of each.

        train : numbers of the rows; None for all that have weight
        """
        counts = np.diff(self.x.ends)
        if self.drawn is not None and not self.every_row:
            counts = self.drawn
        own = None
        if train is not None:
            own = dict(self.x.split(train)[1])
            counts = np.asarray([len(own.get(g, ())) for g in range(len(counts))])
        groups = rng.permutation(np.flatnonzero(counts)).tolist()
        seed = int(rng.integers(1 << 62))
        return Order(groups, int(counts.sum()), seed, own, self.held, self.every_row)

    def hold_out(self, share: float, rng: np.random.Generator) -> BlockRows:
        """The same rows, of which minibatches do not draw a share, stratified by labels of one set;
        raises what `_block_draws.hold_out` raises."""
        held = hold_out(self.x.engine, self.beside, share, rng)
        drawn = np.diff(self.x.ends) if self.drawn is None else self.drawn
        left = drawn - np.asarray([int(own.counts.sum()) for own in held])
        return replace(self, held=held, drawn=left, samples={})

    @property
    def held_out(self) -> np.ndarray:
        """Numbers of the rows that are held out, in order."""
        assert self.held is not None
        parts = list(zip(self.beside, self.held, strict=True))
        found = self.x.engine.collect(held_rows, None, parts, MANY)
        return np.concatenate([own + start for own, start in zip(found, self.x.ends, strict=False)])

    def numbers(self, order: Any) -> Any:
        return order

    @property
    def most_gathered(self) -> int:
        """Rows that may come to this process."""
        size = GATHERED if self.budget.size is None else min(GATHERED, self.budget.size // 4)
        return max(1, size // self.x.row_bytes)

    def batches(self, indices: Sequence[Any]) -> Generator[Chunk]:
        """Minibatches of `order`: a group comes to this process, and the next ones are on their
        way while it is in use."""
        if not indices:
            return
        order: Order = indices[0].order
        groups = [(self.x.groups[g], self.beside[g]) for g in order.groups]
        with closing(self.x.engine.collect(whole_group, None, groups, ahead=_AHEAD)) as loaded:
            chunks = (
                taken(x, beside, order.rows(g, beside), self.dtype, self.tasks)
                for g, (x, beside) in zip(order.groups, loaded, strict=True)
            )
            yield from map(self._of_heads, cut(chunks, indices))

    def _of_heads(self, chunk: Chunk) -> Chunk:
        if chunk.weights is not None:
            own = chunk.weights if self.heads is None else chunk.weights[self.heads]
            chunk.weights = own.astype(self.dtype, copy=False)
        return chunk

    def chunks(self, size: int, start: int = 0) -> Any:
        """Consecutive chunks, whose rows come to this process a group at a time."""
        assert start == 0, "blocks are read from their first row on"
        for where in self.x.places:
            yield from self._group(where).chunks(size)

    def _group(self, where: slice) -> Rows:
        return self.only(np.arange(where.start, where.stop))

    def chunk(self, where: slice) -> Chunk:
        raise TypeError("rows in blocks are read by `sum_over_rows`")


def parts_of(values: np.ndarray | BlockColumn | None, x: Blocks) -> list[Any]:
    """Those of each group of x, of values (..., N); None for None."""
    if isinstance(values, BlockColumn):
        return list(values.parts)
    return [None if values is None else values[..., where] for where in x.places]


def _shared(rows: Rows, totals: np.ndarray | None) -> Rows:
    """Rows with one weight each: the mean of what heads with weights (G, n) give them."""
    if rows.weights is None or rows.weights.ndim == 1 or totals is None:
        return rows
    mean = np.mean(rows.weights / totals[:, None], axis=0)
    return replace(rows, weights=(mean / mean.mean()).astype(rows.weights.dtype), heads=None)


def _some_drawn(_: None, beside: Beside, held: HeldOut | None, index: np.ndarray) -> np.ndarray:
    """The numbers of those rows of a group that are drawn from, the index-th of them."""
    numbers: np.ndarray = drawn_rows(beside, held)[index]
    return numbers


def _zeros(made: tuple[tuple[int, ...], str], count: int) -> np.ndarray:
    return np.zeros((*made[0], count), made[1])
