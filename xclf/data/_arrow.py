"""Arrow (feather) files and JSON lines, read by pyarrow, and its columns as arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
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
    listing,
    reading,
)
from xclf.data._tables import Column, Columns, table_dataset

ADVICE = "use fewer rows or files"
UNEQUAL = "{}: its lists are missing or of different lengths; every row needs as many numbers"


def library(name: str) -> Any:
    """The module, or None if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


def check_names(path: Path, names: list[str], first: Path, known: list[str]) -> None:
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
            check_memory(str(path), nbytes, options.max_memory, ADVICE)
        table = pyarrow.Table.from_batches(kept, whole.schema)
        return _joined(path, [path], [table], options)


def read_json_lines(path: Path, options: ReadOptions) -> Dataset:
    """A .jsonl file, an object of values or lists a line, read as Parquet is."""
    if (reader := library("pyarrow.json")) is None:
        raise DataError(f"{path}: {needs('reading JSON lines', 'pyarrow')}")
    length = path.stat().st_size
    check_memory(str(path), length, options.max_memory, ADVICE)
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
) -> Dataset:
    import pyarrow

    for path, table in zip(paths, tables, strict=True):
        check_names(path, table.column_names, paths[0], tables[0].column_names)
    with reading(source):
        table = pyarrow.concat_tables(tables, promote_options="permissive")
        return table_dataset(source, without_index(arrow_columns(source, table)), options)


def without_index(columns: Columns) -> Columns:
    """The columns without the row index that pandas stores."""
    return {k: v for k, v in columns.items() if not k.startswith("__index_level_")}


def arrow_columns(path: Path, table: Any) -> dict[str, Column]:
    """Columns as NumPy arrays, with nulls as NaN among numbers and None among objects."""
    names = [str(name) for name in table.column_names]
    check_different(path, names)
    return {
        name: partial(as_array, f"{path}, column {name}", column)
        for name, column in zip(names, table.columns, strict=True)
    }


def check_different(path: Path, names: Sequence[str]) -> None:
    """DataError for columns of one name."""
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise DataError(f"{path}: several columns have the same name: {listing(repeated)}")


def as_array(source: str, column: Any) -> np.ndarray:
    import pyarrow

    kind = column.type
    if isinstance(kind, pyarrow.BaseExtensionType):
        return as_array(source, pyarrow.chunked_array([c.storage for c in column.chunks]))
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


def holds_lists(kind: Any) -> bool:
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
            raise DataError(UNEQUAL.format(source))
        array = array.flatten()
    if array.null_count:
        raise DataError(
            f"{source}: values are missing in its lists; fill them in, or drop the rows"
        )
    values = np.asarray(array.to_numpy(zero_copy_only=False))
    if values.dtype.kind not in "biuf":
        raise DataError(f"{source}: its lists hold {array.type}, not numbers")
    return values.reshape(rows, -1)
