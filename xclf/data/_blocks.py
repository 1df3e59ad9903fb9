"""Rows of files as an array of Dask, which reads a part of them at a time, where it is needed."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from xclf._extras import needs
from xclf.data._dataset import DataError, Dataset, SparseArray
from xclf.rows import is_mapped

# Bytes of a block of a mapped file, at most; any other file is one block.
_BLOCK = 32 << 20

#: Reads a file again: a function of nothing that can be sent to another process.
Read = Callable[[], Dataset]


class MappedRows(NamedTuple):
    """Where in a file the rows of a mapped array are, one after the other.

    path : None where they are so in no file: the file is read again then, as a whole
    """

    path: str | None
    offset: int
    columns: int
    dtype: str

    @classmethod
    def of(cls, x: Any) -> MappedRows | None:
        if not isinstance(x, np.memmap):
            return None
        base: Any = x.base
        whole = isinstance(base, mmap.mmap) and x.ndim == 2 and x.flags.c_contiguous
        path = str(x.filename) if whole and x.filename is not None else None
        return cls(path, x.offset, x.shape[-1], x.dtype.str)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows, as a view of the file."""
        assert self.path is not None
        place = self.offset + start * self.columns * np.dtype(self.dtype).itemsize
        return np.memmap(self.path, self.dtype, "r", place, (stop - start, self.columns))


class Piece(NamedTuple):
    """A file whose rows are read later.

    mapped : where its rows are in a mapped file, which can be read in parts; else None
    sparse : whether its rows are;  first : the index of its first column, of an svmlight file
    """

    read: Read
    rows: int
    columns: int
    dtype: np.dtype
    mapped: MappedRows | None
    sparse: bool
    first: int

    @classmethod
    def of(cls, read: Read, data: Dataset) -> Piece:
        """That of a file which `read` has read as `data`, whose rows are not kept."""
        sparse = scipy.sparse.issparse(data.x)
        rows, columns = data.x.shape
        own = (MappedRows.of(data.x), sparse, data.index_base or 0)
        return cls(read, rows, columns, data.x.dtype, *own)


def in_blocks(data: Dataset, pieces: Sequence[Piece], **changes: Any) -> Dataset:
    """`data` with the rows of all pieces, one after the other, as an array of Dask, in whose blocks
    sparse rows stay sparse: their columns are those of the widest.

    changes : further fields of the data set

    Raises DataError without Dask.
    """
    try:
        import dask
        import dask.array as da
    except ImportError:
        raise DataError(needs("reading rows in blocks", "Dask")) from None
    dtype = np.result_type(*(piece.dtype for piece in pieces))
    first = min(piece.first for piece in pieces)
    columns = max(piece.columns + piece.first - first for piece in pieces)
    sparse = pieces[0].sparse
    meta = scipy.sparse.csr_array((0, columns), dtype=dtype) if sparse else np.empty((0, 0), dtype)
    arrays = []
    for piece in pieces:
        size = piece.rows
        if piece.mapped:  # in blocks of one size: while one is worked on the next is read
            count = -(-size * columns * dtype.itemsize // _BLOCK)
            size = -(-size // max(1, count))
        for start in range(0, piece.rows, size):
            stop = min(start + size, piece.rows)
            read: Any = partial(_slice, piece.read, start, stop, dtype.str)
            if piece.mapped and piece.mapped.path is not None:  # its header is known
                read = partial(_mapped_slice, piece.mapped, start, stop, dtype.str)
            if sparse:
                read = partial(_sparse, piece.read, columns, piece.first - first, dtype.str)
            block = dask.delayed(read, pure=False)()
            arrays.append(da.from_delayed(block, (stop - start, columns), dtype, meta=meta))
    x: Any = da.concatenate(arrays)
    if sparse and data.index_base is not None:
        changes["index_base"] = first
    return replace(data, x=x, **changes)


def widened(x: SparseArray, columns: int, shift: int) -> SparseArray:
    """Sparse rows with so many columns, the first `shift` of which are new."""
    parts = (x.data, x.indices + shift if shift else x.indices, x.indptr)
    return scipy.sparse.csr_array(parts, shape=(x.shape[0], columns))


def _slice(read: Read, start: int, stop: int, dtype: str) -> np.ndarray:
    """Rows of a file, of a mapped one a view where they have the dtype."""
    own = np.asarray(read().x[start:stop])
    return own.astype(dtype, copy=not is_mapped(own))


def _mapped_slice(rows: MappedRows, start: int, stop: int, dtype: str) -> np.ndarray:
    return rows.read(start, stop).astype(dtype, copy=False)


def _sparse(read: Read, columns: int, shift: int, dtype: str) -> SparseArray:
    return widened(read().x, columns, shift).astype(dtype, copy=False)
