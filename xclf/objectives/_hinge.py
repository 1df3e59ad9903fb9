"""The Weston-Watkins hinge as a loss record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xclf._array_api import Array
from xclf.kernels import hinge
from xclf.objectives._loss import FullBatch, Loss, RowChunk


@dataclass(frozen=True)
class Hinge(Loss):
    """L = sum_{j != y} max(0, s_j - s_y + margin)."""

    margin: Any = 1.0

    name = "hinge"
    full_batch = FullBatch("hinge", max_iter=5000, tol32=1e-4, tol64=1e-6)
    probabilistic = False
    attained = True
    curved = False

    def __call__(self, scores: Array, labels: Array, **options: Any) -> tuple[Array | None, Array]:
        return hinge(scores, labels, margin=self.margin, **options)

    def error_cost(self) -> Any:
        return self.margin

    def lead_bound(self, loss: Any) -> Any:
        return loss - self.margin

    def rate_limit(self, classes: int) -> Any:
        return self.margin  # a step then moves scores about as far as the margin is wide

    def curvature_sum(self, scores: Array, chunk: RowChunk) -> None:
        """None: piecewise linear. The augmented Lagrangian has a curvature of its own."""
