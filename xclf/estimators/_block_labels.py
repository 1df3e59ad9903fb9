"""Labels and weights of collections: they stay on the workers that hold their rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets

from xclf.estimators._labels import (
    Targets,
    encode,
    encode_known,
    host_labels,
)
from xclf.estimators._values import delayed_blocks, host_values, is_collection, lazy_column
from xclf.rows import MANY, BlockColumn, Blocks, ClusterEngine

# Classes beyond which labels are no few kinds, and come to the process that fits.
_MOST_CLASSES = 100_000


def block_targets(X: Any, y: Any) -> Targets | None:
    """The labels of a collection y (N,) or (N, T) for X on a cluster, as indices beside its rows;
    None where they have to be in this process: for whatever is wrong with them, which is said by
    row there."""
    parts = _parts(X, y)
    if parts is None:
        return None
    columns = None if y.ndim == 1 else int(y.shape[1])
    try:
        found = list(X.engine.collect(_classes, None, [(part,) for part in parts], MANY))
    except RuntimeError:
        return None
    tasks, names = [], [f"column {t} of y" for t in range(columns or 1)]
    for name, kinds in zip(names, zip(*found, strict=True), strict=True):
        if len({own.dtype.kind for own in kinds}) > 1 or sum(map(len, kinds)) > _MOST_CLASSES:
            return None
        every = np.concatenate(kinds)
        _check_targets(every, "y" if columns is None else name)
        tasks.append(encode(every, "y" if columns is None else name)[0])
    indices = X.engine.keep(_indices, tasks, [(part,) for part in parts], X.groups)
    size = 8 * len(tasks) * len(X.counted)
    beside = partial(BlockColumn, X.engine, indices, X.shape[0])
    each = [beside(t, size if t == 0 else 0) for t in range(len(tasks))]
    return Targets(list(zip(tasks, each, strict=True)), None if columns is None else names)


def block_index(X: Any, y: Any, classes: np.ndarray) -> BlockColumn | None:
    """The labels of a collection y (N,) for X on a cluster, as indices of `classes` beside its
    rows; None as for `block_targets`."""
    parts = None if getattr(y, "ndim", 0) != 1 else _parts(X, y)
    if parts is None:
        return None
    try:
        kept = X.engine.keep(_indices, [classes], [(part,) for part in parts], X.groups)
    except RuntimeError:
        return None
    return BlockColumn(X.engine, kept, X.shape[0], 0, 8 * len(X.counted))


def _check_targets(classes: np.ndarray, name: str) -> None:
    try:
        check_classification_targets(classes)
    except ValueError as error:
        raise ValueError(str(error) if name == "y" else f"{name}: {error}") from None


def block_sample_weight(X: Any, sample_weight: Any) -> BlockColumn | None:
    """Weights of a collection (N,) for X on a cluster, beside its rows; None as for labels."""
    parts = _parts(X, sample_weight)
    if parts is None or sample_weight.ndim != 1:
        return None
    try:
        kept = X.engine.keep(_numbers, None, [(part,) for part in parts], X.groups)
    except RuntimeError:
        return None
    return BlockColumn(X.engine, kept, X.shape[0])


def _parts(X: Any, values: Any) -> list[Any] | None:
    """Those of a collection (N,) or (N, T), T > 1, that belong to each group of X; None where it is
    none, or is not as it should be."""
    on_cluster = isinstance(X, Blocks) and isinstance(X.engine, ClusterEngine)
    if not on_cluster or not is_collection(values):
        return None
    array = _of_known_chunks(lazy_column(values))
    shape = tuple(getattr(array, "shape", ()))
    if shape[:1] != X.shape[:1] or len(shape) > 2 or (len(shape) == 2 and not shape[1] > 1):
        return None
    array = array.rechunk((tuple(np.diff(X.ends).tolist()), *shape[1:]))
    parts: list[Any] = X.engine.client.compute(delayed_blocks(array))
    return parts


def _of_known_chunks(array: Any) -> Any:
    """An array of Dask, or None; of unknown chunk sizes with those that it has, its blocks held by
    the workers; None where these cannot be computed."""
    if array is None or not any(map(math.isnan, array.chunks[0])):
        return array
    try:
        held = array.persist()
        held.compute_chunk_sizes()
    except Exception:  # computing it in this process says what is wrong
        return None
    return held


def _columns(labels: Any) -> list[np.ndarray]:
    host = host_values(labels)
    return [host_labels(own) for own in (host.T if host.ndim == 2 else [labels])]


def _classes(_: None, labels: Any) -> list[np.ndarray]:
    return [np.unique(own) for own in _columns(labels)]


def _indices(classes: Sequence[np.ndarray], labels: Any) -> np.ndarray:
    pairs = zip(_columns(labels), classes, strict=True)
    return np.stack([encode_known(own, known) for own, known in pairs])


def _numbers(_: None, weights: Any) -> np.ndarray:
    host = host_values(weights)
    if host.dtype.kind not in "biuf" or not np.all(np.isfinite(host) & (host >= 0)):
        raise ValueError("weights must be finite and >= 0")
    return host.astype(np.float64)
