"""Full-batch fits of the hinge: an augmented Lagrangian around L-BFGS.

The hinge has kinks, at which L-BFGS stalls. With multipliers a_ij in [0, 1] for the hinge's terms
the proximal method of multipliers replaces it by a smooth function (`proximal_hinge`), minimises
that, moves the multipliers to the maximisers there, and repeats; it converges for any smoothing,
which need not go to zero. Every evaluation also bounds how far the hinge's own objective still is
from its optimum, which is what stops the fit. Source: Rockafellar (1976).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from xclf._xp import Array, accumulator, device, namespace, to_host
from xclf.objectives import ProximalHinge
from xclf.optim import LBFGS, Iterate, Memory, SpectralPreconditioner
from xclf.rows import Chunk, sum_over_rows
from xclf.training.events import FitResult, Monitor
from xclf.training.full_batch import KINK, MEMORY, ROUNDING, rounding
from xclf.training.preconditioner import MAX_CLASSES, spectral_preconditioner
from xclf.training.problem import Problem

# An inner solve ends when its own share of the gap is below this share of the multipliers'.
_BALANCE = 0.2
# Inner solves this short allow less smoothing; this long, they are cut and get more.
_SHORT, _LONG = 8, 80
# Outer rounds in a row without a smaller gap, after which rounding is to blame.
_PATIENCE = 12


class _Solver:
    """One fit: where it is (`at`), multipliers `anchor` (1, C, N), smoothing, preconditioner."""

    def __init__(self, problem: Problem, margin: float, theta: Array, tol: float) -> None:
        self.problem, self.margin, self.tol = problem, margin, tol
        stack, rows = problem.objective.stack, problem.rows
        self.reg = float(problem.objective.reg)
        # Measured: this start balances the two parts of the gap over reg = 1e-1 .. 1e-5.
        self.smoothing = margin * (1e-2 / max(self.reg, 1e-9)) ** 0.43
        shape = (1, stack.widths[-1], len(rows))
        self.anchor = namespace(rows.x).zeros(shape, dtype=rows.dtype, device=device(rows.x))
        self.linear = problem.linear
        self.start_norm: float | None = None
        self.precondition: SpectralPreconditioner | None = None
        if self.linear and stack.widths[1] <= MAX_CLASSES:
            _, curvature = self._multipliers(theta)
            self.precondition = spectral_preconditioner(stack, rows, self.reg, curvature)
        # Pairs outlive an inner solve: the objectives differ in few terms, and starting from
        # their curvature saves a quarter to three quarters of the iterations.
        self.memory = Memory(MEMORY)
        self.at = next(self._lbfgs(theta))
        self.start_norm = float(self.at.grad_norm[0])

    @property
    def narrow(self) -> bool:
        """Whether products run in less than the widest dtype of the device."""
        x = self.problem.rows.x
        return bool(self.problem.rows.dtype != accumulator(namespace(x), device(x)))

    def widened(self) -> _Solver:
        """The same fit, where it stands, with products in the widest dtype."""
        xp, rows = namespace(self.anchor), self.problem.rows
        wide = accumulator(xp, device(self.anchor))
        weights = None if rows.weights is None else xp.astype(rows.weights, wide)
        problem = replace(self.problem, rows=replace(rows, weights=weights, dtype=wide))
        solver = _Solver(problem, self.margin, self.at.theta, self.tol)
        solver.smoothing, solver.start_norm = self.smoothing, self.start_norm
        solver.anchor = xp.astype(self.anchor, wide)
        return solver

    def _lbfgs(self, theta: Array) -> Iterator[Iterate]:
        noise = rounding(self.problem.rows.dtype, namespace(theta))
        return iter(
            LBFGS(
                self.value_and_grad,
                theta,
                memory=self.memory,
                precondition=self.precondition,
                noise=noise,
            )
        )

    def inner_solve(self) -> Iterator[Iterate]:
        """Iterates at fixed multipliers, until moving those pays more; then adapts smoothing."""
        for used, at in enumerate(self._lbfgs(self.at.theta)):
            self.at = at
            yield at
            slack, residual = self.gap(at)
            if residual <= _BALANCE * max(slack, self.tol * abs(at.value[0])):
                if used <= _SHORT:
                    self.smoothing *= 0.5
                return
            if at.stalled[0] or used >= _LONG:
                self.smoothing *= 2.0
                return

    def value_and_grad(self, theta: Array) -> tuple[Array, ...]:
        """Smoothed objective and gradient; with them, as extras: the slack's share of the gap, the
        squared norm of the weights' gradient, the 1-norm of the biases', the hinge's objective."""
        inner = self._inner()
        loss, slope, slack, plain = sum_over_rows(
            lambda chunk: inner.row_sums(theta, chunk, self.anchor[..., chunk.where]),
            self.problem.rows,
            self.problem.width(theta),
        )
        objective, total = self.problem.objective, self.problem.total
        value, grad = objective.complete(theta, (loss, slope), total)
        xp = namespace(theta)
        weights, biases = xp.zeros_like(value), xp.zeros_like(value)
        for w, b in objective.stack.layers(grad):
            weights = weights + xp.sum(w * w, axis=(-2, -1))
            if b is not None:
                biases = biases + xp.sum(xp.abs(b), axis=(-2, -1))
        return value, grad, slack / total, weights, biases, value + (plain - loss) / total

    def gap(self, at: Iterate) -> tuple[float, float]:
        """(slack, residual), whose sum is the gap of `fit_proximal`'s docstring."""
        slack, weights, biases, _ = at.extra[:, 0].tolist()
        if not self.linear or self.reg == 0.0:
            # Scaled so that the gradient's goal counts as half the gap's.
            goal = self.tol * (self.start_norm or math.inf)
            share = float(at.grad_norm[0]) / goal if goal > 0.0 else math.inf
            return max(slack, 0.0), 0.5 * self.tol * abs(float(at.value[0])) * share
        return max(slack, 0.0), weights / (4.0 * self.reg) + self.margin * biases

    def converged(self, at: Iterate) -> bool:
        value = abs(float(at.value[0]))
        return math.isfinite(value) and sum(self.gap(at)) <= self.tol * value

    def move_multipliers(self) -> None:
        """Take the multipliers at the current parameters as the new anchor."""
        self.anchor, curvature = self._multipliers(self.at.theta)
        if self.precondition is not None:
            self.precondition.refresh(curvature)

    def _inner(self) -> ProximalHinge:
        return ProximalHinge(self.problem.objective.stack, self.margin, self.smoothing)

    def _multipliers(self, theta: Array) -> tuple[Array, Array]:
        inner, xp = self._inner(), namespace(theta)
        moved = xp.empty_like(self.anchor)

        def step(chunk: Chunk) -> tuple[Array]:
            a, curvature = inner.multipliers(theta, chunk, self.anchor[..., chunk.where])
            moved[..., chunk.where] = a
            return (curvature,)

        (curvature,) = sum_over_rows(step, self.problem.rows, self.problem.width(theta))
        return moved, curvature / self.problem.total


def fit_proximal(
    problem: Problem, theta: Array, *, margin: float, tol: float, max_iter: int, monitor: Monitor
) -> FitResult:
    """Minimise a hinge objective from theta (P,).

    Converged means: the duality gap at the current multipliers,

        slack + ||grad_W||^2 / (4 reg) + margin * ||grad_b||_1,

    is at most `tol` times the objective. For a linear model without biases it is a bound on the
    distance to the optimal objective; with biases it is that bound up to the last term's estimate
    of what an exact balance of the multipliers would cost. Without reg there is no such
    bound, and a net is not convex: there the gradient's max-norm must have fallen to `tol` times
    its first value instead of the second and third term.

    max_iter : inner L-BFGS iterations in all
    """
    solver = _Solver(problem, margin, theta[None, :], tol)
    n_iter, reason, interrupted = 0, "", False
    try:
        n_iter, reason = _rounds(solver, 0, max_iter, monitor)
        if reason == ROUNDING and solver.narrow:
            # The last part of the gap is below float32's rounding: go on with wider products.
            solver = solver.widened()
            n_iter, reason = _rounds(solver, n_iter, max_iter, monitor)
    except KeyboardInterrupt:
        reason, interrupted = "interrupted", True
        n_iter = len(monitor.history["loss"])
    theta = solver.at.theta[0, :]
    return FitResult(
        theta=theta,
        n_iter=max(n_iter, 1),
        objective=float(to_host(problem.value(theta))),
        converged=solver.converged(solver.at),
        reason=reason,
        grad_norm=float(solver.at.grad_norm[0]),
        interrupted=interrupted,
    )


def _rounds(solver: _Solver, n_iter: int, max_iter: int, monitor: Monitor) -> tuple[int, str]:
    """Inner solves and moves of the multipliers, until there is a reason to end."""
    best, stale = math.inf, 0
    while True:
        for at in solver.inner_solve():
            asked = False
            if at.moved[0]:
                n_iter += 1
                asked = monitor.record(n_iter, float(at.extra[3, 0]))
            if solver.converged(at):
                return n_iter, "converged"
            if asked:
                return n_iter, "a callback stopped the fit"
            if n_iter >= max_iter:
                return n_iter, f"reached max_iter={max_iter}"
            if not math.isfinite(at.value[0]):
                return n_iter, "the objective is not finite"
        gap = sum(solver.gap(solver.at))
        stale = 0 if gap < best else stale + 1
        best = min(best, gap)
        if stale >= _PATIENCE:
            return n_iter, ROUNDING if solver.linear else KINK
        solver.move_multipliers()
