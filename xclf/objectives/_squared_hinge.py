"""The squared Weston-Watkins hinge as a loss record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xclf._array_api import Array, namespace
from xclf.kernels import squared_hinge
from xclf.objectives._loss import FullBatch, Loss, RowChunk
from xclf.objectives._true_class import pair_laplacian


@dataclass(frozen=True)
class SquaredHinge(Loss):
    """L = sum_{j != y} max(0, s_j - s_y + margin)^2, continuously differentiable."""

    margin: Any = 1.0

    name = "squared_hinge"
    full_batch = FullBatch("lbfgs", max_iter=1000, tol32=1e-6, tol64=1e-8)
    probabilistic = False
    attained = True
    curved = True

    def __call__(self, scores: Array, labels: Array, **options: Any) -> tuple[Array | None, Array]:
        return squared_hinge(scores, labels, margin=self.margin, **options)

    def error_cost(self) -> Any:
        return self.margin**2

    def rate_limit(self, classes: int) -> float:
        return 1.0 / classes  # 2 / L: the Hessian's largest eigenvalue is 2 C

    def curvature_sum(self, scores: Array, chunk: RowChunk) -> Array:
        """sum_i w_i sum_j 2 (e_j - e_y)(e_j - e_y)^T over pairs with a positive margin: the
        generalised Hessian."""
        xp = namespace(scores)
        _, dscores = self(scores, chunk.labels, reduction="sum", axis=-2, need_loss=False)
        return pair_laplacian(2.0 * xp.astype(dscores > 0.0, scores.dtype), chunk)
