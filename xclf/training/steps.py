"""The steps of a minibatch fit by the formulas, and the schedule of batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from xclf._array_api import Array
from xclf.objectives import Objective
from xclf.optim import Rule, State, rate_factor
from xclf.rows import Rows


@dataclass(frozen=True)
class MinibatchPlan:
    """How a minibatch fit goes through the rows.

    rate : learning rate, or (K, 1) one per head; so may be a parameter of the rule
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

    def batches(self, index: Array, epoch: int) -> Iterator[tuple[Array, Any]]:
        """The numbers of each batch's rows, of those in `index`, and its learning rate."""
        size, count = self.batch_size, int(index.shape[0])
        steps = -(-count // size)
        for step in range(steps):
            factor = rate_factor(self.schedule, epoch * steps + step, steps, self.epochs)
            rate = self.rate if factor == 1.0 else self.rate * factor
            yield index[step * size : min((step + 1) * size, count)], rate


def plain_steps(
    objective: Objective,
    rule: Rule,
    rows: Rows,
    theta: Array,
    state: State,
    batches: Sequence[tuple[Array, Any]],
) -> tuple[Array, State]:
    """(theta, state) after a step for each of `batches`: gather rows, gradient, update. Nothing
    reaches the host, and nothing is written to."""
    with closing(rows.batches([index for index, _ in batches])) as chunks:
        for _, rate in batches:  # a chunk has no name: it is gone when the next one is made
            gradient = objective.batch_gradient(theta, next(chunks))
            theta, state = rule.step(theta, gradient, state, rate)
    return theta, state
