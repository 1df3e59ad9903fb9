"""Labels in blocks: they become indices of classes on the workers that hold their rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets

from xclf.estimators._checkpoints import checkpoint_of
from xclf.estimators._labels import Targets, encode, encode_known, host_labels
from xclf.estimators._settings import uses_full_batches
from xclf.estimators._values import is_collection
from xclf.rows import BlockColumn, Blocks, ClusterEngine

# Classes beyond which labels are no few kinds, and come to the process that fits.
_MOST_CLASSES = 100_000


def block_targets(model: Any, X: Any, y: Any, sample_weight: Any) -> Targets | None:
    """The labels of a collection y (N,) for X on a cluster, as indices beside its rows; None where
    they have to be in this process: for minibatches, weights, checkpoints, and whatever is wrong
    with them, which is told by row there."""
    plain = isinstance(X, Blocks) and isinstance(X.engine, ClusterEngine) and is_collection(y)
    if not plain or sample_weight is not None or model.class_weight is not None:
        return None
    if not uses_full_batches(model) or checkpoint_of(model.callbacks) is not None:
        return None
    array = y.values if hasattr(y, "divisions") and getattr(y, "ndim", 0) == 1 else y
    lengths = tuple(np.diff(X.ends).tolist())
    if not hasattr(array, "rechunk") or array.shape != (X.shape[0],):
        return None  # of unknown chunk sizes, whose shape is NaN, too
    parts = X.engine.client.compute(array.rechunk((lengths,)).to_delayed().ravel().tolist())
    try:
        kinds = list(X.engine.collect(_classes, None, [(part,) for part in parts]))
    except RuntimeError:
        return None
    if len({own.dtype.kind for own in kinds}) > 1 or sum(map(len, kinds)) > _MOST_CLASSES:
        return None
    check_classification_targets(np.concatenate(kinds))
    classes, _ = encode(np.concatenate(kinds))
    indices = X.engine.keep(_indices, classes, [(part,) for part in parts], X.groups)
    return Targets([(classes, BlockColumn(indices, X.shape[0]))])


def _classes(_: None, labels: Any) -> np.ndarray:
    return np.unique(host_labels(labels))


def _indices(classes: np.ndarray, labels: Any) -> np.ndarray:
    return encode_known(host_labels(labels), classes)
