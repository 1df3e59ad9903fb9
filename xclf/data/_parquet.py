"""Parquet files, read by pyarrow some columns or some rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xclf._extras import needs
from xclf.data._arrow import (
    ADVICE,
    UNEQUAL,
    as_array,
    check_different,
    check_names,
    holds_lists,
    library,
    without_index,
)
from xclf.data._dataset import DataError, Dataset, ReadOptions, check_memory, count, reading
from xclf.data._tables import Column, table_dataset

# Bytes of a value in memory, by its type in the file.
_BYTES = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT96": 12, "FIXED_LEN_BYTE_ARRAY": 16}
# Bytes of rows or columns that are decoded at a time, and of a column that are read from a file.
_BATCH, _BUFFER = 16 << 20, 1 << 20


def read_parquet(path: Path, options: ReadOptions) -> Dataset:
    """A .parquet file without the row index that pandas stores; see `read_shards`."""
    return read_shards(path, [path], options)


def read_shards(source: Path, paths: Sequence[Path], options: ReadOptions) -> Dataset:
    """Parquet files with the same columns as one table, in the order of their names.

    Columns of lists that are all of one length, such as embeddings, are as many columns; decimals
    are float64. If some files are called train* and some test*, the others are not read.
    """
    parts = {part: [p for p in paths if p.name.startswith(part)] for part in ("train", "test")}
    if all(parts.values()):
        test = read_shards(parts["test"][0], parts["test"], replace(options, need_labels=True))
        return replace(_shards(source, parts["train"], options), test=test)
    return _shards(source, paths, options)


def _shards(source: Path, paths: Sequence[Path], options: ReadOptions) -> Dataset:
    parquet = library("pyarrow.parquet")
    if parquet is None:
        raise DataError(f"{source}: {needs('reading Parquet', 'pyarrow')}")
    nbytes, rows = 0, 0
    for path in paths:
        with reading(path), path.open("rb") as file:
            metadata = parquet.read_metadata(file)
            nbytes, rows = nbytes + _memory(metadata), rows + metadata.num_rows
            about = f"{path}: {count(metadata.num_rows, 'row')}"
            if len(paths) > 1:
                about = f"{source}: its files up to {path.name}"
            check_memory(about, nbytes, options.max_memory, ADVICE)
    with ExitStack() as stack:
        files = []
        for path in paths:
            with reading(path):
                files.append((path, _opened(parquet, stack.enter_context(path.open("rb")))))
                names = files[-1][1].schema_arrow.names
                check_names(path, names, paths[0], files[0][1].schema_arrow.names)
        with reading(source):
            check_different(source, names)
            lists = _ListColumns(source, files, rows, nbytes)
            others = [name for name in names if name not in lists.arrays]
            scalars = _ScalarColumns(source, files, rows, others)
            columns: dict[str, Column] = {
                name: partial(lists.arrays.__getitem__, name)
                if name in lists.arrays
                else partial(scalars.column, name)
                for name in names
            }
            return table_dataset(source, without_index(columns), options)


def _opened(parquet: Any, file: Any) -> Any:
    """A file whose strings are codes of a dictionary: many long ones that are equal take little
    memory."""
    schema = parquet.ParquetFile(file).schema_arrow
    text = [field.name for field in schema if str(field.type) in ("string", "large_string")]
    return parquet.ParquetFile(file, read_dictionary=text, buffer_size=_BUFFER)


class _ScalarColumns:
    """Columns of numbers and text, read from files when they are needed, some at a time: pyarrow
    holds a page of each column that it reads, which of a thousand columns is a multiple of the
    rows."""

    def __init__(
        self, source: Path, files: Sequence[tuple[Path, Any]], rows: int, names: Sequence[str]
    ) -> None:
        self.source, self.files, self.names = source, files, names
        self.at_once = max(1, _BATCH // max(1, 8 * rows))
        self.number = {name: k for k, name in enumerate(names)}
        self.held = range(0)
        self.table: Any = None

    def column(self, name: str) -> np.ndarray:
        import pyarrow

        number = self.number[name]
        if number not in self.held:
            first = number - number % self.at_once
            self.held, self.table = range(0), None
            parts = self.names[first : first + self.at_once]
            tables = [self._part(path, file, parts) for path, file in self.files]
            self.table = pyarrow.concat_tables(tables, promote_options="permissive")
            self.held = range(first, first + len(parts))
        return as_array(f"{self.source}, column {name}", self.table.column(name))

    def _part(self, path: Path, file: Any, names: Sequence[str]) -> Any:
        with reading(path):
            table = file.read(columns=list(names))
            table.validate(full=True)
            return table


class _ListColumns:
    """Columns of lists, such as embeddings: read some rows at a time into one array each, so that
    they are in memory once."""

    def __init__(
        self, source: Path, files: Sequence[tuple[Path, Any]], rows: int, nbytes: int
    ) -> None:
        self.source, self.rows, self.start = source, rows, 0
        self.arrays: dict[str, np.ndarray] = {}
        size = max(1, _BATCH // max(1, nbytes // max(1, rows)))
        names = [field.name for field in files[0][1].schema_arrow if holds_lists(field.type)]
        for path, file in files if names and rows else ():
            with reading(path):
                for batch in file.iter_batches(size, columns=names):
                    batch.validate(full=True)
                    self._add(names, batch)

    def _add(self, names: Sequence[str], batch: Any) -> None:
        import pyarrow

        table = pyarrow.Table.from_batches([batch])
        for name in names if len(table) else ():
            where = f"{self.source}, column {name}"
            self._put(name, where, as_array(where, table.column(name)))
        self.start += len(table)

    def _put(self, name: str, where: str, part: np.ndarray) -> None:
        own = self.arrays.get(name)
        if own is None and part.ndim == 2:
            own = np.empty((self.rows, part.shape[1]), part.dtype)
        if own is None or part.shape[1:] != own.shape[1:]:
            raise DataError(UNEQUAL.format(where))
        dtype = np.result_type(own, part)
        self.arrays[name] = own = own.astype(dtype, copy=False)
        own[self.start : self.start + len(part)] = part


def _memory(metadata: Any) -> int:
    """Bytes of a Parquet file's columns in memory, by what it says of itself."""
    nbytes = 0
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.physical_type == "BYTE_ARRAY":
                nbytes += column.total_uncompressed_size + 4 * column.num_values
            else:
                nbytes += column.num_values * _BYTES.get(column.physical_type, 8)
    return nbytes
