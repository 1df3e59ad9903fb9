"""Heads that differ by their penalty alone, one after another: each starts where the last point.

The optimum is a smooth curve over log reg, along which the next value's is foretold by a straight
line through the two before it. From there a fit takes a few steps, where one from zero takes
dozens: 45 values from 1e-6 to 1e5 take a tenth of the steps, of a single head each.
Source: Allgower & Georg (1990), predictors; Friedman, Hastie & Tibshirani (2010), paths of warm
starts.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
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

# Bytes of the parameters of all heads up to which they are proven together.
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
    return bool(np.all(reg > 0.0) and np.median(reg[:-1] / reg[1:]) <= MOST_APART)


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
    several : whether levels of heads are fitted one after another
    """

    several: bool

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
    start, every = way.start(theta), np.arange(theta.shape[0])
    levels = levels_of(way.space, start)
    if not levels:
        return way.finish(every, way.fit(every, start))
    way.several = True
    # A bound takes a pass, of many heads together where their parameters take little memory.
    soon = 8 * theta.shape[0] * theta.shape[1] > _TOGETHER
    del theta
    reg = np.zeros(len(every)) + to_host(way.space.objective.reg)
    found: dict[int, FitResult] = {}
    results: dict[int, FitResult] = {}
    for at, heads in enumerate(levels):
        monitor.before = len(monitor.history["loss"])
        monitor.waiting = sum(map(len, levels[at + 1 :]))
        begin = (
            _starts(levels[max(0, at - 2) : at], heads, reg, found)
            if at
            else take_heads(start, heads)
        )
        level = way.fit(heads, begin)
        found |= zip(heads.tolist(), level, strict=True)
        ended = [one for one in level if one.interrupted or one.reason == STOPPED]
        if ended:
            _end(ended[0], levels[at:], way.space, found)
        if soon:
            due = np.concatenate(levels[at:]) if ended else heads
            own = way.finish(due, [found[k] for k in due.tolist()])
            results |= zip(due.tolist(), own, strict=True)
            for k in levels[at - 2].tolist() if at > 1 else []:
                del found[k]
        if ended:
            break
    monitor.before, monitor.waiting = len(monitor.history["loss"]), 0
    if not soon:
        results |= enumerate(way.finish(every, [found[k] for k in every.tolist()]))
    monitor.before = 0
    return [results[k] for k in every.tolist()]


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


def _end(
    why: FitResult, levels: list[np.ndarray], problem: Heads, results: dict[int, FitResult]
) -> None:
    """Results of the heads of levels[1:], which have not begun, where those before them stand."""
    last = levels[0]
    for heads in levels[1:]:
        xp = namespace(why.theta)
        theta = xp.stack([results[k].theta for k in last[: len(heads)].tolist()])
        values = to_host(problem.take_heads(heads).value_and_grad(theta)[0])
        for place, (k, value) in enumerate(zip(heads.tolist(), values.tolist(), strict=True)):
            results[k] = FitResult(
                xp.asarray(theta[place, :], copy=True),
                n_iter=1,
                objective=float(value),
                converged=False,
                reason=why.reason,
                interrupted=why.interrupted,
            )
        last = heads
