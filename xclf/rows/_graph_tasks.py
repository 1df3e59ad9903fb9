"""Tasks of the graphs that a cluster's scheduler runs, and the tree that merges their sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from xclf.rows._sum_tree import Forest, merged

#: Results that one task merges.
FAN = 8


class Held:
    """A value in a graph, which is not searched for keys."""

    def __init__(self, value: Any) -> None:
        self.value = value


def same(value: Any) -> Any:
    return value


def call(function: Any, shared: Held, *args: Any) -> Any:
    return function(shared.value, *args)


@dataclass(frozen=True)
class Batch:
    """Some of `count` groups: their numbers, and how many arguments each has.

    keep : whether the function returns (sums, something) for each, and something is to stay
    """

    function: Any
    count: int
    numbers: list[int]
    arguments: int
    keep: bool


def work_on(batch: Batch, shared: Held, *flat: Any) -> Any:
    """The nodes of the tree that some groups give, and what they keep."""
    forest, kept, size = Forest(batch.count), [], batch.arguments
    for place, g in enumerate(batch.numbers):
        args = flat[place * size : (place + 1) * size]
        result = batch.function(shared.value, *args)
        if batch.keep:
            result, state = result
            kept.append(state)
        forest.add((0, g), result, own=True)
    return (forest.nodes, kept) if batch.keep else forest.nodes


def merge(graph: dict[str, Any], keys: Iterable[str], count: int) -> str:
    """The key of the merged nodes of `keys`, which the graph then has."""
    level, left = 0, list(keys)
    while len(left) > 1:
        level += 1
        parts = [left[k : k + FAN] for k in range(0, len(left), FAN)]
        left = [f"{part[0]}-merged-{level}" for part in parts]
        graph |= {name: (merged, count, *part) for name, part in zip(left, parts, strict=True)}
    return left[0]


def pick(results: Any, *place: int) -> Any:
    for number in place:
        results = results[number]
    return results
