"""A function of every chunk of rows, its results joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xclf._array_api import Array, device, is_host, namespace, to_host
from xclf._sparse import SparseMatrix
from xclf.rows._memory_budget import MemoryBudget
from xclf.rows._rows import Rows, chunk_results
from xclf.rows._shards import is_copyable, on_each_device
from xclf.rows._stream import Streamed, slices
from xclf.rows._threads import in_threads


def map_rows(
    f: Callable[[Array], Array],
    x: Array,
    dtype: Any,
    width: int,
    budget: MemoryBudget | None = None,
) -> Array:
    """f of every chunk of x (N, D), converted to `dtype`, joined along the first axis.

    Results of `Streamed` rows are on the host, as the rows are. For rows on several devices f is
    copied to each as in `sum_over_rows`.
    """
    xp, streamed = namespace(x), isinstance(x, Streamed)
    labels = xp.zeros((int(x.shape[0]),), dtype=xp.int8, device=device(x))
    rows = Rows(x, labels, None, dtype, budget=budget or MemoryBudget())

    def apply(f: Callable[[Array], Array], rows: Rows) -> list[Array]:
        size = rows.chunk_rows(width)
        if isinstance(rows.x, SparseMatrix) and is_host(rows.x):
            return list(in_threads(lambda w: f(rows.chunk(w).x), slices(len(rows), size)))
        results = chunk_results(lambda chunk: f(chunk.x), rows, size, width)
        return [to_host(part) if streamed else part for part in results]

    if rows.shards and is_copyable(f):
        parts = [part for shard in on_each_device(apply, f, rows.shards) for part in shard]
    else:
        parts = apply(f, rows)
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if streamed else xp.concat(parts, axis=0)
