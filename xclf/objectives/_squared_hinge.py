"""The squared Weston-Watkins hinge as a loss record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf._array_api import Array, namespace
from xclf.kernels import squared_hinge
from xclf.objectives._loss import FullBatch, Loss, RowChunk, Smooth
from xclf.objectives._true_class import pair_laplacian, true_mask


@dataclass(frozen=True)
class SquaredHinge(Smooth, Loss):
    """L = sum_{j != y} max(0, s_j - s_y + margin)^2, continuously differentiable."""

    margin: Any = 1.0

    name = "squared_hinge"
    full_batch = FullBatch("squared_hinge", max_iter=1000, tol32=1e-6, tol64=1e-8)
    probabilistic = False
    attained = True
    curved = True

    def __call__(self, scores: Array, labels: Array, **options: Any) -> tuple[Array | None, Array]:
        return squared_hinge(scores, labels, margin=self.margin, **options)

    def error_cost(self) -> Any:
        return self.margin**2

    def lead_bound(self, loss: Any) -> Any:
        return np.sqrt(loss) - self.margin

    def gradient_bound(self, loss: Any, classes: int) -> Any:
        # 4 sum_j max(0, m_j), of C - 1 terms: also in the root mean square over rows.
        return 4.0 * np.sqrt((classes - 1) * loss)

    def curvature_bound(self, loss: Any, classes: int) -> Any:
        return 4.0 * (classes - 1)

    def rate_limit(self, classes: int) -> float:
        return 1.0 / classes  # 2 / L: the Hessian's largest eigenvalue is 2 C

    def curvature_sum(self, scores: Array, chunk: RowChunk) -> Array:
        _, dscores = self(scores, chunk.labels, reduction="sum", axis=-2, need_loss=False)
        mask = true_mask(chunk.labels, dscores.shape[-2])
        return self.curvature_total(self.curvature(dscores, mask), mask, chunk.weights)

    def curvature(self, dscores: Array, mask: Array) -> Array:
        """2 for each class j with a positive margin, of H = sum_j 2 (e_j - e_y)(e_j - e_y)^T."""
        return 2.0 * namespace(dscores).astype(dscores > 0.0, dscores.dtype)

    def curvature_product(self, curvature: Array, mask: Array, v: Array) -> Array:
        xp = namespace(v)
        true = xp.sum(xp.where(mask, v, 0.0), axis=-2, keepdims=True)
        pairs = curvature * (v - true)  # 0 at the true class
        return xp.where(mask, -xp.sum(pairs, axis=-2, keepdims=True), pairs)

    def curvature_total(self, curvature: Array, mask: Array, weights: Array | None) -> Array:
        return pair_laplacian(curvature, mask, weights)
