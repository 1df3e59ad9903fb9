"""Rows in host memory for a computation on a device: sent there a chunk at a time."""

from __future__ import annotations

import functools
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import pairwise
from typing import Any

import numpy as np

from xclf._array_api import (
    Array,
    Namespace,
    asarray,
    finish,
    free_memory,
    from_host,
    library,
    namespace,
    on_device,
)
from xclf._sparse import SparseMatrix
from xclf.rows import _transfer
from xclf.rows._memory_budget import in_words
from xclf.rows._transfer import Transfer, WriteRows, begin_copy, open_transfer


def slices(n: int, size: int, start: int = 0) -> list[slice]:
    """Consecutive slices of at most `size` from `start` to n."""
    return [slice(first, min(first + size, n)) for first in range(start, n, size)]


class Streamed:
    """X (N, D) in host memory, with the shape, dtype, namespace and device of an array on `device`.

    host : (N, D) NumPy, read-only or not; float16 is widened on the host if `xp` lacks it,
        everything else is sent as it is
    index : (n,) host integers: only these rows of `host`, in this order; gathered when sent
    """

    ndim = 2

    def __init__(
        self,
        host: np.ndarray,
        xp: Namespace,
        device: Any,
        index: np.ndarray | None = None,
        transfer: Transfer | None = None,
    ) -> None:
        self.host, self.xp, self.device, self.index = host, xp, device, index
        known = getattr(xp, host.dtype.name, None) is not None
        self.sent = host.dtype if known else np.dtype(np.float32)
        self.dtype = asarray(xp, np.zeros(1, self.sent), device=device).dtype
        self.shape = (len(host) if index is None else len(index), host.shape[1])
        self.transfer = transfer or open_transfer(xp, device, host.shape[1], self.sent)

    def __array_namespace__(self, *, api_version: str | None = None) -> Namespace:
        return self.xp

    @property
    def bytes_per_row(self) -> int:
        """Bytes sent for one row."""
        return int(self.shape[1]) * self.sent.itemsize

    @property
    def bytes_under_way(self) -> int:
        """Bytes for one row of a chunk in all the buffers of a pass."""
        return _transfer.UNDER_WAY * self.bytes_per_row

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        """`x[start:stop, :]`: consecutive rows as an array on the device."""
        where, columns = key
        start, stop, step = where.indices(self.shape[0])
        if step != 1 or columns != slice(None):
            raise IndexError(f"only consecutive rows with all columns can be sent, got {key}")
        return self.transfer.copy(max(0, stop - start), self._writer(slice(start, stop)))

    def take(self, index: np.ndarray) -> Array:
        """The rows numbered by host integers, gathered on the host, as an array on the device."""
        return self.transfer.copy(len(index), self._writer(index))

    def at(self, index: np.ndarray) -> Streamed:
        """The rows numbered by host integers, still streamed; copies nothing yet."""
        index = index if self.index is None else self.index[index]
        return Streamed(self.host, self.xp, self.device, index, self.transfer)

    def parts(self, where: Sequence[slice | np.ndarray]) -> Generator[Array]:
        """The rows of each slice, or numbered by each array of host integers, one after the other.

        Each array is valid until the next; the next one is on its way while one is in use.
        """
        sizes = [w.stop - w.start if isinstance(w, slice) else len(w) for w in where]
        pieces = ((size, self._writer(w)) for size, w in zip(sizes, where, strict=True))
        return self.transfer.stream(pieces, max(sizes, default=0))

    def resident(self) -> Array:
        """All rows as one array on the device."""
        if library(self.xp) != "cupy":
            return self[:, :]
        # Chunk by chunk: CuPy would stage all of it in pinned memory.
        out = self.xp.empty(self.shape, dtype=self.dtype, device=self.device)
        size = max(1, _transfer.CHUNK // self.bytes_per_row)
        pieces = slices(self.shape[0], size)
        with closing(self.parts(pieces)) as parts:
            for where, part in zip(pieces, parts, strict=True):
                out[where, :] = part
        finish(out)
        return out

    def _writer(self, where: slice | np.ndarray) -> WriteRows:
        which = where if self.index is None else self.index[where]
        return functools.partial(begin_copy, self.host, which)


class Sharded(Streamed):
    """X shared among several devices of one library: consecutive rows to each.

    shards : (rows, X of those rows on their device) of each device that has some

    As an array it is `Streamed` rows on `device`, one of them; the loop over rows uses `shards`.
    """

    def __init__(
        self,
        host: np.ndarray,
        xp: Namespace,
        device: Any,
        shards: Sequence[tuple[slice, Array]],
        index: np.ndarray | None = None,
        transfer: Transfer | None = None,
    ) -> None:
        super().__init__(host, xp, device, index, transfer)
        self.shards = list(shards)

    def at(self, index: np.ndarray) -> Streamed:
        """The rows numbered by host integers, each on its device; all on one if not in order."""
        whole = super().at(index)
        if len(index) == 0 or np.any(np.diff(index) < 0):
            return whole
        shards: list[tuple[slice, Array]] = []
        for where, x in self.shards:
            first, last = np.searchsorted(index, (where.start, where.stop))
            own = index[first:last] - where.start
            if len(own):
                shards.append((slice(int(first), int(last)), _take(x, own)))
        return Sharded(self.host, self.xp, self.device, shards, whole.index, self.transfer)


def sent_sparse(x: SparseMatrix, xp: Namespace, device: Any) -> SparseMatrix:
    """Sparse rows in host memory as those of CuPy on a device, all at once.

    Raises ValueError for another library, and for rows that do not fit there.
    """
    if library(xp) != "cupy":
        raise ValueError(
            f"sparse X is computed on the CPU or on CuPy's devices, not with {library(xp)}: leave "
            "device at None, or make X dense"
        )
    free = free_memory(xp, device)
    if free is not None and x.nbytes > free:
        raise ValueError(
            f"sparse X takes {in_words(x.nbytes)}, and {in_words(free)} are free on {device}: it "
            "is not streamed; leave device at None"
        )
    import cupy
    import cupyx.scipy.sparse

    with cupy.cuda.Device(device.id):
        return SparseMatrix(cupyx.scipy.sparse.csr_matrix(x.matrix))


def shard_rows(
    host: np.ndarray, xp: Namespace, devices: Sequence[Any]
) -> list[tuple[slice, Streamed]]:
    """Consecutive rows for each device, to be streamed there; at most one device a row."""
    n, count = len(host), min(len(devices), len(host))
    ends = [n * k // count for k in range(count + 1)]
    pieces = [slice(*pair) for pair in pairwise(ends)]
    return [(where, Streamed(host[where], xp, devices[k])) for k, where in enumerate(pieces)]


def _take(x: Array, index: np.ndarray) -> Array:
    if isinstance(x, Streamed):
        return x.at(index)
    with on_device(x):
        return namespace(x).take(x, from_host(index, x), axis=0)
