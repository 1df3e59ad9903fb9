"""Right predictions counted where the rows of collections are."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score

from xclf import _array_api
from xclf.estimators._labels import host_labels, label_columns
from xclf.estimators._values import host_values, is_collection, lazy_column


def block_accuracy(guess: Any, y: Any, sample_weight: Any) -> float | None:
    """The (weighted) share of rows of which all labels are right, as `score` has it; None where
    labels and weights are no collections in blocks of the same rows as `guess`, and for whatever is
    wrong with them, which is said by row in memory.

    guess : array of Dask (N,) or (N, T), predictions
    """
    import dask.array as da

    beside = [_alike(y, guess, guess.shape[1:]), _alike(sample_weight, guess, ())]
    if beside[0] is None or (sample_weight is not None and beside[1] is None):
        return None
    arrays = [own for own in (guess, *beside) if own is not None]
    counted = da.blockwise(
        _count_right,
        "ik",
        *(part for own in arrays for part in (own, "ij"[: own.ndim])),
        new_axes={"k": 2},
        adjust_chunks={"i": lambda size: 1},
        align_arrays=False,
        concatenate=True,
        dtype=np.float64,
        meta=np.empty((0, 2)),
    )
    try:
        right, total = np.asarray(counted.compute()).sum(axis=0).tolist()
    except (ValueError, TypeError):
        return None
    return right / total if total else None


def _alike(values: Any, guess: Any, shape: tuple[int, ...]) -> Any:
    """A collection (N, *shape) as an array of Dask in the blocks of `guess`; else None."""
    array = lazy_column(values) if is_collection(values) else None
    if array is None or array.shape[1:] != shape:
        return None
    known = not np.isnan([*array.shape, *guess.shape]).any()
    if known and array.shape[0] == guess.shape[0]:
        return array.rechunk((guess.chunks[0], *array.shape[1:]))
    # Blocks of unknown sizes belong together by their numbers, which each of them checks.
    return array if not known and array.numblocks[0] == guess.numblocks[0] else None


def _count_right(guess: Any, y: Any, sample_weight: Any = None) -> np.ndarray:
    """(1, 2): the rows of a block that are right, and all, by their weights."""
    if len({len(own) for own in (guess, y, sample_weight) if own is not None}) > 1:
        raise ValueError("blocks of other rows")
    weights = np.ones(len(y)) if sample_weight is None else host_values(sample_weight)
    if not len(y):
        return np.zeros((1, 2))
    guess, total = _array_api.to_host(guess), float(weights.sum())
    columns = label_columns(y)
    if columns is None:
        right = accuracy_score(host_labels(y), guess, normalize=False, sample_weight=weights)
    else:
        every = [labels == guess[:, t] for t, (_, labels) in enumerate(columns)]
        right = weights[np.all(every, axis=0)].sum()
    return np.asarray([[float(right), total]])
