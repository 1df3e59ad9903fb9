"""Rows of Euclidean norm 1, which probes with `normalize` are trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from xclf import _array_api
from xclf._sparse import SparseMatrix, is_sparse
from xclf._sparse_input import canonical
from xclf.rows import Blocks

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
