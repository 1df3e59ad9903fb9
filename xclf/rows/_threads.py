"""Threads on the CPU: how many BLAS may use, and our own over chunks of rows."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from xclf._array_api import Array, is_host

# Products of fewer multiply-adds gain nothing from a second thread, and lose by orders of magnitude
# where other processes keep the cores busy: every product then waits for a thread that is not
# scheduled. Measured on digits (1437 x 64 x 10, a million): 0.1 s alone and 9.9 s on a busy machine
# with two threads, 0.1 s and 0.2 s with one.
_WORTH_THREADS = 4_000_000


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


class _OneThread:
    """BLAS held to one thread while any fit asks for it: the limit belongs to the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._limit = _controller().limit(limits=1, user_api="blas")

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._limit is not None:
                self._limit.restore_original_limits()
                self._limit = None


_ONE_THREAD = _OneThread()


def blas_threads(x: Array, multiply_adds: int) -> contextlib.AbstractContextManager[None]:
    """A context in which NumPy's products run in one thread if `multiply_adds` is small.

    multiply_adds : of the largest product of the fit;  x : its data, on the host or not
    """
    if not is_host(x) or multiply_adds >= _WORTH_THREADS:
        return contextlib.nullcontext()
    return _ONE_THREAD


@contextlib.contextmanager
def own_threads() -> Iterator[None]:
    """A context in which BLAS has one thread, and `in_threads` as many as BLAS had before.

    For many heads: what is not shared out by rows is done head by head, in products so small that
    the threads of BLAS mostly wait for each other.
    """
    width = _width.set(blas_width())
    try:
        with _ONE_THREAD:
            yield
    finally:
        _width.reset(width)


_width: contextvars.ContextVar[int | None] = contextvars.ContextVar("_width", default=None)

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_threads(f: Callable[[Part], Result], parts: Sequence[Part]) -> Generator[Result, None, None]:
    """f of every part, in their order, by as many threads as BLAS may use now.

    So a limit on BLAS, by its environment variables or by threadpoolctl, is one on these threads
    too. While they run BLAS has one thread in each. Few results wait to be fetched at a time.
    """
    workers = min(blas_width(), len(parts))
    if workers < 2 or getattr(_inside, "yes", False):
        yield from map(f, parts)
        return
    with _ONE_THREAD:
        todo = iter(parts)
        running: deque[Future[Result]] = deque()
        pool = _pool(workers)
        try:
            for part in todo:
                running.append(pool.submit(_worker, f, part))
                if len(running) > workers:
                    yield _first(running)
            while running:
                yield _first(running)
        finally:
            # An error, or Ctrl-C: nothing may go on writing to the caller's arrays.
            for future in running:
                future.cancel()
            for future in running:
                if not future.cancelled():
                    future.exception()


def _first(running: deque[Future[Result]]) -> Result:
    """The oldest result; until it is there it counts as running, also for an interrupt."""
    result = running[0].result()
    running.popleft()
    return result


_inside = threading.local()


def _worker(f: Callable[[Part], Result], part: Part) -> Result:
    _inside.yes = True  # what f calls runs in this thread
    return f(part)


def blas_width() -> int:
    """How many threads BLAS may use now, and so how many rows are shared among."""
    kept = _width.get()
    if kept is not None:
        return kept
    libraries = _controller().lib_controllers
    return max((int(lib.num_threads) for lib in libraries if lib.user_api == "blas"), default=1)


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="xclf")


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
