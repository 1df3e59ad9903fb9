"""Full-batch fits of smooth objectives: L-BFGS, preconditioned for linear softmax models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from xclf._xp import Array, namespace, to_host
from xclf.optim import Iterate, Memory, SpectralPreconditioner, lbfgs
from xclf.training.events import FitResult, Monitor
from xclf.training.preconditioner import MAX_CLASSES, spectral_preconditioner
from xclf.training.problem import Problem

#: Curvature pairs kept; more of them were the main lever on weakly regularised problems.
MEMORY = 50

#: Iterations at which the class curvature is measured again; it settles as the fit does.
REFRESH = frozenset({5, 10, 20, 40, 80, 160})


@dataclass(frozen=True)
class Tolerance:
    """When a smooth full-batch fit has converged.

    Both the gradient's max-norm has fallen to `tol` times its value at zero weights, and the
    quasi-Newton model's estimate of the distance to the optimum to `tol` times the objective. The
    second guards problems whose features differ by orders of magnitude, where the first alone is
    met far from the optimum. A fit that stands still, with an estimate below the rounding error of
    the objective, is as close as its precision allows: converged too.
    """

    tol: float
    start_norm: float
    noise: float

    def met(self, at: Iterate) -> bool:
        value = abs(at.value[0])
        small = at.grad_norm[0] <= self.tol * self.start_norm
        close = at.decrement[0] <= self.tol * value
        still = at.stalled[0] and at.decrement[0] <= min(self.noise, self.tol) * value
        done = (small and close) or still or at.grad_norm[0] == 0.0
        return bool(done and math.isfinite(value))


#: Why a line search may find no further step.
ROUNDING = "rounding left nothing to gain"
KINK = "no further descent along the gradient: a kink of the net, or rounding"

#: Steps in a row that lower the objective by no more than its rounding error, after which a fit is
#: at the floor of its precision.
IDLE = 30


def rounding(dtype: object, xp: object) -> float:
    """Relative rounding error of an objective whose rows are computed in `dtype`.

    Sums over rows run in float64: float32 rows average their own errors out, float64 rows meet
    those of the sum, a few units in the last place.
    """
    return max(float(xp.finfo(dtype).eps), 16.0 * 2.0**-52)  # type: ignore[attr-defined]


def fit_lbfgs(
    problem: Problem, theta: Array, *, tol: float, max_iter: int, monitor: Monitor
) -> FitResult:
    """Minimise a softmax objective from theta (P,) by L-BFGS.

    For a linear model the Hessian's structure is known, and used as a preconditioner.
    """
    xp = namespace(theta)
    theta = theta[None, :]
    precondition = _precondition(problem, theta)
    noise = rounding(problem.rows.dtype, xp)
    steps = lbfgs(
        problem.value_and_grad,
        theta,
        memory=Memory(MEMORY),
        precondition=precondition,
        noise=noise,
    )
    n_iter, interrupted, at = 0, False, next(steps)
    best, idle = math.inf, 0
    goal = Tolerance(tol, _start_norm(problem, theta, at), noise)
    reason = ""
    try:
        while not reason:
            if goal.met(at):
                reason = "converged"
            elif n_iter >= max_iter:
                reason = f"reached max_iter={max_iter}"
            elif at.stalled[0]:
                reason = ROUNDING if problem.linear else KINK
            elif idle >= IDLE:
                reason = ROUNDING
            elif not math.isfinite(at.value[0]):
                reason = "the objective is not finite"
            else:
                at = next(steps)
                if at.moved[0]:
                    n_iter += 1
                    fell = at.value[0] < best - noise * abs(at.value[0])
                    best, idle = (float(at.value[0]), 0) if fell else (best, idle + 1)
                    if monitor.record(n_iter, float(at.value[0])):
                        reason = "a callback stopped the fit"
                    elif precondition is not None and n_iter in REFRESH:
                        precondition.refresh(problem.curvature(at.theta))
    except KeyboardInterrupt:
        reason, interrupted = "interrupted", True
    return FitResult(
        theta=at.theta[0, :],
        n_iter=max(n_iter, 1),
        objective=float(at.value[0]),
        converged=goal.met(at),
        reason=reason,
        grad_norm=float(at.grad_norm[0]),
        interrupted=interrupted,
    )


def _precondition(problem: Problem, theta: Array) -> SpectralPreconditioner | None:
    stack = problem.objective.stack
    if len(stack.widths) != 2 or stack.widths[1] > MAX_CLASSES:
        return None
    curvature = problem.curvature(theta)
    return spectral_preconditioner(stack, problem.rows, problem.objective.reg, curvature)


def _start_norm(problem: Problem, theta: Array, at: Iterate) -> float:
    """Max-norm of the gradient at zero weights; of a net, where zero is a saddle, at the start."""
    if len(problem.objective.stack.widths) > 2 or not np.any(to_host(theta)):
        return float(at.grad_norm[0])
    xp = namespace(theta)
    _, grad = problem.value_and_grad(xp.zeros_like(theta))
    return float(to_host(xp.max(xp.abs(grad))))
