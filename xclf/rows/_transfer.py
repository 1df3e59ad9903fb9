"""The way from host memory to a device, a chunk of rows at a time.

With CuPy a `_Pinned` channel carries the chunks: pinned buffers, two buffers on the device and a
stream of its own, so that a chunk is on its way, and the next one gathered, while the one before
is computed with. Any other library gets each chunk by its `asarray`.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import cycle
from typing import Any, Protocol

import numpy as np

from xclf._array_api import Array, Namespace, asarray, library

#: Bytes of rows under way in one chunk: some milliseconds of copying, far above what it costs to
#: launch the work on it.
CHUNK = 64 << 20

# Buffers of the chunks of one pass, pinned and on the device: see `_Pinned.many`.
_PINNED, _THERE = 3, 2

#: Chunks that take memory at a time, pinned or on the device.
UNDER_WAY = _PINNED + _THERE

# Pageable memory is copied to the pinned buffers by so many threads: one alone is slower than the
# bus. Blocks of less than this are not worth one: it takes as long to wake it as to copy them.
_COPIERS, _BLOCK = 8, 1 << 20

#: Begins to write rows of X to where it is told to, whose shape is (rows, D). They are there once
#: what it returns is done.
Fill = Callable[[np.ndarray], Sequence[Future[None]]]


class Channel(Protocol):
    """The way from host memory to one device."""

    def one(self, rows: int, fill: Fill) -> Array:
        """An array of `rows` rows, for keeps."""

    def many(self, pieces: Iterable[tuple[int, Fill]], most: int) -> Generator[Array]:
        """Arrays one after the other, each good until the next is asked for; of at most so many
        rows."""


def open_channel(xp: Namespace, device: Any, features: int, dtype: np.dtype) -> Channel:
    """The best way there for rows of so many features of `dtype`."""
    if library(xp) == "cupy":
        return _Pinned(device, features, dtype)
    return _Plain(xp, device, features, dtype)


def begin_copy(host: np.ndarray, which: slice | np.ndarray, out: np.ndarray) -> list[Future[None]]:
    """Begin out = host[which], in several threads where there is much to copy; little is copied at
    once, and nothing left to wait for."""
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

    if out.nbytes < _BLOCK:
        some(0)
        return []
    return [_copiers().submit(some, k) for k in range(workers)]


def finish_copy(writing: Sequence[Future[None]]) -> None:
    """Wait until all of it is written; an error of any thread is raised then."""
    wait(writing)
    for part in writing:
        part.result()


@functools.cache
def _copiers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_COPIERS, thread_name_prefix="xclf-copy")


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_copiers.cache_clear)


class _Plain:
    """Each chunk by the library's own `asarray`."""

    def __init__(self, xp: Namespace, device: Any, features: int, dtype: np.dtype) -> None:
        self.xp, self.device, self.features, self.dtype = xp, device, features, dtype

    def one(self, rows: int, fill: Fill) -> Array:
        out = np.empty((rows, self.features), self.dtype)
        finish_copy(fill(out))
        return asarray(self.xp, out, device=self.device)

    def many(self, pieces: Iterable[tuple[int, Fill]], most: int) -> Generator[Array]:
        for rows, fill in pieces:
            yield self.one(rows, fill)


class _Slot:
    """A pinned buffer. It may be written to once `copied` has come, and sent once nothing of
    `writing` is left to do."""

    def __init__(self, event: Any) -> None:
        self.copied = event
        self.memory: np.ndarray = np.empty(0, np.uint8)
        self.rows: np.ndarray = self.memory  # those in it, or on their way into it
        self.writing: Sequence[Future[None]] = ()

    def begin(self, rows: int, most: int, features: int, dtype: np.dtype, fill: Fill) -> None:
        """Begin to write `rows` rows, of a pass whose chunks have at most `most`."""
        wait(self.writing)  # left over only where an interrupt broke a wait
        self.copied.synchronize()
        each = features * dtype.itemsize
        size = max(1, most * each)
        if self.memory.nbytes < size:
            import cupyx

            self.memory = self.rows = np.empty(0, np.uint8)
            self.memory = cupyx.empty_pinned((size,), np.uint8)
        self.rows = self.memory[: rows * each].view(dtype).reshape(rows, features)
        self.writing = fill(self.rows)

    def send(self, target: Any, stream: Any) -> None:
        """Enqueue the copy to `target`, once the rows are written."""
        finish_copy(self.writing)
        target.set(self.rows, stream=stream)
        self.copied.record(stream)

    def release(self) -> None:
        """Give the memory back, once nothing is written to it or copied from it any more."""
        wait(self.writing)
        self.copied.synchronize()
        self.memory = self.rows = np.empty(0, np.uint8)


def _release(slots: Sequence[_Slot]) -> None:
    for slot in slots:
        slot.release()


class _Pinned:
    """Pinned buffers, two buffers on the device, a copying stream, and events between them.

    A buffer on the device may be written to once its `used` has come, which is recorded on the
    computing stream behind the work on it.
    """

    def __init__(self, device: Any, features: int, dtype: np.dtype) -> None:
        import cupy

        self.cupy, self.device, self.features, self.dtype = cupy, device, features, dtype

        def event() -> Any:
            return cupy.cuda.Event(disable_timing=True)

        with device:
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self.slots = [_Slot(event()) for _ in range(_PINNED)]
            self.apart = [_Slot(event()) for _ in range(2)]  # for rows asked for in between
            self.used = [event() for _ in range(_THERE)]
        self.buffers: list[Any] = [None] * _THERE
        self._turn = cycle(self.apart)
        # CuPy's pool of pinned memory gives it to the next who asks, copies under way or not.
        end = weakref.finalize(self, _release, self.slots + self.apart)
        end.atexit = False  # the driver may be gone by then

    def one(self, rows: int, fill: Fill) -> Array:
        """In order with the computing stream; the host goes on once the rows are pinned."""
        slot = next(self._turn)
        with self.device:
            slot.begin(rows, rows, self.features, self.dtype, fill)
            out = self.cupy.empty(slot.rows.shape, self.dtype)
            slot.send(out, self.cupy.cuda.get_current_stream())
        return out

    def many(self, pieces: Iterable[tuple[int, Fill]], most: int) -> Generator[Array]:
        """When chunk k is handed out, k + 1 is on the bus and k + 2 is being gathered, by threads
        of their own, while the host launches the work on k.

        Gathering k + 2 begins as early as there is a pinned buffer for it, and where the host has
        to wait, it waits for what is behind by so much that nobody stands still for want of work.
        With G to gather a chunk, B on the bus, L to launch the work on it and S to compute:
        - k + 2 is gathered into the buffer that k - 1 has left, G + B for three chunks, and k is
          launched once that is free: L + S + B for three;
        - k is launched once k + 1 is gathered and sent: G + L for two;
        - k + 2 travels to the place on the device where the work on k is done: B + S for two.
        None of these is more than the largest of G, B, L and S for each chunk, so the slowest of
        them alone says how long a pass takes. With two pinned buffers k would be launched only
        when it has arrived: L + S + B for two.
        """
        writing: deque[_Slot] = deque()
        coming: deque[tuple[_Slot, Any, int]] = deque()
        places, complete = cycle(range(_THERE)), False
        try:
            for (rows, fill), slot in zip(pieces, cycle(self.slots), strict=False):
                with self.device:
                    slot.begin(rows, most, self.features, self.dtype, fill)
                writing.append(slot)
                if len(writing) == 2:
                    coming.append(self._send(writing.popleft(), next(places), most))
                if len(coming) == 2:
                    yield from self._hand_out(*coming.popleft())
            while writing or coming:
                if writing:
                    coming.append(self._send(writing.popleft(), next(places), most))
                last = coming.popleft()
                complete = not coming  # nobody needs to ask for more than the last
                yield from self._hand_out(*last)
        finally:
            if not complete:
                self._give_up()

    def _send(self, slot: _Slot, place: int, most: int) -> tuple[_Slot, Any, int]:
        """Send the rows of a slot to a place on the device, once they are written."""
        with self.device:
            buffer = self._buffer(place, slot.rows, most)
            self.stream.wait_event(self.used[place])
            slot.send(buffer, self.stream)
        return slot, buffer, place

    def _hand_out(self, slot: _Slot, buffer: Any, place: int) -> Iterator[Array]:
        with self.device:
            self.cupy.cuda.get_current_stream().wait_event(slot.copied)
        try:
            yield buffer
        finally:
            with self.device:
                self.used[place].record(self.cupy.cuda.get_current_stream())

    def _give_up(self) -> None:
        """Leave nothing under way, into pinned memory or out of it: whatever uses the buffers next
        finds them at rest."""
        for slot in self.slots:
            wait(slot.writing)
        with self.device:
            self.stream.synchronize()

    def _buffer(self, place: int, like: np.ndarray, most: int) -> Any:
        """The buffer of a place, in the shape of `like`; made for chunks of `most` rows, so that a
        pass whose last chunk is short leaves it as it is."""
        size = most * self.features * self.dtype.itemsize
        held = self.buffers[place]
        if held is None or not size <= held.nbytes <= 2 * size + CHUNK:
            # Its memory goes back to CuPy's pool, where nothing waits for our stream.
            self.stream.synchronize()
            self.buffers[place] = held = None
            self.buffers[place] = held = self.cupy.empty((size,), np.uint8)
            # The pool may hand out what the computing stream still works with.
            self.used[place].record(self.cupy.cuda.get_current_stream())
        return held[: like.nbytes].view(self.dtype).reshape(like.shape)
