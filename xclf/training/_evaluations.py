"""Objective and gradient for a full-batch fit, on a CUDA GPU from a recorded pass."""

from __future__ import annotations

import math

from xclf._cuda_graph import Graph, record
from xclf._xp import Array, namespace
from xclf.rows import bytes_per_row
from xclf.training._recorded import AGREES, AGREES_WIDE, give_up, recordable, why_not
from xclf.training.problem import Problem

#: Evaluations from which on a recording is worth the three passes that it takes.
AFTER = 20

# Operations of a pass, about 4 ms of a large GPU's, up to which asking for its launches counts.
_SHORT = 2e11


class Evaluations:
    """`Problem.value_and_grad`, which a CUDA graph replays where the passes are many and short.

    A pass over few rows is some forty launches: CuPy needs longer to ask for them than a GPU to do
    them.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._left = AFTER if recordable(problem.rows) else math.inf
        self._theta: Array = None
        self._out: tuple[Array, Array] | None = None
        self._graph: Graph | None = None

    def __call__(self, theta: Array) -> tuple[Array, Array]:
        if self._graph is not None and theta.shape == self._theta.shape:
            return self._replayed(theta)
        found = self.problem.value_and_grad(theta)
        self._left -= 1
        if self._left == 0 and self._is_short(theta) and not why_not():
            try:
                self._record(theta)
            except Exception as error:  # CuPy and cuBLAS raise their own classes
                self._graph = None
                give_up("passes over the rows", error)
        return found

    def _is_short(self, theta: Array) -> bool:
        rows = self.problem.rows
        features, width = int(rows.x.shape[1]), self.problem.width(theta)
        return 4.0 * len(rows) * features * width <= _SHORT

    def _record(self, theta: Array) -> None:
        """Record the pass, and see that a replay gives what the pass does.

        Not at theta, where the gradient of a fit that is nearly done is smaller than the rounding
        of its terms, but half the way back to 0, and a step aside for a theta that is 0.
        """
        xp, problem = namespace(theta), self.problem
        theta = 0.5 * theta + 0.01
        found = problem.value_and_grad(theta)
        own = self._theta = xp.empty_like(theta)
        own[...] = theta
        out = self._out = tuple(xp.zeros_like(part) for part in found)

        def work() -> None:
            for kept, part in zip(out, problem.value_and_grad(own), strict=True):
                kept[...] = part

        rows, width = problem.rows, problem.width(theta)
        chunk = min(len(rows), rows.chunk_rows(width)) * bytes_per_row(rows.x, rows.dtype, width)
        self._graph = record(work, 2 * chunk + 4 * int(theta.nbytes))
        for part in out:
            part[...] = 0.0  # of what was done to record it
        apart = [xp.max(xp.abs(a - b)) for a, b in zip(self._replayed(theta), found, strict=True)]
        size = [xp.max(xp.abs(part)) for part in found]
        wide = problem.rows.dtype == xp.float64
        allowed = AGREES_WIDE if wide else AGREES
        if not all(bool(a <= allowed * s) for a, s in zip(apart, size, strict=True)):
            raise ArithmeticError("a replayed pass is not the pass that was recorded")

    def _replayed(self, theta: Array) -> tuple[Array, Array]:
        assert self._graph is not None
        assert self._out is not None
        xp = namespace(theta)
        self._theta[...] = theta
        self._graph.launch()
        value, grad = self._out
        return xp.asarray(value, copy=True), xp.asarray(grad, copy=True)
