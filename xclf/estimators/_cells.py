"""The cells of tables that are no numbers: where they are, and what to do with them."""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np

# What is wrong with cells that are no numbers, and what to do.
_NUMERIC = "X must be numeric: "
_TEXT = (
    _NUMERIC,
    "leave the column out, or turn it into numbers: categories with "
    "sklearn.preprocessing.OneHotEncoder, texts with HashingVectorizer",
)
_WRITTEN = (_NUMERIC, "convert numbers that are written as text with astype(float)")
_DATES = (_NUMERIC, "leave dates and times out, or pass numbers, such as days since one")
_COMPLEX = ("Complex data not supported: ", "pass real and imaginary parts as columns")


def check_no_sparse_columns(X: Any) -> None:
    """TypeError for a data frame with sparse columns, which would become dense, or an error, by
    what their gaps stand for."""
    dtypes = list(getattr(X, "dtypes", ())) if hasattr(X, "columns") else []
    sparse = [hasattr(dtype, "fill_value") and hasattr(dtype, "subtype") for dtype in dtypes]
    if not any(sparse):
        return
    if all(sparse) and all(dtype.fill_value == 0 for dtype in dtypes):
        what = "pass X.sparse.to_coo(), as sparse rows, or X.sparse.to_dense()"
    elif all(sparse):
        what = "pass X.sparse.to_dense()"
    else:
        what = "make them dense with X.astype(float)"
    first = str(X.columns[sparse.index(True)])[:60]
    raise TypeError(f"X is a data frame with sparse columns, the first {first!r}: {what}")


def check_cells(X: Any) -> None:
    """ValueError for the first column of host rows X that holds text or dates, with a row and its
    value, and for rows of different lengths. Nothing for other values: the error stays as it was.
    """
    lengths = _lengths(X)
    if len(lengths) > 1:
        (length, first), (other, row) = sorted(lengths.items(), key=lambda entry: entry[1])[:2]
        raise ValueError(
            f"X has rows of different lengths: row {first} has {length} values, row {row} has "
            f"{other}"
        )
    for name, values in _columns(X):
        kinds = [_kind(value) for value in values]
        found = next((kind for kind in (_COMPLEX, _TEXT, _DATES, _WRITTEN) if kind in kinds), None)
        if found is not None:
            row = kinds.index(found)
            shown = str(values[row])
            shown = repr(shown if len(shown) <= 40 else shown[:37] + "...")
            raise ValueError(f"{found[0]}{name} holds {shown} in row {row}; {found[1]}")


def _kind(value: Any) -> tuple[str, str] | None:
    """What a value is that is no number, and what to do, in words."""
    if isinstance(value, str | bytes):
        try:
            float(value)
        except ValueError:
            return _TEXT
        return _WRITTEN
    if isinstance(value, datetime.date | datetime.timedelta | np.datetime64 | np.timedelta64):
        return _DATES
    if isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real):
        return _COMPLEX
    return None


def _lengths(X: Any) -> dict[int, int]:
    """The lengths of the rows of a list of lists, and the first row of each."""
    if not isinstance(X, list | tuple):
        return {}
    first: dict[int, int] = {}
    for number, row in enumerate(X):
        if isinstance(row, list | tuple | np.ndarray):
            first.setdefault(len(row), number)
    return first


def _columns(X: Any) -> Iterator[tuple[str, Any]]:
    """The columns of a data frame or of rows by name, as lists of Python's and NumPy's values."""
    if hasattr(X, "columns"):
        for position, name in enumerate(X.columns):
            if not (hasattr(X, "iloc") or isinstance(name, str)):
                return  # columns of another kind of table
            column = X.iloc[:, position] if hasattr(X, "iloc") else X[name]
            yield f"column {str(name)[:60]!r}", column.to_list()
        return
    rows = np.asarray(X)
    if rows.ndim == 2 and rows.dtype.kind == "V":
        return
    if rows.ndim == 2:
        rows = np.asarray(X, dtype=object)
        yield from ((f"column {k}", rows[:, k].tolist()) for k in range(rows.shape[1]))
