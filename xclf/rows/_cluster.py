"""Blocks on the workers of a Dask cluster: work is a graph of tasks, which its scheduler runs."""

from __future__ import annotations

import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from typing import Any

import numpy as np

from xclf.rows._blocks import MANY, Engine, plain
from xclf.rows._direct import Direct
from xclf.rows._graph_tasks import Batch, Held, call, merge, pick, same, work_on
from xclf.rows._sum_tree import Forest, Sums

#: Seconds without a single worker, or without a scheduler, after which a fit ends with an error.
PATIENCE = 60.0

# Seconds between looks at the cluster while work is under way.
_LOOK = 2.0

# Seconds after which a pass is a graph again: clusters that end when they are idle have to see that
# they are not.
_IDLE = 30.0


class ClusterEngine(Engine):
    """Groups of blocks on the workers of a `distributed.Client`.

    A pass with little to send is a message to each worker and its answer (`Direct`). Any other
    is one graph, and so is one whose groups are not all held: what all tasks share travels once to
    every worker that needs it; there is a task for each thread of a worker, over the groups that it
    holds, and a tree of tasks that merge what these return. The scheduler computes again what a
    lost worker held.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self._threads: dict[str, int] = dict(client.nthreads())
        self._holders: dict[Any, frozenset[str]] = {}
        self._looked = self._scheduled = time.monotonic()
        self.workers = max(self._threads.values(), default=1)

    def describe(self) -> str:
        return f"the Dask cluster at {self.client.scheduler.address}"

    @property
    def processes(self) -> int:
        """Workers that there are now."""
        return max(1, len(self._workers()))

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
        found = self._directly("sums", function, shared, per_group)
        if found is not None:
            return tuple(found)
        graph, keys = self._batches(function, shared, per_group, keep=False)
        (nodes,) = self._results(self._submit(graph, [merge(graph, keys, len(per_group))]))
        return Forest(len(per_group), nodes).root()

    def _directly(
        self, what: str, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]
    ) -> Sequence[Any] | None:
        """What `Direct` has of that name, if it is time for it."""
        self._check_alive()
        if time.monotonic() - self._scheduled > _IDLE:
            return None
        held, lost = self._held(
            [[value for value in args if hasattr(value, "key")] for args in per_group]
        )
        if lost:
            return None
        found: Sequence[Any] | None
        found = getattr(Direct(self.client, held, self._workers), what)(function, shared, per_group)
        if found is None:
            self._holders.clear()
        return found

    def sums_and_keep(
        self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]
    ) -> tuple[Sums, list[Any]]:
        graph, keys = self._batches(function, shared, per_group, keep=True)
        kept = [""] * len(per_group)
        for key, batch in keys.items():
            for number, g in enumerate(batch):
                kept[g] = f"{key}-kept-{number}"
                graph[kept[g]] = (pick, key, 1, number)
            graph[f"{key}-sums"] = (pick, key, 0)
        root = merge(graph, {f"{key}-sums": batch for key, batch in keys.items()}, len(per_group))
        futures = self._submit(graph, [root, *kept])
        self.wait(futures)
        (nodes,) = self._results(futures[:1])
        return Forest(len(per_group), nodes).root(), futures[1:]

    def _batches(
        self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]], *, keep: bool
    ) -> tuple[dict[str, Any], dict[str, list[int]]]:
        """(graph, numbers of groups by key) of a task for each thread of each worker, over groups
        that the worker holds."""
        run, count = _key(function), len(per_group)
        common = f"{run}-shared"
        graph: dict[str, Any] = {common: (same, Held(shared))}
        keys: dict[str, list[int]] = {}
        for batch in self._shares([args[:1] for args in per_group]):
            key = f"{run}-{batch[0]}"
            keys[key] = batch
            about = Batch(function, count, batch, len(per_group[0]), keep)
            graph[key] = (work_on, about, common, *(value for g in batch for value in per_group[g]))
        return graph, keys

    def _shares(self, groups: Sequence[tuple[Any]]) -> list[list[int]]:
        """Numbers of the groups that one worker holds, in order, for each of its threads. One that
        is being computed again is alone."""
        held, lost = self._held(groups)
        shares = [[number] for number in lost]
        for holder, numbers in held.items():
            parts = min(len(numbers), self._threads.get(holder, 1))
            cuts = [len(numbers) * k // parts for k in range(parts + 1)]
            shares += [numbers[first:last] for first, last in pairwise(cuts)]
        return sorted(shares)

    def _held(self, per_group: Sequence[Sequence[Any]]) -> tuple[dict[str, list[int]], list[int]]:
        """Numbers of the groups all of whose futures a worker holds, by worker and in order; and of
        those of which none does."""
        now = time.monotonic()
        if now - self._looked > _LOOK:
            workers = self._workers()
            if workers != self._threads:
                self._threads = workers
                self._holders.clear()
            self._looked = now
        futures = [future for args in per_group for future in args]
        unknown = [future for future in futures if future.key not in self._holders]
        if unknown:
            try:
                places = self.client.who_has(unknown)
            except Exception as error:
                raise self._failure(error) from error
            self._holders |= {key: frozenset(holders) for key, holders in places.items() if holders}
        held: dict[str, list[int]] = {}
        lost = []
        for number, args in enumerate(per_group):
            places = (self._holders.get(future.key, frozenset()) for future in args)
            holders = frozenset(self._threads).intersection(*places)
            if holders:
                held.setdefault(min(holders), []).append(number)
            else:
                lost.append(number)
        return held, lost

    def keep(
        self,
        function: Any,
        shared: Any,
        per_group: Sequence[tuple[Any, ...]],
        near: Sequence[Any] | None = None,
    ) -> list[Any]:
        work = [(None, *args) for args in per_group]
        if near is None:
            return self._kept(function, shared, work)
        self._settle(near)
        work = list(zip(near, *zip(*per_group, strict=True), strict=True))
        futures = self._kept(function, shared, work)
        # A scheduler may share work as it likes. What is elsewhere too is made again: of several
        # copies it keeps any one.
        for _ in range(2):
            pairs = list(zip(near, futures, strict=True))
            self._held(pairs)
            known = [[self._holders.get(own.key, frozenset()) for own in pair] for pair in pairs]
            apart = [g for g, (group, own) in enumerate(known) if not own <= group]
            if not apart:
                break
            again = self._kept(function, shared, [work[g] for g in apart])
            for g, future in zip(apart, again, strict=True):
                futures[g] = future
        return futures

    def _settle(self, groups: Sequence[Any]) -> None:
        """See that one worker holds each group: of several copies a scheduler keeps any one."""
        for group in groups:
            self._holders.pop(group.key, None)
        self._held([(group,) for group in groups])
        several = [group for group in groups if len(self._holders.get(group.key, ())) > 1]
        if several:
            with suppress(Exception):  # a worker may be gone: passes find groups where they are
                self.client.replicate(several, n=1)
            for group in several:
                self._holders.pop(group.key, None)
            self._held([(group,) for group in several])

    def _kept(self, function: Any, shared: Any, work: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The results of function(shared, *args) for each (group, *args), beside the groups where
        these are futures."""
        import dask

        run, anywhere = _key(function), list(self._threads)
        common = f"{run}-shared"
        graph: dict[str, Any] = {common: (same, Held(shared))}
        keys = [f"{run}-{g}" for g in range(len(work))]
        places: dict[str, Any] = {common: anywhere}
        for key, (group, *args) in zip(keys, work, strict=True):
            graph[key] = (call, function, common, *args)
            places[key] = list(self._holders.get(getattr(group, "key", ""), anywhere))
        # Any other worker may, where these are lost.
        with dask.annotate(workers=places.get, allow_other_workers=True):
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
        if ahead == MANY:
            found = self._directly("results", function, shared, per_group)
            if found is not None:
                yield from found
                return
        common = self.keep(plain, None, [(Held(shared),)])[0]
        if ahead is None:
            ahead = 2 * sum(self._threads.values())
        # Some together, as a graph takes its time, and the next ones under way meanwhile.
        size = max(1, ahead // 2)
        parts = (per_group[k : k + size] for k in range(0, len(per_group), size))
        coming = deque(self._started(function, common, part) for part in islice(parts, 2))
        while coming:
            values = self._results(coming[0])
            coming.popleft()  # the workers may forget them
            coming.extend(self._started(function, common, part) for part in islice(parts, 1))
            values.reverse()
            while values:
                yield values.pop()

    def _started(self, function: Any, common: Any, part: Sequence[tuple[Any, ...]]) -> list[Any]:
        run = _key(function)
        keys = [f"{run}-{k}" for k in range(len(part))]
        return self._submit(
            {key: (call, function, common, *args) for key, args in zip(keys, part, strict=True)},
            keys,
        )

    def _submit(self, graph: dict[str, Any], keys: list[str]) -> list[Any]:
        self._check_alive()
        self._scheduled = time.monotonic()
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
        if self._workers():
            return now
        if now - since > PATIENCE:
            raise RuntimeError(
                f"{self.describe()} has had no worker for {PATIENCE:.0f} s: the fit ends here"
            )
        return since

    def _workers(self) -> dict[str, int]:
        """The threads of each worker that there is now."""
        try:
            return dict(self.client.nthreads())
        except Exception:  # a scheduler that does not answer has none to give
            return {}

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


def _key(function: Any) -> str:
    name = getattr(function, "__name__", "task").strip("_").replace("_", "-")
    return f"xclf-{name}-{uuid.uuid4().hex}"
