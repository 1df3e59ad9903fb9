"""The border: what comes in is checked once, here, and leaves as arrays in one place.

Host input (NumPy, lists, data frames) goes through scikit-learn's own validation. Arrays of other
libraries must not: with its array dispatch switched off it would turn them into NumPy silently.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from xclf import _array_api
from xclf._array_api import Array

# Values looked at together when searching for NaN and infinity.
_FINITE_VALUES = 1 << 18


def check_x(est: Any, X: Any, *, reset: bool) -> Array:
    """X as a 2-D real array where it lives; sets or compares `n_features_in_` and feature names."""
    if _array_api.is_host(X):
        if getattr(getattr(X, "dtype", None), "kind", "") == "c":
            raise ValueError(f"Complex data not supported: X has dtype {X.dtype}")
        check_nothing_masked(X, "X")
        if isinstance(X, np.ndarray) and X.ndim != 2:
            raise _not_2d(X)
        X = validate_data(est, X, reset=reset, dtype="numeric", ensure_all_finite=False)
        X = _array_api.native(X)
        if X.dtype.kind not in "biuf":  # dates pass scikit-learn's check
            raise ValueError(f"X must be numeric, got dtype {X.dtype}")
        if X.dtype.kind == "f" and X.dtype.itemsize > 8:
            X = X.astype(np.float64)
    else:
        _check_device_x(est, X, reset=reset)
        X = _array_api.detached(X)
    with _array_api.on_device(X):
        check_finite(X)
    return X


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
    rows, features = (int(n) for n in X.shape)
    if rows < 1 or features < 1:
        raise ValueError(
            f"Found array with {rows} sample(s) and {features} feature(s) (shape={tuple(X.shape)}) "
            f"while a minimum of 1 of each is required by {name}."
        )
    if reset:
        est.n_features_in_ = features
        est.__dict__.pop("feature_names_in_", None)
    elif features != est.n_features_in_:
        raise ValueError(
            f"X has {features} features, but {name} is expecting {est.n_features_in_} features "
            "as input."
        )


def _check_in_memory(values: Array, name: str) -> None:
    if _array_api.is_lazy(values):
        raise TypeError(
            f"{name} must be an array in memory, got a lazy {type(values).__name__}: "
            "compute it first"
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


def check_finite(X: Array) -> None:
    """ValueError naming row and column of the first NaN or infinity in X."""
    xp = _array_api.namespace(X)
    if not xp.isdtype(X.dtype, "real floating"):
        return
    rows = int(X.shape[0])
    size = max(1, _FINITE_VALUES // int(X.shape[1]))
    for start in range(0, rows, size):
        part = X[start : min(start + size, rows), :]
        if bool(xp.all(xp.isfinite(part))):
            continue
        host = host_values(part)
        row, column = (int(i) for i in np.argwhere(~np.isfinite(host))[0])
        value = "NaN" if np.isnan(host[row, column]) else "infinity (inf)"
        raise ValueError(
            f"Input X contains {value} at row {start + row}, column {column}: "
            "every value must be finite"
        )


def check_y(est: Any, X: Array, y: Any) -> np.ndarray:
    """y as a host array of labels, one per row of X."""
    if y is None:
        raise ValueError(f"{type(est).__name__} requires y to be passed, but the target y is None")
    check_same_device(X, y, "y")
    labels: np.ndarray = column_or_1d(host_values(y), warn=True)
    if labels.shape[0] != X.shape[0]:
        raise ValueError(f"X has {int(X.shape[0])} rows but y has {labels.shape[0]} labels")
    _check_labels_present(labels)
    check_classification_targets(labels)
    return labels


def _check_labels_present(labels: np.ndarray) -> None:
    if labels.dtype.kind == "f":
        missing = ~np.isfinite(labels)
    elif labels.dtype.kind == "O":
        missing = np.asarray([_is_missing(v) for v in labels.tolist()], dtype=bool)
    elif labels.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: y has dtype {labels.dtype}")
    else:
        return
    if missing.any():
        row = int(np.argmax(missing))
        raise ValueError(
            f"Input y contains NaN or no label (value {labels.tolist()[row]!r}) at row {row}"
        )


def _is_missing(label: object) -> bool:
    """None, NaN (which differs from itself) and pandas' NA (which has no truth value)."""
    try:
        return label is None or bool(label != label)
    except TypeError:
        return True


def encode(labels: np.ndarray, name: str = "y") -> tuple[np.ndarray, np.ndarray]:
    """(classes, index): the sorted distinct labels, and each label's place among them."""
    try:
        classes, index = np.unique(labels, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            f"{name} must hold labels of one kind (all strings or all numbers): {error}"
        ) from None
    if len(classes) < 2:
        raise ValueError(
            f"{name} must hold at least two classes, got one class only: {classes.tolist()[0]!r}"
        )
    return classes, index


def encode_known(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Each label's place among `classes`; ValueError naming labels that are not there."""
    unseen = np.setdiff1d(labels, classes)
    if unseen.size:
        raise ValueError(
            f"y holds labels that are not among the classes of this model: {unseen[:5].tolist()}; "
            f"classes: {classes[:20].tolist()}"
        )
    return np.asarray(np.searchsorted(classes, labels))


def check_sample_weight(X: Array, sample_weight: Any) -> np.ndarray | None:
    """Row weights as a host float64 array, or None where they are all equal to 1."""
    if sample_weight is None:
        return None
    check_same_device(X, sample_weight, "sample_weight")
    host = host_values(sample_weight)
    rows = int(X.shape[0])
    if host.ndim == 0:
        host = np.full(rows, host)
    if host.shape != (rows,):
        raise ValueError(
            f"sample_weight must have one weight per row, shape ({rows},); got shape {host.shape}"
        )
    if host.dtype.kind not in "biuf":
        raise ValueError(f"sample_weight must be real numbers, got dtype {host.dtype}")
    weights = host.astype(np.float64)
    bad = ~(np.isfinite(weights) & (weights >= 0.0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"sample_weight must be finite and >= 0, got {float(weights[row])!r} at row {row}"
        )
    if not weights.any():
        raise ValueError("sample_weight is zero for every row: nothing is left to fit")
    return None if (weights == 1.0).all() else weights


def check_same_device(X: Any, other: Any, name: str) -> None:
    """`other` may be in host memory, of any library, whatever X is; on a device it must be where X
    is."""
    check_nothing_masked(other, name)
    if _array_api.is_host(other):
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


def host_values(values: Any) -> np.ndarray:
    """Labels, weights or rows on the host; data frame columns and lists too."""
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
