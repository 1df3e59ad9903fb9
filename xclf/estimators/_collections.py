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
import scipy.sparse
from sklearn.utils.validation import validate_data

from xclf import _array_api
from xclf._array_api import Array
from xclf._sparse import SparseMatrix, is_sparse, stacked_rows
from xclf._sparse_input import canonical, sparse_not_finite
from xclf.estimators._values import block_loaders, delayed_blocks, first_not_finite, not_finite
from xclf.rows import (
    FEW,
    MANY,
    Blocks,
    ClusterEngine,
    Engine,
    LocalEngine,
    Source,
    SparseBlocks,
    group_blocks,
    in_words,
    join_blocks,
    off_file,
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
        return _in_memory(array)
    there, named = client(), X._meta if hasattr(X, "columns") else None
    if there is None:
        return _open_here(array, parse_bytes(est.max_memory), named)
    return _open_on_cluster(array, ClusterEngine(there), named)


def _in_memory(array: Any) -> Array:
    import dask

    if not is_sparse(array._meta):
        return array.compute()
    return stacked_rows([canonical(block) for block in dask.compute(*array.to_delayed().ravel())])


def _known(array: Any) -> list[tuple[int, int]] | None:
    """(rows, bytes) of each block, None if unknown."""
    lengths = array.chunks[0]
    if is_sparse(array._meta) or any(map(math.isnan, lengths)):
        return None
    each = array.shape[1] * array.dtype.itemsize
    return [(int(length), int(length) * each) for length in lengths]


def _measured(_: None, block: Any) -> tuple[int, int]:
    """(rows, bytes) of a block."""
    rows = int(block.shape[0])
    if is_sparse(block):
        return rows, canonical(block).nbytes
    return rows, rows * int(block.shape[1]) * int(getattr(block.dtype, "itemsize", 8))


def _group(_: None, *blocks: Any) -> list[Array]:
    """A group of these blocks, sparse ones checked."""
    return join_blocks(None, *(canonical(own) if is_sparse(own) else own for own in blocks))


def _held_group(_: None, *blocks: Any) -> list[Array]:
    """A group that a worker is to hold: in its memory, not in a file."""
    return [off_file(block) for block in _group(None, *blocks)]


def _with_rows(array: Any, sizes: Sequence[tuple[int, int]]) -> list[int]:
    """The blocks that have rows; ValueError if none has."""
    kept = [k for k, (length, _) in enumerate(sizes) if length]
    if not kept:
        raise ValueError(
            f"Found array with 0 sample(s) (shape=(0, {array.shape[1]})) while a minimum of 1 is "
            "required: all blocks of X are empty"
        )
    return kept


def _open_here(array: Any, most: int | None, named: Any) -> Array:
    """Blocks for this process: their lengths and values are checked in a first pass."""
    import dask

    delayed = delayed_blocks(array)
    sizes = _known(array)
    if sizes is None:
        sizes = [dask.compute(dask.delayed(_measured)(None, block))[0] for block in delayed]
    kept = _with_rows(array, sizes)
    lengths, size = zip(*(sizes[k] for k in kept), strict=True)
    groups = group_blocks(size, None if most is None else most // 8)
    largest = max(sum(size[where]) for where in groups)
    if most is not None and largest > most // 2:
        raise ValueError(
            f"max_memory={in_words(most)} cannot be kept: blocks of X take up to "
            f"{in_words(largest)} at a time, X.rechunk makes smaller ones"
        )
    ends = np.cumsum([0, *lengths]).tolist()

    def source(where: slice, load: Callable[[], list[Any]]) -> Source:
        what = f"rows {ends[where.start]} to {ends[where.stop] - 1} of X"
        return Source(lambda: _group(None, *load()), what)

    ahead = most is None or 4 * largest <= most
    loaders = block_loaders([delayed[k] for k in kept], groups)
    sources = [source(*own) for own in zip(groups, loaders, strict=True)]
    taken = (1 + ahead) * largest
    return _checked(array, LocalEngine(ahead), sources, 1.0, named, taken)


def _open_on_cluster(array: Any, engine: ClusterEngine, named: Any) -> Array:
    """Blocks that the cluster's workers hold from now on, each group on one of them."""
    import dask
    import distributed

    sizes, blocks = _known(array), delayed_blocks(array)
    spread = sizes is not None and not distributed.futures_of(array)
    if sizes is None:  # they are in memory then: what their sizes are is known by computing
        blocks = engine.client.compute(blocks)
        engine.wait(blocks, lambda k: f"block {k} of X")
        sizes = list(engine.collect(_measured, None, [(block,) for block in blocks], MANY))
    kept = _with_rows(array, sizes)
    (lengths, size), blocks = zip(*(sizes[k] for k in kept), strict=True), [blocks[k] for k in kept]
    where = group_blocks(size)
    groups = [dask.delayed(_held_group, pure=False)(None, *blocks[own]) for own in where]
    futures = engine.place(groups, spread=spread)
    ends = np.cumsum([0, *lengths]).tolist()
    engine.wait(futures, lambda g: f"rows {ends[where[g].start]} to {ends[where[g].stop] - 1} of X")
    return _checked(array, engine, futures, 1.0 / engine.processes, named)


class _Group(NamedTuple):
    """Rows, numbers, dtypes and kinds of a group's blocks: a library's name, or "sparse"; row,
    column and kind of its first value that is not finite."""

    rows: int
    values: int
    dtypes: list[str]
    kinds: list[str]
    bad: tuple[int, int, str] | None


def _look(_: None, blocks: Sequence[Array]) -> _Group:
    bad, start, values = None, 0, 0
    for block in blocks:
        sparse = isinstance(block, SparseMatrix)
        with _array_api.on_device(block):
            found = sparse_not_finite(block) if sparse else first_not_finite(block)
        if found is not None and bad is None:
            bad = (start + found[0], *found[1:])
        start += int(block.shape[0])
        values += int(block.matrix.nnz) if sparse else int(block.shape[0]) * int(block.shape[1])
    dtypes, kinds = {_name(block.dtype) for block in blocks}, {_kind(block) for block in blocks}
    return _Group(start, values, sorted(dtypes), sorted(kinds), bad)


def _no_rows(_: None, blocks: Sequence[Array]) -> Array:
    return blocks[0][:0, :]


def _name(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]


def _kind(block: Array) -> str:
    if isinstance(block, SparseMatrix):
        return "sparse"
    return _array_api.library(_array_api.namespace(block))


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
    features, sparse = int(array.shape[1]), is_sparse(array._meta)
    kind: Array = np.empty((0, features), np.dtype(array.dtype.name))
    if sparse:
        kind = canonical(scipy.sparse.csr_array((0, features), dtype=array.dtype))
    looks: list[_Group] = []
    rows = 0
    for look in engine.collect(_look, None, [(group,) for group in groups], MANY):
        if look.bad is not None:
            raise ValueError(not_finite(rows + look.bad[0], *look.bad[1:]))
        if look.dtypes != [kind.dtype.name]:
            raise ValueError(
                f"blocks of X have dtype {' and '.join(look.dtypes)} at row {rows}, and X says "
                f"{array.dtype}: X.astype makes them one"
            )
        if ("sparse" in look.kinds) != sparse or len(look.kinds) > 1:
            raise ValueError(
                f"blocks of X are {' and '.join(look.kinds)} at row {rows}, and its meta says "
                f"{'sparse' if sparse else 'dense'}: X.map_blocks(..., meta=...) makes them one"
            )
        rows += look.rows
        looks.append(look)
    dense = looks[0].kinds[0]
    if not sparse and dense != "numpy":
        kind = array._meta
        if _kind(kind) != dense:  # a meta says what it likes
            kind = next(engine.collect(_no_rows, None, [(groups[0],)]))
    named = np.empty((0, features)) if named is None and sparse else named
    each = -(-sum(look.values for look in looks) // rows)
    own = (features, np.dtype(array.dtype.name) if not sparse else kind.dtype, kind, share, named)
    counts = [look.rows for look in looks]
    blocks = (SparseBlocks if sparse else Blocks)(engine, groups, counts, *own, taken, each)
    if rows * features <= FEW:
        return blocks.take(np.arange(rows))
    return blocks


def map_lazily(model: Any, X: Any, predict: Callable[[Any, Array], Array]) -> Any:
    """predict(model, rows) of a collection X as a lazy array of Dask, in chunks of the same rows;
    raises what X in memory raises, but for values."""
    import dask
    import dask.array as da

    array = lazy_rows(model, X, reset=False)
    travelling = copy.copy(model)
    travelling.callbacks = None
    travelling.__dict__.pop("feature_names_in_", None)  # checked: blocks have none
    row = _zeros(array, array._meta)
    one = predict(_beside(travelling, row), row)
    # Columns are in one chunk: of several `map_blocks` would make a copy of one.
    return da.blockwise(
        partial(_predicted, predict),
        "ik"[: one.ndim],
        array,
        "ij",
        dask.delayed(travelling),  # once, not in every task
        None,
        new_axes={"k": int(one.shape[1])} if one.ndim > 1 else {},
        concatenate=None,
        dtype=one.dtype,
        meta=one[:0, ...],
    )


def _predicted(predict: Callable[[Any, Array], Array], parts: Any, model: Any) -> Array:
    (rows,) = parts
    model = _beside(model, rows)
    if not rows.shape[0]:
        return predict(model, _zeros(rows, rows))[:0, ...]
    return predict(model, rows)


def _beside(model: Any, rows: Array) -> Any:
    """A model that a fit to blocks of a device left on the host, where such blocks are."""
    if _array_api.is_host(rows) or is_sparse(rows):
        return model
    one = model if model._task_models is None else model._task_models[0]
    if not _array_api.is_host(one._layers()[0].w):
        return model
    return model.to_namespace(_array_api.namespace(rows), _array_api.device(rows))


def _zeros(rows: Any, like: Any) -> Array:
    """A row like those of `rows`, in the library of `like`; of NumPy for sparse ones."""
    row = np.zeros((1, int(rows.shape[1])), rows.dtype)
    return row if is_sparse(like) else _array_api.from_host(row, like)
