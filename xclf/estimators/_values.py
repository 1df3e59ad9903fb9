"""Values of arrays: on the host, and the first that is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np

from xclf import _array_api
from xclf._array_api import Array
from xclf._sparse import is_sparse

# Values in which NaN and infinity are searched for at a time: what a cache holds, and on a device,
# where each search ends in a copy to the host, as many as give it something to do.
_FINITE_HOST, _FINITE_DEVICE = 1 << 18, 1 << 26


def is_collection(value: Any) -> bool:
    """Whether `value` is a collection of Dask; imports nothing."""
    dask = _array_api.loaded("dask")
    return dask is not None and bool(dask.is_dask_collection(value))


def computed(value: Any) -> Any:
    """A collection's values in memory; anything else as it is."""
    return value.compute() if is_collection(value) else value


def first_not_finite(X: Array) -> tuple[int, int, str] | None:
    """Row, column and kind of the first NaN or infinity in X (N, D), None without one."""
    xp = _array_api.namespace(X)
    if not xp.isdtype(X.dtype, "real floating"):
        return None
    rows = int(X.shape[0])
    values = _FINITE_HOST if _array_api.is_host(X) else _FINITE_DEVICE
    size = max(1, values // int(X.shape[1]))
    for start in range(0, rows, size):
        part = X[start : min(start + size, rows), :]
        if bool(xp.all(xp.isfinite(part))):
            continue
        host = host_values(part)
        row, column = (int(i) for i in np.argwhere(~np.isfinite(host))[0])
        value = "NaN" if np.isnan(host[row, column]) else "infinity (inf)"
        return start + row, column, value
    return None


def not_finite(row: int, column: int, value: str, name: str | None = None) -> str:
    """The message about what `first_not_finite` returns;  name : of the column, if it has one"""
    called = "" if name is None else f" ({str(name)[:60]!r})"
    return (
        f"Input X contains {value} at row {row}, column {column}{called}: every value must be "
        "finite"
    )


def host_values(values: Any) -> np.ndarray:
    """Labels, weights or rows on the host; data frame columns and lists too, and what a collection
    of Dask computes to."""
    values = computed(values)
    if is_sparse(values):
        raise ValueError(
            f"y and sample_weight must be dense, got a sparse {type(values).__name__}: "
            ".toarray() makes an array of it"
        )
    if not _array_api.is_array(values):
        try:
            return np.asarray(values)
        except ValueError as error:  # ragged lists
            raise ValueError(f"y and sample_weight must be 1-D: {error}") from None
    if not _array_api.is_host(values):
        xp = _array_api.namespace(values)
        known = (xp.float32, xp.float64)
        if xp.isdtype(values.dtype, "real floating") and values.dtype not in known:
            values = xp.astype(values, xp.float32)  # NumPy has no bfloat16
    return _array_api.to_host(values)
