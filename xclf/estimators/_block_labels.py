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
    check_sample_weight,
    check_targets,
    encode,
    encode_known,
    host_labels,
)
from xclf.estimators._values import (
    computed,
    delayed_blocks,
    host_values,
    is_collection,
    lazy_column,
)
from xclf.rows import MANY, BlockColumn, Blocks, ClusterEngine, own_labels, plain

# Classes beyond which labels are no few kinds, and come to the process that fits.
_MOST_CLASSES = 100_000


def block_targets(X: Any, y: Any, *, least: int = 2) -> Targets | None:
    """The labels of a collection y (N,) or (N, T) for X on a cluster, as indices beside its rows;
    those that are so already. None where they have to be in this process: for whatever is wrong
    with them, which is said by row there.

    least : classes that each column has to have
    """
    if isinstance(y, Targets):
        return y
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
        classes = np.unique(every)
        if len(classes) < least:
            encode(every, "y" if columns is None else name)
        tasks.append(classes)
    indices = X.engine.keep(_indices, tasks, [(part,) for part in parts], X.groups)
    size = 8 * len(tasks) * len(X.counted)
    beside = partial(BlockColumn, X.engine, indices, X.shape[0])
    each = [beside(t, size if t == 0 else 0) for t in range(len(tasks))]
    return Targets(list(zip(tasks, each, strict=True)), None if columns is None else names)


def targets_beside(est: Any, X: Blocks, y: Any) -> Targets:
    """The labels of X in blocks, as indices beside its rows, wherever they are; raises what
    `check_targets` raises."""
    targets = block_targets(X, y)
    if targets is not None:
        return targets
    found = check_targets(est, X, computed(y))
    return put_beside(X, found.tasks, found.names)


def put_beside(
    X: Blocks, tasks: Sequence[tuple[np.ndarray, np.ndarray]], names: list[str] | None = None
) -> Targets:
    """Labels (classes, host index) of each task as `Targets` beside the rows of X."""
    classes, indices = zip(*tasks, strict=True)
    parts = [(np.stack([own[where] for own in indices]),) for where in X.places]
    kept = X.engine.keep(plain, None, parts, X.groups)
    columns = [
        BlockColumn(X.engine, kept, X.shape[0], t, 0 if t else 8 * len(classes) * len(X.counted))
        for t in range(len(classes))
    ]
    return Targets(list(zip(classes, columns, strict=True)), names)


def among_classes(targets: Targets, there: Sequence[np.ndarray], names: Sequence[str]) -> Targets:
    """Labels beside rows as those of the classes that are there, of each task; rows of others,
    which must have no weight, are of any.

    there : bool (C,) of each task;  names : of the tasks, for messages
    Raises ValueError where a task has a single class.
    """
    tasks = []
    for (classes, index), own, name in zip(targets.tasks, there, names, strict=True):
        if own.all():
            tasks.append((classes, index))
            continue
        encode(classes[own], name)
        number = np.where(own, np.cumsum(own) - 1, 0)
        tasks.append((classes[own], _renumbered(index, number)))
    return Targets(tasks, targets.names)


def known_beside(targets: Targets, classes: Sequence[np.ndarray]) -> Targets:
    """Labels beside rows as indices of the classes of each task, which have them all."""
    tasks = []
    for (own, index), known in zip(targets.tasks, classes, strict=True):
        same = np.array_equal(own, known)
        place = encode_known(own, known)
        tasks.append((known, index if same else _renumbered(index, place)))
    return Targets(tasks, targets.names)


def targets_joined(targets: Sequence[Targets]) -> Targets:
    """Labels of rows one after the other, of the same classes."""
    tasks = []
    for columns in zip(*(own.tasks for own in targets), strict=True):
        indices = [index for _, index in columns]
        parts = [part for index in indices for part in _alone(index).parts]
        rows = sum(len(index) for index in indices)
        tasks.append((columns[0][0], BlockColumn(indices[0].engine, parts, rows)))
    return Targets(tasks, targets[0].names)


def _renumbered(index: BlockColumn, numbers: np.ndarray) -> BlockColumn:
    parts = [(part,) for part in index.parts]
    kept = index.engine.keep(_renumber, (index.columns, numbers), parts, index.parts)
    return BlockColumn(index.engine, kept, len(index))


def _renumber(shared: tuple[Any, np.ndarray], labels: np.ndarray) -> np.ndarray:
    column, numbers = shared
    renumbered: np.ndarray = numbers[own_labels(labels, column)]
    return renumbered


def _alone(index: BlockColumn) -> BlockColumn:
    """A column that is not one of several."""
    if index.columns is None:
        return index
    parts = [(part,) for part in index.parts]
    kept = index.engine.keep(_own_of, index.columns, parts, index.parts)
    return BlockColumn(index.engine, kept, len(index))


def _own_of(column: Any, labels: np.ndarray) -> np.ndarray:
    return own_labels(labels, column)


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
    """Weights of a collection (N,) for X on a cluster, beside its rows; those that are so already;
    None as for labels."""
    if isinstance(sample_weight, BlockColumn):
        return sample_weight
    parts = _parts(X, sample_weight)
    if parts is None or sample_weight.ndim != 1:
        return None
    try:
        kept = X.engine.keep(_numbers, None, [(part,) for part in parts], X.groups)
    except RuntimeError:
        return None
    return BlockColumn(X.engine, kept, X.shape[0])


def weights_beside(X: Blocks, sample_weight: Any) -> BlockColumn | None:
    """Weights of X in blocks, beside its rows, wherever they are; None where all are 1. Raises what
    `check_sample_weight` raises."""
    weights = block_sample_weight(X, sample_weight)
    if weights is not None:
        return weights
    host = check_sample_weight(X, computed(sample_weight))
    if host is None:
        return None
    parts = [(host[where],) for where in X.places]
    return BlockColumn(X.engine, X.engine.keep(plain, None, parts, X.groups), X.shape[0])


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
