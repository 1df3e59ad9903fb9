"""Some rows in blocks read where they are: what models make of them, and what can be said of it.

Functions travel to the groups; what comes back are counts, or what a caller takes piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf._array_api import Array
from xclf._sparse import SparseMatrix
from xclf.rows._block_folds import Subset
from xclf.rows._block_tasks import take_rows
from xclf.rows._blocks import BlockColumn, Blocks, own_labels

# Bytes of rows that are copied and judged at a time.
_JUDGED = 16 << 20

#: Rows of a subset, their labels (n,) or (T, n), and their weights or None.
Piece = tuple[Array, np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Judged:
    """Models that are judged by the rows of some folds.

    guess : rows (n, D) on the host -> classes (n, K) by number
    models : K;  numbers : of the folds, None for all rows
    """

    guess: Any
    models: int
    numbers: tuple[int, ...] | None


def count_guesses(
    judged: Sequence[Judged],
    x: Blocks,
    index: BlockColumn,
    folds: BlockColumn | None,
    weights: BlockColumn | None = None,
    *,
    classes: int,
    pairs: bool,
) -> list[np.ndarray]:
    """Of each: rows that are right (K, C) by class, or by true and guessed class (K, C C), counted
    where the rows are; or the sums of their weights.

    folds : of the rows, None where all rows count;  pairs : whether the latter
    """
    shared = (list(judged), index.columns, classes, pairs)
    return list(x.engine.sums(_count, shared, _beside(x, index, folds, weights)))


def map_pieces(
    function: Callable[..., Any],
    x: Blocks,
    index: BlockColumn,
    subset: Subset | None,
    weights: BlockColumn | None = None,
) -> Generator[tuple[int, Any]]:
    """(first row of the group, function(rows, labels, weights)) of pieces of all groups.

    function : of a `Piece`, as a partial of a function that travels
    """
    numbers = None if subset is None else subset.numbers
    groups = _beside(x, index, None if subset is None else subset.folds.column, weights)
    shared = (function, index.columns, numbers)
    for start, found in zip(x.ends, x.engine.collect(_mapped, shared, groups), strict=False):
        yield from ((int(start), one) for one in found)


def _beside(x: Blocks, index: BlockColumn, *columns: BlockColumn | None) -> list[tuple[Any, ...]]:
    none = [None] * len(x.groups)
    parts = [none if own is None else own.parts for own in columns]
    return list(zip(x.groups, index.parts, *parts, strict=True))


def _mapped(
    shared: tuple[Callable[..., Any], Any, tuple[int, ...] | None],
    blocks: Sequence[Array],
    labels: np.ndarray,
    folds: np.ndarray | None,
    weights: np.ndarray | None,
) -> list[Any]:
    function, column, numbers = shared
    beside = (own_labels(labels, column), folds, weights)
    return [function(*piece) for piece in _pieces(blocks, *beside, numbers, 0)]


def _pieces(
    blocks: Sequence[Array],
    labels: np.ndarray,
    folds: np.ndarray | None,
    weights: np.ndarray | None,
    numbers: tuple[int, ...] | None,
    beside: int,
) -> Iterator[Piece]:
    """beside : bytes that go with a row"""
    rows = np.arange(labels.shape[-1])
    if numbers is not None and folds is not None:
        rows = np.flatnonzero(np.isin(folds, numbers))
    size = max(1, _JUDGED // (_row_bytes(blocks[0]) + beside))
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        own = None if weights is None else weights[some]
        yield take_rows(None, blocks, some), labels[..., some], own


def _count(
    shared: tuple[list[Judged], Any, int, bool],
    blocks: Sequence[Array],
    labels: np.ndarray,
    folds: np.ndarray | None,
    weights: np.ndarray | None,
) -> tuple[np.ndarray, ...]:
    judged, column, classes, pairs = shared
    beside, counts = (own_labels(labels, column), folds, weights), []
    kind = np.int64 if weights is None else np.float64
    for own in judged:
        total = np.zeros((own.models, classes * classes if pairs else classes), kind)
        for x, real, by in _pieces(blocks, *beside, own.numbers, 16 * own.models):
            guess = own.guess(x)
            for k in range(own.models):
                some = slice(None) if pairs else real == guess[:, k]
                code = real * classes + guess[:, k] if pairs else real[some]
                each = None if by is None else by[some]
                total[k] += np.bincount(code, each, total.shape[1]).astype(kind)
        counts.append(total)
    return tuple(counts)


def _row_bytes(block: Array) -> int:
    if isinstance(block, SparseMatrix):
        return block.nbytes // max(1, int(block.shape[0])) + 1
    return int(block.shape[1]) * int(getattr(block.dtype, "itemsize", 8))
