"""Rows of files as an array of Dask, which reads a part of them at a time, where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xclf._extras import needs
from xclf.data._dataset import DataError, Dataset

# Bytes of a block of a mapped file; any other file is one block.
_BLOCK = 32 << 20

#: Reads a file again: a function of nothing that can be sent to another process.
Read = Callable[[], Dataset]


def in_blocks(data: Dataset, parts: Sequence[tuple[Read, Dataset]], **changes: Any) -> Dataset:
    """`data` with the rows of all parts, one after the other, as an array of Dask.

    parts : how to read each, and what it holds, of which mapped rows are read in slices
    changes : further fields of the data set

    Raises DataError without Dask.
    """
    try:
        import dask
        import dask.array as da
    except ImportError:
        raise DataError(needs("reading rows in blocks", "Dask")) from None
    if any(not isinstance(part.x, np.ndarray) for _, part in parts):
        raise DataError(f"{data.source}: sparse rows are not read in blocks")
    dtype = np.result_type(*(part.x.dtype for _, part in parts))
    arrays = []
    for read, part in parts:
        rows, columns = part.x.shape
        size = rows
        if isinstance(part.x, np.memmap):
            size = max(1, _BLOCK // (columns * part.x.dtype.itemsize))
        for start in range(0, rows, size):
            stop = min(start + size, rows)
            block = dask.delayed(_slice, pure=False)(read, start, stop, dtype.str)
            arrays.append(da.from_delayed(block, (stop - start, columns), dtype))
    x: Any = da.concatenate(arrays)
    return replace(data, x=x, **changes)


def _slice(read: Read, start: int, stop: int, dtype: str) -> np.ndarray:
    return np.asarray(read().x[start:stop]).astype(dtype)
