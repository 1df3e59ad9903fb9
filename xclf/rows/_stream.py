"""Rows in host memory for a computation on a device: sent there a chunk at a time.

`Streamed` stands for X there: it has the shape, dtype, namespace and device that X would have, and
sends the rows that are asked for, through a channel of its own.
"""

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
    from_host,
    library,
    namespace,
    on_device,
)
from xclf.rows import _transfer
from xclf.rows._transfer import Channel, Fill, begin_copy, open_channel


class Streamed:
    """X (N, D) in host memory, as arrays on `device` see it.

    host : (N, D) NumPy, read-only or not; float16 where `xp` has none is widened on the host,
        everything else travels as it is
    index : (n,) host integers: only these rows of `host`, in this order; gathered when asked for
    """

    ndim = 2

    def __init__(
        self,
        host: np.ndarray,
        xp: Namespace,
        device: Any,
        index: np.ndarray | None = None,
        channel: Channel | None = None,
    ) -> None:
        self.host, self.xp, self.device, self.index = host, xp, device, index
        known = getattr(xp, host.dtype.name, None) is not None
        self.sent = host.dtype if known else np.dtype(np.float32)
        self.dtype = asarray(xp, np.zeros(1, self.sent), device=device).dtype
        self.shape = (len(host) if index is None else len(index), host.shape[1])
        self.channel = channel or open_channel(xp, device, host.shape[1], self.sent)

    def __array_namespace__(self, *, api_version: str | None = None) -> Namespace:
        return self.xp

    @property
    def bytes_per_row(self) -> int:
        """Of what travels."""
        return int(self.shape[1]) * self.sent.itemsize

    @property
    def bytes_under_way(self) -> int:
        """What one row of a chunk takes while a pass is sent, pinned and on the device: there are
        several chunks at a time."""
        return _transfer.UNDER_WAY * self.bytes_per_row

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        """`x[start:stop, :]`: consecutive rows as an array on the device, for keeps."""
        where, columns = key
        start, stop, step = where.indices(self.shape[0])
        if step != 1 or columns != slice(None):
            raise IndexError(f"only consecutive rows with all columns can be sent, got {key}")
        return self.channel.one(max(0, stop - start), self._fill(slice(start, stop)))

    def take(self, index: np.ndarray) -> Array:
        """The rows that host integers name, gathered on the host."""
        return self.channel.one(len(index), self._fill(index))

    def batches(self, indices: Sequence[np.ndarray]) -> Generator[Array]:
        """`take` of each of the indices, the next ones on their way already; good until the
        next."""
        pieces = ((len(index), self._fill(index)) for index in indices)
        return self.channel.many(pieces, max(map(len, indices), default=0))

    def at(self, index: np.ndarray) -> Streamed:
        """The same for the rows that host integers name; nothing is copied yet."""
        index = index if self.index is None else self.index[index]
        return Streamed(self.host, self.xp, self.device, index, self.channel)

    def parts(self, slices: Sequence[slice]) -> Generator[Array]:
        """The rows of each slice, the next one on its way already; good until the next."""
        sizes = [each.stop - each.start for each in slices]
        pieces = ((size, self._fill(each)) for size, each in zip(sizes, slices, strict=True))
        return self.channel.many(pieces, max(sizes, default=0))

    def resident(self) -> Array:
        """All rows as one array on the device."""
        if library(self.xp) != "cupy":
            return self[:, :]
        # Chunk by chunk: CuPy would stage all of it in pinned memory.
        out = self.xp.empty(self.shape, dtype=self.dtype, device=self.device)
        size = max(1, _transfer.CHUNK // self.bytes_per_row)
        starts = range(0, self.shape[0], size)
        slices = [slice(start, min(start + size, self.shape[0])) for start in starts]
        with closing(self.parts(slices)) as parts:
            for where, part in zip(slices, parts, strict=True):
                out[where, :] = part
        finish(out)
        return out

    def _fill(self, where: slice | np.ndarray) -> Fill:
        which = where if self.index is None else self.index[where]
        return functools.partial(begin_copy, self.host, which)


class Split(Streamed):
    """X shared out among several devices of one library: consecutive rows to each.

    shards : (rows, X of those rows on their device) of each device that has some

    Whatever is asked of it as a whole `device`, one of them, answers, as `Streamed` rows. The loop
    over rows works on `shards` instead.
    """

    def __init__(
        self,
        host: np.ndarray,
        xp: Namespace,
        device: Any,
        shards: Sequence[tuple[slice, Array]],
        index: np.ndarray | None = None,
        channel: Channel | None = None,
    ) -> None:
        super().__init__(host, xp, device, index, channel)
        self.shards = list(shards)

    def at(self, index: np.ndarray) -> Streamed:
        """The same for the rows that host integers name, each where it was; of rows that are not in
        order, one device sees all."""
        whole = super().at(index)
        if len(index) == 0 or np.any(np.diff(index) < 0):
            return whole
        shards: list[tuple[slice, Array]] = []
        for where, x in self.shards:
            first, last = np.searchsorted(index, (where.start, where.stop))
            mine = index[first:last] - where.start
            if len(mine):
                shards.append((slice(int(first), int(last)), _picked(x, mine)))
        return Split(self.host, self.xp, self.device, shards, whole.index, self.channel)


def split(host: np.ndarray, xp: Namespace, devices: Sequence[Any]) -> list[tuple[slice, Streamed]]:
    """Consecutive rows for each of the devices, to be sent there; for no more of them than rows."""
    n, count = len(host), min(len(devices), len(host))
    ends = [n * k // count for k in range(count + 1)]
    shares = [slice(*pair) for pair in pairwise(ends)]
    return [(where, Streamed(host[where], xp, devices[k])) for k, where in enumerate(shares)]


def _picked(x: Array, index: np.ndarray) -> Array:
    if isinstance(x, Streamed):
        return x.at(index)
    with on_device(x):
        return namespace(x).take(x, from_host(index, x), axis=0)
