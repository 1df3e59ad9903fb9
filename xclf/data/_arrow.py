"""Parquet and Arrow (feather) files, read by pyarrow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from xclf._extras import needs
from xclf.data._dataset import (
    DataError,
    Dataset,
    ReadOptions,
    check_memory,
    count,
    listing,
    reading,
)
from xclf.data._tables import Columns, table_dataset

# Bytes of a value in memory, by its type in the file.
_BYTES = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT96": 12, "FIXED_LEN_BYTE_ARRAY": 16}
_ADVICE = "use fewer rows or files"
_UNEQUAL = "{}: its lists are missing or of different lengths; every row needs as many numbers"
# Bytes of rows that are decoded at a time, and of a column that are read from a file.
_BATCH, _BUFFER = 16 << 20, 1 << 20


def library(name: str) -> Any:
    """The module, or None if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


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
            check_memory(about, nbytes, options.max_memory, _ADVICE)
    tables, lists = [], _ListColumns(source, rows)
    for path in paths:
        with reading(path), path.open("rb") as file:
            schema = parquet.ParquetFile(file).schema_arrow
            text = [f.name for f in schema if str(f.type) in ("string", "large_string")]
            # Strings as codes of a dictionary: many long ones that are equal take little memory.
            whole = parquet.ParquetFile(file, read_dictionary=text, buffer_size=_BUFFER)
            tables.append(lists.split(path, whole, nbytes // max(1, rows)))
    return _joined(source, paths, tables, options, lists)


class _ListColumns:
    """Columns of lists, such as embeddings, of Parquet files: read some rows at a time into one
    array each, so that they are in memory once."""

    def __init__(self, source: Path, rows: int) -> None:
        self.source, self.rows, self.start = source, rows, 0
        self.names: list[str] | None = None
        self.arrays: dict[str, np.ndarray] = {}

    def split(self, path: Path, file: Any, row_bytes: int) -> Any:
        """The next file's other columns, a table; its lists go to the arrays."""
        import pyarrow

        schema = file.schema_arrow
        if self.names is None:
            self.first, self.names = (path, schema.names), []
            if len(set(schema.names)) == len(schema.names):
                self.names = [field.name for field in schema if _holds_lists(field.type)]
        _check_names(path, schema.names, *self.first)
        kept = []
        for batch in file.iter_batches(max(1, _BATCH // max(1, row_bytes))):
            batch.validate(full=True)
            table = pyarrow.Table.from_batches([batch])
            for name in self.names if len(table) else ():
                where = f"{self.source}, column {name}"
                self._put(name, where, _array(where, table.column(name)))
            self.start += len(table)
            kept.append(table.drop_columns(self.names) if self.names else table)
        return pyarrow.concat_tables(kept or [schema.empty_table().drop_columns(self.names)])

    def _put(self, name: str, where: str, part: np.ndarray) -> None:
        own = self.arrays.get(name)
        if own is None and part.ndim == 2:
            own = np.empty((self.rows, part.shape[1]), part.dtype)
        if own is None or part.shape[1:] != own.shape[1:]:
            raise DataError(_UNEQUAL.format(where))
        dtype = np.result_type(own, part)
        self.arrays[name] = own = own.astype(dtype, copy=False)
        own[self.start : self.start + len(part)] = part


def _check_names(path: Path, names: list[str], first: Path, known: list[str]) -> None:
    if names != known:
        raise DataError(
            f"{path}: has other columns ({listing(names)}) than {first.name} ({listing(known)})"
        )


def read_feather(path: Path, options: ReadOptions) -> Dataset:
    """A .feather or .arrow file (Arrow IPC), read as Parquet is."""
    if (ipc := library("pyarrow.ipc")) is None:
        raise DataError(f"{path}: {needs('reading Arrow files', 'pyarrow')}")
    with reading(path), path.open("rb") as file:
        import pyarrow

        if file.read(6) == b"ARROW1":
            whole = ipc.open_file(file)
            batches = (whole.get_batch(k) for k in range(whole.num_record_batches))
        else:  # without an index, as it was sent over a network
            file.seek(0)
            whole = batches = ipc.open_stream(file)
        kept, nbytes = [], 0
        for batch in batches:
            batch.validate(full=True)  # offsets and codes out of bounds would be read as they are
            kept.append(batch)
            nbytes += batch.nbytes
            check_memory(str(path), nbytes, options.max_memory, _ADVICE)
        table = pyarrow.Table.from_batches(kept, whole.schema)
        return _joined(path, [path], [table], options)


def read_json_lines(path: Path, options: ReadOptions) -> Dataset:
    """A .jsonl file, an object of values or lists a line, read as Parquet is."""
    if (reader := library("pyarrow.json")) is None:
        raise DataError(f"{path}: {needs('reading JSON lines', 'pyarrow')}")
    length = path.stat().st_size
    check_memory(str(path), length, options.max_memory, _ADVICE)
    with reading(path), path.open("rb") as file:
        # A line must not be longer than a block.
        block = reader.ReadOptions(use_threads=False, block_size=min(length + 1, 2**30))
        table = reader.read_json(file, read_options=block)
        table.validate(full=True)
        return _joined(path, [path], [table], options)


def _joined(
    source: Path,
    paths: Sequence[Path],
    tables: Sequence[Any],
    options: ReadOptions,
    lists: _ListColumns | None = None,
) -> Dataset:
    import pyarrow

    for path, table in zip(paths, tables, strict=True):
        _check_names(path, table.column_names, paths[0], tables[0].column_names)
    with reading(source):
        table = pyarrow.concat_tables(tables, promote_options="permissive")
        columns = arrow_columns(source, table)
        if lists is not None and lists.arrays:
            every = columns | lists.arrays
            columns = {name: every[name] for name in lists.first[1]}
        kept = {k: v for k, v in columns.items() if not k.startswith("__index_level_")}
        return table_dataset(source, kept, options)


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


def arrow_columns(path: Path, table: Any) -> Columns:
    """Columns as NumPy arrays, with nulls as NaN among numbers and None among objects."""
    names = [str(name) for name in table.column_names]
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise DataError(f"{path}: several columns have the same name: {listing(repeated)}")
    return {
        name: _array(f"{path}, column {name}", column)
        for name, column in zip(names, table.columns, strict=True)
    }


def _array(source: str, column: Any) -> np.ndarray:
    import pyarrow

    kind = column.type
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _array(source, pyarrow.chunked_array([c.storage for c in column.chunks]))
    if pyarrow.types.is_dictionary(kind):  # objects that are equal are one object
        parts = [_decoded(chunk) for chunk in column.chunks]
        return np.concatenate(parts) if parts else np.empty(0, object)
    if pyarrow.types.is_decimal(kind):
        column = column.cast(pyarrow.float64())
    if _is_list(kind):
        return _lists(source, column.combine_chunks())
    return np.asarray(column.to_numpy())


def _decoded(chunk: Any) -> np.ndarray:
    """The values of a dictionary's codes; where a code is missing, None or NaN."""
    values = np.asarray(chunk.dictionary.to_numpy(zero_copy_only=False))
    codes = np.asarray(chunk.indices.fill_null(len(values)).to_numpy(zero_copy_only=False))
    if chunk.indices.null_count:
        gap = np.array([None if values.dtype.kind == "O" else np.nan])
        values = np.concatenate([values, gap])
    return np.asarray(values[codes])


def _is_list(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _holds_lists(kind: Any) -> bool:
    import pyarrow

    extension = isinstance(kind, pyarrow.BaseExtensionType)
    return _is_list(kind.storage_type if extension else kind)


def _lists(source: str, array: Any) -> np.ndarray:
    """Lists of numbers, all of one length, as (N, length); lists of lists are flattened."""
    rows = len(array)
    while _is_list(array.type):
        compute = import_module("pyarrow.compute")
        lengths = compute.list_value_length(array)
        if array.null_count or compute.min(lengths) != compute.max(lengths):
            raise DataError(_UNEQUAL.format(source))
        array = array.flatten()
    if array.null_count:
        raise DataError(
            f"{source}: values are missing in its lists; fill them in, or drop the rows"
        )
    values = np.asarray(array.to_numpy(zero_copy_only=False))
    if values.dtype.kind not in "biuf":
        raise DataError(f"{source}: its lists hold {array.type}, not numbers")
    return values.reshape(rows, -1)
