"""Folds of rows in blocks: the number of each row's fold lies beside it, computed where it is.

A fold depends on the order of the rows and on the classes of those before: each group is sent what
lies before its own rows, and the process that asks holds counts alone.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xclf.rows._block_rows import parts_of
from xclf.rows._blocks import MANY, BlockColumn, Blocks, BlockWeights, own_labels, plain

# Labels that are handed out at a time.
_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class BlockFolds:
    """The fold (N,) of each row, beside it.

    column : numbers of folds, -1 for rows in none
    counts : (S, C) rows of each class in each fold, (S, 1) where they are no matter
    """

    column: BlockColumn
    counts: np.ndarray

    def inside(self, number: int) -> Subset:
        """The rows of all folds but one."""
        return Subset(self, tuple(k for k in range(len(self.counts)) if k != number))


@dataclass(frozen=True)
class Subset:
    """The rows of some folds of rows in blocks."""

    folds: BlockFolds
    numbers: tuple[int, ...]

    @property
    def counts(self) -> np.ndarray:
        """(C,) rows of each class, (1,) where they are no matter."""
        return np.asarray(self.folds.counts[list(self.numbers)].sum(axis=0))

    def __len__(self) -> int:
        return int(self.counts.sum())

    def weighted(self, weights: BlockColumn) -> BlockColumn:
        """Weights of all rows, 0 of others than these."""
        column = self.folds.column
        parts = list(zip(column.parts, weights.parts, strict=True))
        kept = column.engine.keep(_weighted_in, self.numbers, parts, column.parts)
        return BlockColumn(column.engine, kept, len(column))

    def weights(self) -> BlockWeights:
        """Weights of all rows: whether a row is one of these."""
        column = self.folds.column
        parts = [(part,) for part in column.parts]
        kept = column.engine.keep(_whether_in, self.numbers, parts, column.parts)
        drawn = f"{id(column)}: {self.numbers}".encode()
        return BlockWeights(column.engine, kept, len(column), 1.0, drawn)


class SubsetRows(NamedTuple):
    """Rows in blocks of which only a subset counts."""

    x: Blocks
    subset: Subset

    @property
    def shape(self) -> tuple[int, int]:
        return (len(self.subset), self.x.shape[1])

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype


class _Classes(NamedTuple):
    """The classes of a group's rows: their numbers, how many rows and the first row of each."""

    numbers: np.ndarray
    counts: np.ndarray
    first: np.ndarray


def stratified_folds(x: Blocks, index: BlockColumn, classes: int, folds: int) -> BlockFolds | None:
    """scikit-learn's `StratifiedKFold(folds)` of labels (N,), which does not shuffle.

    Sorted by class, the classes in the order in which they appear, row i is one of fold i % folds;
    the rows of a class are then given to the folds in their own order. None where a class has fewer
    rows than there are folds.
    """
    found = _classes(x, index)
    totals, firsts = np.zeros(classes, np.int64), np.full(classes, x.shape[0])
    for own, start in zip(found, x.ends, strict=False):
        totals[own.numbers] += own.counts
        firsts[own.numbers] = np.minimum(firsts[own.numbers], own.first + start)
    if totals.min() < folds:
        return None
    counts = fold_sizes(totals, np.argsort(firsts), folds)
    before, parts = np.zeros(classes, np.int64), []
    last = np.cumsum(counts, axis=0)
    for own, labels in zip(found, parts_of(index, x), strict=True):
        start = before[own.numbers]
        # The rows of a class up to each fold's last one, of those before and in this group.
        here = np.clip(last[:, own.numbers], start, start + own.counts) - start
        parts.append((labels, np.diff(here, axis=0, prepend=0)))
        before[own.numbers] += own.counts
    kept = x.engine.keep(_by_class, index.columns, parts, x.groups)
    return BlockFolds(_column(x, kept), counts)


def fold_sizes(totals: np.ndarray, order: np.ndarray, folds: int) -> np.ndarray:
    """(S, C) rows of each class in each of scikit-learn's stratified folds.

    totals : (C,) rows of each class;  order : of the classes, as they appear
    """
    ends = np.cumsum(totals[order])
    counts = np.zeros((folds, len(totals)), np.int64)
    for fold in range(folds):
        # Of the first m numbers, (m - 1 - fold) // folds + 1 are fold, fold + folds, ...
        below = (np.concatenate([[0], ends]) - 1 - fold) // folds + 1
        counts[fold, order] = np.diff(below)
    return counts


def consecutive_folds(x: Blocks, index: BlockColumn, classes: int, folds: int) -> BlockFolds | None:
    """scikit-learn's `KFold(folds)`, which does not shuffle: consecutive rows, as many in each, one
    more in the first ones. None where there are fewer rows than folds."""
    rows = x.shape[0]
    if rows < folds:
        return None
    sizes = np.full(folds, rows // folds)
    sizes[: rows % folds] += 1
    ends = np.cumsum(sizes)
    parts = []
    for where in x.places:
        here = np.clip(ends, where.start, where.stop) - where.start
        parts.append((np.diff(here, prepend=0),))
    kept = x.engine.keep(_by_place, None, parts, x.groups)
    return _counted(x, index, classes, folds, kept)


def given_folds(x: Blocks, index: BlockColumn, classes: int, numbers: np.ndarray) -> BlockFolds:
    """Folds (N,) int32 that are known here."""
    parts = [(numbers[where],) for where in x.places]
    kept = x.engine.keep(plain, None, parts, x.groups)
    return _counted(x, index, classes, 1 + int(numbers.max()), kept)


def _counted(
    x: Blocks, index: BlockColumn, classes: int, folds: int, kept: Sequence[Any]
) -> BlockFolds:
    column = _column(x, kept)
    return BlockFolds(column, class_counts(index, classes, column, folds))


def class_counts(
    index: BlockColumn,
    classes: int,
    column: BlockColumn | None,
    folds: int,
    weights: BlockColumn | None = None,
) -> np.ndarray:
    """(S, C) rows of each class in each fold, or sums of their weights; (1, C) without folds."""
    none = [None] * len(index.parts)
    parts = [none if own is None else own.parts for own in (column, weights)]
    beside = list(zip(index.parts, *parts, strict=True))
    counts: np.ndarray
    (counts,) = index.engine.sums(_class_counts, (index.columns, folds, classes), beside)
    return counts.astype(np.int64) if weights is None else counts


def _column(x: Blocks, parts: Sequence[Any]) -> BlockColumn:
    return BlockColumn(x.engine, parts, x.shape[0])


def _classes(x: Blocks, index: BlockColumn) -> list[_Classes]:
    parts = [(part,) for part in parts_of(index, x)]
    return list(x.engine.collect(_look_at_classes, index.columns, parts, MANY))


def _look_at_classes(column: int | None, labels: np.ndarray) -> _Classes:
    numbers, first, counts = np.unique(
        own_labels(labels, column), return_index=True, return_counts=True
    )
    return _Classes(numbers, counts, first)


def _by_class(column: int | None, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Folds (n,) of the rows of a group, of which each takes so many (S, C') of each class in it,
    in their order."""
    own = own_labels(labels, column)
    folds = np.empty(len(own), np.int32)
    numbers = np.tile(np.arange(len(counts)), counts.shape[1])
    folds[np.argsort(own, kind="stable")] = np.repeat(numbers, counts.T.ravel())
    return folds


def _by_place(_: None, counts: np.ndarray) -> np.ndarray:
    folds: np.ndarray = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return folds


def _class_counts(
    shared: tuple[int | None, int, int],
    labels: np.ndarray,
    folds: np.ndarray | None,
    weights: np.ndarray | None,
) -> tuple[np.ndarray]:
    column, number, classes = shared
    code = own_labels(labels, column)
    if folds is not None:
        code = (folds.astype(np.int64) * classes + code)[folds >= 0]
        weights = None if weights is None else weights[folds >= 0]
    return (np.bincount(code, weights, minlength=number * classes).reshape(number, classes),)


def _whether_in(numbers: tuple[int, ...], folds: np.ndarray) -> np.ndarray:
    return np.isin(folds, numbers)


def _weighted_in(numbers: tuple[int, ...], folds: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.where(np.isin(folds, numbers), weights, 0.0)


def subsets_joined(subsets: Sequence[tuple[Blocks, Subset | None]]) -> Subset | None:
    """Those of rows in blocks one after the other; None for all rows."""
    if all(own is None for _, own in subsets):
        return None
    parts: list[Any] = []
    for x, own in subsets:
        numbers = (0,) if own is None else own.numbers
        sizes = [where.stop - where.start for where in x.places]
        held = sizes if own is None else own.folds.column.parts
        parts += x.engine.keep(_as_one_fold, numbers, [(one,) for one in held], x.groups)
    rows = sum(x.shape[0] for x, _ in subsets)
    counts = sum(x.shape[0] if own is None else len(own) for x, own in subsets)
    column = BlockColumn(subsets[0][0].engine, parts, rows)
    return Subset(BlockFolds(column, np.asarray([[counts]])), (0,))


def _as_one_fold(numbers: tuple[int, ...], folds: np.ndarray | int) -> np.ndarray:
    if isinstance(folds, int):
        return np.zeros(folds, np.int32)
    return np.where(np.isin(folds, numbers), np.int32(0), np.int32(-1))


def labels_of(index: BlockColumn, subset: Subset | None) -> Generator[np.ndarray]:
    """The labels of the rows of a subset, some at a time."""
    numbers = None if subset is None else subset.numbers
    folds = [None] * len(index.parts) if subset is None else subset.folds.column.parts
    beside = list(zip(index.parts, folds, strict=True))
    for part in index.engine.collect(_labels, (index.columns, numbers), beside):
        for start in range(0, len(part), _AT_ONCE):
            yield part[start : start + _AT_ONCE]


def _labels(
    shared: tuple[Any, tuple[int, ...] | None], labels: np.ndarray, folds: np.ndarray | None
) -> np.ndarray:
    column, numbers = shared
    own = own_labels(labels, column)
    if folds is not None and numbers is not None:
        own = own[np.isin(folds, numbers)]
    return own.astype(np.min_scalar_type(own.max(initial=0)))  # as few bytes as may be travel


def labels_at(x: Blocks, index: BlockColumn, numbers: np.ndarray) -> np.ndarray:
    """Those of the rows of these numbers, sorted."""
    _, split = x.split(numbers)
    beside = [(index.parts[g], own) for g, own in split]
    return np.concatenate(list(index.engine.collect(_some_labels, index.columns, beside)))


def _some_labels(column: Any, labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    some: np.ndarray = own_labels(labels, column)[numbers]
    return some
