"""Scores of many models of the same widths on the same rows: one first product for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from xclf import _array_api
from xclf._array_api import Array
from xclf.estimators._border import check_x
from xclf.estimators._fitted import FittedModel
from xclf.estimators._scores import best_class, map_scores, rows_first, scores_function
from xclf.rows import Blocks, SparseBlocks, map_rows


def stacked_scores(models: Sequence[FittedModel], X: Any) -> np.ndarray:
    """Scores (n, K, C) of models of the same widths, on the host: one first product for all."""
    return np.concatenate([part for _, part in _parts(models, X, rows_first, None)])


def stacked_best(
    models: Sequence[FittedModel], X: Any, size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, indices (n, K) of the largest scores) of parts of the rows, on the host.

    size : rows of a part, of rows in blocks a group
    """
    return _parts(models, X, best_class, size)


def stacked_guess(models: Sequence[FittedModel], X: Blocks) -> Callable[[Array], np.ndarray]:
    """A function of rows like those of X, on the host: indices (n, K) of the largest scores."""
    f, width = scores_function(models, best_class, stack=True, sparse=isinstance(X, SparseBlocks))
    return partial(_guess, f, models[0]._layers()[0].w.dtype, width)


def stacked_values(models: Sequence[FittedModel], X: Blocks) -> Callable[[Array], np.ndarray]:
    """As `stacked_guess`, of scores (n, K, C)."""
    f, width = scores_function(models, rows_first, stack=True, sparse=isinstance(X, SparseBlocks))
    return partial(_guess, f, models[0]._layers()[0].w.dtype, width)


def _guess(f: Any, dtype: Any, width: int, x: Array) -> np.ndarray:
    return _array_api.to_host(map_rows(f, x, dtype, width))


def _parts(
    models: Sequence[FittedModel], X: Any, finish: Callable[[Array], Array], size: int | None
) -> Iterator[tuple[int, np.ndarray]]:
    X = check_x(models[0], X, reset=False)
    if isinstance(X, Blocks):
        f, width = scores_function(models, finish, stack=True, sparse=isinstance(X, SparseBlocks))
        shared = (f, models[0]._layers()[0].w.dtype, width)
        groups = [(group,) for group in X.groups]
        parts = X.engine.collect(_of_group, shared, groups)
        yield from zip(X.ends[:-1].tolist(), parts, strict=True)
        return
    rows = int(X.shape[0])
    for start in range(0, rows, size or rows):
        part = X if size is None else X[start : min(start + size, rows), :]
        yield start, _array_api.to_host(map_scores(models, part, finish, stack=True))


def _of_group(shared: tuple[Any, Any, int], blocks: Sequence[Array]) -> np.ndarray:
    f, dtype, width = shared
    return np.concatenate([_array_api.to_host(map_rows(f, x, dtype, width)) for x in blocks])
