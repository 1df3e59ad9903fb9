"""The steps of a minibatch fit: one epoch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xclf._array_api import Array, is_host
from xclf.objectives import Objective, take_heads
from xclf.optim import Momentum, Rule, State, can_update_on_host, rate_factor, update_on_host
from xclf.rows import Rows
from xclf.training._recorded import Recorder


@dataclass(frozen=True)
class MinibatchPlan:
    """How to go through the rows.

    rate : learning rate, or (K, 1) one per head; so may a rule's momentum be
    schedule : see `rate_factor`
    tol, patience : stop when the watched figure has not improved by tol (relative for the
        objective, absolute for the validation accuracy) for `patience` epochs; no stop with
        patience None
    """

    rule: Rule
    rate: Any
    batch_size: int
    epochs: int
    schedule: str
    tol: float
    patience: int | None

    def keep(self, kept: np.ndarray) -> MinibatchPlan:
        """The plan of the heads that host integers `kept` name."""
        rule = self.rule
        if isinstance(rule, Momentum):
            rule = replace(rule, momentum=take_heads(rule.momentum, kept))
        return replace(self, rule=rule, rate=take_heads(self.rate, kept))


def minibatch_step(
    objective: Objective,
    rule: Rule,
    rows: Rows,
    theta: Array,
    state: State,
    index: Array,
    rate: Any,
) -> tuple[Array, State]:
    """One step: gather the rows that `index` names, gradient, update. Nothing reaches the host."""
    gradient = objective.batch_gradient(theta, rows.take(index))
    return rule.step(theta, gradient, state, rate)


def run_epoch(
    objective: Objective,
    rows: Rows,
    plan: MinibatchPlan,
    theta: Array,
    state: State,
    order: np.ndarray,
    epoch: int,
    recorder: Recorder | None = None,
    own_thread: bool = False,
    own_state: bool = False,
) -> tuple[Array, State]:
    """One pass over the rows that `order` (host integers) names, in that order.

    recorder : one for all epochs of a fit, for steps that may be replayed from a CUDA graph
    own_thread : whether this is one of several threads that train heads
    own_state : whether the arrays of `state` may be written to
    """
    total = len(order) if own_thread else 0
    batches = list(_batches(plan, rows.numbers(order), epoch))
    # A head that diverges overflows; the end of the epoch sees and says so.
    with np.errstate(over="ignore", invalid="ignore"):
        if recorder is not None and batches:
            made = recorder.steps_of(objective, plan.rule, rows, theta, state, batches[0])
            if made is not None:
                full = len(order) // plan.batch_size or 1
                theta, state = made.run(theta, state, batches[:full])
                batches = batches[full:]
        if is_host(theta) and can_update_on_host(plan.rule):
            if not own_state:
                state = tuple(part.copy() if is_array(part) else part for part in state)
            return _on_host(objective, rows, plan.rule, theta.copy(), state, batches, total)
        with closing(rows.batches([index for index, _ in batches])) as chunks:
            for _, rate in batches:  # a chunk has no name: it is gone when the next one is made
                gradient = objective.batch_gradient(theta, next(chunks))
                theta, state = plan.rule.step(theta, gradient, state, rate)
    return theta, state


def _on_host(
    objective: Objective,
    rows: Rows,
    rule: Rule,
    theta: np.ndarray,
    state: State,
    batches: list[tuple[np.ndarray, Any]],
    total: int,
) -> tuple[np.ndarray, State]:
    """The same steps on NumPy, written into theta and the state."""
    with closing(rows.batches([index for index, _ in batches])) as chunks:
        for _, rate in batches:
            gradient = objective.batch_gradient(theta, next(chunks), penalty=False, total=total)
            gradient = gradient.astype(theta.dtype, copy=False)
            objective.add_penalty(theta, gradient)
            state = update_on_host(rule, theta, gradient, state, rule.numbers(state, rate))
    return theta, state


def _batches(plan: MinibatchPlan, index: Array, epoch: int) -> Iterator[tuple[Array, Any]]:
    """The numbers of each batch's rows, and its learning rate."""
    size, count = plan.batch_size, int(index.shape[0])
    steps = -(-count // size)
    for step in range(steps):
        factor = rate_factor(plan.schedule, epoch * steps + step, steps, plan.epochs)
        rate = plan.rate if factor == 1.0 else plan.rate * factor
        yield index[step * size : min((step + 1) * size, count)], rate


def is_array(value: Any) -> bool:
    return bool(getattr(value, "ndim", 0))
