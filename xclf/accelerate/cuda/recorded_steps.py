"""Minibatch steps on a CUDA GPU, recorded once and replayed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

from xclf._cuda_graph import Graph, record

from xclf._array_api import Array, device, library, namespace, out_of_memory
from xclf.objectives import Objective
from xclf.optim import Rule, State, can_update_in_place, update_in_place
from xclf.rows import Rows, Streamed, bytes_per_row

#: Steps from which on a recording is worth what it takes: three steps and a few milliseconds.
WORTH = 50

#: How far a replayed step may be from a plain one, as a share of it: the products add up in another
#: order. A wrong operand, or numbers of another step, is off by far more.
AGREES, AGREES_WIDE = 1e-2, 1e-6  # in float32 (and TF32), in float64


class RecordedSteps:
    """`minibatch_step` for batches of `size` rows, as a CUDA graph.

    The graph reads and writes arrays that stay where they are: theta, the rule's state, the rows'
    numbers and the rule's `numbers`. Between two steps the host only writes the last two.
    """

    def __init__(
        self, objective: Objective, rule: Rule, rows: Rows, theta: Array, state: State, size: int
    ) -> None:
        self.objective, self.rule, self.rows = objective, rule, rows
        width = max(objective.network.widths[1:]) * (theta.shape[0] if theta.ndim > 1 else 1)
        each = bytes_per_row(rows.x, rows.dtype, width)
        self._needed = 2 * size * each + 4 * int(theta.nbytes)
        xp = namespace(theta)
        self.theta = xp.empty_like(theta)
        self.state = tuple(_own(part) for part in state)
        self.index = xp.zeros((size,), dtype=xp.int64, device=device(theta))
        self.in_place = can_update_in_place(rule, theta)
        self.penalty: Array = None
        if self.in_place:
            _, self.penalty = objective.network.penalty(xp.ones_like(theta), objective.reg)
        self.numbers: list[Array] = []
        self._given: tuple[Any, ...] = ()
        self._graph: Graph | None = None

    def fits(self, theta: Array, state: State) -> bool:
        """Whether these are what was recorded, but for their values."""
        pairs = zip((theta, *state), (self.theta, *self.state), strict=True)
        return all(getattr(a, "shape", ()) == getattr(b, "shape", ()) for a, b in pairs)

    def run(
        self, theta: Array, state: State, batches: Iterable[tuple[Array, Any]]
    ) -> tuple[Array, State]:
        """A step for every (numbers of the rows, learning rate)."""
        self._start(theta, state)
        for index, rate in batches:
            self._step(index, rate)
        return _copied(self.theta), tuple(_copied(part) for part in self.state)

    def deviation(self, theta: Array, state: State, index: Array, rate: Any) -> float:
        """How far a replayed step is from the plain one, as a share of it; waits for the device.

        A sum over the parameters, each weighed with its gradient: Adam makes whole steps of
        gradients that are nothing but rounding. NaN where there is nothing to compare: a step that
        overflows, or goes nowhere.
        """
        xp = namespace(theta)
        gradient = self.objective.batch_gradient(theta, self.rows.take(index))
        plain, _ = self.rule.step(theta, gradient, state, rate)
        replayed, _ = self.run(theta, state, [(index, rate)])
        weight = xp.abs(gradient)
        apart = float(xp.sum(weight * xp.abs(replayed - plain)))
        length = float(xp.sum(weight * xp.abs(plain - theta)))
        return apart / length if 0.0 < length < math.inf else math.nan

    def _start(self, theta: Array, state: State) -> None:
        self.theta[...] = theta
        held = []
        for own, part in zip(self.state, state, strict=True):
            if _is_array(own):
                own[...] = part
            held.append(own if _is_array(own) else part)
        self.state = tuple(held)

    def _step(self, index: Array, rate: Any) -> None:
        self.index[...] = index
        numbers = self.rule.numbers(self.state, rate)
        if self._graph is None:
            xp = namespace(self.theta)
            where = device(self.theta)
            self.numbers = [
                xp.empty(getattr(number, "shape", ()), dtype=self.theta.dtype, device=where)
                for number in numbers
            ]
        given = self._given or (None,) * len(numbers)
        for own, number, before in zip(self.numbers, numbers, given, strict=True):
            if number is not before:
                own[...] = number
        self._given = numbers
        if self._graph is None:
            self._record()
        assert self._graph is not None
        self._graph.launch()
        # What counts the steps is not in the graph.
        self.state = tuple(part if _is_array(part) else part + 1 for part in self.state)

    def _record(self) -> None:
        """Record the step; what doing it changed is put back."""
        theta, state = _copied(self.theta), tuple(_copied(part) for part in self.state)
        self._graph = record(self._work, self._needed)
        self._start(theta, state)

    def _work(self) -> None:
        batch = self.rows.take(self.index)
        if self.in_place:
            gradient = self.objective.batch_gradient(self.theta, batch, penalty=False)
            update_in_place(self.rule, self.theta, gradient, self.penalty, self.state, self.numbers)
            return
        gradient = self.objective.batch_gradient(self.theta, batch)
        theta, state = self.rule.update(self.theta, gradient, self.state, tuple(self.numbers))
        self.theta[...] = theta
        for own, part in zip(self.state, state, strict=True):
            if _is_array(own):
                own[...] = part


class Recorder:
    """Records the steps of a fit where that can be done and pays; None stands for what cannot."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._made: RecordedSteps | None = None
        self._for: tuple[Any, ...] = ()

    def steps_of(
        self,
        objective: Objective,
        rule: Rule,
        rows: Rows,
        theta: Array,
        state: State,
        first: tuple[Array, Any],
    ) -> RecordedSteps | None:
        """The recorded step of this fit, or None if its steps are to be taken one by one.

        first : a batch, by the numbers of its rows, and its learning rate
        """
        if not recordable(rows) or self.steps < WORTH or why_not():
            return None
        size = int(first[0].shape[0])
        # By identity, of things that are held: heads that leave take their objective with them.
        wanted = (objective, rule, rows, size)
        same = len(self._for) == 4 and all(a is b for a, b in zip(wanted, self._for, strict=True))
        if same and (self._made is None or self._made.fits(theta, state)):
            return self._made
        self._made, self._for = None, wanted  # what cannot be recorded is not tried again
        try:
            made = RecordedSteps(objective, rule, rows, theta, state, size)
            deviation = made.deviation(theta, state, *first)
            wide = theta.dtype == namespace(theta).float64
            if deviation > (AGREES_WIDE if wide else AGREES):
                raise ArithmeticError(f"a replayed step is off by {deviation:.2g} of its length")
        except Exception as error:  # CuPy and cuBLAS raise their own classes
            give_up("minibatch steps", error)
            return None
        self._made = None if math.isnan(deviation) else made
        return self._made


def recordable(rows: Rows) -> bool:
    """Whether the rows are in the memory of one CUDA GPU, which nobody has bounded: a graph keeps
    the memory that it was recorded with."""
    there = library(namespace(rows.x)) == "cupy" and not isinstance(rows.x, Streamed)
    return there and rows.budget.size is None


_gave_up: list[str] = []


def why_not() -> str | None:
    """Why nothing is recorded any more in this process; None if nothing has failed."""
    return _gave_up[0] if _gave_up else None


def give_up(what: str, error: Exception) -> None:
    """Record nothing more in this process, and say why, once. Where there was no memory, the next
    may have it: nothing is said."""
    if out_of_memory(error):
        return
    said = str(error).strip().splitlines() or [""]
    _gave_up.append(f"{type(error).__name__}: {said[0]}")
    warnings.warn(
        f"{what} cannot be recorded as a CUDA graph here ({_gave_up[0]}): they are launched one by "
        "one, which takes longer for small problems and gives the same results",
        RuntimeWarning,
        stacklevel=2,
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape")


def _own(value: Any) -> Any:
    return namespace(value).empty_like(value) if _is_array(value) else value


def _copied(value: Any) -> Any:
    return namespace(value).asarray(value, copy=True) if _is_array(value) else value
