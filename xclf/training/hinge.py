"""Full-batch fits of both hinges: Newton's method for few rows, another one for many."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from xclf._array_api import Array, namespace, to_host
from xclf._sparse import SparseMatrix
from xclf.rows import Streamed
from xclf.training._hinge_newton import FEW_EQUATIONS, MOST_EQUATIONS
from xclf.training._one_class import without_spare_rows
from xclf.training._precision import widest
from xclf.training._settle import ROUNDING, promise
from xclf.training._small_hinge import SmallHinge, most_pairs
from xclf.training._stages import STOPPED, method_stage
from xclf.training.augmented_lagrangian import fit_augmented_lagrangian
from xclf.training.events import FitResult, Monitor
from xclf.training.full_batch import fit_certified
from xclf.training.problem import Problem

#: Rows, entries of X, and entries of X times classes, up to which a problem is small; of unlike
#: columns it may have more rows.
MOST_ROWS, MOST_FEATURES, MOST_PRODUCTS = 2000, 1 << 21, 1 << 26

# Ratio of the columns' ranges from which on they are unlike: of 3,000 rows, 50 columns and 10
# classes the other method takes three times as long at 1e6, and does not end at 1e12.
_UNLIKE = 1e6

# Gap from which on a fit that rounding has ended is made anew, over all rows at a time, and
# iterations that this may take: where as many prove nothing, rounding is in its way too.
_FAR, _ANEW = 1e-3, 1000


def fit_hinge(
    problem: Problem, theta: Array, *, tol: float, max_iter: int, monitor: Monitor
) -> list[FitResult]:
    """Minimise K hinge objectives from theta (K, P); one result a head.

    max_iter : of a small problem the Newton steps of a head, see `is_small`; else as in
        `fit_augmented_lagrangian`
    """
    options: dict[str, Any] = {"tol": tol, "max_iter": max_iter, "monitor": monitor}
    return without_spare_rows(partial(_fit_hinge, **options), problem, theta)


def _fit_hinge(
    problem: Problem, theta: Array, *, tol: float, max_iter: int, monitor: Monitor
) -> list[FitResult]:
    if not is_small(problem):
        return fit_augmented_lagrangian(problem, theta, tol=tol, max_iter=max_iter, monitor=monitor)
    results = _by_newton(problem, theta, tol, tol, max_iter, monitor)
    far = [k for k, one in enumerate(results) if one.reason == ROUNDING and _is_far(one)]
    far = [] if _has_few_equations(problem) else far
    if far:
        heads, xp = np.asarray(far), namespace(theta)
        start = xp.stack([theta[k, :] for k in far], axis=0)
        more = fit_augmented_lagrangian(
            problem.take_heads(heads),
            start,
            tol=tol,
            max_iter=min(max_iter, _ANEW),
            monitor=monitor,
        )
        for k, one in zip(far, more, strict=True):
            n_iter = min(results[k].n_iter + one.n_iter, max_iter)
            if one.interrupted or one.objective <= results[k].objective:
                results[k] = replace(one, n_iter=n_iter)
    return results


def _is_far(result: FitResult) -> bool:
    """Whether rounding has cost Newton's method more than its last digits."""
    return not result.dual_gap <= _FAR * result.objective


def _has_few_equations(problem: Problem) -> bool:
    """Whether the steps of Newton's method are as exact as rounding lets any be."""
    d, c = problem.objective.network.widths
    return bool(c * (min(len(problem.rows), d) + 1) <= FEW_EQUATIONS)


def _by_newton(
    problem: Problem, theta: Array, tol: float, promised: float, max_iter: int, monitor: Monitor
) -> list[FitResult]:
    """Head by head; one whose basis may serve the next lends it."""
    results: list[FitResult] = []
    wide, dtype = widest(problem), problem.rows.dtype
    head: SmallHinge | None = None
    steps, reason = 0, ""
    for k in range(int(theta.shape[0])):
        with method_stage(monitor, "Newton", theta) as stage:
            if stage.results is not None:
                results += stage.results
                steps += stage.results[0].n_iter
                continue
            head = SmallHinge(wide.take_heads(np.asarray([k])), theta[k, :], dtype, promised, head)
            if reason != "interrupted":
                try:
                    reason = head.run(tol, max_iter, monitor, steps, int(theta.shape[0]) - k)
                except KeyboardInterrupt:
                    reason = "interrupted"
            steps += head.steps
            results += stage.finish([head.result(reason)])
            if reason == STOPPED:
                max_iter = 0
    return results


def fit_squared_hinge(
    problem: Problem, theta: Array, *, tol: float, max_iter: int, monitor: Monitor
) -> list[FitResult]:
    """`fit_hinge` of the squared hinge, which L-BFGS minimises as it is where there are many
    rows."""
    options: dict[str, Any] = {"tol": tol, "max_iter": max_iter, "monitor": monitor}
    return without_spare_rows(partial(_fit_squared_hinge, **options), problem, theta)


def _fit_squared_hinge(
    problem: Problem, theta: Array, *, tol: float, max_iter: int, monitor: Monitor
) -> list[FitResult]:
    if not is_small(problem):
        return fit_certified(problem, theta, tol=tol, max_iter=max_iter, monitor=monitor)
    return _by_newton(problem, theta, tol, promise(tol), max_iter, monitor)


def is_small(problem: Problem) -> bool:
    """Whether Newton's method solves `problem`, and float64 is there for it: one of few rows, or of
    columns so unlike that no other method ends."""
    rows, widths = problem.rows, problem.objective.network.widths
    n, size = len(rows), len(rows) * widths[0]
    return bool(
        problem.linear
        and np.all(to_host(problem.objective.reg) > 0.0)
        and most_pairs(problem) > 0
        and widest(problem).rows.dtype == namespace(rows.x).float64
        and not rows.shards
        and size <= MOST_FEATURES
        and size * widths[-1] <= MOST_PRODUCTS
        and (n <= MOST_ROWS or _has_unlike_columns(problem))
    )


def _has_unlike_columns(problem: Problem) -> bool:
    """Whether the ranges of the columns of rows in memory are far apart, and a step's equations
    few."""
    x, network = problem.rows.x, problem.objective.network
    d, c = network.widths
    equations = c * (d + 1)
    if isinstance(x, (Streamed, SparseMatrix)) or problem.rows.in_blocks:
        return False
    if equations > MOST_EQUATIONS or 2 * equations > most_pairs(problem):
        return False
    xp = namespace(x)
    ranges = np.asarray(to_host(xp.max(x, axis=0) - xp.min(x, axis=0)), dtype=np.float64)
    ranges = ranges / (1.0 if network.scale is None else to_host(network.scale))
    ranges = ranges[ranges > 0.0]
    return bool(len(ranges)) and bool(ranges.max() > _UNLIKE * ranges.min())
