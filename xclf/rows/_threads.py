"""How many threads BLAS may use for the products of a fit on the CPU."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Any

from threadpoolctl import ThreadpoolController

from xclf._xp import Array, is_host

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
