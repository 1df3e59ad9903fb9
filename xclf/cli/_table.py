"""Writing a table chunk by chunk, whole or not at all."""

from __future__ import annotations

import csv
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from xclf.cli._console import UserError

Columns: TypeAlias = dict[str, np.ndarray]

FORMATS = (".npy", ".csv", ".parquet")


@contextmanager
def open_table(path: Path, rows: int) -> Iterator[Callable[[Columns], None]]:
    """A function that appends named columns to `path`, which appears when all are written.

    .npy is a plain array of labels where that is the only column, else a structured array; .csv has
    a header line; .parquet needs pyarrow. On an error nothing is left behind.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    writers = {".npy": _npy, ".csv": _csv, ".parquet": _parquet}
    try:
        with writers[path.suffix](part, rows) as write:
            yield write
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _csv(path: Path, rows: int) -> Iterator[Callable[[Columns], None]]:
    with path.open("x", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        started = False

        def write(columns: Columns) -> None:
            nonlocal started
            if not started:
                lines.writerow(columns)
                started = True
            lines.writerows(zip(*(c.tolist() for c in columns.values()), strict=True))

        yield write


@contextmanager
def _npy(path: Path, rows: int) -> Iterator[Callable[[Columns], None]]:
    held: list[Any] = []
    filled = 0

    def write(columns: Columns) -> None:
        nonlocal filled
        names = list(columns)
        if not held:
            kinds = [(name, _fixed(column)) for name, column in columns.items()]
            dtype = kinds[0][1] if len(kinds) == 1 else np.dtype(kinds)
            held.append(np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows,)))
        n = len(columns[names[0]])
        where = slice(filled, filled + n)
        for name in names:
            target = held[0] if len(names) == 1 else held[0][name]
            target[where] = columns[name]
        filled += n

    yield write
    held[0].flush()
    held.clear()


def _fixed(column: np.ndarray) -> np.dtype[Any]:
    """The dtype of a column, which must be of fixed size."""
    if column.dtype.kind in "OT":
        raise UserError("labels of variable length cannot be written to .npy: use .csv or .parquet")
    return column.dtype


@contextmanager
def _parquet(path: Path, rows: int) -> Iterator[Callable[[Columns], None]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(
            "writing .parquet needs pyarrow: pip install pyarrow, or choose .csv or .npy"
        ) from None
    held: list[Any] = []

    def write(columns: Columns) -> None:
        table = pyarrow.table({name: pyarrow.array(c.tolist()) for name, c in columns.items()})
        if not held:
            held.append(parquet.ParquetWriter(path, table.schema))
        held[0].write_table(table)

    try:
        yield write
    finally:
        for writer in held:
            writer.close()
