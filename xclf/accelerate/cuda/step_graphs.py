"""Minibatch steps on a CUDA GPU, recorded once as a graph and replayed.

A step on small batches is some forty launches of a few microseconds each, and CuPy needs longer to
ask for one than a GPU to do it. A graph is replayed by a single call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from xclf._array_api import Array, device, namespace, out_of_memory
from xclf._sparse import SparseMatrix
from xclf.accelerate._registry import Accelerated, Accelerator, Request
from xclf.accelerate.cuda._support import missing, on_cupy, switch_off
from xclf.accelerate.cuda.graphs import record
from xclf.accelerate.cuda.update_kernels import (
    FormulaUpdate,
    KernelUpdate,
    advanced,
    arrays_of,
    copied,
    kernel_steps,
    steps_by,
)
from xclf.objectives import Objective
from xclf.optim import Rule, State
from xclf.rows import Rows, Streamed, bytes_per_row

#: Steps from which on a recording is worth what it takes: a few steps and milliseconds.
WORTH = 50

#: How far replayed steps may be from plain ones, as a share of their length: products add up in
#: another order. A wrong operand, or a number of another step, is off by far more.
AGREES, AGREES_WIDE = 1e-2, 1e-6  # in float32 (and TF32), in float64

Batches = Sequence[tuple[Array, Any]]


class RecordedStep:
    """A step for batches of one size, as a CUDA graph.

    The graph reads and writes arrays that stay where they are: theta, the rule's state, the index
    of the batch's rows and the rule's `numbers`. Between two steps the host writes the last two.

    batch : any, of that size: its index and learning rate
    """

    def __init__(
        self,
        update: FormulaUpdate,
        rows: Rows,
        theta: Array,
        state: State,
        batch: tuple[Array, Any],
    ) -> None:
        self.update, self.rows = update, rows
        xp = namespace(theta)
        self.theta, self.state, self.index = (
            copied(theta),
            tuple(map(copied, state)),
            copied(batch[0]),
        )
        self.numbers = tuple(
            xp.zeros(getattr(number, "shape", ()), dtype=theta.dtype, device=device(theta))
            for number in update.rule.numbers(state, batch[1])
        )
        self._written: tuple[Any, ...] = (None,) * len(self.numbers)
        self._write(state, *batch)
        width = max(update.objective.network.widths[1:]) * math.prod(theta.shape[:-1])
        of_batch = len(self.index) * bytes_per_row(rows.x, rows.dtype, width)
        self._graph = record(self._work, 2 * of_batch + 4 * int(theta.nbytes))

    def run(self, theta: Array, state: State, batches: Batches) -> tuple[Array, State]:
        """(theta, state) after a step for each of `batches`, from copies of theta and state."""
        self.theta[...] = theta
        for own, part in zip(arrays_of(self.state), arrays_of(state), strict=True):
            own[...] = part
        for index, rate in batches:
            self._write(state, index, rate)
            self._graph.launch()
            state = advanced(state)
        held = iter(arrays_of(self.state))
        return copied(self.theta), tuple(
            copied(next(held)) if hasattr(part, "shape") else part for part in state
        )

    def _write(self, state: State, index: Array, rate: Any) -> None:
        self.index[...] = index
        numbers = self.update.rule.numbers(state, rate)
        for own, number, before in zip(self.numbers, numbers, self._written, strict=True):
            if number is not before:
                own[...] = number
        self._written = numbers

    def _work(self) -> None:
        self.update(self.theta, self.state, self.rows.take(self.index), self.numbers)


def deviation(step: RecordedStep, theta: Array, state: State, batch: tuple[Array, Any]) -> float:
    """How far two replayed steps are from two by the formulas, as a share of their length; waits
    for the device.

    The second step has another batch, rate, theta and state than what was recorded: its rows are
    all the first one's first. A sum over the parameters, each weighed with its gradient: Adam makes
    whole steps of gradients that are nothing but rounding. NaN where there is nothing to compare:
    steps that overflow, or go nowhere.
    """
    xp, objective, rule = namespace(theta), step.update.objective, step.update.rule
    index, rate = batch
    batches = [batch, (xp.zeros_like(index) + index[:1], 0.5 * rate)]
    plain, weight = theta, xp.zeros_like(theta)
    after = state
    for each, its_rate in batches:
        gradient = objective.batch_gradient(plain, step.rows.take(each))
        plain, after = rule.step(plain, gradient, after, its_rate)
        weight = weight + xp.abs(gradient)
    replayed, _ = step.run(theta, state, batches)
    apart = float(xp.sum(weight * xp.abs(replayed - plain)))
    length = float(xp.sum(weight * xp.abs(plain - theta)))
    return apart / length if 0.0 < length < math.inf else math.nan


class GraphSteps:
    """`xclf.training.plain_steps` of one fit, replayed where that works.

    kind : what a step is made of; other steps than the recorded ones are made of it too
    """

    def __init__(self, kind: type[FormulaUpdate]) -> None:
        self.kind = kind
        self._step: RecordedStep | None = None
        self._recorded_for: tuple[Any, ...] = ()

    def __call__(
        self,
        objective: Objective,
        rule: Rule,
        rows: Rows,
        theta: Array,
        state: State,
        batches: Batches,
    ) -> tuple[Array, State]:
        size = len(batches[0][0]) if batches else 0
        whole = [batch for batch in batches if len(batch[0]) == size]
        step = self._step_for(objective, rule, rows, theta, state, whole) if whole else None
        if step is not None:
            theta, state = step.run(theta, state, whole)
            batches = batches[len(whole) :]  # an epoch ends with the one that is shorter
        return steps_by(self.kind, objective, rule, rows, theta, state, batches)

    def _step_for(
        self,
        objective: Objective,
        rule: Rule,
        rows: Rows,
        theta: Array,
        state: State,
        batches: Batches,
    ) -> RecordedStep | None:
        """The recorded step, or None if steps are to be launched one by one."""
        # By identity, of objects that are held: heads that leave take their objective with them.
        key = (objective, rule, rows)
        if self._recorded_for and all(map(lambda a, b: a is b, key, self._recorded_for)):
            return self._step
        self._step, self._recorded_for = None, key  # what cannot be recorded is not tried again
        if STEP_GRAPHS.failure is not None:
            return None
        try:
            update = self.kind(objective, rule, theta)
            step = RecordedStep(update, rows, theta, state, batches[0])
            share = deviation(step, theta, state, batches[0])
            if share > (AGREES_WIDE if theta.dtype.itemsize == 8 else AGREES):
                raise ArithmeticError(f"replayed steps are off by {share:.2g} of their length")
        except Exception as error:  # CuPy and cuBLAS raise classes of their own
            if not out_of_memory(error):  # another fit may have the memory
                switch_off(STEP_GRAPHS, error)
            return None
        self._step = None if math.isnan(share) else step
        return self._step


def accelerate(chosen: Accelerated, request: Request) -> Accelerated:
    """Graphs of minibatch steps with whatever computes them so far, for rows in the memory of one
    GPU, which nobody has bounded: a graph keeps the memory that it was recorded with."""
    resident = on_cupy(request) and not isinstance(request.x, Streamed | SparseMatrix)
    if request.label_sets:  # no graph can hold the gathering that integer labels take
        return chosen
    if not resident or request.bounded or request.rule is None or request.steps < WORTH:
        return chosen
    return chosen._replace(
        steps=GraphSteps(KernelUpdate if chosen.steps is kernel_steps else FormulaUpdate)
    )


STEP_GRAPHS = Accelerator(
    "cuda_step_graphs",
    "minibatch steps on CuPy arrays, recorded and replayed; no result of a device yet",
    default=False,
    missing=missing,
    accelerate=accelerate,
)
