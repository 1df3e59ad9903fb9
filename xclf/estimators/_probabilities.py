"""Class probabilities of models trained with the softmax loss."""

from __future__ import annotations

from typing import Any, overload

from numpy.typing import NDArray

from xclf import _array_api
from xclf._array_api import Array
from xclf.estimators._scores import rows_first
from xclf.estimators._types import A, HostRows
from xclf.kernels import log_softmax


class ProbabilityMixin:
    """Class probabilities of models trained with the softmax loss."""

    _by_class: Any

    @overload
    def predict_log_proba(self, X: HostRows) -> NDArray[Any]: ...
    @overload
    def predict_log_proba(self, X: A) -> A: ...
    def predict_log_proba(self, X: Any) -> Any:
        """Log-probabilities (N, C) of rows X (N, D), exact also close to 0 and 1; of several tasks
        as in `predict_proba`."""
        return self._by_class(X, _log_p)

    @overload
    def predict_proba(self, X: HostRows) -> NDArray[Any]: ...
    @overload
    def predict_proba(self, X: A) -> A: ...
    def predict_proba(self, X: Any) -> Any:
        """Probabilities (N, C) of rows X (N, D): the softmax of the scores. Of several tasks a list
        of these; of multi-label indicators (N, T), each label's probability."""
        return self._by_class(X, lambda scores: _array_api.namespace(scores).exp(_log_p(scores)))


def _log_p(scores: Array) -> Array:
    return rows_first(log_softmax(scores, axis=-2))
