"""The squared Weston-Watkins hinge as a loss record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf._array_api import Array, namespace
from xclf.kernels import squared_hinge
from xclf.objectives._loss import FullBatch, Loss, RowChunk, Smooth
from xclf.objectives._true_class import pair_laplacian


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
        """sum_i w_i sum_j 2 (e_j - e_y)(e_j - e_y)^T over pairs with a positive margin: the
        generalised Hessian."""
        xp = namespace(scores)
        _, dscores = self(scores, chunk.labels, reduction="sum", axis=-2, need_loss=False)
        return pair_laplacian(2.0 * xp.astype(dscores > 0.0, scores.dtype), chunk)
