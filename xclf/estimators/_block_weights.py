"""Row weights of mean 1 beside rows in blocks: the same bits, whoever computes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xclf.estimators._labels import check_some_weight, weights_of_classes
from xclf.rows import MANY, BlockColumn, Blocks, BlockWeights, parts_of


@dataclass(frozen=True)
class _Weighing:
    """How labels and sample weights of a group become its weights.

    column : which of the columns of labels; None where they are one
    per_class : weights of the classes, or None
    most, mean : the largest of all weights; and the mean of those above 0, over the largest
    """

    column: Any
    per_class: np.ndarray | None = None
    most: float = 1.0
    mean: float = 1.0

    def index(self, labels: np.ndarray) -> np.ndarray:
        own: np.ndarray = labels if self.column is None else labels[self.column]
        return own

    def of(self, labels: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        if self.per_class is not None:
            own = self.per_class[self.index(labels)]
            weights = own if weights is None else own * weights
        # By the largest first: the sum of large weights overflows.
        return np.asarray(weights) / self.most / self.mean


def block_weights(
    X: Blocks, index: Any, classes: np.ndarray, class_weight: Any, sample_weight: Any
) -> BlockWeights | None:
    """`mean_row_weights` beside the rows of X; labels and sample weights may be on the host."""
    if class_weight is None and sample_weight is None:
        return None
    engine = X.engine
    groups = list(zip(parts_of(index, X), parts_of(sample_weight, X), strict=True))
    weighing = _Weighing(index.columns if isinstance(index, BlockColumn) else None)
    if class_weight is not None:

        def mass() -> np.ndarray:
            own = engine.collect(_mass, (weighing, len(classes)), groups, MANY)
            return np.asarray(sum(own))

        per_class = weights_of_classes(classes, class_weight, mass)
        weighing = replace(weighing, per_class=per_class)
    found = np.asarray(list(engine.collect(_extremes, weighing, groups, MANY)))
    least, most = float(found[:, 0].min()), float(found[:, 1].max())
    check_some_weight(most > 0.0)
    if found[:, 2].min() == most:
        return None
    weighing = replace(weighing, most=most)
    sums, counts, drawn = zip(*engine.collect(_sum_and_drawn, weighing, groups, MANY), strict=True)
    weighing = replace(weighing, mean=float(np.sum(sums) / sum(counts)))
    parts = engine.keep(_of_group, weighing, groups, X.groups)
    return BlockWeights(engine, parts, X.shape[0], least / most, b"".join(drawn))


def block_weights_as_they_are(
    X: Blocks, index: Any, classes: np.ndarray, class_weight: Any, sample_weight: Any
) -> BlockWeights | None:
    """`row_weights` beside the rows of X, of any mean; as `block_weights`."""
    if class_weight is None and sample_weight is None:
        return None
    groups = list(zip(parts_of(index, X), parts_of(sample_weight, X), strict=True))
    weighing = _Weighing(index.columns if isinstance(index, BlockColumn) else None)
    if class_weight is not None:
        weighing = replace(
            weighing, per_class=weights_of_classes(classes, class_weight, lambda: np.empty(0))
        )
    found = np.asarray(list(X.engine.collect(_extremes, weighing, groups, MANY)))
    least, most = float(found[:, 0].min()), float(found[:, 1].max())
    check_some_weight(most > 0.0)
    parts = X.engine.keep(_of_group, weighing, groups, X.groups)
    return BlockWeights(X.engine, parts, X.shape[0], least / most, b"")


def _mass(
    shared: tuple[_Weighing, int], labels: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """Sums (C,) of the weights of each class in a group."""
    weighing, classes = shared
    own = np.bincount(weighing.index(labels), weights=weights, minlength=classes)
    return own.astype(np.float64)


def _extremes(
    weighing: _Weighing, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[float, float, float]:
    """The least weight of a group above 0 (infinity without one), the largest, the least."""
    own = weighing.of(labels, weights)
    return float(np.min(own, initial=np.inf, where=own > 0.0)), float(own.max()), float(own.min())


def _sum_and_drawn(
    weighing: _Weighing, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[float, int, bytes]:
    """The sum of the weights of a group, how many are above 0, and a hash of which these are."""
    own = weighing.of(labels, weights)
    drawn = own > 0.0
    digest = hashlib.sha256(np.packbits(drawn).data).digest()
    return float(own.sum()), int(np.count_nonzero(drawn)), digest


def _of_group(weighing: _Weighing, labels: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    return weighing.of(labels, weights)
