"""Rows in host memory for a computation on a device: sent there a chunk at a time.

`Streamed` stands for X there: it has the shape, dtype, namespace and device that X would have, and
sends the rows that are asked for. With CuPy a `_Pinned` channel carries them: two pinned buffers,
two buffers on the device and a stream of its own, so that a chunk is on its way while the one
before is computed with. Any other library gets each chunk by its `asarray`.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import cycle, pairwise
from typing import Any, Protocol

import numpy as np

from xclf._xp import (
    Array,
    Namespace,
    asarray,
    finish,
    from_host,
    library,
    namespace,
    on_device,
)

#: Bytes of rows under way in one chunk: some milliseconds of copying, far above what it costs to
#: launch the work on it.
CHUNK = 64 << 20

# Pageable memory is copied to the pinned buffers by so many threads: one alone is slower than the
# bus. Blocks of less than this are not worth a second one.
_COPIERS, _BLOCK = 8, 1 << 20

#: Writes rows of X to where it is told to; the shape of what it writes is (rows, D).
Fill = Callable[[np.ndarray], None]


class Channel(Protocol):
    """The way from host memory to one device."""

    def one(self, rows: int, fill: Fill) -> Array:
        """An array of `rows` rows, for keeps."""

    def many(self, pieces: Sequence[tuple[int, Fill]]) -> Generator[Array]:
        """Arrays one after the other, each good until the next is asked for."""


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

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        """`x[start:stop, :]`: consecutive rows as an array on the device, for keeps."""
        where, columns = key
        start, stop, step = where.indices(self.shape[0])
        if step != 1 or columns != slice(None):
            raise IndexError(f"only consecutive rows with all columns can be sent, got {key}")
        return self.channel.one(max(0, stop - start), self._fill(slice(start, stop)))

    def take(self, index: np.ndarray) -> Array:
        """The rows that host integers name, gathered on the host."""
        index = index if self.index is None else self.index[index]
        return self.channel.one(len(index), functools.partial(_copy, self.host, index))

    def at(self, index: np.ndarray) -> Streamed:
        """The same for the rows that host integers name; nothing is copied yet."""
        index = index if self.index is None else self.index[index]
        return Streamed(self.host, self.xp, self.device, index, self.channel)

    def parts(self, slices: Sequence[slice]) -> Generator[Array]:
        """The rows of each slice, the next one on its way already; good until the next."""
        return self.channel.many([(s.stop - s.start, self._fill(s)) for s in slices])

    def resident(self) -> Array:
        """All rows as one array on the device."""
        if library(self.xp) != "cupy":
            return self[:, :]
        # Chunk by chunk: CuPy would stage all of it in pinned memory.
        out = self.xp.empty(self.shape, dtype=self.dtype, device=self.device)
        size = max(1, CHUNK // self.bytes_per_row)
        starts = range(0, self.shape[0], size)
        slices = [slice(start, min(start + size, self.shape[0])) for start in starts]
        with closing(self.parts(slices)) as parts:
            for where, part in zip(slices, parts, strict=True):
                out[where, :] = part
        finish(out)
        return out

    def _fill(self, where: slice) -> Fill:
        which = where if self.index is None else self.index[where]
        return functools.partial(_copy, self.host, which)


class Split(Streamed):
    """X shared out among several devices of one library: consecutive rows to each.

    lanes : (rows, X of those rows on their device) of each device that has some

    Whatever is asked of it as a whole `device`, one of them, answers, as `Streamed` rows. The loop
    over rows works on `lanes` instead.
    """

    def __init__(
        self,
        host: np.ndarray,
        xp: Namespace,
        device: Any,
        lanes: Sequence[tuple[slice, Array]],
        index: np.ndarray | None = None,
        channel: Channel | None = None,
    ) -> None:
        super().__init__(host, xp, device, index, channel)
        self.lanes = list(lanes)

    def at(self, index: np.ndarray) -> Streamed:
        """The same for the rows that host integers name, each where it was; of rows that are not in
        order, one device sees all."""
        whole = super().at(index)
        if len(index) == 0 or np.any(np.diff(index) < 0):
            return whole
        lanes: list[tuple[slice, Array]] = []
        for where, x in self.lanes:
            first, last = np.searchsorted(index, (where.start, where.stop))
            mine = index[first:last] - where.start
            if len(mine):
                lanes.append((slice(int(first), int(last)), _picked(x, mine)))
        return Split(self.host, self.xp, self.device, lanes, whole.index, self.channel)


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


def _copy(host: np.ndarray, which: slice | np.ndarray, out: np.ndarray) -> None:
    """out = host[which], by several threads where there is much to copy."""
    workers = max(1, min(_COPIERS, len(out), out.nbytes // _BLOCK))
    ends = [len(out) * k // workers for k in range(workers + 1)]

    def some(k: int) -> None:
        mine = out[ends[k] : ends[k + 1]]
        if isinstance(which, slice):
            np.copyto(mine, host[which.start + ends[k] : which.start + ends[k + 1]])
        elif mine.dtype == host.dtype:
            # Clipping never happens; asking for it saves a copy of what is gathered.
            np.take(host, which[ends[k] : ends[k + 1]], axis=0, out=mine, mode="clip")
        else:
            np.copyto(mine, host[which[ends[k] : ends[k + 1]]])

    if workers == 1:
        some(0)
        return
    deque(_copiers().map(some, range(workers)), maxlen=0)


@functools.cache
def _copiers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_COPIERS, thread_name_prefix="xclf-copy")


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_copiers.cache_clear)


def open_channel(xp: Namespace, device: Any, features: int, dtype: np.dtype) -> Channel:
    """The best way there for rows of so many features of `dtype`."""
    if library(xp) == "cupy":
        return _Pinned(device, features, dtype)
    return _Plain(xp, device, features, dtype)


class _Plain:
    """Each chunk by the library's own `asarray`."""

    def __init__(self, xp: Namespace, device: Any, features: int, dtype: np.dtype) -> None:
        self.xp, self.device, self.features, self.dtype = xp, device, features, dtype

    def one(self, rows: int, fill: Fill) -> Array:
        out = np.empty((rows, self.features), self.dtype)
        fill(out)
        return asarray(self.xp, out, device=self.device)

    def many(self, pieces: Sequence[tuple[int, Fill]]) -> Generator[Array]:
        for rows, fill in pieces:
            yield self.one(rows, fill)


def _wait(copied: Sequence[Any], pinned: list[Any]) -> None:
    """Give pinned buffers back, once nothing is copied from them any more."""
    for event in copied:
        event.synchronize()
    pinned.clear()


class _Pinned:
    """Two pinned buffers, two buffers on the device, a copying stream, and events between them.

    Slot k holds one chunk. Its pinned buffer may be written once `copied[k]` has come; its device
    buffer once `used[k]` has, which is recorded on the computing stream behind the work on it.
    """

    def __init__(self, device: Any, features: int, dtype: np.dtype) -> None:
        import cupy

        self.cupy, self.device, self.features, self.dtype = cupy, device, features, dtype
        with device:
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self.copied = [cupy.cuda.Event(disable_timing=True) for _ in range(4)]
            self.used = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]
        self.pinned: list[Any] = [None] * 4
        self.buffers: list[Any] = [None, None]
        self._turn = cycle((2, 3))
        # CuPy's pool of pinned memory gives it to the next who asks, copies under way or not.
        end = weakref.finalize(self, _wait, self.copied, self.pinned)
        end.atexit = False  # the driver may be gone by then

    def one(self, rows: int, fill: Fill) -> Array:
        """In order with the computing stream; the host goes on once the rows are pinned."""
        slot = next(self._turn)
        with self.device:
            current = self.cupy.cuda.get_current_stream()
            pinned = self._filled(slot, rows, fill)
            out = self.cupy.empty(pinned.shape, self.dtype)
            out.set(pinned, stream=current)
            self.copied[slot].record(current)
        return out

    def many(self, pieces: Sequence[tuple[int, Fill]]) -> Generator[Array]:
        """One chunk is on its way while the one before is computed with."""
        coming: deque[tuple[int, Any]] = deque()
        try:
            for (rows, fill), slot in zip(pieces, cycle((0, 1)), strict=False):
                coming.append((slot, self._send(slot, rows, fill)))
                if len(coming) == 2:
                    yield from self._hand_out(*coming.popleft())
            while coming:
                yield from self._hand_out(*coming.popleft())
        finally:
            # The caller gave up: whatever uses these buffers next comes after the copies.
            with self.device:
                for slot, _ in coming:
                    self.cupy.cuda.get_current_stream().wait_event(self.copied[slot])

    def _send(self, slot: int, rows: int, fill: Fill) -> Any:
        with self.device:
            pinned = self._filled(slot, rows, fill)
            buffer = self._buffer(slot, pinned)
            self.stream.wait_event(self.used[slot])
            buffer.set(pinned, stream=self.stream)
            self.copied[slot].record(self.stream)
        return buffer

    def _hand_out(self, slot: int, buffer: Any) -> Iterator[Array]:
        with self.device:
            self.cupy.cuda.get_current_stream().wait_event(self.copied[slot])
        try:
            yield buffer
        finally:
            with self.device:
                self.used[slot].record(self.cupy.cuda.get_current_stream())

    def _filled(self, slot: int, rows: int, fill: Fill) -> np.ndarray:
        """The slot's pinned buffer with the rows in it."""
        size = rows * self.features * self.dtype.itemsize
        self.copied[slot].synchronize()
        if self.pinned[slot] is None or self.pinned[slot].nbytes < size:
            import cupyx

            self.pinned[slot] = None
            self.pinned[slot] = cupyx.empty_pinned((max(1, size),), np.uint8)
        pinned: np.ndarray = self.pinned[slot][:size].view(self.dtype).reshape(rows, self.features)
        fill(pinned)
        return pinned

    def _buffer(self, slot: int, like: np.ndarray) -> Any:
        """The slot's buffer on the device, in the shape of `like`."""
        held = self.buffers[slot]
        if held is None or not like.nbytes <= held.nbytes <= 2 * like.nbytes + CHUNK:
            # Its memory goes back to CuPy's pool, where nothing waits for our stream.
            self.stream.synchronize()
            self.buffers[slot] = held = None
            self.buffers[slot] = held = self.cupy.empty((like.nbytes,), np.uint8)
            # The pool may hand out what the computing stream still works with.
            self.used[slot].record(self.cupy.cuda.get_current_stream())
        return held[: like.nbytes].view(self.dtype).reshape(like.shape)
