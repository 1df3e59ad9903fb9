"""Dask collections at the border: arrays and data frames in blocks, of any chunking.

Rows become `Blocks`: with a `distributed` Client on its cluster, without one in this process, group
by group. Predictions are lazy arrays, in chunks like those of X.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import validate_data

from xclf import _array_api
from xclf._array_api import Array
from xclf._sparse import is_sparse
from xclf.estimators._values import first_not_finite, not_finite
from xclf.rows import (
    FEW,
    MANY,
    Blocks,
    ClusterEngine,
    Engine,
    LocalEngine,
    Source,
    group_blocks,
    in_words,
    join_blocks,
    parse_bytes,
)


def client() -> Any:
    """The default Client of `distributed`, or None without one; imports nothing."""
    distributed = _array_api.loaded("distributed")
    if distributed is None:
        return None
    try:
        return distributed.default_client()
    except ValueError:
        return None


def lazy_rows(est: Any, X: Any, *, reset: bool) -> Any:
    """X as an array of Dask (N, D), all columns in each chunk; sets or compares `n_features_in_`
    and feature names. Raises what arrays in memory raise; values are not looked at."""
    frame = hasattr(getattr(X, "_meta", None), "columns")
    array = _from_frame(X) if frame else X
    if not hasattr(type(array), "numblocks"):  # a Delayed seems to have every attribute
        raise TypeError(
            f"X must be an array or a data frame of Dask, got its {type(X).__name__}: "
            "to_dask_array, or dask.array.from_delayed, make an array of it"
        )
    if array.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {array.ndim}D array instead: X must have shape (rows, "
            f"features), got {tuple(array.shape)}. Reshape your data."
        )
    if is_sparse(getattr(array, "_meta", None)):
        raise TypeError(
            "X has sparse blocks, which collections are not taken with: pass the sparse matrix "
            "itself, or X.map_blocks(lambda block: block.toarray())"
        )
    kind = array.dtype.kind
    if kind == "c":
        raise ValueError(f"Complex data not supported: X has dtype {array.dtype}")
    if kind not in "biuf":
        raise ValueError(f"X must be numeric, got dtype {array.dtype}")
    if math.isnan(array.shape[1]):
        raise ValueError("X has columns of unknown number: X.compute_chunk_sizes() finds it out")
    meta = X._meta if frame else np.empty((0, int(array.shape[1])))
    validate_data(est, X=meta, reset=reset, skip_check_array=True)
    if kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return array.rechunk({1: -1}) if array.numblocks[1] > 1 else array


def _from_frame(X: Any) -> Any:
    """The columns of a data frame of Dask as an array of one dtype, with unknown chunk sizes."""
    kinds = {str(name): _numpy_dtype(dtype) for name, dtype in X._meta.dtypes.items()}
    bad = [name for name, dtype in kinds.items() if dtype is None]
    if bad:
        raise ValueError(
            f"X must be numeric, got column {bad[0]!r} of dtype {X._meta.dtypes[bad[0]]}"
        )
    dtype = np.result_type(*(own for own in kinds.values() if own is not None))
    return X.map_partitions(partial(_partition, dtype=dtype), meta=np.empty((0, len(kinds)), dtype))


def _numpy_dtype(dtype: Any) -> np.dtype | None:
    """That of a column's values; None for one that is not of numbers. Columns that may lack values
    (pandas' own dtypes) are float64, as missing ones are NaN."""
    own = getattr(dtype, "numpy_dtype", dtype)
    if not isinstance(own, np.dtype) or own.kind not in "biuf":
        return None
    return own if own is dtype else np.result_type(own, np.float64)


def _partition(frame: Any, dtype: Any) -> np.ndarray:
    return np.asarray(
        frame.to_numpy(dtype=dtype, na_value=np.nan)
        if len(frame)
        else np.empty((0, frame.shape[1]), dtype)
    )


def open_rows(est: Any, X: Any, *, reset: bool) -> Array:
    """Rows to fit to: `Blocks` that are loaded, or will be group by group; an array in memory where
    they are few (`FEW` entries). Raises what arrays in memory raise, row and column named."""
    array = lazy_rows(est, X, reset=reset)
    if array.size <= FEW:  # of unknown chunk sizes the product is NaN
        return array.compute()
    there, named = client(), X._meta if hasattr(X, "columns") else None
    if there is None:
        return _open_here(array, parse_bytes(est.max_memory), named)
    return _open_on_cluster(array, ClusterEngine(there), named)


def _sizes(array: Any, lengths: Sequence[int]) -> list[int]:
    return [length * array.shape[1] * array.dtype.itemsize for length in lengths]


def _known(array: Any) -> list[int] | None:
    """Rows of each block, None if unknown."""
    lengths = array.chunks[0]
    return None if any(map(math.isnan, lengths)) else [int(length) for length in lengths]


def _with_rows(array: Any, lengths: Sequence[int]) -> list[int]:
    """The blocks that have rows; ValueError if none has."""
    kept = [k for k, length in enumerate(lengths) if length]
    if not kept:
        raise ValueError(
            f"Found array with 0 sample(s) (shape=(0, {array.shape[1]})) while a minimum of 1 is "
            "required: all blocks of X are empty"
        )
    return kept


def _open_here(array: Any, most: int | None, named: Any) -> Array:
    """Blocks for this process: their lengths and values are checked in a first pass."""
    import dask

    delayed = array.to_delayed().ravel().tolist()
    lengths = _known(array)
    if lengths is None:
        lengths = [int(dask.compute(dask.delayed(len)(block))[0]) for block in delayed]
    kept = _with_rows(array, lengths)
    lengths = [lengths[k] for k in kept]
    groups = group_blocks(_sizes(array, lengths), None if most is None else most // 8)
    largest = max(sum(_sizes(array, lengths[where])) for where in groups)
    if most is not None and largest > most // 2:
        raise ValueError(
            f"max_memory={in_words(most)} cannot be kept: blocks of X take up to "
            f"{in_words(largest)} at a time, X.rechunk makes smaller ones"
        )
    ends = np.cumsum([0, *lengths]).tolist()

    def source(where: slice) -> Source:
        own = [delayed[k] for k in kept[where]]
        what = f"rows {ends[where.start]} to {ends[where.stop] - 1} of X"
        return Source(lambda: join_blocks(None, *dask.compute(*own)), what)

    ahead = most is None or 4 * largest <= most
    sources = [source(where) for where in groups]
    taken = (1 + ahead) * largest
    return _checked(array, LocalEngine(ahead), sources, 1.0, named, taken)


def _open_on_cluster(array: Any, engine: ClusterEngine, named: Any) -> Array:
    """Blocks that the cluster's workers hold from now on, each group on one of them."""
    import dask
    import distributed

    lengths, blocks = _known(array), array.to_delayed().ravel().tolist()
    spread = lengths is not None and not distributed.futures_of(array)
    if lengths is None:  # they are in memory then: what their lengths are is known by computing
        blocks = engine.client.compute(blocks)
        engine.wait(blocks, lambda k: f"block {k} of X")
        lengths = list(engine.collect(_length, None, [(block,) for block in blocks], MANY))
    kept = _with_rows(array, lengths)
    lengths, blocks = [lengths[k] for k in kept], [blocks[k] for k in kept]
    where = group_blocks(_sizes(array, lengths))
    groups = [dask.delayed(join_blocks, pure=False)(None, *blocks[own]) for own in where]
    futures = engine.place(groups, spread=spread)
    ends = np.cumsum([0, *lengths]).tolist()
    engine.wait(futures, lambda g: f"rows {ends[where[g].start]} to {ends[where[g].stop] - 1} of X")
    return _checked(array, engine, futures, 1.0 / engine.processes, named)


def _length(_: None, block: Any) -> int:
    return int(block.shape[0])


class _Group(NamedTuple):
    """Rows, dtype and library of a group's blocks; row, column and kind of its first value that is
    not finite."""

    rows: int
    dtypes: list[str]
    library: str
    bad: tuple[int, int, str] | None


def _look(_: None, blocks: Sequence[Array]) -> _Group:
    bad, start = None, 0
    for block in blocks:
        with _array_api.on_device(block):
            found = first_not_finite(block)
        if found is not None and bad is None:
            bad = (start + found[0], *found[1:])
        start += int(block.shape[0])
    dtypes = sorted({_name(block.dtype) for block in blocks})
    return _Group(start, dtypes, _array_api.library(_array_api.namespace(blocks[0])), bad)


def _name(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]


def _checked(
    array: Any,
    engine: Engine,
    groups: Sequence[Any],
    share: float,
    named: Any,
    taken: int = 0,
) -> Array:
    """Blocks of these groups; ValueError for values that are not finite, by row and column, and for
    blocks that are not what the collection says."""
    looks: list[_Group] = []
    rows = 0
    for look in engine.collect(_look, None, [(group,) for group in groups], MANY):
        if look.bad is not None:
            raise ValueError(not_finite(rows + look.bad[0], *look.bad[1:]))
        if look.dtypes != [array.dtype.name]:
            raise ValueError(
                f"blocks of X have dtype {' and '.join(look.dtypes)} at row {rows}, and X says "
                f"{array.dtype}: X.astype makes them one"
            )
        rows += look.rows
        looks.append(look)
    features, dtype = int(array.shape[1]), np.dtype(array.dtype.name)
    kind = np.empty((0, features), dtype) if looks[0].library == "numpy" else array._meta
    counts = [look.rows for look in looks]
    blocks = Blocks(engine, groups, counts, features, dtype, kind, share, named, taken)
    if rows * features <= FEW:
        return blocks.take(np.arange(rows))
    return blocks


def map_lazily(model: Any, X: Any, predict: Callable[[Any, Array], Array]) -> Any:
    """predict(model, rows) of a collection X as a lazy array of Dask, in chunks of the same rows;
    raises what X in memory raises, but for values."""
    import dask

    array = lazy_rows(model, X, reset=False)
    travelling = copy.copy(model)
    travelling.callbacks = None
    travelling.__dict__.pop("feature_names_in_", None)  # checked: blocks have none
    row = _array_api.from_host(np.zeros((1, int(array.shape[1])), array.dtype), array._meta)
    one = predict(travelling, row)
    rest = tuple(int(size) for size in one.shape[1:])
    return array.map_blocks(
        partial(_predicted, predict),
        dask.delayed(travelling),  # once, not in every task
        dtype=one.dtype,
        chunks=(array.chunks[0], *((size,) for size in rest)),
        drop_axis=() if rest else 1,
        meta=one[:0, ...],
    )


def _predicted(predict: Callable[[Any, Array], Array], rows: Array, model: Any) -> Array:
    if not rows.shape[0]:
        row = _array_api.from_host(np.zeros((1, int(rows.shape[1])), rows.dtype), rows)
        return predict(model, row)[:0, ...]
    return predict(model, rows)
