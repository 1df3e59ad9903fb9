"""Tables of predictions, written chunk by chunk."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from xclf._atomic_write import atomic_write
from xclf._extras import needs

#: Columns of some rows, by name.
Columns: TypeAlias = Mapping[str, np.ndarray]


def write_table(path: Path, chunks: Iterable[Columns], rows: int = 0) -> None:
    """Write chunks of columns to `path`, whole or not at all.

    .npy, which needs the number of `rows` beforehand, is a plain array of labels where that is the
    only column, else a structured array; .csv has
    a header line; .parquet needs pyarrow.
    """
    with atomic_write(path) as part:
        _WRITERS[path.suffix](part, rows, chunks)


def _write_csv(path: Path, rows: int, chunks: Iterable[Columns]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        for number, columns in enumerate(chunks):
            if number == 0:
                lines.writerow(columns)
            lines.writerows(zip(*(c.tolist() for c in columns.values()), strict=True))


def _write_npy(path: Path, rows: int, chunks: Iterable[Columns]) -> None:
    dtype: Any = None
    with path.open("rb+") as file:
        for columns in chunks:
            if dtype is None:
                fields = [(name, _fixed_size(column)) for name, column in columns.items()]
                dtype = fields[0][1] if len(fields) == 1 else np.dtype(fields)
                # NumPy writes the header and an empty file of full length. Rows are written in it
                # rather than mapped: a map on a full disk kills the process.
                empty = np.lib.format.open_memmap(path, "w+", dtype=dtype, shape=(rows,))
                file.seek(empty.offset)
                del empty
            array = np.empty(len(next(iter(columns.values()))), dtype)
            for name, column in columns.items():
                (array if len(columns) == 1 else array[name])[:] = column
            file.write(array.tobytes())


def _fixed_size(column: np.ndarray) -> np.dtype[Any]:
    if column.dtype.kind in "OT":
        raise ValueError(
            "labels of variable length cannot be written to .npy: use .csv or .parquet"
        )
    return column.dtype


def _write_parquet(path: Path, rows: int, chunks: Iterable[Columns]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ImportError(
            f"{needs('writing .parquet', 'pyarrow')}, or choose .csv or .npy"
        ) from None
    writer: Any = None
    try:
        for columns in chunks:
            table = pyarrow.table({name: pyarrow.array(c.tolist()) for name, c in columns.items()})
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


_WRITERS = {".npy": _write_npy, ".csv": _write_csv, ".parquet": _write_parquet}
TABLE_SUFFIXES = tuple(_WRITERS)
