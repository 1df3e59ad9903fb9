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
from typing import Any

from xclf.rows._sum_tree import Forest, Node, Sums
from xclf.rows._threads import thread_pool

Nodes = dict[Node, Sums]

#: Bytes of messages, all workers together, up to which they go through the scheduler one by one.
#: Larger ones go from worker to worker in a graph.
MOST_BYTES = 16 << 20

# Seconds between looks at which workers there are, while they work.
_LOOK = 1.0


def direct_sums(
    client: Any,
    function: Any,
    shared: Any,
    per_group: Sequence[tuple[Any, ...]],
    held: Mapping[str, Sequence[int]],
    workers: Callable[[], Container[str]],
) -> Sums | None:
    """Sums of function(shared, *args) for each entry `args` of `per_group`, futures; None where
    that cannot be said without the scheduler.

    held : the numbers of the groups that each worker holds, all of them
    workers : those that there are now, by address
    """
    from distributed.protocol.pickle import dumps

    places = {
        worker: [(g, [future.key for future in per_group[g]]) for g in numbers]
        for worker, numbers in held.items()
    }
    message = dumps((function, shared, len(per_group), places))
    # Sums are float64 where parameters may be float32.
    if not held or 3 * len(message) * len(held) > MOST_BYTES:
        return None
    coming = _begin(client, message, list(held))
    try:
        while (answers := _answers(coming)) is None:
            there = workers()
            if not all(worker in there for worker in held):
                return None  # connections to one that is gone are tried for half a minute
    finally:
        coming.cancel()
    forest = Forest(len(per_group))
    for nodes in answers:
        if nodes is None:
            return None
        for node, sums in nodes.items():
            forest.add(node, sums, own=False)
    return forest.root()


def _begin(client: Any, message: bytes, workers: list[str]) -> Future[dict[str, Any]]:
    """What the workers answer, by address; an exception for one that does not."""

    async def run() -> dict[str, Any]:
        answers: dict[str, Any] = await client.run(
            _answer, message, workers=workers, on_error="return", asynchronous=True
        )
        return answers

    return asyncio.run_coroutine_threadsafe(run(), client.loop.asyncio_loop)


def _answers(coming: Future[dict[str, Any]]) -> list[Nodes | None] | None:
    """All answers, None for one that failed; nothing while they are under way."""
    try:
        answers = coming.result(timeout=_LOOK)
    except TimeoutError:
        return None if not coming.done() else [None]
    except Exception:  # the scheduler does not answer
        return [None]
    return [None if isinstance(nodes, BaseException) else nodes for nodes in answers.values()]


async def _answer(message: bytes, dask_worker: Any) -> Nodes | None:
    """On a worker: the nodes of the tree that its groups give, computed in as many threads as it
    has for tasks; None where it lacks one, or the function fails."""
    from distributed.protocol.pickle import loads

    function, shared, count, places = loads(message)
    groups = places[dask_worker.address]
    threads = min(len(groups), dask_worker.state.nthreads)
    ends = [len(groups) * k // threads for k in range(threads + 1)]
    pool, loop = thread_pool(threads, "xclf-groups"), asyncio.get_running_loop()
    work = (function, shared, count, dask_worker.data)
    runs = [
        loop.run_in_executor(pool, _nodes, *work, groups[first:last])
        for first, last in pairwise(ends)
    ]
    try:
        forest, *others = await asyncio.gather(*runs)
    except Exception:  # the graph that follows says what is wrong
        return None
    for other in others:
        for node, sums in other.nodes.items():
            forest.add(node, sums, own=True)
    nodes: Nodes = forest.nodes
    return nodes


def _nodes(
    function: Any,
    shared: Any,
    count: int,
    data: Mapping[str, Any],
    groups: Sequence[tuple[int, Sequence[str]]],
) -> Forest:
    forest = Forest(count)
    for g, names in groups:
        forest.add((0, g), function(shared, *(data[name] for name in names)), own=True)
    return forest
