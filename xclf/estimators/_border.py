"""The border: rows are checked once, here, and leave as an array in one place.

Host input (NumPy, lists, data frames) goes through scikit-learn's own validation. Arrays of other
libraries must not: with its array dispatch switched off it would turn them into NumPy silently.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from xclf import _array_api
from xclf._array_api import Array
from xclf._sparse import SparseMatrix, is_sparse
from xclf._sparse_input import canonical, check_sparse_finite
from xclf.estimators._cells import check_cells, check_no_sparse_columns
from xclf.estimators._collections import open_rows
from xclf.estimators._values import first_not_finite, is_collection, not_finite
from xclf.rows import Blocks


def check_x(est: Any, X: Any, *, reset: bool) -> Array:
    """X as a 2-D real array where it lives, a `SparseMatrix`, or in blocks that are checked; sets
    or compares `n_features_in_` and feature names."""
    check_passed(est, X=X)
    if isinstance(X, Blocks):  # checked before
        validate_data(est, X=X.named, reset=reset, skip_check_array=True)
        return X
    if is_collection(X):
        X = open_rows(est, X, reset=reset)
        if isinstance(X, Blocks):
            return X
    if is_sparse(X):
        X = canonical(X)
    if isinstance(X, SparseMatrix):
        _check_size(est, X)
        validate_data(est, X.matrix, reset=reset, skip_check_array=True)
    elif _array_api.is_host(X):
        _check_host_dtype(X)
        check_nothing_masked(X, "X")
        if isinstance(X, np.ndarray) and X.ndim != 2:
            raise _not_2d(X)
        X = _host_rows(est, X, reset=reset)
        if X.dtype.kind == "f" and X.dtype.itemsize > 8:
            X = X.astype(np.float64)
    else:
        _check_device_x(est, X, reset=reset)
        X = _array_api.detached(X)
    with _array_api.on_device(X):
        check_finite(X, getattr(est, "feature_names_in_", None))
    return X


def _host_rows(est: Any, X: Any, *, reset: bool) -> np.ndarray:
    """Rows that scikit-learn's validation makes an array of; errors about text say where it is."""
    check_no_sparse_columns(X)
    try:
        rows = validate_data(est, X, reset=reset, dtype="numeric", ensure_all_finite=False)
    except (ValueError, TypeError):
        check_cells(X)
        raise
    rows = _array_api.native(rows)
    if rows.dtype.kind not in "biuf":  # dates pass scikit-learn's check
        check_cells(X)
        raise ValueError(f"X must be numeric, got dtype {rows.dtype}")
    return rows


def check_passed(est: Any, **arguments: Any) -> None:
    """ValueError for an argument that is None."""
    for name, value in arguments.items():
        if value is None:
            what = "the target y" if name == "y" else name
            raise ValueError(
                f"{type(est).__name__} requires {name} to be passed, but {what} is None"
            )


def _check_host_dtype(X: Any) -> None:
    """ValueError for what scikit-learn would convert, or call by another name."""
    dtype = getattr(X, "dtype", None)
    kind = getattr(dtype, "kind", "")
    if kind == "c":
        raise ValueError(f"Complex data not supported: X has dtype {dtype}")
    if kind == "V":  # bfloat16 and its like, which other packages add to NumPy
        raise ValueError(
            f"X must be numeric, got dtype {dtype}, with which NumPy does not compute: pass "
            "X.astype(numpy.float32)"
        )


def _check_device_x(est: Any, X: Array, *, reset: bool) -> None:
    name = type(est).__name__
    _check_in_memory(X, "X")
    if "sparse" in str(getattr(X, "layout", "")):
        raise TypeError("X must be dense, got a sparse tensor: X.to_dense() makes it so")
    xp = _array_api.namespace(X)
    if X.ndim != 2:
        raise _not_2d(X)
    if xp.isdtype(X.dtype, "complex floating"):
        raise ValueError(f"Complex data not supported: X has dtype {X.dtype}")
    if not xp.isdtype(X.dtype, ("bool", "integral", "real floating")):
        raise ValueError(f"X must be numeric, got dtype {X.dtype}")
    _check_size(est, X)
    features = int(X.shape[1])
    if reset:
        est.n_features_in_ = features
        est.__dict__.pop("feature_names_in_", None)
    elif features != est.n_features_in_:
        raise ValueError(
            f"X has {features} features, but {name} is expecting {est.n_features_in_} features "
            "as input."
        )


def _check_size(est: Any, X: Array) -> None:
    rows, features = (int(n) for n in X.shape)
    if rows < 1 or features < 1:
        raise ValueError(
            f"Found array with {rows} sample(s) and {features} feature(s) (shape={tuple(X.shape)}) "
            f"while a minimum of 1 of each is required by {type(est).__name__}."
        )


def _check_in_memory(values: Array, name: str) -> None:
    if _array_api.is_lazy(values):
        raise TypeError(
            f"{name} must be an array in memory or a collection of Dask, got a lazy "
            f"{type(values).__name__}: compute it first"
        )


def _not_2d(X: Array) -> ValueError:
    return ValueError(
        f"Expected 2D array, got {'scalar' if X.ndim == 0 else f'{X.ndim}D'} array instead: X must "
        f"have shape (rows, features), got {tuple(X.shape)}. Reshape your data."
    )


def check_nothing_masked(values: Any, name: str) -> None:
    """ValueError for a NumPy array with masked entries: what is under a mask is not data."""
    if not isinstance(values, np.ma.MaskedArray) or not np.ma.is_masked(values):
        return
    mask = np.ma.getmaskarray(values)
    where = " ".join(str(int(i)) for i in np.argwhere(mask)[0])
    raise ValueError(
        f"{name} has {int(mask.sum())} masked values, the first at index {where}: fill them "
        f"({name}.filled(...)) or leave their rows out"
    )


def check_finite(X: Array, names: Any = None) -> None:
    """ValueError naming row and column of the first NaN or infinity in X.

    names : of its columns, if they have some
    """
    if isinstance(X, SparseMatrix):
        check_sparse_finite(X)
        return
    bad = first_not_finite(X)
    if bad is not None:
        raise ValueError(not_finite(*bad, None if names is None else names[bad[1]]))


def check_same_device(X: Any, other: Any, name: str) -> None:
    """`other` may be in host memory, of any library, whatever X is; on a device it must be where X
    is."""
    check_nothing_masked(other, name)
    if _array_api.is_host(other) or is_collection(other):
        return
    _check_in_memory(other, name)
    # The CPU by any name: 'cpu' in torch, 'CPU_DEVICE' in array-api-strict.
    if "cpu" in str(_array_api.device(other)).lower():
        return
    if not _array_api.is_host(X) and _array_api.same_device(X, other):
        return
    where = (
        _array_api.describe_device(X) if _array_api.is_array(X) else "numpy on cpu"
    )  # lists count as NumPy
    raise ValueError(
        f"X is {where} but {name} is {_array_api.describe_device(other)}: move {name} to where X "
        "is, or pass it as a NumPy array"
    )


def check_same_as_model(model_array: Array, X: Array) -> None:
    """X must live where the model does."""
    if not _array_api.same_device(model_array, X):
        raise ValueError(
            f"the model is {_array_api.describe_device(model_array)} but X is "
            f"{_array_api.describe_device(X)}: move X there, or "
            "move the model with model = model.to_namespace(xp, device)"
        )
