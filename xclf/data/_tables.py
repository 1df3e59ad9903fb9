"""Tables, CSV or Parquet: one column holds the label, the others the numbers.

Whatever library reads a file gives its columns as NumPy arrays, to which the rules here apply: one
after the other, so that the library's table and the rows are all that is in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np

from xclf.data._arrays import as_labels
from xclf.data._dataset import DataError, Dataset, ReadOptions, check_memory, count, listing

#: A column, made when it is called: (N,), or (N, width) of lists.
Column: TypeAlias = Callable[[], np.ndarray]
Columns: TypeAlias = Mapping[str, Column]

_LABEL_NAMES = ("label", "target", "y", "class")
_LABEL_OPTION = "label=, in the shell --label"

# A column of fewer rows may count up by chance.
_FEWEST_ROWS = 10
_NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?")
_ID_NAME = re.compile(r"(?i:(^|[^a-z])(id|ids|idx|index|key|row|nr|no|number)$)|[a-z]I[dD]$")


def table_dataset(path: Path, columns: Columns, options: ReadOptions) -> Dataset:
    """Labels from the column `options.label`, numbers from all others.

    Without that option it is the one column named in _LABEL_NAMES (any case); several are an
    error, and none, unless labels are not needed. Labels are int64 or str; booleans count as 0 and
    1. Rows take the common dtype of their columns; whole numbers that all lie in 0..255 are uint8.

    DataError, naming the columns, for text among the numbers and for missing values.
    """
    if not columns or not len(next(iter(columns.values()))()):
        raise DataError(f"{path}: no rows; columns: {listing(columns)}")
    tasks = label_columns(path, columns, options)
    labels = [_labels(path, name, columns[name](), options) for name in tasks]
    apart = columns_apart(path, columns, options)
    none = {*tasks, *apart}
    features = {name: column for name, column in columns.items() if name not in none}
    if not features:
        dropped = f", and {listing(apart)} that are dropped" if apart else ""
        raise DataError(f"{path}: no column besides the label {listing(tasks)}{dropped}")
    known = {name: _Known.of(name, column()) for name, column in features.items()}
    x = _matrix(path, features, known)
    names = (
        [name] if one.width is None else [f"{name}[{k}]" for k in range(one.width)]
        for name, one in known.items()
    )
    return Dataset(
        x=x,
        y=_joined(labels),
        source=str(path),
        feature_names=tuple(chain(*names)),
        task_names=tuple(tasks) if len(tasks) > 1 else None,
        ids=None if options.id is None or options.id not in columns else columns[options.id](),
        id_like=tuple(name for name, one in known.items() if one.id_like),
    )


@dataclass(frozen=True)
class _Known:
    """What there is to know of a column of features before it is put beside others.

    width : of lists, None for numbers
    text : whether it holds anything but numbers;  missing : the first row without a value
    dtype : the narrowest that its values need;  id_like : whether they look like numbers of rows
    """

    width: int | None
    text: bool
    missing: int | None
    dtype: np.dtype
    id_like: bool

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> _Known:
        width, dtype = None if values.ndim == 1 else values.shape[1], values.dtype
        if _is_text(values):
            return cls(width, True, None, dtype, False)
        gaps = _missing(values)
        if gaps.any():
            return cls(width, False, int(np.argwhere(gaps)[0, 0]), dtype, False)
        return cls(width, False, None, _narrow(values), _looks_like_id(name, values))


def columns_apart(path: Path, names: Iterable[str], options: ReadOptions) -> list[str]:
    """The columns that are neither features nor labels: those to drop, and that of the ids."""
    names = list(names)
    wanted = [*options.drop, *(() if options.id is None else (options.id,))]
    missing = [name for name in wanted if name not in names]
    if missing and not options.missing_ok:
        raise DataError(f"{path}: no column {missing[0]!r}; columns: {listing(names)}")
    return [name for name in wanted if name in names]


def _looks_like_id(name: str, values: np.ndarray) -> bool:
    """Whether a column of numbers, all different and whole, is called an id or counts its rows."""
    if values.ndim > 1 or len(values) < _FEWEST_ROWS or values.dtype.kind not in "iuf":
        return False
    first, second = values[:-1], values[1:]
    if np.array_equal(second, first + 1) or np.array_equal(first, second + 1):
        return True
    if not _ID_NAME.search(name) or np.any(values != np.floor(values)):
        return False
    return len(np.unique(values)) == len(values)


def _joined(labels: list[np.ndarray]) -> np.ndarray | None:
    """Labels (N,) of one column, (N, T) of several: all text if some are; None for none."""
    if len(labels) < 2:
        return labels[0] if labels else None
    text = any(one.dtype.kind == "U" for one in labels)
    return np.stack([one.astype(str) if text else one for one in labels], axis=1)


def label_columns(path: Path, names: Iterable[str], options: ReadOptions) -> list[str]:
    """The names of the label columns: `options.label`, or the one column that is called like one;
    none where labels are not needed."""
    names = list(names)
    if options.label is not None:
        wanted = [options.label] if isinstance(options.label, str) else list(options.label)
        if options.missing_ok and not options.need_labels:
            wanted = [name for name in wanted if name in names]
        for name in wanted:
            if name not in names:
                raise DataError(
                    f"{path}: no column {name!r}; columns: {listing(names)}{_header_hint(names)}"
                )
        return wanted
    usual = [name for name in names if name.lower() in _LABEL_NAMES]
    if len(usual) > 1:
        raise DataError(
            f"{path}: {listing(usual)} could each be the label; name one ({_LABEL_OPTION})"
        )
    if not usual and options.need_labels:
        raise DataError(
            f"{path}: which column is the label? Name it ({_LABEL_OPTION}); "
            f"columns: {listing(names)}{_header_hint(names)}"
        )
    return usual


def _header_hint(names: Sequence[str]) -> str:
    """What to do where columns are called like the numbers of a row."""
    numbers = sum(_NUMBER.fullmatch(name) is not None for name in names)
    if 2 * numbers < len(names):
        return ""
    return "; if its first line is a row, put a line with the names of the columns above it"


def _labels(path: Path, name: str, values: np.ndarray, options: ReadOptions) -> np.ndarray:
    source = f"{path}, column {name}"
    if values.ndim > 1:
        raise DataError(f"{source}: labels must be all integers or all strings, not lists")
    if values.dtype.kind == "O":
        missing = _missing(values)
        if missing.any():
            raise DataError(
                f"{source}: {count(int(missing.sum()), 'missing label')}, the first in row "
                f"{int(missing.argmax()) + 1:,}; fill in, or drop such rows (in CSV that pyarrow "
                'reads, a class that is called NA needs quotes: "NA")'
            )
        kinds = {type(value) for value in values}
        if kinds == {str}:
            nbytes = 4 * max(map(len, values)) * len(values)
            check_memory(source, nbytes, options.max_memory, "use shorter labels")
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


def _matrix(path: Path, columns: Columns, known: Mapping[str, _Known]) -> np.ndarray:
    """The columns side by side; DataError for text and missing values."""
    text = [name for name, one in known.items() if one.text]
    if text:
        row, value = _first_text(columns[text[0]]())
        raise DataError(
            f"{path}: these columns are not numbers: {listing(text)} (row {row:,} of {text[0]} "
            f"holds {_cut(value)}); drop them (drop=, in the shell --drop), turn them into "
            f"numbers, or name one as the label ({_LABEL_OPTION})"
        )
    rows = {name: one.missing for name, one in known.items() if one.missing is not None}
    if rows:
        name = next(iter(rows))
        raise DataError(
            f"{path}: values are missing in {listing(rows)} (the first of {name} in row "
            f"{rows[name] + 1:,}); fill them in, or drop those rows"
        )
    dtype = np.result_type(*{one.dtype for one in known.values()})
    first = next(iter(columns.values()))()
    if len(columns) == 1 and first.ndim == 2 and first.dtype == dtype and first.flags.writeable:
        return np.ascontiguousarray(first)
    x = np.empty((len(first), sum(one.width or 1 for one in known.values())), dtype)
    stop = 0
    for name, column in columns.items():
        width = known[name].width or 1
        x[:, stop : stop + width] = column().reshape(-1, width)
        stop += width
    return x


def _is_text(values: np.ndarray) -> bool:
    """Whether a column holds anything but numbers; objects are booleans with gaps, or text."""
    if values.dtype.kind == "O":
        return not {type(value) for value in values[~_missing(values)]} <= {bool}
    return values.dtype.kind not in "biuf"


def _first_text(values: np.ndarray) -> tuple[int, str]:
    """(row, counted from 1, value) of the first that is no number; of a column of numbers that are
    written as text, or of dates, the first."""
    for row, value in enumerate(values.tolist(), start=1):
        if value is not None and not isinstance(value, bool) and not _NUMBER.fullmatch(str(value)):
            return row, str(value)
    return 1, str(values[0])


def _cut(text: str, most: int = 30) -> str:
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def _narrow(values: np.ndarray) -> np.dtype:
    """uint8 for whole numbers in 0..255, such as pixels; else the dtype as it is."""
    kind = values.dtype.kind
    if kind == "b" or (kind in "iu" and values.min() >= 0 and values.max() <= 255):
        return np.dtype(np.uint8)
    return values.dtype
