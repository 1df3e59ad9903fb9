"""Minibatch steps of the library on a device: as a fit takes them, and one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench._gpu import RATE
from bench._measure import Call
from xclf.objectives import Objective
from xclf.optim import Rule
from xclf.rows import Rows
from xclf.training import MinibatchPlan, minibatch_step
from xclf.training._recorded import Recorder, why_not
from xclf.training.minibatch import run_epoch


@dataclass(frozen=True)
class Training:
    """A minibatch fit: rows on the device, host integers `order` that name them, batches of one
    size, and flat parameters to start from, on the device."""

    objective: Objective
    rule: Rule
    rows: Rows
    start: Any
    order: np.ndarray
    batch: int
    rate: Any = RATE

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return len(self.order) // self.batch

    def epochs(self) -> tuple[Call, list[Any]]:
        """(an epoch as a fit runs it, [theta, state], which the call goes on from)."""
        now = [self.start, self.rule.init(self.start)]
        plan = MinibatchPlan(self.rule, self.rate, self.batch, 1, "constant", 0.0, None)
        order = self.order[: self.steps * self.batch]
        # As many steps as a fit of many epochs takes: it records them where that can be done.
        recorder = Recorder(_MANY)

        def call() -> None:
            now[:] = run_epoch(self.objective, self.rows, plan, *now, order, 0, recorder)

        return call, now

    def single(self) -> tuple[Call, list[Any]]:
        """(a step, launch by launch, [theta, state])."""
        now = [self.start, self.rule.init(self.start)]
        batches = turns(self.rows.numbers(self.order), self.batch)

        def call() -> None:
            now[:] = minibatch_step(
                self.objective, self.rule, self.rows, *now, next(batches), self.rate
            )

        return call, now


_MANY = 10_000


def turns(order: Any, batch: int) -> Iterator[Any]:
    """Batches of `order`, again and again."""
    while True:
        for start in range(0, len(order) - batch + 1, batch):
            yield order[start : start + batch]


def how_taken(namespace: str) -> str:
    """Whether a fit replays its steps from a CUDA graph, and if not, why."""
    if namespace != "cupy":
        return "one by one: no CuPy"
    why = why_not()
    return "replayed from a CUDA graph" if why is None else f"one by one: {why}"
