"""Models of several tasks: what the fitted models of each task come to together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils import check_consistent_length

from xclf import _array_api
from xclf._array_api import Array

# Results of a fit that are numbers: of several tasks, arrays (T,).
_NUMBERS = ("n_iter_", "objective_", "converged_", "grad_norm_", "dual_gap_")


def join_tasks(model: Any, models: Sequence[Any], indicators: bool = False) -> None:
    """Make `model` the model of T tasks whose fitted models of one task are `models`.

    Its fitted attributes become lists with an entry for each task, or arrays (T,) of numbers.

    indicators : whether tasks are the columns of a multi-label indicator: `classes_` then numbers
        the columns, and predictions, probabilities and scores are arrays (N, T)
    """
    model.estimators_ = list(models)
    for name in ("n_features_in_", "feature_names_in_", "_unit_rows"):
        if hasattr(models[0], name):
            setattr(model, name, getattr(models[0], name))
    own = [one.classes_ for one in models]
    model.classes_ = np.arange(len(models)) if indicators else own
    model.history_ = [one.history_ for one in models]
    for name in models[0]._array_names():
        setattr(model, name, [getattr(one, name) for one in models])
    for name in _NUMBERS:
        values = [getattr(one, name, None) for one in models]
        if all(value is None for value in values):
            model.__dict__.pop(name, None)
        else:
            known = [np.nan if value is None else value for value in values]
            setattr(model, name, np.asarray(known))


def labels_of(classes: Sequence[np.ndarray], best: Sequence[Array]) -> Array:
    """(N, T): of every task's classes those with the numbers `best` (N,). Numbers are where `best`
    is; strings, and numbers beside strings, are a NumPy array."""
    numeric = all(own.dtype.kind in "biuf" for own in classes)
    if not numeric or _array_api.is_host(best[0]):
        columns = [own[_array_api.to_host(k)] for own, k in zip(classes, best, strict=True)]
        kinds = {"text" if own.dtype.kind in "UO" else own.dtype.kind for own in classes}
        alike = numeric or len(kinds) == 1
        return np.stack(columns if alike else [column.astype(object) for column in columns], axis=1)
    with _array_api.on_device(best[0]):
        xp, kind = _array_api.namespace(best[0]), np.result_type(*classes)
        columns = []
        for own, k in zip(classes, best, strict=True):
            labels = _array_api.from_host(common(own.astype(kind)), k)
            columns.append(xp.take(labels, k, axis=0))
        return xp.stack(columns, axis=1)


def common(labels: np.ndarray) -> np.ndarray:
    """Numeric labels in a dtype that every library has: native, signed, no half or long floats."""
    if labels.dtype.kind == "u":
        return labels.astype(np.int64)
    if labels.dtype.kind == "f" and labels.dtype.itemsize not in (4, 8):
        return labels.astype(np.float64)
    return _array_api.native(labels)


def exact_match(
    columns: Sequence[np.ndarray], guess: np.ndarray, weights: np.ndarray | None
) -> float:
    """The (weighted) share of rows whose labels, in T `columns` (N,), are all those of `guess`
    (N, T), as scikit-learn's `MultiOutputClassifier` scores."""
    check_consistent_length(*columns, guess, weights)
    right = [own == guess[:, k] for k, own in enumerate(columns)]
    return float(np.average(np.all(right, axis=0), weights=weights))
