"""Fits to fewer rows than features, in coordinates of the rows' span."""

from __future__ import annotations

from typing import Any

import numpy as np

from xclf import _array_api
from xclf.estimators import BaseClassifier, TwoLayerClassifier, uses_full_batches


def has_span(model: BaseClassifier, rows: int, features: int) -> bool:
    """Whether a fit to so few rows is the same in coordinates of their span, and smaller.

    The optimum of a linear model under a penalty on W alone is in the span of the rows, and so are
    the steps of full-batch methods from zero; the penalty is the same in any orthonormal basis.
    Scaling features (`standardize`) needs them as they are.
    """
    linear = not isinstance(model, TwoLayerClassifier)
    return linear and uses_full_batches(model) and not model.standardize and rows < features


class Span:
    """Rows X (n, D), n < D, as X = Z Q^T with Q (D, n) of orthonormal columns.

    A linear model on Z with weights V (C, n) gives the scores of one on X with W = V Q^T, and the
    norms of V and W are equal. Computed on the host in float64: n D numbers.
    """

    def __init__(self, X: Any) -> None:
        host = _array_api.to_host(X).astype(np.float64)
        self._basis, triangle = np.linalg.qr(host.T)
        with _array_api.on_device(X):
            xp = _array_api.namespace(X)
            self._dtype = X.dtype if X.dtype in (xp.float32, xp.float64) else xp.float32
            self.Z = _array_api.from_host(np.ascontiguousarray(triangle.T), X, self._dtype)

    def widen(self, model: BaseClassifier) -> None:
        """Make a model that was fitted to Z one for X."""
        coef = _array_api.to_host(model.coef_).astype(np.float64) @ self._basis.T
        with _array_api.on_device(self.Z):
            model.coef_ = _array_api.from_host(coef, model.coef_, model.coef_.dtype)
        model.n_features_in_ = len(self._basis)
