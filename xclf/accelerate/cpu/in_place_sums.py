"""Sums over rows of a linear softmax model on a CPU, done in place.

A kernel makes half a dozen arrays of the scores' shape; here the product writes into memory that a
thread keeps, and the loss turns the scores there into their gradient. The formulas are those of
`cross_entropy`, step by step, and are tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xclf.accelerate._registry import Accelerated, Accelerator, Request
from xclf.accelerate.cpu.in_place_proximal import HingeProximalSums
from xclf.accelerate.cpu.products import InPlaceSums, sum_classes, takes_part, true_places
from xclf.objectives import Hinge, RowChunk, Softmax


@dataclass(frozen=True)
class SoftmaxRowSums(InPlaceSums):
    """`Operations.row_sums` of a linear softmax model on NumPy rows."""

    def __call__(self, sums: Any, chunk: RowChunk) -> tuple[np.ndarray, ...]:
        heads, (classes, features) = sums.layers[0].w.shape[:-2], sums.layers[0].w.shape[-2:]
        products, x, scores = self.scores(sums.network, sums.layers, chunk)
        losses = softmax_in_place(scores, chunk.labels, chunk.weights)
        flat = scores.reshape(-1, len(x))
        dw = products.gradient(flat, x).reshape(*heads, classes, features)
        db = flat.sum(axis=-1).reshape(*heads, classes)
        return losses.sum(axis=-1, dtype=np.float64).reshape(heads), dw, db


def softmax_in_place(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """`cross_entropy` with axis -2 and reduction "none": losses (K, n); the gradient in `scores`.

    scores : (K, C, n), contiguous, overwritten;  labels, weights : as a chunk has them
    """
    flat = scores.reshape(-1)
    true = true_places(labels, scores.shape)
    scores -= scores.max(axis=1)[:, None, :]
    lead = flat.take(true)
    np.exp(scores, out=scores)
    own = flat.take(true)
    flat[true] = 0.0
    others = sum_classes(scores)
    factor = 1.0 / (others + own)
    losses: np.ndarray = np.log1p(others + np.expm1(lead)) - lead
    if weights is not None:
        factor *= weights
        losses *= weights
    scores *= factor[:, None, :]
    flat[true] = -others * factor
    return losses


def accelerate(chosen: Accelerated, request: Request) -> Accelerated:
    """In-place sums for linear models on NumPy rows."""
    if not takes_part(request) or request.rule is not None:
        return chosen
    operations = chosen.operations
    if type(request.loss) is Softmax:
        operations = replace(operations, row_sums=SoftmaxRowSums())
    if type(request.loss) is Hinge:
        operations = replace(operations, proximal_sums=HingeProximalSums())
    return chosen._replace(operations=operations)


IN_PLACE_SUMS = Accelerator(
    "in_place_sums",
    "full-batch sums of linear softmax and hinge models on NumPy rows, without temporaries",
    default=True,
    missing=lambda: None,
    accelerate=accelerate,
)
