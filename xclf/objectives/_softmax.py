"""The softmax cross-entropy as a loss record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf._array_api import Array, device, namespace
from xclf.kernels import cross_entropy
from xclf.objectives._loss import FullBatch, Loss, RowChunk, Smooth
from xclf.objectives._true_class import true_mask


@dataclass(frozen=True)
class Softmax(Smooth, Loss):
    """L = logsumexp(s) - s_y."""

    name = "softmax"
    full_batch = FullBatch("certified_lbfgs", max_iter=1000, tol32=1e-6, tol64=1e-8)
    probabilistic = True
    attained = False
    curved = True

    def __call__(self, scores: Array, labels: Array, **options: Any) -> tuple[Array | None, Array]:
        return cross_entropy(scores, labels, **options)

    def error_cost(self) -> float:
        return math.log(2.0)

    def lead_bound(self, loss: Any) -> Any:
        return loss

    def gradient_bound(self, loss: Any, classes: int) -> Any:
        return np.minimum(2.0 * loss, 2.0)  # 2 (1 - p_y)

    def curvature_bound(self, loss: Any, classes: int) -> Any:
        return np.minimum(2.0 * loss, 1.0)

    def rate_limit(self, classes: int) -> float:
        return math.inf  # the gradient is bounded, and vanishes where rows are classified

    def curvature_sum(self, scores: Array, chunk: RowChunk) -> Array:
        """sum_i w_i (diag(p_i) - p_i p_i^T)."""
        xp = namespace(scores)
        options: dict[str, Any] = {"reduction": "sum", "axis": -2, "need_loss": False}
        _, dscores = cross_entropy(scores, chunk.labels, **options)
        mask = true_mask(chunk.labels, dscores.shape[-2])
        p = xp.where(mask, 1.0 + dscores, dscores)
        weighted = p if chunk.weights is None else p * chunk.weights[..., None, :]
        eye = xp.eye(p.shape[-2], dtype=p.dtype, device=device(p))
        diagonal = xp.sum(weighted, axis=-1)[..., :, None] * eye
        return diagonal - xp.matmul(weighted, xp.matrix_transpose(p))
