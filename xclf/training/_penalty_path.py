"""Heads that differ by their penalty alone, one after another: each starts where the last point.

The optimum is a smooth curve over log reg, along which the next value's is predicted by a straight
line through the two before it. From there a fit takes a few steps, where one from zero takes
dozens.
Source: Allgower & Georg (1990), predictors; Friedman, Hastie & Tibshirani (2010), paths of warm
starts.
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol, Self

import numpy as np

from xclf._array_api import Array, namespace, to_host
from xclf._heads import is_per_head, take_heads
from xclf.objectives import Objective
from xclf.rows import Rows, Streamed
from xclf.training._stages import STOPPED
from xclf.training.events import FitResult, Monitor

#: Values of reg that make a path, and the most that one may be of the next: a line through values
#: that are far apart does not point at the one after them.
LEAST, MOST_APART = 3, 4.0

# Bytes of the parameters of all heads of a problem up to which they are proven together.
_TOGETHER = 16 << 20

# How much longer than the step before it a step along a line may be.
_FARTHER = 2.0


class Heads(Protocol):
    """A problem of K heads."""

    @property
    def objective(self) -> Objective:
        """The objective of all heads."""

    @property
    def rows(self) -> Rows:
        """The rows that they share."""

    def take_heads(self, kept: np.ndarray) -> Self:
        """The problem of the heads that host integers `kept` name."""

    def value_and_grad(self, theta: Array) -> tuple[Array, ...]:
        """Objective (K,), first of all, at theta (K, P)."""


def levels_of(problem: Heads, theta: Array) -> list[np.ndarray]:
    """Numbers of the heads that train together, level after level, the strongest penalty first; []
    where a path is not worth it: of few values, of starts that are given, and of rows that do not
    lie in one memory, where every pass is dear and is to serve all heads.

    Heads of one place in the levels, of which the later ones may have fewer, have all in common
    but reg.
    """
    rows, objective = problem.rows, problem.objective
    away = rows.in_blocks or isinstance(rows.x, Streamed) or bool(rows.shards)
    if away or bool(namespace(theta).any(theta != 0.0)):
        return []
    heads = int(theta.shape[0])
    reg = np.zeros(heads) + to_host(objective.reg)
    keys = _keys(problem, heads)
    chains: dict[Any, list[int]] = {}
    for k in np.argsort(-reg, kind="stable").tolist():
        chains.setdefault(keys[k], []).append(k)
    paths = sorted(chains.values(), key=len, reverse=True)
    if len(paths[0]) < LEAST or not all(_is_close(reg[path]) for path in paths):
        return []
    depth = range(len(paths[0]))
    return [np.asarray([path[at] for path in paths if len(path) > at]) for at in depth]


def _is_close(reg: np.ndarray) -> bool:
    """Whether falling values are as close together as a path needs them."""
    if not np.all(reg > 0.0):
        return False
    return len(reg) < 2 or bool(np.median(reg[:-1] / reg[1:]) <= MOST_APART)


def _keys(problem: Heads, heads: int) -> list[Any]:
    """What each head has of its own, but for reg."""
    rows, parts = problem.rows, []
    loss: Any = problem.objective.loss
    if is_dataclass(loss):
        values = [getattr(loss, field.name) for field in fields(loss)]
        parts += [to_host(value) for value in values if is_per_head(value)]
    if rows.weights is not None and rows.weights.ndim > 1:
        parts.append(np.arange(heads) if rows.heads is None else to_host(rows.heads))
    if rows.tasks is not None:
        parts.append(to_host(rows.tasks))
    return [tuple(part[k].tobytes() for part in parts) for k in range(heads)]


class Way(Protocol):
    """A way to fit K heads.

    space : the problem of all heads in the way's own parameters
    first : the heads of the first of several levels, None where there is but one
    problems : in how many, of rows of their own, heads are proven
    """

    first: np.ndarray | None
    problems: int

    @property
    def space(self) -> Heads:
        """See above."""

    def start(self, theta: Array) -> Array:
        """Its own parameters at theta (K, P)."""

    def fit(self, heads: np.ndarray, start: Array) -> list[FitResult]:
        """Results, in its own parameters, of the heads that host integers name."""

    def finish(self, heads: np.ndarray, results: list[FitResult]) -> list[FitResult]:
        """What is proven of such results, in the problem's parameters."""


def fit_along(way: Way, theta: Array, monitor: Monitor) -> list[FitResult]:
    """K heads from theta (K, P), along a path where that is worth it, see `levels_of`.

    Where one level was interrupted, or stopped by a callback, the heads of those after it stand
    where those before them do.
    """
    start = way.start(theta)
    del theta  # both may be as large as X
    levels, every = levels_of(way.space, start), np.arange(start.shape[0])
    if not levels:
        results = way.finish(every, way.fit(every, start))
        monitor.before = 0
        return results
    way.first, total = levels[0], monitor.total
    monitor.total *= len(levels)
    try:
        return _along(way, levels, start, monitor)
    finally:
        monitor.before, monitor.waiting, monitor.total = 0, 0, total


def _along(way: Way, levels: list[np.ndarray], start: Array, monitor: Monitor) -> list[FitResult]:
    """Level after level; proven at once where parameters take much memory, else together."""
    every = np.arange(start.shape[0])
    soon = 8 * math.prod(start.shape) > _TOGETHER * way.problems
    reg = np.zeros(len(every)) + to_host(way.space.objective.reg)
    found: dict[int, FitResult] = {}
    results: dict[int, FitResult] = {}
    for at, heads in enumerate(levels):
        monitor.before = len(monitor.history["loss"])
        monitor.waiting = sum(map(len, levels[at + 1 :]))
        before = levels[max(0, at - 2) : at]
        try:
            begin = _starts(before, heads, reg, found) if at else take_heads(start, heads)
            own = level = way.fit(heads, begin)
            found |= zip(heads.tolist(), level, strict=True)
            if soon:
                own = way.finish(heads, level)
        except KeyboardInterrupt:
            if not at:
                raise
            found |= _standing(before[-1], heads, found)
            level = [found[k] for k in heads.tolist()]
            own = way.finish(heads, level) if soon else level
        results |= zip(heads.tolist(), own, strict=True)
        ended = [one for one in [*level, *own] if one.interrupted or one.reason == STOPPED]
        if ended:
            _end(way, ended[0], levels[at:], found)
            for later in levels[at + 1 :] if soon else []:
                more = way.finish(later, [found[k] for k in later.tolist()])
                results |= zip(later.tolist(), more, strict=True)
            break
        for k in levels[at - 2].tolist() if soon and at > 1 else []:
            del found[k]
    if not soon:
        monitor.before, monitor.waiting = len(monitor.history["loss"]), 0
        results |= enumerate(way.finish(every, [found[k] for k in every.tolist()]))
    return [results[k] for k in every.tolist()]


def _standing(
    before: np.ndarray, heads: np.ndarray, found: dict[int, FitResult]
) -> dict[int, FitResult]:
    """Interrupted results of heads that have none of their own: where those before them stand."""
    changed: dict[str, Any] = {"converged": False, "interrupted": True, "reason": "interrupted"}
    places = before[: len(heads)].tolist()
    return {
        k: replace(found.get(k, found[one]), objective=math.nan, n_iter=1, **changed)
        for k, one in zip(heads.tolist(), places, strict=True)
    }


def _starts(
    before: list[np.ndarray], heads: np.ndarray, reg: np.ndarray, found: dict[int, FitResult]
) -> Array:
    """Where `heads` start: ahead of those in their places in one or two levels before."""
    starts = []
    for place, k in enumerate(heads.tolist()):
        line = [int(level[place]) for level in before]
        starts.append(_ahead([(reg[one], found[one].theta) for one in line], reg[k]))
    return namespace(starts[0]).stack(starts)


def _ahead(line: list[tuple[float, Array]], reg: float) -> Array:
    """theta (P,) at `reg`, on a line over log reg through the last two of (reg, theta)."""
    last, there = line[-1]
    if len(line) < 2:
        return there
    before, theta = line[-2]
    step = np.log(before / last)
    share = float(np.log(last / reg) / step) if step > 0.0 else 0.0
    return there + (there - theta) * share if 0.0 < share <= _FARTHER else there


def _end(way: Way, why: FitResult, levels: list[np.ndarray], found: dict[int, FitResult]) -> None:
    """Results of the heads of levels[1:], which have not begun, where those before them stand."""
    last = levels[0]
    for heads in levels[1:]:
        found |= _standing(last, heads, found)
        if not why.interrupted:
            theta = namespace(found[int(heads[0])].theta).stack(
                [found[k].theta for k in heads.tolist()]
            )
            values = to_host(way.space.take_heads(heads).value_and_grad(theta)[0])
            for k, value in zip(heads.tolist(), values.tolist(), strict=True):
                changed: dict[str, Any] = {"interrupted": False, "reason": why.reason}
                found[k] = replace(found[k], objective=float(value), **changed)
        last = heads
