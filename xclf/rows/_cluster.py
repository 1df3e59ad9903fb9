"""Blocks on the workers of a Dask cluster: work is a graph of tasks, which its scheduler runs."""

from __future__ import annotations

import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from xclf.rows._block_tasks import Sums, add_sums, as_is
from xclf.rows._blocks import FAN, Engine, plain

#: Seconds without a single worker, or without a scheduler, after which a fit ends with an error.
PATIENCE = 60.0

# Seconds between looks at the cluster while work is under way.
_LOOK = 2.0


class ClusterEngine(Engine):
    """Groups of blocks on the workers of a `distributed.Client`.

    A pass is one graph: what all tasks share travels once to every worker that needs it; one task a
    group, on a worker that holds it; sums are added up along a tree. The scheduler computes again
    what a lost worker held.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        threads = list(client.nthreads().values())
        self.workers = max(threads, default=1)

    def describe(self) -> str:
        return f"the Dask cluster at {self.client.scheduler.address}"

    @property
    def processes(self) -> int:
        """Workers that there are now."""
        return max(1, self._count_workers())

    def place(self, groups: Sequence[Any], *, spread: bool) -> list[Any]:
        """Futures of delayed groups.

        spread : whether to share them among the workers, consecutive ones to each by its threads;
            else the scheduler has them made where their blocks are
        """
        if not spread:
            return list(self.client.compute(list(groups)))
        threads = self.client.nthreads()
        ends = [0, *(len(groups) * np.cumsum(list(threads.values())) // sum(threads.values()))]
        futures: list[Any] = []
        for worker, (first, last) in zip(threads, pairwise(map(int, ends)), strict=True):
            # Any other worker may, where this one is lost.
            own = {"workers": [worker], "allow_other_workers": True}
            futures += self.client.compute(list(groups[first:last]), **own) if last > first else []
        return futures

    def sums(self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]) -> Sums:
        graph, keys = _leaves(function, shared, per_group)
        root = _add_tree(graph, keys)
        (sums,) = self._results(self._submit(graph, [root]))
        return sums  # type: ignore[no-any-return]

    def sums_and_keep(
        self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]
    ) -> tuple[Sums, list[Any]]:
        graph, keys = _leaves(function, shared, per_group)
        kept = [f"{key}-kept" for key in keys]
        graph |= {new: (_second, key) for new, key in zip(kept, keys, strict=True)}
        first = [f"{key}-sums" for key in keys]
        graph |= {new: (_first, key) for new, key in zip(first, keys, strict=True)}
        root = _add_tree(graph, first)
        futures = self._submit(graph, [root, *kept])
        (sums,) = self._results(futures[:1])
        self.wait(futures[1:])
        return sums, futures[1:]

    def keep(self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]) -> list[Any]:
        graph, keys = _leaves(function, shared, per_group)
        futures = self._submit(graph, keys)
        self.wait(futures)
        return futures

    def derive(self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]) -> list[Any]:
        return self.keep(function, shared, per_group)

    def collect(
        self,
        function: Any,
        shared: Any,
        per_group: Sequence[tuple[Any, ...]],
        ahead: int | None = None,
    ) -> Generator[Any]:
        if not per_group:
            return
        if ahead is None:
            ahead = 2 * sum(self.client.nthreads().values())
        common = self.keep(plain, None, [(_Held(shared),)])[0]
        coming: deque[Any] = deque()
        waiting = iter(per_group)
        while True:
            while len(coming) <= ahead and (args := next(waiting, None)) is not None:
                key = _key(function)
                coming += self._submit({key: (_call, function, common, *args)}, [key])
            if not coming:
                return
            (value,) = self._results([coming[0]])
            coming.popleft()  # the worker may forget it
            yield value

    def _submit(self, graph: dict[str, Any], keys: list[str]) -> list[Any]:
        self._check_alive()
        with warnings.catch_warnings():
            # Many heads of many classes are large: they travel once, which is what graphs are for.
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            return list(self.client.get(graph, keys, sync=False))

    def wait(self, futures: Sequence[Any], what: Callable[[int], str] | None = None) -> None:
        """Until all are done. RuntimeError for the first that failed, and where nothing can come of
        them any more.

        what : names the k-th, for messages
        """
        import distributed

        since = time.monotonic()
        while True:
            try:
                distributed.wait(futures, timeout=_LOOK)
                break
            except TimeoutError:
                since = self._look(since)
            except Exception as error:
                raise self._failure(error) from error
        for k, future in enumerate(futures):
            if future.status != "finished":
                cause = _error_of(future)
                raise self._failure(cause, "" if what is None else what(k)) from cause

    def _results(self, futures: Sequence[Any]) -> list[Any]:
        self.wait(futures)
        try:
            return list(self.client.gather(list(futures)))
        except Exception as error:
            raise self._failure(error) from error

    def _look(self, since: float) -> float:
        """The last time, seconds of the monotonic clock, at which there was a worker; raises once
        that is too long ago."""
        now = time.monotonic()
        self._check_alive()
        if self._count_workers():
            return now
        if now - since > PATIENCE:
            raise RuntimeError(
                f"{self.describe()} has had no worker for {PATIENCE:.0f} s: the fit ends here"
            )
        return since

    def _count_workers(self) -> int:
        try:
            return len(self.client.nthreads())
        except Exception:  # a scheduler that does not answer has none to give
            return 0

    def _check_alive(self) -> None:
        if self.client.status in ("closed", "closing", "newly-created"):
            raise RuntimeError("the Dask client was closed: the fit ends here")

    def _failure(self, error: BaseException, what: str = "") -> RuntimeError:
        """One error that says what happened."""
        name = type(error).__name__
        if "Cancelled" in name or self.client.status != "running":
            closed = self.client.status in ("closed", "closing")
            gone = "the Dask client was closed" if closed else "the Dask scheduler is gone"
            return RuntimeError(f"{gone}: the fit ends here")
        if name == "KilledWorker":
            return RuntimeError(
                f"workers died again and again over {what or 'a group of blocks'}: do they have "
                f"the memory for it? ({error})"
            )
        doing = f"{what} cannot be computed" if what else "a pass over the blocks failed"
        return RuntimeError(f"{doing}: {name}: {error}")


def _error_of(future: Any) -> BaseException:
    try:
        error = future.exception(timeout=_LOOK)
    except Exception as failure:
        error = failure
    return error if isinstance(error, BaseException) else RuntimeError(future.status)


def _leaves(
    function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]
) -> tuple[dict[str, Any], list[str]]:
    """(graph, keys) of a task for each group; `shared` is a task of its own."""
    run = _key(function)
    common = f"{run}-shared"
    graph: dict[str, Any] = {common: (as_is, _Held(shared))}
    keys = [f"{run}-{g}" for g in range(len(per_group))]
    for key, args in zip(keys, per_group, strict=True):
        graph[key] = (_call, function, common, *args)
    return graph, keys


def _key(function: Any) -> str:
    name = getattr(function, "__name__", "task").strip("_").replace("_", "-")
    return f"xclf-{name}-{uuid.uuid4().hex}"


class _Held:
    """A value in a graph, which is not searched for keys."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _call(function: Any, shared: _Held, *args: Any) -> Any:
    return function(shared.value, *args)


def _add_tree(graph: dict[str, Any], keys: list[str]) -> str:
    """The key of the sums of `keys`, whose tree is added to the graph."""
    level = 0
    while len(keys) > 1:
        level += 1
        parts = [keys[k : k + FAN] for k in range(0, len(keys), FAN)]
        names = [f"{part[0]}-add-{level}" for part in parts]
        graph |= {name: (add_sums, *part) for name, part in zip(names, parts, strict=True)}
        keys = names
    return keys[0]


def _first(pair: tuple[Any, Any]) -> Any:
    return pair[0]


def _second(pair: tuple[Any, Any]) -> Any:
    return pair[1]
