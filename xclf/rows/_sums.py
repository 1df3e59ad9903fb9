"""Sums over chunks of rows: added up one after the other, and of sparse rows in two phases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from xclf._array_api import Array, accumulator, device, namespace
from xclf._sparse import Pulled, SparseMatrix
from xclf.rows._memory_budget import MemoryBudget
from xclf.rows._stream import slices
from xclf.rows._threads import in_threads

# Rows whose gradients in the scores are held at a time, and multiplied with those rows at once: few
# enough for memory, many beside the product's own size.
BLOCK = 1 << 15

# Parts of the features that threads share, and the entries that a feature without any costs.
_PARTS, _PART, _EMPTY = 32, 1 << 16, 4


class _Rows(Protocol):
    @property
    def x(self) -> Any: ...
    @property
    def budget(self) -> MemoryBudget: ...
    def __len__(self) -> int: ...
    def chunk(self, where: slice) -> Any: ...


def total(sums: Iterator[tuple[Array, ...]]) -> list[Array]:
    """Tuples of arrays added up, one after the other, in the widest dtype."""
    totals: list[Array] = []
    for parts in sums:
        if not totals:
            xp = namespace(*parts)
            wide = accumulator(xp, device(parts[0]))
            # A copy: it is added to in place, and f may return an array that it keeps.
            totals = [xp.astype(part, wide, copy=True) for part in parts]
        else:
            for k, part in enumerate(parts):
                totals[k] += part
            del part
        del parts  # before the next is computed: sums may be large
    return totals


def sparse_sums(f: Callable[[Any], tuple[Any, ...]], rows: _Rows, size: int) -> list[Array]:
    """Sums of f over chunks of `size` sparse rows in host memory, in float64.

    A gradient of weights has an entry for each feature, however few a chunk has: f gives the
    gradient in the scores, `Pulled`. Threads share the chunks; then, for each block of rows, the
    features, each of which is added up by one thread, in the order of the rows.
    """
    totals: list[Array] = []
    for block in slices(len(rows), BLOCK):
        pieces = slices(block.stop, size, block.start)
        with closing(in_threads(lambda where: f(rows.chunk(where)), pieces)) as results:
            parts = list(zip(*results, strict=True))
        sums = [_block_sum(list(part), rows, block) for part in parts]
        totals = sums if not totals else [a + b for a, b in zip(totals, sums, strict=True)]
    return totals


def _block_sum(parts: list[Any], rows: _Rows, block: slice) -> Array:
    if isinstance(parts[0], Pulled):
        shape = parts[0].shape
        g = parts[0].g if len(parts) == 1 else np.concatenate([part.g for part in parts])
        parts.clear()
        return _product(rows, block, g).reshape(shape)
    return total((part,) for part in parts)[0]


def _product(rows: _Rows, block: slice, g: np.ndarray) -> np.ndarray:
    """g^T X (M, D) of the rows of a block, in float64; g (n, M)."""
    x: SparseMatrix = rows.x
    g = g.astype(np.float64, copy=False)  # products add up entry by entry
    if not keeps_columns(x, rows.budget):
        return np.ascontiguousarray((x[block, :].matrix.T @ g).T)
    columns = columns_of(x, block)
    out = np.empty((g.shape[1], x.shape[1]))

    def part(ends: tuple[int, int]) -> None:
        own = slice(*ends)
        out[:, own] = (columns[own] @ g).T

    with closing(in_threads(part, feature_parts(columns))) as done:
        for _ in done:
            pass
    return out


def feature_parts(columns: Any, most: int = _PARTS) -> list[tuple[int, int]]:
    """(first, last) features of the parts that threads share, which take about as long each.

    columns : CSR (D, n), a row for each feature;  most : parts
    """
    costs = columns.indptr + _EMPTY * np.arange(len(columns.indptr), dtype=np.int64)
    parts = min(max(int(costs[-1]) // _PART, 2), most)
    cuts = np.searchsorted(costs, np.linspace(0, costs[-1], parts + 1))
    cuts[0], cuts[-1] = 0, columns.shape[0]
    return [ends for ends in pairwise(cuts.tolist()) if ends[0] < ends[1]]


def keeps_columns(x: SparseMatrix, budget: MemoryBudget) -> bool:
    """Whether there is memory for a copy of x by columns, with which gradients take a third of the
    time."""
    return budget.size is None or 2 * x.nbytes <= budget.size


def columns_of(x: SparseMatrix, block: slice) -> Any:
    """The transposed rows of a block as CSR (D, n) in float64, made once."""
    kept: dict[int, Any] = x.__dict__.setdefault("columns_of_blocks", {})
    if block.start not in kept:
        kept[block.start] = x[block, :].matrix.T.tocsr().astype(np.float64, copy=False)
    return kept[block.start]
