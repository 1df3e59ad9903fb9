"""Values of arrays: on the host, and the first that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from xclf import _array_api
from xclf._array_api import Array
from xclf._sparse import is_sparse

# Values in which NaN and infinity are searched for at a time: what a cache holds, and on a device,
# where each search ends in a copy to the host, as many as give it something to do.
_FINITE_HOST, _FINITE_DEVICE = 1 << 18, 1 << 26


def is_collection(value: Any) -> bool:
    """Whether `value` is a collection of Dask; imports nothing."""
    dask = _array_api.loaded("dask")
    return dask is not None and bool(dask.is_dask_collection(value))


def computed(value: Any) -> Any:
    """A collection's values in memory; anything else as it is."""
    return value.compute() if is_collection(value) else value


def lazy_column(values: Any) -> Any:
    """A collection as an array of Dask; a column of a data frame with unknown chunk sizes, values
    that NumPy has no dtype for as objects. None for what is neither."""
    if hasattr(values, "divisions") and getattr(values, "ndim", 0) == 1:
        dtype = values.dtype if isinstance(values.dtype, np.dtype) else np.dtype(object)
        return values.map_partitions(_column, dtype, meta=np.empty(0, dtype))
    return values if hasattr(type(values), "numblocks") else None


def optimized_together(*values: Any) -> tuple[Any, ...]:
    """The same values, arrays of Dask among them with one graph in which each key stands for one
    task: a scheduler that knows a key of one of them by another task warns of it."""
    arrays = [own for own in values if is_collection(own) and hasattr(type(own), "numblocks")]
    if len(arrays) < 2:
        return values
    import dask

    one = dict(zip(map(id, arrays), dask.optimize(*arrays), strict=True))
    return tuple(one.get(id(own), own) for own in values)


def delayed_blocks(array: Any) -> list[Any]:
    """The blocks of an array of Dask, row by row; its graph optimised, if it is not yet."""
    from dask.highlevelgraph import MaterializedLayer

    done = all(isinstance(layer, MaterializedLayer) for layer in array.dask.layers.values())
    blocks: list[Any] = array.to_delayed(optimize_graph=not done).ravel().tolist()
    return blocks


def block_loaders(blocks: Sequence[Any], groups: Sequence[slice]) -> list[Callable[[], list[Any]]]:
    """For each group of `delayed_blocks` a function that computes them.

    Each has the tasks of its own blocks alone: to look for these among those of all blocks takes
    longer than a group of rows in memory, in every pass.
    """
    from dask.optimization import cull
    from dask.utils import ensure_dict

    graph = ensure_dict(blocks[0].__dask_graph__())
    loaders: list[Callable[[], list[Any]]] = []
    for where in groups:
        keys = [block.key for block in blocks[where]]
        loaders.append(partial(_tasks_results, cull(graph, keys)[0], keys))
    return loaders


def _tasks_results(graph: Any, keys: list[Any]) -> list[Any]:
    import dask.base
    import dask.core
    import dask.threaded

    if all(len(dask.core.get_dependencies(graph, key)) < 2 for key in graph) and len(keys) == 1:
        # One task after the other: a scheduler would take longer to say so than a mapped file to
        # be opened.
        return list(dask.core.get(graph, keys))
    get = dask.base.get_scheduler() or dask.threaded.get
    return list(get(graph, keys))


def _column(values: Any, dtype: np.dtype) -> np.ndarray:
    return np.asarray(values).astype(dtype, copy=False)


def first_not_finite(X: Array) -> tuple[int, int, str] | None:
    """Row, column and kind of the first NaN or infinity in X (N, D), None without one."""
    xp = _array_api.namespace(X)
    if not xp.isdtype(X.dtype, "real floating"):
        return None
    rows = int(X.shape[0])
    values = _FINITE_HOST if _array_api.is_host(X) else _FINITE_DEVICE
    size = max(1, values // int(X.shape[1]))
    for start in range(0, rows, size):
        part = X[start : min(start + size, rows), :]
        if bool(xp.all(xp.isfinite(part))):
            continue
        host = host_values(part)
        row, column = (int(i) for i in np.argwhere(~np.isfinite(host))[0])
        value = "NaN" if np.isnan(host[row, column]) else "infinity (inf)"
        return start + row, column, value
    return None


def not_finite(row: int, column: int, value: str, name: str | None = None) -> str:
    """The message about what `first_not_finite` returns;  name : of the column, if it has one"""
    called = "" if name is None else f" ({str(name)[:60]!r})"
    return (
        f"Input X contains {value} at row {row}, column {column}{called}: every value must be "
        "finite"
    )


def host_values(values: Any) -> np.ndarray:
    """Labels, weights or rows on the host; data frame columns and lists too, and what a collection
    of Dask computes to."""
    values = computed(values)
    if is_sparse(values):
        raise ValueError(
            f"y and sample_weight must be dense, got a sparse {type(values).__name__}: "
            ".toarray() makes an array of it"
        )
    if not _array_api.is_array(values):
        try:
            return np.asarray(values)
        except ValueError as error:  # ragged lists
            raise ValueError(f"y and sample_weight must be 1-D: {error}") from None
    if not _array_api.is_host(values):
        xp = _array_api.namespace(values)
        known = (xp.float32, xp.float64)
        if xp.isdtype(values.dtype, "real floating") and values.dtype not in known:
            values = xp.astype(values, xp.float32)  # NumPy has no bfloat16
    return _array_api.to_host(values)
