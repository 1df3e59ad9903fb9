"""Sketches of rows: some hundred hashes by which most of a table is known again, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf._array_api import Array, to_host
from xclf._sparse import SparseMatrix
from xclf.rows._block_folds import Subset
from xclf.rows._blocks import MANY, Blocks
from xclf.rows._stream import slices
from xclf.rows._threads import in_threads

# Hashes kept. Of a table as long as that of the sketch so many rows are looked at, on average: a
# share p of them has the standard error sqrt(p (1 - p) / 1024), at most 1.6 %.
_KEPT = 1024
# Bytes that a thread hashes at a time: they stay in its cache.
_PIECE = 1 << 19


@dataclass(frozen=True, eq=False)
class RowSketch:
    """The smallest hashes of rows.

    Parameters
    ----------
    hashes : ndarray of shape (K,)
        uint64, ascending and distinct, K at most 1024.
    complete : bool
        Whether these are all.
    """

    hashes: np.ndarray
    complete: bool

    @classmethod
    def of(cls, hashes: np.ndarray) -> RowSketch:
        """The sketch of rows with the hashes (N,)."""
        distinct = np.unique(hashes)
        return cls(distinct[:_KEPT], len(distinct) <= _KEPT)

    @classmethod
    def of_blocks(cls, x: Blocks, subset: Subset | None) -> RowSketch:
        """The sketch of rows in blocks, made where they are; of all rows without a subset."""
        numbers = None if subset is None else subset.numbers
        folds = [None] * len(x.groups) if subset is None else subset.folds.column.parts
        groups = list(zip(x.groups, folds, strict=True))
        parts = list(x.engine.collect(_sketch_group, numbers, groups, MANY))
        distinct = np.unique(np.concatenate([own.hashes for own in parts]))
        complete = all(own.complete for own in parts) and len(distinct) <= _KEPT
        return cls(distinct[:_KEPT], complete)

    def known(self, hashes: np.ndarray) -> tuple[int, int]:
        """(known, looked at): of the rows with hashes (N,) those that the sketch would hold if it
        had them, and those of these that it holds.

        Hashes are uniform, and so those below the largest one that was kept are a random sample.
        """
        if not self.complete:
            hashes = hashes[hashes <= self.hashes[-1]]
        return int(np.isin(hashes, self.hashes).sum()), len(hashes)


def row_hashes(x: Array) -> np.ndarray:
    """A hash (N,), uint64, of each row of x (N, D), in parts, in threads.

        h_i = mix(sum_j c_j bits(x_ij) mod 2^64)

    bits are those of float32, with which rows of other dtypes are the same rows; c_j are odd
    pseudo-random constants. Sparse rows have the hashes of dense ones, as bits(0) = 0.
    """
    if isinstance(x, Blocks):
        groups = x.engine.collect(_hash_group, None, [(group,) for group in x.groups])
        return np.concatenate(list(groups))
    if isinstance(x, SparseMatrix):
        return _hash_sparse(x.matrix)
    rows, columns = (int(n) for n in x.shape)
    factors = _factors(columns)

    def hashed_part(where: slice) -> np.ndarray:
        return _mix(_bits(to_host(x[where, ...])) @ factors)

    parts = in_threads(hashed_part, slices(rows, max(1, _PIECE // (8 * max(1, columns)))))
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def _hash_group(_: None, blocks: Sequence[Array]) -> np.ndarray:
    """Those of all blocks of a group."""
    return np.concatenate([row_hashes(block) for block in blocks])


def _sketch_group(
    numbers: tuple[int, ...] | None, blocks: Sequence[Array], folds: np.ndarray | None
) -> RowSketch:
    hashes = _hash_group(None, blocks)
    return RowSketch.of(hashes if folds is None else hashes[np.isin(folds, numbers or ())])


def _hash_sparse(matrix: Any) -> np.ndarray:
    terms = _bits(to_host(matrix.data)) * _factors(matrix.shape[1])[to_host(matrix.indices)]
    # Differences of sums that are taken modulo 2^64 are right modulo 2^64.
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    ends = to_host(matrix.indptr)
    return _mix(sums[ends[1:]] - sums[ends[:-1]])


def _bits(values: np.ndarray) -> np.ndarray:
    """The bits of float32, uint64; those of -0.0 are those of 0.0."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = np.ascontiguousarray(values).astype(np.float32) + np.float32(0.0)
    bits = single.view(np.uint32)
    # Whole numbers have zeros at the end, which products would keep.
    return (bits ^ (bits >> np.uint32(16))).astype(np.uint64)


def _factors(columns: int) -> np.ndarray:
    return _mix(np.arange(1, columns + 1, dtype=np.uint64)) | np.uint64(1)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, a permutation of the numbers of 64 bits (Steele et al., 2014,
    Fast splittable pseudorandom number generators)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
