"""Seeded parts of rows in blocks: shares, shuffled folds and draws, as scikit-learn makes them.

What a random permutation of a class says of each of its rows goes to the groups that have them. It
is scikit-learn's own, number by number, for as many rows as may be permuted in the process that
asks; of more rows, so many of each class are given to the groups by a hypergeometric draw, and each
group permutes its own. Nothing here grows with the number of rows then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.extmath import _approximate_mode

from xclf.rows._block_folds import BlockFolds, Subset, fold_sizes
from xclf.rows._blocks import GATHERED, MANY, BlockColumn, Blocks, own_labels

# Bytes of a permutation for each of its rows, and as many beside it.
_PERMUTED = 16


class _Look(NamedTuple):
    """Which rows of a group are drawn from, and their classes.

    column : of the labels;  stratify : whether rows are drawn class by class, or as if of one
    numbers : of the folds that the rows are in; None for all rows
    """

    column: Any
    stratify: bool
    numbers: tuple[int, ...] | None

    def rows(self, labels: np.ndarray, folds: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of the rows, their classes), sorted by class, in their order."""
        rows = np.arange(labels.shape[-1])
        if folds is not None and self.numbers is not None:
            rows = np.flatnonzero(np.isin(folds, self.numbers))
        own = own_labels(labels, self.column)[..., rows] if self.stratify else np.zeros_like(rows)
        order = np.argsort(own, kind="stable")
        return rows[order], own[order]


class _Found(NamedTuple):
    """Of a group the numbers of its classes, how many rows and the first row of each."""

    classes: np.ndarray
    counts: np.ndarray
    first: np.ndarray


class _Entries(NamedTuple):
    """The classes of all groups, sorted by class, then by group, and how many rows each has."""

    groups: np.ndarray
    classes: np.ndarray
    counts: np.ndarray


class _Drawn(NamedTuple):
    """Rows (S, C') of each class of a group for each fold, drawn within the group by a seed."""

    counts: np.ndarray
    seed: tuple[int, int]


class Drawing:
    """Rows that parts are drawn from: those of a subset, or all (None).

    totals : (C,) rows of each class, (1,) where classes make no difference
    """

    def __init__(
        self, x: Blocks, index: BlockColumn, classes: int, within: Subset | None, stratify: bool
    ) -> None:
        self.x, self.index, self.within = x, index, within
        self.classes = classes if stratify else 1
        self._look = _Look(index.columns, stratify, None if within is None else within.numbers)
        before = [None] * len(x.groups) if within is None else within.folds.column.parts
        self._beside = list(zip(index.parts, before, strict=True))
        self._found: list[_Found] = list(x.engine.collect(_look_at, self._look, self._beside, MANY))
        self.totals, firsts = np.zeros(self.classes, np.int64), np.full(self.classes, x.shape[0])
        for own, start in zip(self._found, x.ends, strict=False):
            self.totals[own.classes] += own.counts
            firsts[own.classes] = np.minimum(firsts[own.classes], own.first + start)
        self._order = np.argsort(firsts)  # of the classes, as they appear

    def __len__(self) -> int:
        return int(self.totals.sum())

    @property
    def permuted(self) -> bool:
        """Whether permutations of all rows are made here."""
        return len(self) * _PERMUTED <= GATHERED

    def hold_out(self, share: float, seed: int) -> tuple[Subset, Subset]:
        """(kept, held out): those of `train_test_split`, stratified by class.

        Raises ValueError where a class has fewer than two rows, or a part has fewer rows than there
        are classes.
        """
        rows, rng = len(self), np.random.RandomState(seed)
        held = math.ceil(share * rows)
        self._check(held)
        sizes = np.zeros((2, self.classes), np.int64)
        if self._look.stratify:
            there = np.flatnonzero(self.totals)
            counts = self.totals[there]
            sizes[0, there] = _approximate_mode(counts, rows - held, rng)
            sizes[1, there] = _approximate_mode(counts - sizes[0, there], held, rng)
        else:
            sizes[:, 0] = rows - held, held

        def sequence(k: int) -> np.ndarray:
            numbers, permuted = np.zeros(self.totals[k], np.int16), rng.permutation(self.totals[k])
            # Those that are held out come last of a class, and first where classes do not matter.
            numbers[permuted[sizes[0, k] :] if self._look.stratify else permuted[:held]] = 1
            return numbers

        folds = self._folds(sizes, sequence, range(self.classes), seed)
        return Subset(folds, (0,)), Subset(folds, (1,))

    def _check(self, held: int) -> None:
        rows, classes = len(self), int(np.count_nonzero(self.totals))
        if self._look.stratify and self.totals[self.totals > 0].min() < 2:
            raise ValueError("a class has a single row, and both parts are to have each class")
        if min(held, rows - held) < classes:
            raise ValueError(
                f"{held} rows held out and {rows - held} others are to hold {classes} classes each"
            )

    def shuffled_folds(self, number: int, seed: int) -> BlockFolds:
        """Those of `StratifiedKFold(number, shuffle=True)`; of `KFold` where classes make no
        difference."""
        rng = np.random.RandomState(seed)
        sizes = fold_sizes(self.totals, self._order, number)

        def sequence(k: int) -> np.ndarray:
            numbers = np.repeat(np.arange(number), sizes[:, k])
            if self._look.stratify:
                rng.shuffle(numbers)
                return numbers
            order = np.arange(len(numbers))
            rng.shuffle(order)
            shuffled = np.empty_like(numbers)
            shuffled[order] = numbers
            return shuffled

        return self._folds(sizes, sequence, self._order.tolist(), seed)

    def draws(self, shots: int, most: int, tries: int, seed: int) -> list[np.ndarray]:
        """Numbers of `shots` rows of every class, `tries` times; sorted. A draw of `most` rows
        holds them."""
        drawn = []
        for number in range(tries):
            rng = np.random.default_rng((seed, number))
            places = [
                rng.permutation(count)[:shots]
                if self.permuted
                else rng.choice(count, most, replace=False)[:shots]
                for count in self.totals[self.totals > 0].tolist()
            ]
            drawn.append(places)
        return self._numbered(drawn)

    def _numbered(self, drawn: list[list[np.ndarray]]) -> list[np.ndarray]:
        """Row numbers of draws of the i-th rows of each class."""
        entries = self._entries()
        ends = np.cumsum(entries.counts)
        first = np.cumsum(self.totals) - self.totals
        there = first[self.totals > 0]
        wanted: list[list[np.ndarray]] = [[] for _ in self._found]
        for own in drawn:
            places = np.concatenate([start + one for start, one in zip(there, own, strict=True)])
            entry = np.searchsorted(ends, places, side="right")
            ranks = places - (ends[entry] - entries.counts[entry])
            order = np.argsort(entries.groups[entry], kind="stable")
            cuts = np.searchsorted(entries.groups[entry][order], np.arange(len(wanted) + 1))
            both = np.stack([entries.classes[entry], ranks])[:, order]
            for g, (start, stop) in enumerate(pairwise(cuts.tolist())):
                wanted[g].append(both[:, start:stop])
        parts = [(*beside, own) for beside, own in zip(self._beside, wanted, strict=True)]
        rows: list[list[np.ndarray]] = [[] for _ in drawn]
        found = self.x.engine.collect(_rows_of_draws, self._look, parts, MANY)
        for group, start in zip(found, self.x.ends, strict=False):
            for one, own in zip(rows, group, strict=True):
                one.append(own + start)
        return [np.sort(np.concatenate(one)) for one in rows]

    def _entries(self) -> _Entries:
        groups = [np.full(len(own.classes), g) for g, own in enumerate(self._found)]
        columns = (
            np.concatenate(groups),
            np.concatenate([own.classes for own in self._found]),
            np.concatenate([own.counts for own in self._found]),
        )
        order = np.argsort(columns[1], kind="stable")
        return _Entries(*(column[order] for column in columns))

    def _folds(
        self,
        sizes: np.ndarray,
        sequence: Callable[[int], np.ndarray],
        order: Sequence[int] | range,
        seed: int,
    ) -> BlockFolds:
        """Folds of (S, C) rows of each class.

        sequence : the folds of the rows of a class, in their order, called for each in `order`
        """
        drawn = self._sequences(sequence, order) if self.permuted else self._counts(sizes, seed)
        parts = [(*beside, own) for beside, own in zip(self._beside, drawn, strict=True)]
        kept = self.x.engine.keep(_numbers_of_rows, self._look, parts, self.x.groups)
        return BlockFolds(BlockColumn(self.x.engine, kept, self.x.shape[0]), sizes)

    def _sequences(
        self, sequence: Callable[[int], np.ndarray], order: Sequence[int] | range
    ) -> list[np.ndarray]:
        by_class = {k: sequence(k).astype(np.int16) for k in order if self.totals[k]}
        before, drawn = np.zeros(self.classes, np.int64), []
        for own in self._found:
            start, stop = before[own.classes], before[own.classes] + own.counts
            places = zip(own.classes.tolist(), start.tolist(), stop.tolist(), strict=True)
            pieces = [by_class[k][first:last] for k, first, last in places]
            drawn.append(np.concatenate([np.zeros(0, np.int16), *pieces]))
            before[own.classes] = stop
        return drawn

    def _counts(self, sizes: np.ndarray, seed: int) -> list[_Drawn]:
        rng, entries = np.random.default_rng(seed), self._entries()
        tables = [np.zeros((len(sizes), len(own.classes)), np.int64) for own in self._found]
        cuts = np.searchsorted(entries.classes, np.arange(self.classes + 1))
        for k, (start, stop) in enumerate(pairwise(cuts.tolist())):
            left, groups = entries.counts[start:stop], entries.groups[start:stop].tolist()
            places = [int(np.searchsorted(self._found[g].classes, k)) for g in groups]
            for fold, size in enumerate(sizes[:, k].tolist() if groups else ()):
                own = rng.multivariate_hypergeometric(left, size, method="marginals")
                left = left - own
                for g, j, count in zip(groups, places, own.tolist(), strict=True):
                    tables[g][fold, j] = count
        number = int(rng.integers(1 << 62))
        return [_Drawn(table, (number, g)) for g, table in enumerate(tables)]


def _look_at(look: _Look, labels: np.ndarray, folds: np.ndarray | None) -> _Found:
    rows, codes = look.rows(labels, folds)
    classes, first, counts = np.unique(codes, return_index=True, return_counts=True)
    return _Found(classes, counts, rows[first])


def _numbers_of_rows(
    look: _Look, labels: np.ndarray, folds: np.ndarray | None, drawn: np.ndarray | _Drawn
) -> np.ndarray:
    rows, codes = look.rows(labels, folds)
    numbers = np.full(labels.shape[-1], -1, np.int32)
    if isinstance(drawn, _Drawn):
        shuffled = np.random.default_rng(drawn.seed).permutation(len(rows))
        rows = rows[shuffled][np.argsort(codes[shuffled], kind="stable")]
        folds_of = np.tile(np.arange(len(drawn.counts)), drawn.counts.shape[1])
        drawn = np.repeat(folds_of, drawn.counts.T.ravel())
    numbers[rows] = drawn
    return numbers


def _rows_of_draws(
    look: _Look, labels: np.ndarray, folds: np.ndarray | None, wanted: list[np.ndarray]
) -> list[np.ndarray]:
    """Numbers of rows of a group, for each draw: of (2, m) classes and ranks within them."""
    rows, codes = look.rows(labels, folds)
    classes, starts = np.unique(codes, return_index=True)
    return [rows[starts[np.searchsorted(classes, one[0])] + one[1]] for one in wanted]
