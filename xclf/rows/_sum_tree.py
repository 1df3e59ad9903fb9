"""Sums of groups, added up along one binary tree over the order of the groups.

Node (0, g) is the sum of group g, and node (l + 1, i) that of (l, 2 i) and (l, 2 i + 1), or the
former alone where there is no latter. Whoever holds some of the nodes may merge those that are
there: the root has the same bits, in whatever parts the groups were worked on.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Sums = tuple[np.ndarray, ...]
Node = tuple[int, int]


class Forest:
    """Some nodes of the tree over `count` groups, merged as far as they can be.

    nodes : the sums of each;  own : the nodes whose arrays this forest may write to
    """

    def __init__(self, count: int, nodes: dict[Node, Sums] | None = None) -> None:
        self.count = count
        self.nodes: dict[Node, Sums] = {} if nodes is None else dict(nodes)
        self.own: set[Node] = set()

    def add(self, node: Node, sums: Sums, *, own: bool) -> None:
        """Take a node, and merge.

        own : whether its arrays may be written to
        """
        while True:
            level, index = node
            size = -(-self.count // (1 << level))
            if size == 1:
                break
            sibling = (level, index ^ 1)
            if (index ^ 1) < size:
                if sibling not in self.nodes:
                    break
                other, other_own = self.nodes.pop(sibling), sibling in self.own
                self.own.discard(sibling)
                left, right = (sums, other) if index % 2 == 0 else (other, sums)
                left_own = own if index % 2 == 0 else other_own
                sums = _added(left, right, left_own)
                own = True
            node = (level + 1, index // 2)
        self.nodes[node] = sums
        if own:
            self.own.add(node)

    def root(self) -> Sums:
        """The sum of all groups, once all are there."""
        (sums,) = self.nodes.values()
        return sums


def _added(left: Sums, right: Sums, own: bool) -> Sums:
    if not own:
        return tuple(np.asarray(a + b) for a, b in zip(left, right, strict=True))
    for a, b in zip(left, right, strict=True):
        np.add(a, b, out=a)
    return left


def sum_of(parts: Iterable[Sums], count: int) -> Sums:
    """The sum of the groups' own sums, which come in their order and may be written to."""
    forest = Forest(count)
    for g, sums in enumerate(parts):
        forest.add((0, g), sums, own=True)
    return forest.root()


def merged(count: int, *parts: dict[Node, Sums]) -> dict[Node, Sums]:
    """The nodes of several forests, which stay as they are, merged."""
    forest = Forest(count)
    for nodes in parts:
        for node, sums in nodes.items():
            forest.add(node, sums, own=False)
    return forest.nodes
