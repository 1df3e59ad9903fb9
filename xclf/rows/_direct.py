"""Passes that go to the workers of a cluster without a graph: one message to each, one back.

A scheduler's graph takes some ten milliseconds before the first task runs, and more for each that
depends on others: longer than many a pass. So workers are sent a function and the names of what
they hold, by `Client.run`, and answer with sums. Nothing depends on it: where a worker is lost, or
does not hold what it should, the pass is made again as a graph.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future
from itertools import pairwise
from typing import Any, NamedTuple

from xclf.rows._sum_tree import Forest, Node, Sums
from xclf.rows._threads import thread_pool

#: Bytes of messages, all workers together, up to which they go through the scheduler one by one.
#: Larger ones go from worker to worker in a graph.
MOST_BYTES = 16 << 20

# Seconds between looks at which workers there are, while they work.
_LOOK = 1.0


class Direct:
    """Work on groups that workers hold, by messages.

    held : the numbers of the groups that each worker holds, all of them
    workers : returns those that there are now, by address
    """

    def __init__(
        self, client: Any, held: Mapping[str, Sequence[int]], workers: Callable[[], Container[str]]
    ) -> None:
        self.client, self.held, self.workers = client, held, workers

    def sums(self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]) -> Sums | None:
        """Sums of function(shared, *args) for each entry `args` of `per_group`, futures or values;
        None where that takes a graph."""
        answers = self._ask(_nodes, function, shared, per_group)
        if answers is None:
            return None
        forest = Forest(len(per_group))
        for runs in answers:
            for nodes in runs:
                for node, sums in nodes.items():
                    forest.add(node, sums, own=False)
        return forest.root()

    def results(
        self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]
    ) -> list[Any] | None:
        """The results themselves, which are small; None where that takes a graph."""
        answers = self._ask(_results, function, shared, per_group)
        if answers is None:
            return None
        found = {g: result for runs in answers for own in runs for g, result in own.items()}
        return [found[g] for g in range(len(per_group))]

    def _ask(
        self, work: Any, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]
    ) -> list[Any] | None:
        from distributed.protocol.pickle import dumps

        places = {
            worker: [(g, [_sent(value) for value in per_group[g]]) for g in numbers]
            for worker, numbers in self.held.items()
        }
        message = dumps((work, function, shared, len(per_group), places))
        # Sums are float64 where parameters may be float32.
        if not places or 3 * len(message) * len(places) > MOST_BYTES:
            return None
        coming = _begin(self.client, message, list(places))
        try:
            while (answers := _answers(coming)) is None:
                there = self.workers()
                if not all(worker in there for worker in places):
                    return None  # connections to one that is gone are tried for half a minute
        finally:
            coming.cancel()
        return None if any(runs is None for runs in answers) else answers


class _Name(NamedTuple):
    """That of a value which the worker holds."""

    key: str


def _sent(value: Any) -> Any:
    return _Name(value.key) if hasattr(value, "key") else value


def _begin(client: Any, message: bytes, workers: list[str]) -> Future[dict[str, Any]]:
    """What the workers answer, by address; an exception for one that does not."""

    async def run() -> dict[str, Any]:
        answers: dict[str, Any] = await client.run(
            _answer, message, workers=workers, on_error="return", asynchronous=True
        )
        return answers

    return asyncio.run_coroutine_threadsafe(run(), client.loop.asyncio_loop)


def _answers(coming: Future[dict[str, Any]]) -> list[Any] | None:
    """All answers, None for one that failed; nothing while they are under way."""
    try:
        answers = coming.result(timeout=_LOOK)
    except TimeoutError:
        return None if not coming.done() else [None]
    except Exception:  # the scheduler does not answer
        return [None]
    return [None if isinstance(runs, BaseException) else runs for runs in answers.values()]


async def _answer(message: bytes, dask_worker: Any) -> list[Any] | None:
    """On a worker: what work on its groups gives, in as many threads as it has for tasks; None
    where it lacks a group, or the function fails."""
    from distributed.protocol.pickle import loads

    work, function, shared, count, places = loads(message)
    groups, data = places[dask_worker.address], dask_worker.data
    names = [value.key for _, args in groups for value in args if isinstance(value, _Name)]
    if not all(name in data for name in names):
        return None
    threads = min(len(groups), dask_worker.state.nthreads)
    ends = [len(groups) * k // threads for k in range(threads + 1)]
    pool, loop = thread_pool(threads, "xclf-groups"), asyncio.get_running_loop()
    runs = [
        loop.run_in_executor(pool, work, function, shared, count, data, groups[first:last])
        for first, last in pairwise(ends)
    ]
    try:
        return list(await asyncio.gather(*runs))
    except Exception:  # the graph that follows says what is wrong
        return None


def _nodes(
    function: Any, shared: Any, count: int, data: Mapping[str, Any], groups: Sequence[Any]
) -> dict[Node, Sums]:
    """The nodes of the tree that sums of some groups give."""
    forest = Forest(count)
    for g, args in groups:
        forest.add((0, g), function(shared, *_values(data, args)), own=True)
    return forest.nodes


def _results(
    function: Any, shared: Any, _: int, data: Mapping[str, Any], groups: Sequence[Any]
) -> dict[int, Any]:
    return {g: function(shared, *_values(data, args)) for g, args in groups}


def _values(data: Mapping[str, Any], args: Sequence[Any]) -> list[Any]:
    return [data[value.key] if isinstance(value, _Name) else value for value in args]
