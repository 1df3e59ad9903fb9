"""Full-batch fits of smooth objectives: which method, and what is proven of its result."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from xclf._array_api import Array
from xclf.training._newton import is_small, steps_in_passes
from xclf.training._penalty_path import fit_along, levels_of
from xclf.training._precision import widest
from xclf.training._rotated_rows import rotated_rows
from xclf.training._score_space import COARSE, ScoreSpace, is_wide, score_space
from xclf.training._settle import Run, settle
from xclf.training._stages import STOPPED
from xclf.training.events import FitResult, Monitor
from xclf.training.lbfgs_fit import Common, curvature_at, minimise_lbfgs
from xclf.training.newton_cg import fit_newton_cg, suits
from xclf.training.problem import Problem

#: Iterations after which Newton's method takes over, of a problem that is small enough for it: what
#: so many of its steps cost, within these bounds.
NEWTON_STEPS, NEWTON_AT = 5, (10, 300)

#: Passes that the first method takes in float64, about, where it settles what is in doubt: of many
#: heads together it does so before Newton's method, which takes them one by one, if that costs
#: more.
SETTLING = 150


def fit_lbfgs(
    problem: Problem, theta: Array, *, tol: float, max_iter: int, monitor: Monitor
) -> list[FitResult]:
    """Minimise K smooth objectives from theta (K, P) by L-BFGS; one result a head.

    Heads share the rows and nothing else: each has its own steps and its own end, after which it
    leaves the batch. For a linear model the Hessian's structure is known, and used as a
    preconditioner.
    """
    return minimise_lbfgs(problem, theta, tol, max_iter, monitor)


def fit_certified(
    problem: Problem, theta: Array, *, tol: float, max_iter: int, monitor: Monitor
) -> list[FitResult]:
    """K objectives of a `Smooth` loss, whose linear heads end with a bound on their distance to the
    optimum: by Newton's method with conjugate gradients where that suits, of sparse rows in the
    space of their scores where that suits, else by L-BFGS."""
    heads, slow_at = int(theta.shape[0]), math.inf
    suitable = suits(problem, heads)
    if not suitable and is_wide(problem):
        results = _fit_scores(problem, theta, tol, max_iter, monitor)
        return _settled(problem, results, tol, max_iter, monitor, minimise_lbfgs)
    method: Run = fit_newton_cg if suitable else minimise_lbfgs
    if problem.linear and is_small(widest(problem)):
        passes = _newton_in_passes(problem, heads)
        slow_at = min(max(passes, NEWTON_AT[0]), NEWTON_AT[1])
    levels = levels_of(problem, theta) if problem.linear else []
    if levels and suitable:
        rotated = rotated_rows(problem)

        def fit(some: Problem, start: Array) -> list[FitResult]:
            return fit_newton_cg(some, start, tol, max_iter, monitor, slow_at, rotated)

        results = fit_along(levels, problem, theta, monitor, fit)
    elif levels:
        results = _fit_path(levels, problem, theta, tol, max_iter, monitor, slow_at)
    else:
        results = method(problem, theta, tol, max_iter, monitor, slow_at)
    return _settled(problem, results, tol, max_iter, monitor, method)


def _fit_path(
    levels: list[np.ndarray],
    problem: Problem | ScoreSpace,
    theta: Array,
    tol: float,
    max_iter: int,
    monitor: Monitor,
    slow_at: float = math.inf,
) -> list[FitResult]:
    """L-BFGS along levels of reg."""
    common = Common(problem)

    def fit(some: Problem, start: Array) -> list[FitResult]:
        return minimise_lbfgs(some, start, tol, max_iter, monitor, slow_at, common)

    return fit_along(levels, problem, theta, monitor, fit)


def _fit_scores(
    problem: Problem, theta: Array, tol: float, max_iter: int, monitor: Monitor
) -> list[FitResult]:
    """L-BFGS in the space of the scores: in float32 as far as that goes, then in float64."""
    space = score_space(problem, np.float32)
    start = space.inside(theta)
    levels = levels_of(space, start)
    if levels:
        results = _fit_path(levels, space, start, max(tol, COARSE), max_iter, monitor)
    else:
        results = minimise_lbfgs(space, start, max(tol, COARSE), max_iter, monitor)
    ended = any(one.interrupted or one.reason == STOPPED for one in results)
    done = max(one.n_iter for one in results)
    if tol < COARSE and not ended and done < max_iter:
        space, before = score_space(problem, np.float64), results
        start = space.exact(np.stack([one.theta for one in results]))
        results = minimise_lbfgs(space, start, tol, max_iter - done, monitor)
        results = [
            replace(one, n_iter=one.n_iter + old.n_iter)
            for one, old in zip(results, before, strict=True)
        ]
    return [replace(one, theta=space.outside(one.theta)) for one in results]


def _newton_in_passes(problem: Problem, heads: int) -> float:
    """What Newton's method costs for one of so many heads, in passes of L-BFGS."""
    return NEWTON_STEPS * steps_in_passes(problem, heads)


def _settled(
    problem: Problem,
    results: list[FitResult],
    tol: float,
    max_iter: int,
    monitor: Monitor,
    again: Run,
) -> list[FitResult]:
    if not problem.linear or any(result.interrupted for result in results):
        return results
    small = is_small(widest(problem))
    newton_first = small and _newton_in_passes(problem, len(results)) <= SETTLING
    try:
        return settle(
            problem,
            results,
            tol=tol,
            max_iter=max_iter,
            monitor=monitor,
            again=again,
            curvature_at=curvature_at,
            newton_first=newton_first,
        )
    except KeyboardInterrupt:
        return [replace(result, interrupted=True, converged=False) for result in results]
