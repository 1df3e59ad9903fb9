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
        options: dict[str, Any] = {"reduction": "sum", "axis": -2, "need_loss": False}
        _, dscores = cross_entropy(scores, chunk.labels, **options)
        mask = true_mask(chunk.labels, dscores.shape[-2])
        return self.curvature_total(self.curvature(dscores, mask), mask, chunk.weights)

    def curvature(self, dscores: Array, mask: Array) -> Array:
        """p, of H = diag(p) - p p^T."""
        return namespace(dscores).where(mask, 1.0 + dscores, dscores)

    def curvature_product(self, curvature: Array, mask: Array, v: Array) -> Array:
        # Relative to the true class: of p near 1, H = p (1 - p) would be lost to cancellation.
        xp = namespace(v)
        weighted = curvature * (v - xp.sum(xp.where(mask, v, 0.0), axis=-2, keepdims=True))
        return weighted - curvature * xp.sum(weighted, axis=-2, keepdims=True)

    def curvature_total(self, curvature: Array, mask: Array, weights: Array | None) -> Array:
        xp, p = namespace(curvature), curvature
        weighted = p if weights is None else p * weights[..., None, :]
        eye = xp.eye(p.shape[-2], dtype=p.dtype, device=device(p))
        diagonal = xp.sum(weighted, axis=-1)[..., :, None] * eye
        return diagonal - xp.matmul(weighted, xp.matrix_transpose(p))
