"""CSV and Parquet tables: one column holds the label, the others the numbers.

pyarrow reads both; without it pandas reads CSV. Either gives columns as NumPy arrays, and all
rules are below that point, the same for both.
"""

from __future__ import annotations

import gzip
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from xclf.data._arrays import tidy_labels
from xclf.data._dataset import DataError, Dataset, count, listing, reading
from xclf.data._idx import BytesFile

Columns: TypeAlias = dict[str, np.ndarray]

LABEL_NAMES = ("label", "target", "y", "class")
_NAMING = "label=, in the shell --label"

# What counts as missing in CSV text, whichever library reads it.
_MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null"]


def read_csv(path: Path, label: str | None, need_labels: bool) -> Dataset:
    """A .csv (commas) or .tsv (tabs) file with a header line, gz or not; see `_dataset`.

    A first column without a name is the row index that pandas writes, and is left out.
    """
    separator = "\t" if ".tsv" in path.suffixes else ","
    with reading(path):
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        with _open(path) as file:
            columns = _csv_columns(path, file, separator)
        first = next(iter(columns), "-")
        if first == "" or first.startswith("Unnamed: "):  # as pandas calls it
            del columns[first]
        return _dataset(path, columns, label, need_labels)


def read_parquet(path: Path, label: str | None, need_labels: bool) -> Dataset:
    """A .parquet file; a row index that pandas stored in it is left out; see `_dataset`."""
    parquet = _library("pyarrow.parquet")
    if parquet is None:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow")
    with reading(path):
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        with path.open("rb") as file:
            columns = _from_arrow(path, parquet.read_table(file))
        kept = {k: v for k, v in columns.items() if not k.startswith("__index_level_")}
        return _dataset(path, kept, label, need_labels)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


def _open(path: Path) -> BytesFile:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else path.open("rb")


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
    """Columns as NumPy has them: nulls as NaN among numbers and None among objects."""
    names = [str(name) for name in table.column_names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: several columns have the same name: {listing(twice)}")
    columns = {}
    for name, column in zip(names, table.columns, strict=True):
        if hasattr(column.type, "value_type") and hasattr(column.type, "index_type"):
            column = column.cast(column.type.value_type)  # categories to their values
        columns[name] = column.to_numpy()
    return columns


def _dataset(path: Path, columns: Columns, label: str | None, need_labels: bool) -> Dataset:
    """Labels from the column `label`, numbers from all others.

    label : if None, the one column among LABEL_NAMES (any case); several are an error, and none,
        unless labels are not needed. Labels are int64 or str; booleans count as 0 and 1.

    Rows take the common dtype of their columns; whole numbers that all lie in 0..255 are uint8.
    DataError, naming the columns, for text among the numbers and for missing values.
    """
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{path}: no rows; columns: {listing(columns)}")
    name = _label_column(path, columns, label, need_labels)
    y = None if name is None else _labels(path, name, columns[name])
    features = {key: values for key, values in columns.items() if key != name}
    if not features:
        raise DataError(f"{path}: no column besides the label {listing([name])}")
    return Dataset(x=_matrix(path, features), y=y, source=str(path), feature_names=tuple(features))


def _label_column(path: Path, columns: Columns, label: str | None, need_labels: bool) -> str | None:
    if label is not None:
        if label not in columns:
            raise DataError(f"{path}: no column {label!r}; columns: {listing(columns)}")
        return label
    found = [name for name in columns if name.lower() in LABEL_NAMES]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{path}: {listing(found)} could each be the label; say which ({_NAMING})")
    if need_labels:
        raise DataError(
            f"{path}: which column is the label? Name it ({_NAMING}); columns: {listing(columns)}"
        )
    return None


def _labels(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    where = f"{path}, column {name}"
    if values.dtype.kind == "O":
        missing = _missing(values)
        if missing.any():
            raise DataError(
                f"{where}: {count(int(missing.sum()), 'missing label')}, the first in row "
                f"{int(missing.argmax()) + 1:,}; fill in, or drop such rows"
            )
        kinds = {type(value) for value in values}
        if kinds == {str}:
            values = values.astype(str)
        elif kinds <= {bool, int}:
            values = values.astype(np.int64)
        else:
            raise DataError(f"{where}: labels must be all integers or all strings")
    return tidy_labels(values, where)


def _missing(values: np.ndarray) -> np.ndarray:
    """Where values are None or NaN; only NaN differs from itself."""
    if values.dtype.kind == "O":
        gaps = (v is None or (isinstance(v, float) and v != v) for v in values)
        return np.fromiter(gaps, dtype=bool, count=len(values))
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    return np.zeros(len(values), dtype=bool)


def _matrix(path: Path, columns: Columns) -> np.ndarray:
    text: list[str] = []
    gaps: list[str] = []
    for name, values in columns.items():
        if values.dtype.kind not in "biufO":
            text.append(name)
        elif values.dtype.kind == "O":
            kinds = {type(v) for v in values[~_missing(values)]}
            (gaps if kinds <= {bool} else text).append(name)
        elif _missing(values).any():
            gaps.append(name)
    if text:
        raise DataError(
            f"{path}: these columns are not numbers: {listing(text)}; remove them, turn them into "
            f"numbers, or name one as the label ({_NAMING})"
        )
    if gaps:
        raise DataError(
            f"{path}: values are missing in {listing(gaps)}; fill them in, or drop those rows"
        )
    dtype = np.result_type(*(_narrow(values) for values in columns.values()))
    x = np.empty((len(next(iter(columns.values()))), len(columns)), dtype)
    for position, values in enumerate(columns.values()):
        x[:, position] = values
    return x


def _narrow(values: np.ndarray) -> np.dtype:
    """uint8 for whole numbers in 0..255, which is what pixels are; else the dtype as it is."""
    kind = values.dtype.kind
    if kind == "b" or (kind in "iu" and values.min() >= 0 and values.max() <= 255):
        return np.dtype(np.uint8)
    return values.dtype
