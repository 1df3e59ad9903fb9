"""Threads on the CPU: how many BLAS may use, and our own over chunks of rows."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from xclf._array_api import Array, is_host

Part = TypeVar("Part")
Result = TypeVar("Result")

# Products of fewer multiply-adds gain nothing from a second thread, and lose by orders of magnitude
# where other processes keep the cores busy: every product then waits for a thread that is not
# scheduled. Measured on digits (1437 x 64 x 10, a million): 0.1 s alone and 9.9 s on a busy machine
# with two threads, 0.1 s and 0.2 s with one.
_WORTH_THREADS = 4_000_000


@functools.cache
def thread_pool(workers: int, name: str) -> ThreadPoolExecutor:
    """A pool that lives as long as the process: starting threads, and what libraries set up in
    each, costs more than the work of a pass."""
    return ThreadPoolExecutor(workers, thread_name_prefix=name)


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=thread_pool.cache_clear)


def cancel(running: Iterable[Future[Any]]) -> None:
    """Cancel what has not begun and wait for the rest. After an error or Ctrl-C nothing may go on
    writing to the caller's arrays."""
    begun = [future for future in running if not future.cancel()]
    wait(begun)


class SharedSetting:
    """A context with a setting of the whole process, which ends with its last user.

    apply : changes the setting, and returns the function that restores it
    """

    def __init__(self, apply: Callable[[], Callable[[], Any]]) -> None:
        self._apply, self._lock, self._users = apply, threading.Lock(), 0
        self._restore: Callable[[], Any]

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._restore = self._apply()
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._restore()


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


_ONE_BLAS_THREAD = SharedSetting(
    lambda: _controller().limit(limits=1, user_api="blas").restore_original_limits
)


def blas_threads(x: Array, multiply_adds: int) -> contextlib.AbstractContextManager[None]:
    """A context in which NumPy's products run in one thread if they are small.

    x : the data of the fit;  multiply_adds : those of its largest product
    """
    if not is_host(x) or multiply_adds >= _WORTH_THREADS:
        return contextlib.nullcontext()
    return _ONE_BLAS_THREAD


# The threads that BLAS had before `own_threads`.
_width: contextvars.ContextVar[int | None] = contextvars.ContextVar("_width", default=None)


@contextlib.contextmanager
def own_threads() -> Iterator[None]:
    """A context in which BLAS has one thread, and `in_threads` as many as BLAS had before.

    For many heads: work that is not shared among rows is done head by head, in products so small
    that the threads of BLAS mostly wait for each other.
    """
    width = _width.set(blas_width())
    try:
        with _ONE_BLAS_THREAD:
            yield
    finally:
        _width.reset(width)


def blas_width() -> int:
    """The number of threads that BLAS may use now, among which rows are shared."""
    kept = _width.get()
    if kept is not None:
        return kept
    libraries = _controller().lib_controllers
    return max((int(lib.num_threads) for lib in libraries if lib.user_api == "blas"), default=1)


_inside = threading.local()


def in_threads(f: Callable[[Part], Result], parts: Sequence[Part]) -> Generator[Result, None, None]:
    """f of every part, in their order, in as many threads as BLAS may use now.

    A limit on BLAS, by its environment variables or by threadpoolctl, thus limits these threads
    too. While they run, BLAS has one thread in each, and f's own calls of `in_threads` stay in
    theirs. At most one result a thread waits to be fetched.
    """
    workers = min(blas_width(), len(parts))
    if workers < 2 or getattr(_inside, "yes", False):
        yield from map(f, parts)
        return
    with _ONE_BLAS_THREAD:
        running: deque[Future[Result]] = deque()
        pool = thread_pool(workers, "xclf")
        try:
            for part in parts:
                running.append(pool.submit(_worker, f, part))
                if len(running) > workers:
                    yield _first(running)
            while running:
                yield _first(running)
        finally:
            cancel(running)


def _first(running: deque[Future[Result]]) -> Result:
    """The oldest result; until it is there it counts as running, also for an interrupt."""
    result = running[0].result()
    running.popleft()
    return result


def _worker(f: Callable[[Part], Result], part: Part) -> Result:
    _inside.yes = True
    return f(part)
