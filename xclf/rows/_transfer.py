"""Transfer of rows from host memory to a device, a chunk at a time.

With CuPy through `PinnedTransfer`: pinned buffers, two buffers on the device and a stream of its
own, so that one chunk is on the bus and the next one is gathered while the one before is in use.
With any other library each chunk by its `asarray`.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from itertools import cycle
from typing import Any

import numpy as np

from xclf._array_api import Array, Namespace, asarray, library
from xclf.rows._threads import thread_pool

#: Bytes of rows in one chunk: some milliseconds of copying, far above what it costs to launch the
#: work on it.
CHUNK = 64 << 20

# Buffers of the chunks of one pass, pinned and on the device: see `PinnedTransfer.stream`.
_PINNED, _ON_DEVICE = 3, 2

#: Chunks that take memory at a time, pinned or on the device.
UNDER_WAY = _PINNED + _ON_DEVICE

# Pageable memory is copied to the pinned buffers by so many threads: one alone is slower than the
# bus. Blocks of less than this take as long to copy as to wake a thread.
_COPIERS, _BLOCK = 8, 1 << 20

#: Begins to write rows of X into an array (rows, D); they are written once the futures are done.
WriteRows = Callable[[np.ndarray], Sequence[Future[None]]]


def begin_copy(host: np.ndarray, which: slice | np.ndarray, out: np.ndarray) -> list[Future[None]]:
    """Begin out = host[which] in several threads; a small copy is complete on return."""
    workers = max(1, min(_COPIERS, len(out), out.nbytes // _BLOCK))
    ends = [len(out) * k // workers for k in range(workers + 1)]

    def copy(k: int) -> None:
        part = out[ends[k] : ends[k + 1]]
        if isinstance(which, slice):
            np.copyto(part, host[which.start + ends[k] : which.start + ends[k + 1]])
        elif part.dtype == host.dtype:
            # Indices are valid: "clip" only saves a copy of the gathered rows.
            np.take(host, which[ends[k] : ends[k + 1]], axis=0, out=part, mode="clip")
        else:
            np.copyto(part, host[which[ends[k] : ends[k + 1]]])

    if out.nbytes < _BLOCK:
        copy(0)
        return []
    pool = thread_pool(_COPIERS, "xclf-copy")
    return [pool.submit(copy, k) for k in range(workers)]


def finish_copy(writing: Sequence[Future[None]]) -> None:
    """Wait until all is written, then raise the first error of any thread."""
    wait(writing)
    for part in writing:
        part.result()


class Transfer:
    """Transfer from host memory to one device, each chunk by the library's own `asarray`."""

    def __init__(self, xp: Namespace, device: Any, features: int, dtype: np.dtype) -> None:
        self.xp, self.device, self.features, self.dtype = xp, device, features, dtype

    def copy(self, rows: int, write: WriteRows) -> Array:
        """A new array of `rows` rows."""
        out = np.empty((rows, self.features), self.dtype)
        finish_copy(write(out))
        return asarray(self.xp, out, device=self.device)

    def stream(self, pieces: Iterable[tuple[int, WriteRows]], most: int) -> Generator[Array]:
        """Arrays of at most `most` rows one after the other, each valid until the next."""
        for rows, write in pieces:
            yield self.copy(rows, write)


def open_transfer(xp: Namespace, device: Any, features: int, dtype: np.dtype) -> Transfer:
    """The fastest transfer of rows of so many features of `dtype`."""
    kind = PinnedTransfer if library(xp) == "cupy" else Transfer
    return kind(xp, device, features, dtype)


class _PinnedBuffer:
    """Pinned memory: free to write to once the event `copied` is done, ready to send once the
    futures `writing` are."""

    def __init__(self, event: Any) -> None:
        self.copied = event
        self.memory: np.ndarray = np.empty(0, np.uint8)
        self.rows: np.ndarray = self.memory
        self.writing: Sequence[Future[None]] = ()

    def begin(self, rows: int, most: int, features: int, dtype: np.dtype, write: WriteRows) -> None:
        """Begin to write `rows` rows, of a pass whose chunks have at most `most`."""
        wait(self.writing)  # pending only if an interrupt broke a wait
        self.copied.synchronize()
        each = features * dtype.itemsize
        size = max(1, most * each)
        if self.memory.nbytes < size:
            import cupyx

            self.memory = self.rows = np.empty(0, np.uint8)
            self.memory = cupyx.empty_pinned((size,), np.uint8)
        self.rows = self.memory[: rows * each].view(dtype).reshape(rows, features)
        self.writing = write(self.rows)

    def send(self, target: Any, stream: Any) -> None:
        """Enqueue the copy to `target` once the rows are written."""
        finish_copy(self.writing)
        target.set(self.rows, stream=stream)
        self.copied.record(stream)

    def release(self) -> None:
        """Free the memory once nothing is written to it or copied from it."""
        wait(self.writing)
        self.copied.synchronize()
        self.memory = self.rows = np.empty(0, np.uint8)


class PinnedTransfer(Transfer):
    """Pinned buffers, two buffers on the device, a copying stream, and events between them.

    A buffer on the device may be written to once its event in `used`, recorded on the computing
    stream after the work on it, is done.
    """

    def __init__(self, xp: Namespace, device: Any, features: int, dtype: np.dtype) -> None:
        import cupy

        super().__init__(xp, device, features, dtype)
        self.cupy = cupy

        def event() -> Any:
            return cupy.cuda.Event(disable_timing=True)

        with device:
            self.copying = cupy.cuda.Stream(non_blocking=True)
            self.pinned = [_PinnedBuffer(event()) for _ in range(_PINNED)]
            self.apart = [_PinnedBuffer(event()) for _ in range(2)]  # of `copy`
            self.used = [event() for _ in range(_ON_DEVICE)]
        self.buffers: list[Any] = [None] * _ON_DEVICE
        self._turn = cycle(self.apart)
        # CuPy's pool hands freed pinned memory out again while copies from it are pending.
        for pinned in self.pinned + self.apart:
            # Not at exit: the driver may be gone by then.
            weakref.finalize(self, pinned.release).atexit = False

    def copy(self, rows: int, write: WriteRows) -> Array:
        """In order with the computing stream; returns once the rows are pinned."""
        pinned = next(self._turn)
        with self.device:
            pinned.begin(rows, rows, self.features, self.dtype, write)
            out = self.cupy.empty(pinned.rows.shape, self.dtype)
            pinned.send(out, self.cupy.cuda.get_current_stream())
        return out

    def stream(self, pieces: Iterable[tuple[int, WriteRows]], most: int) -> Generator[Array]:
        """When chunk k is yielded, k + 1 is on the bus and k + 2 is being gathered by threads.

        With G to gather a chunk, B on the bus, L to launch the work on it and S to compute:
        - k + 2 is gathered into the buffer of k - 1, and k is launched once that is free: G + B and
          L + S + B for three chunks;
        - k is launched once k + 1 is gathered and sent: G + L for two;
        - k + 2 is sent to the device's buffer of k once the work on k is done: B + S for two.
        Each is at most the largest of G, B, L and S a chunk, so a pass takes as long as the slowest
        of them alone. With two pinned buffers k would be launched on arrival: L + S + B for two.
        """
        writing: deque[_PinnedBuffer] = deque()
        coming: deque[tuple[_PinnedBuffer, Any, int]] = deque()
        turn, complete = cycle(range(_ON_DEVICE)), False
        try:
            for (rows, write), pinned in zip(pieces, cycle(self.pinned), strict=False):
                with self.device:
                    pinned.begin(rows, most, self.features, self.dtype, write)
                writing.append(pinned)
                if len(writing) == 2:
                    coming.append(self._send(writing.popleft(), next(turn), most))
                if len(coming) == 2:
                    yield from self._hand_out(*coming.popleft())
            while writing or coming:
                if writing:
                    coming.append(self._send(writing.popleft(), next(turn), most))
                chunk = coming.popleft()
                complete = not coming  # the last one: the caller need not ask for another
                yield from self._hand_out(*chunk)
        finally:
            if not complete:
                self._finish_all()

    def _send(self, pinned: _PinnedBuffer, k: int, most: int) -> tuple[_PinnedBuffer, Any, int]:
        """Send rows to buffer k on the device, once they are written."""
        with self.device:
            buffer = self._buffer(k, pinned.rows, most)
            self.copying.wait_event(self.used[k])
            pinned.send(buffer, self.copying)
        return pinned, buffer, k

    def _hand_out(self, pinned: _PinnedBuffer, buffer: Any, k: int) -> Iterator[Array]:
        with self.device:
            self.cupy.cuda.get_current_stream().wait_event(pinned.copied)
        try:
            yield buffer
        finally:
            with self.device:
                self.used[k].record(self.cupy.cuda.get_current_stream())

    def _finish_all(self) -> None:
        """Wait until no copy into or out of pinned memory is pending."""
        for pinned in self.pinned:
            wait(pinned.writing)
        with self.device:
            self.copying.synchronize()

    def _buffer(self, k: int, like: np.ndarray, most: int) -> Any:
        """Buffer k on the device, in the shape of `like`; allocated for chunks of `most` rows, so
        that a shorter last chunk keeps it."""
        size = most * self.features * self.dtype.itemsize
        held = self.buffers[k]
        if held is None or not size <= held.nbytes <= 2 * size + CHUNK:
            # The memory returns to CuPy's pool, where nothing waits for the copying stream.
            self.copying.synchronize()
            self.buffers[k] = held = None
            self.buffers[k] = held = self.cupy.empty((size,), np.uint8)
            # The pool may hand out memory that the computing stream still works with.
            self.used[k].record(self.cupy.cuda.get_current_stream())
        return held[: like.nbytes].view(self.dtype).reshape(like.shape)
