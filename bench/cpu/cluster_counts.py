"""What a pass costs a scheduler: counted on the graphs that it would be sent."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from bench.common.measuring import table
from xclf.rows._cluster import ClusterEngine
from xclf.rows._graph_tasks import FAN
from xclf.rows._sum_tree import Forest

#: Assumptions: threads of each worker, groups, and a softmax of 1000 classes on 1024 features,
#: whose parameters travel in float32 and whose sums come back in float64.
THREADS, GROUPS, PARAMETERS = 4, 1024, 1000 * 1025


class _Group:
    """Stands for a future."""

    def __init__(self, number: int) -> None:
        self.key = f"group-{number:06d}"


class _Client:
    """Stands for the Client of a cluster: consecutive groups on each worker."""

    def __init__(self, workers: int) -> None:
        self.workers = [f"tcp://10.0.{k // 250}.{k % 250}:40000" for k in range(workers)]

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.workers, THREADS)

    def who_has(self, groups: list[_Group]) -> dict[str, list[str]]:
        each = len(groups) / len(self.workers)
        return {group.key: [self.workers[int(k / each)]] for k, group in enumerate(groups)}


def _function() -> None:
    """Stands for the work on a group."""


def counted(workers: tuple[int, ...]) -> list[dict[str, Any]]:
    """Prints and returns, for each number of workers, what one pass comes to."""
    results = []
    for count in workers:
        engine = ClusterEngine(_Client(count))
        groups = [(_Group(k), _Group(k)) for k in range(GROUPS)]
        graph, keys = engine._batches(_function, None, groups, keep=True)
        nodes = [_nodes(batch) for batch in keys.values()]
        moved, merges, depth = 0, 0, 2
        while len(nodes) > 1:
            parts = [nodes[k : k + FAN] for k in range(0, len(nodes), FAN)]
            # The first of each is where the task runs: the others come to it.
            moved += sum(len(one) for part in parts for one in part[1:])
            nodes = [
                _nodes([g for one in part for node in one for g in _under(node)]) for part in parts
            ]
            merges, depth = merges + len(nodes), depth + 1
        theta, sums = 4 * PARAMETERS, 8 * PARAMETERS
        words = len(pickle.dumps([(key, str(task)) for key, task in graph.items()]))
        results.append(
            {
                "workers": count,
                "threads": count * THREADS,
                "groups": GROUPS,
                "tasks": len(graph) + merges,
                "depth": depth,
                "scheduler_bytes": theta + words + sums,
                "parameters_to_workers_bytes": theta * count,
                "sums_between_workers_bytes": sums * moved,
            }
        )
    _show(results)
    return results


def _nodes(groups: Any) -> list[tuple[int, int]]:
    """The nodes of the tree that sums of these groups merge into."""
    forest = Forest(GROUPS)
    for g in groups:
        forest.add((0, g), (np.zeros(1),), own=True)
    return list(forest.nodes)


def _under(node: tuple[int, int]) -> range:
    level, index = node
    return range(index << level, min(GROUPS, (index + 1) << level))


def _show(results: list[dict[str, Any]]) -> None:
    mega = 1 << 20
    table(
        f"a pass, counted: {THREADS} threads a worker, {GROUPS} groups, {PARAMETERS} parameters",
        ["workers", "tasks", "depth", "scheduler MB", "to workers MB", "between workers MB"],
        [
            (
                str(row["workers"]),
                str(row["tasks"]),
                str(row["depth"]),
                f"{row['scheduler_bytes'] / mega:.0f}",
                f"{row['parameters_to_workers_bytes'] / mega:.0f}",
                f"{row['sums_between_workers_bytes'] / mega:.0f}",
            )
            for row in results
        ],
    )
