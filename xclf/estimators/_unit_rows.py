"""Rows of Euclidean norm 1, which probes with `normalize` are trained on."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from xclf import _array_api
from xclf._sparse import SparseMatrix, is_sparse
from xclf._sparse_input import canonical
from xclf.estimators._tasks import join_tasks
from xclf.rows import Blocks

if TYPE_CHECKING:
    from xclf.estimators._base import BaseClassifier

_ROWS = 1 << 14  # scaled at once


def unit_rows(X: Any) -> Any:
    """A copy of X (N, D) with rows of Euclidean norm 1, in its floating dtype, or float32; rows of
    zeros stay."""
    if isinstance(X, Blocks):
        wide = X.dtype if X.dtype in (np.float32, np.float64) else np.float32
        return X.mapped(unit_rows, wide)
    if is_sparse(X):
        return canonical(X).unit_rows().matrix
    if isinstance(X, SparseMatrix):
        return X.unit_rows()
    xp = _array_api.namespace(X)
    parts = []
    with _array_api.on_device(X):
        for start in range(0, int(X.shape[0]), _ROWS):
            rows = X[start : min(start + _ROWS, int(X.shape[0])), :]
            if rows.dtype not in (xp.float32, xp.float64):
                rows = xp.astype(rows, xp.float32)
            # Divided by the largest first: squares overflow and underflow.
            largest = xp.max(xp.abs(rows), axis=1, keepdims=True)
            rows = rows / xp.where(largest > 0.0, largest, xp.ones_like(largest))
            norm = xp.sqrt(xp.sum(rows * rows, axis=1, keepdims=True))
            parts.append(rows / xp.where(norm > 0.0, norm, xp.ones_like(norm)))
        return xp.concat(parts, axis=0)


def dividing_rows(model: BaseClassifier) -> BaseClassifier:
    """A copy of a fitted model that divides the rows it gets by their Euclidean norms."""
    kept = copy.copy(model)
    kept._unit_rows = True
    if (tasks := model._task_models) is not None:
        join_tasks(kept, [dividing_rows(one) for one in tasks], model._indicators)
    return kept
