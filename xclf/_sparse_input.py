"""Sparse X at the border: any format of `scipy.sparse`, or of a library like it, to canonical CSR.

What a matrix claims is not taken for granted: entries may point anywhere, and products read memory
where they point.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from xclf import _array_api
from xclf._array_api import Array
from xclf._sparse import SparseMatrix


def canonical(X: Any) -> SparseMatrix:
    """X as CSR with the entries of a row in the order of their columns, each once, in a dtype to
    compute with: float32 and float64 as they are, integers, booleans and half precision as float32.

    Shares the memory of a CSR matrix that is so already; never writes to X. Raises ValueError for
    entries that are no real numbers, or lie outside of X.
    """
    if len(X.shape) != 2:
        raise ValueError(
            f"Expected 2D array, got {len(X.shape)}D array instead: X must have shape (rows, "
            f"features), got {tuple(X.shape)}. Reshape your data."
        )
    kind = str(getattr(X, "format", ""))
    _check_dtype(X)
    if kind in ("csr", "csc"):
        _check_compressed(X, kind)
    elif kind == "coo":
        for axis, name in enumerate(("row", "column")):
            _check_range(_coordinates(X, axis), int(X.shape[axis]), name)
    X = _own(X.tocsr())
    if not _is_ordered(X):
        X = X.copy()
        X.has_canonical_format = X.has_sorted_indices = False  # a matrix may claim to be
        X.sum_duplicates()
    return SparseMatrix(X)


def check_sparse_finite(X: SparseMatrix, first: int = 0) -> None:
    """ValueError naming row and column of the first NaN or infinity in X, whose rows begin at row
    `first`."""
    bad = sparse_not_finite(X)
    if bad is not None:
        row, column, value = bad
        raise ValueError(
            f"Input X contains {value} at row {first + row}, column {column}: every value must be "
            "finite"
        )


def sparse_not_finite(X: SparseMatrix) -> tuple[int, int, str] | None:
    """Row, column and kind of the first NaN or infinity in X, None without one."""
    values, xp = X.values, _array_api.namespace(X)
    if bool(xp.all(xp.isfinite(values))):
        return None
    host = _array_api.to_host(values)
    place = int(np.flatnonzero(~np.isfinite(host))[0])
    starts = _array_api.to_host(X.matrix.indptr)
    row = int(np.searchsorted(starts, place, side="right")) - 1
    value = "NaN" if np.isnan(host[place]) else "infinity (inf)"
    return row, int(X.matrix.indices[place]), value


def _check_dtype(X: Any) -> None:
    dtype = X.dtype
    kind = getattr(dtype, "kind", "")
    if kind == "c":
        raise ValueError(f"Complex data not supported: X has dtype {dtype}")
    if kind not in "biuf":
        raise ValueError(f"X must be numeric, got dtype {dtype}")


def _own(X: Any) -> Any:
    """A CSR matrix with the entries that its rows name, in a dtype to compute with, and nothing
    else of X's."""
    size = int(X.indptr[-1])
    data, xp = X.data[:size], _array_api.namespace(X.data)
    if isinstance(data, np.ndarray):
        data = _array_api.native(data)
        if data.dtype.kind == "f" and data.dtype.itemsize > 8:
            data = data.astype(np.float64)
    if data.dtype not in (xp.float32, xp.float64):
        data = xp.astype(data, xp.float32)
    # SciPy's matrices become arrays, whose `*` nobody takes for a product.
    kind = getattr(_module_of(X), "csr_array", type(X))
    return kind((data, X.indices[:size], X.indptr), shape=tuple(X.shape))


def _module_of(X: Any) -> Any:
    name = type(X).__module__.partition(".")[0]
    return _array_api.loaded(f"{name}.sparse")


def _is_ordered(X: Any) -> bool:
    """Whether every row has its columns in order, each once."""
    indices, xp = X.indices, _array_api.namespace(X.indices)
    if int(indices.shape[0]) < 2:
        return True
    rises = indices[1:] > indices[:-1]
    starts = X.indptr[1:-1]
    starts = starts[(starts > 0) & (starts < indices.shape[0])] - 1
    rises[starts] = True  # the first of a row follows another row
    return bool(xp.all(rises))


def _check_compressed(X: Any, kind: str) -> None:
    rows = int(X.shape[0 if kind == "csr" else 1])
    xp = _array_api.namespace(X.indptr)
    starts, entries = X.indptr, min(int(X.indices.shape[0]), int(X.data.shape[0]))
    if int(starts.shape[0]) != rows + 1:
        _refuse(kind, f"indptr must have {rows + 1} entries, got {int(starts.shape[0])}")
    if int(starts[0]) != 0:
        _refuse(kind, f"indptr must begin with 0, got {int(starts[0])}")
    if bool(xp.any(starts[1:] < starts[:-1])):
        _refuse(kind, "indptr must not fall")
    if int(starts[-1]) > entries:
        _refuse(kind, f"indptr ends with {int(starts[-1])}, beyond the {entries} entries there are")
    name = "column" if kind == "csr" else "row"
    _check_range(X.indices[: int(starts[-1])], int(X.shape[1 if kind == "csr" else 0]), name, kind)


def _coordinates(X: Any, axis: int) -> Array:
    coordinates = X.row if axis == 0 else X.col
    if int(coordinates.shape[0]) != int(X.data.shape[0]):
        _refuse("coo", f"{int(X.data.shape[0])} entries, {int(coordinates.shape[0])} coordinates")
    return coordinates


def _check_range(index: Array, size: int, name: str, kind: str = "coo") -> None:
    if not int(index.shape[0]):
        return
    xp = _array_api.namespace(index)
    low, high = int(xp.min(index)), int(xp.max(index))
    if low < 0 or high >= size:
        _refuse(kind, f"an entry is in {name} {low if low < 0 else high}, of {size} {name}s")


def _refuse(kind: str, why: str) -> NoReturn:
    raise ValueError(f"X is not a valid {kind.upper()} matrix: {why}")
