"""CSV and Parquet tables: one column holds the label, the others the numbers.

pyarrow reads both; without it pandas reads CSV. Either gives columns as NumPy arrays, to which the
same rules apply.
"""

from __future__ import annotations

import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from xclf.data._arrays import as_labels
from xclf.data._dataset import (
    BytesFile,
    DataError,
    Dataset,
    ReadOptions,
    count,
    listing,
    open_bytes,
    reading,
)

Columns: TypeAlias = dict[str, np.ndarray]

_LABEL_NAMES = ("label", "target", "y", "class")
_LABEL_OPTION = "label=, in the shell --label"

# Missing values in CSV text, whichever library reads it.
_MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null"]


def read_csv(path: Path, options: ReadOptions) -> Dataset:
    """A .csv (commas) or .tsv (tabs) file with a header line, gz or not; see `_dataset`.

    A first column without a name is the row index that pandas writes, and is left out.
    """
    separator = "\t" if ".tsv" in path.suffixes else ","
    with reading(path):
        with open_bytes(path) as file:
            columns = _csv_columns(path, file, separator)
        first = next(iter(columns), "-")
        if first == "" or first.startswith("Unnamed: "):  # the name that pandas gives
            del columns[first]
        return _dataset(path, columns, options)


def read_parquet(path: Path, options: ReadOptions) -> Dataset:
    """A .parquet file without the row index that pandas stores; see `_dataset`."""
    parquet = _library("pyarrow.parquet")
    if parquet is None:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow")
    with reading(path):
        with path.open("rb") as file:
            columns = _from_arrow(path, parquet.read_table(file))
        kept = {k: v for k, v in columns.items() if not k.startswith("__index_level_")}
        return _dataset(path, kept, options)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


def _csv_columns(path: Path, file: BytesFile, separator: str) -> Columns:
    if (csv := _library("pyarrow.csv")) is not None:
        table = csv.read_csv(
            file,
            # Reader threads that outlive an error can abort the process at its end.
            read_options=csv.ReadOptions(use_threads=False),
            parse_options=csv.ParseOptions(delimiter=separator),
            convert_options=csv.ConvertOptions(null_values=_MISSING, strings_can_be_null=True),
        )
        return _from_arrow(path, table)
    if (pandas := _library("pandas")) is not None:
        return _from_pandas(path, pandas, file, separator)
    raise DataError(f"{path}: reading CSV needs pyarrow or pandas: pip install pyarrow")


def _from_pandas(path: Path, pandas: Any, file: BytesFile, separator: str) -> Columns:
    with warnings.catch_warnings():  # without a row index, lines that are too long only warn
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        try:
            frame = pandas.read_csv(
                file,
                sep=separator,
                na_values=_MISSING,
                keep_default_na=False,
                index_col=False,
                low_memory=False,
            )
        except pandas.errors.ParserWarning:
            raise DataError(f"{path}: lines are longer than the header line") from None
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def _from_arrow(path: Path, table: Any) -> Columns:
    """Columns as NumPy arrays, with nulls as NaN among numbers and None among objects."""
    names = [str(name) for name in table.column_names]
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise DataError(f"{path}: several columns have the same name: {listing(repeated)}")
    columns = {}
    for name, column in zip(names, table.columns, strict=True):
        if hasattr(column.type, "value_type") and hasattr(column.type, "index_type"):
            column = column.cast(column.type.value_type)  # categories to their values
        columns[name] = column.to_numpy()
    return columns


def _dataset(path: Path, columns: Columns, options: ReadOptions) -> Dataset:
    """Labels from the column `options.label`, numbers from all others.

    Without that option it is the one column named in _LABEL_NAMES (any case); several are an
    error, and none, unless labels are not needed. Labels are int64 or str; booleans count as 0 and
    1. Rows take the common dtype of their columns; whole numbers that all lie in 0..255 are uint8.

    DataError, naming the columns, for text among the numbers and for missing values.
    """
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{path}: no rows; columns: {listing(columns)}")
    name = _label_column(path, columns, options)
    y = None if name is None else _labels(path, name, columns[name])
    features = {key: values for key, values in columns.items() if key != name}
    if not features:
        raise DataError(f"{path}: no column besides the label {listing([name])}")
    return Dataset(x=_matrix(path, features), y=y, source=str(path), feature_names=tuple(features))


def _label_column(path: Path, columns: Columns, options: ReadOptions) -> str | None:
    if options.label is not None:
        if options.label not in columns:
            raise DataError(f"{path}: no column {options.label!r}; columns: {listing(columns)}")
        return options.label
    names = [name for name in columns if name.lower() in _LABEL_NAMES]
    if len(names) > 1:
        raise DataError(
            f"{path}: {listing(names)} could each be the label; name one ({_LABEL_OPTION})"
        )
    if not names and options.need_labels:
        raise DataError(
            f"{path}: which column is the label? Name it ({_LABEL_OPTION}); "
            f"columns: {listing(columns)}"
        )
    return names[0] if names else None


def _labels(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    source = f"{path}, column {name}"
    if values.dtype.kind == "O":
        missing = _missing(values)
        if missing.any():
            raise DataError(
                f"{source}: {count(int(missing.sum()), 'missing label')}, the first in row "
                f"{int(missing.argmax()) + 1:,}; fill in, or drop such rows"
            )
        kinds = {type(value) for value in values}
        if kinds == {str}:
            values = values.astype(str)
        elif kinds <= {bool, int}:
            values = values.astype(np.int64)
        else:
            raise DataError(f"{source}: labels must be all integers or all strings")
    return as_labels(values, source)


def _missing(values: np.ndarray) -> np.ndarray:
    """Where values are None or NaN; only NaN differs from itself."""
    if values.dtype.kind == "O":
        return np.array([v is None or (isinstance(v, float) and v != v) for v in values], bool)
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    return np.zeros(len(values), dtype=bool)


def _matrix(path: Path, columns: Columns) -> np.ndarray:
    text = [name for name, values in columns.items() if _is_text(values)]
    if text:
        raise DataError(
            f"{path}: these columns are not numbers: {listing(text)}; remove them, turn them into "
            f"numbers, or name one as the label ({_LABEL_OPTION})"
        )
    incomplete = [name for name, values in columns.items() if _missing(values).any()]
    if incomplete:
        raise DataError(
            f"{path}: values are missing in {listing(incomplete)}; fill them in, or drop those rows"
        )
    dtype = np.result_type(*(_narrow(values) for values in columns.values()))
    x = np.empty((len(next(iter(columns.values()))), len(columns)), dtype)
    for position, values in enumerate(columns.values()):
        x[:, position] = values
    return x


def _is_text(values: np.ndarray) -> bool:
    """Whether a column holds anything but numbers; objects are booleans with gaps, or text."""
    if values.dtype.kind == "O":
        return not {type(value) for value in values[~_missing(values)]} <= {bool}
    return values.dtype.kind not in "biuf"


def _narrow(values: np.ndarray) -> np.dtype:
    """uint8 for whole numbers in 0..255, such as pixels; else the dtype as it is."""
    kind = values.dtype.kind
    if kind == "b" or (kind in "iu" and values.min() >= 0 and values.max() <= 255):
        return np.dtype(np.uint8)
    return values.dtype
