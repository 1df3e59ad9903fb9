"""Full-batch fits of smooth objectives: which method, and what is proven of its result."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from xclf._array_api import Array, from_host, namespace, to_host
from xclf.objectives import Softmax, true_index
from xclf.training._draws import Draws, RotatedHeads
from xclf.training._newton import is_small, steps_in_passes
from xclf.training._one_class import without_spare_rows
from xclf.training._penalty_path import fit_along
from xclf.training._precision import ABSENT, widest
from xclf.training._rotated_rows import rotated_rows, rotation_in_passes
from xclf.training._score_space import COARSE, ScoreSpace, is_wide, score_space
from xclf.training._settle import CONVERGED, SLOW, Run, settle
from xclf.training._stages import STOPPED
from xclf.training.events import FitResult, Monitor
from xclf.training.lbfgs_fit import Common, curvature_at, minimise_lbfgs
from xclf.training.newton_cg import (
    AtZero,
    at_zero,
    can_fit,
    fit_newton_cg,
    fit_rotated,
)
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
    space of their scores where that suits, else by L-BFGS. Heads that differ by their penalty
    alone go along a path."""
    if not problem.linear:
        return minimise_lbfgs(problem, theta, tol, max_iter, monitor)

    def fit(some: Problem, start: Array) -> list[FitResult]:
        objective, alone = some.objective, len(some.rows) == 1 and some.rows.tasks is None
        if alone and objective.network.bias and isinstance(objective.loss, Softmax):
            return _of_one_row(some, start)
        draws = Draws.of(some, int(start.shape[0]))
        if draws is not None:
            return fit_along(_ByNewton(some, draws, tol, max_iter, monitor), start, monitor)
        kind = _ByScores if is_wide(some) else _ByFeatures
        return fit_along(kind(some, tol, max_iter, monitor), start, monitor)

    return without_spare_rows(fit, problem, theta)


def _of_one_row(problem: Problem, theta: Array) -> list[FitResult]:
    """Of softmax heads of a single row, whose loss the biases bring to 0 as they go to infinity:
    weights of 0, and biases as far apart as makes no difference. Steps towards them would be
    hundreds."""
    xp, network = namespace(theta), problem.objective.network
    index = int(to_host(true_index(problem.rows.labels))[0])
    bias = np.where(np.arange(network.widths[1]) == index, 0.0, -ABSENT)[None, :, None]
    bias = from_host(bias, theta, theta.dtype) + xp.zeros_like(theta[:, :1, None])
    weights = xp.zeros_like(theta[:, : network.size - network.widths[1]])
    weights = xp.reshape(weights, (-1, network.widths[1], network.widths[0]))
    theta = network.flatten([(weights, bias)])
    return [
        FitResult(xp.asarray(theta[k, :], copy=True), 1, 0.0, True, CONVERGED, 0.0, dual_gap=0.0)
        for k in range(int(theta.shape[0]))
    ]


class _ByFeatures:
    """Linear heads in their weights and biases, by L-BFGS."""

    first: np.ndarray | None = None
    problems = 1

    def __init__(self, problem: Problem, tol: float, max_iter: int, monitor: Monitor) -> None:
        self.problem, self.tol, self.max_iter = problem, tol, max_iter
        self.monitor = monitor

    @property
    def space(self) -> Problem | ScoreSpace:
        """The problem of all heads."""
        return self.problem

    def start(self, theta: Array) -> Array:
        """theta (K, P) itself."""
        return theta

    @cached_property
    def _common(self) -> Common | None:
        return None if self.first is None else Common(self.space, self.first)

    def fit(self, heads: np.ndarray, start: Array) -> list[FitResult]:
        """Results of the heads that host integers name."""
        problem = self.problem.take_heads(heads)
        slow_at = _slow_at(problem, len(heads))
        if math.isinf(slow_at) and _newton_may_follow(problem):
            slow_at = rotation_in_passes(problem, len(heads))
        options = (self.tol, self.max_iter, self.monitor, slow_at)
        # What overflows in float32 is left to float64, which has the last word.
        with np.errstate(over="ignore", invalid="ignore"):
            return minimise_lbfgs(problem, start, *options, self._common)

    def finish(self, heads: np.ndarray, results: list[FitResult]) -> list[FitResult]:
        """With what float64 says of them."""
        problem = self.problem.take_heads(heads)
        again = fit_newton_cg if _newton_may_follow(problem) else minimise_lbfgs
        return _settled(problem, results, self.tol, self.max_iter, self.monitor, again)


class _ByNewton:
    """Linear heads by Newton's method with conjugate gradients, in the coordinates of rotated rows:
    of rows that they share, or of draws."""

    first: np.ndarray | None = None
    _zero: AtZero | None = None

    def __init__(
        self, problem: Problem, draws: Draws, tol: float, max_iter: int, monitor: Monitor
    ) -> None:
        self.draws, self.problems = draws, len(draws.problems)
        self.tol, self.max_iter, self.monitor = tol, max_iter, monitor
        self.rotated = [rotated_rows(one) for one in draws.problems]
        with np.errstate(over="ignore", invalid="ignore"):  # likewise
            self.space = RotatedHeads(problem, draws.terms(self.rotated, problem.objective))

    def start(self, theta: Array) -> Array:
        """(K, C, m) near theta (K, P)."""
        return self.draws.inside(self.rotated, theta)

    def fit(self, heads: np.ndarray, start: Array) -> list[FitResult]:
        """Results, (C, m), of the heads that host integers name."""
        terms, many = self.space.terms.take_heads(heads), max(1, len(heads) // self.problems)
        if self._zero is None and self.first is not None:
            # Heads in the same places of the levels have all in common that counts there.
            self._zero = at_zero(terms, len(heads))
        slow_at = _slow_at(self.draws.problems[0], many)
        limits = (self.tol, self.max_iter, self.monitor, slow_at)
        with np.errstate(over="ignore", invalid="ignore"):  # likewise
            return fit_rotated(terms, start, *limits, self._zero)

    def finish(self, heads: np.ndarray, results: list[FitResult]) -> list[FitResult]:
        """In weights and biases, with what float64 says of them."""
        place = {k: at for at, k in enumerate(heads.tolist())}
        proven: dict[int, FitResult] = {}
        draws = zip(self.draws.heads, self.draws.problems, self.rotated, strict=True)
        for numbers, problem, rotated in draws:
            kept = [at for at, k in enumerate(numbers.tolist()) if k in place]
            own = numbers[kept]
            ended = [results[place[k]] for k in own.tolist()]
            if ended:
                xp = namespace(ended[0].theta)
                v = xp.stack([one.theta for one in ended])
                theta = rotated.outside(v - xp.mean(v, axis=-2, keepdims=True))
                ended = [replace(one, theta=theta[k, :]) for k, one in enumerate(ended)]
                some = problem.take_heads(np.asarray(kept))
                options = (self.tol, self.max_iter, self.monitor, fit_newton_cg)
                ended = _settled(some, ended, *options, theta)
            proven |= zip(own.tolist(), ended, strict=True)
        return [proven[k] for k in heads.tolist()]


class _ByScores(_ByFeatures):
    """Linear heads in the space of their scores: by L-BFGS in float32 as far as that goes, then in
    float64."""

    @cached_property
    def space(self) -> ScoreSpace:
        """The problem of all heads, with products in float32."""
        return score_space(self.problem, np.float32)

    @cached_property
    def _exact(self) -> ScoreSpace:
        return score_space(self.problem, np.float64)

    def start(self, theta: Array) -> Array:
        """Pairs near theta (K, P)."""
        return self.space.inside(theta)

    def fit(self, heads: np.ndarray, start: Array) -> list[FitResult]:
        """Results, in pairs, of the heads that host integers name."""
        coarse, monitor, most = max(self.tol, COARSE), self.monitor, self.max_iter
        start = start.astype(np.float32, copy=False)
        space = self.space.take_heads(heads)
        results = minimise_lbfgs(space, start, coarse, most, monitor, common=self._common)
        ended = any(one.interrupted or one.reason == STOPPED for one in results)
        done = max(one.n_iter for one in results)
        if self.tol >= COARSE or ended or done >= most:
            return results
        space, before = self._exact.take_heads(heads), results
        start = space.exact(np.stack([one.theta for one in results]))
        monitor.before = len(monitor.history["loss"])
        results = minimise_lbfgs(space, start, self.tol, most - done, monitor)
        reached = f"max_iter={most - done}", f"max_iter={most}"
        return [
            replace(one, n_iter=one.n_iter + old.n_iter, reason=one.reason.replace(*reached))
            for one, old in zip(results, before, strict=True)
        ]

    def finish(self, heads: np.ndarray, results: list[FitResult]) -> list[FitResult]:
        """In weights and biases, with what float64 says of them."""
        exact = results[0].theta.dtype == np.float64
        space = self._exact if exact else self.space
        outside = [replace(one, theta=space.outside(one.theta)) for one in results]
        return super().finish(heads, outside)


def _slow_at(problem: Problem, heads: int) -> float:
    """Passes after which a head is better off with Newton's method."""
    if not is_small(widest(problem)):
        return math.inf
    return min(max(_newton_in_passes(problem, heads), NEWTON_AT[0]), NEWTON_AT[1])


def _newton_may_follow(problem: Problem) -> bool:
    """Whether Newton's method with conjugate gradients goes on where L-BFGS has taken as long as a
    rotation: of columns of scales that are far apart it takes hundreds of passes."""
    return not problem.rows.precision and can_fit(problem)


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
    theta: Array | None = None,
) -> list[FitResult]:
    """See `settle`."""
    if any(result.interrupted for result in results):
        return [
            replace(one, interrupted=True, reason="interrupted") if one.reason == SLOW else one
            for one in results
        ]
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
            theta=theta,
        )
    except KeyboardInterrupt:
        changed: dict[str, Any] = {"converged": False, "reason": "interrupted"}
        return [replace(result, interrupted=True, **changed) for result in results]
