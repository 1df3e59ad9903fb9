"""Full-batch fits of the hinge: an augmented Lagrangian around L-BFGS.

The hinge has kinks, at which L-BFGS stalls. With multipliers a_ij in [0, 1] for the hinge's terms
the proximal method of multipliers replaces it by a smooth function (`proximal_hinge`), minimises
that, moves the multipliers towards the maximisers there, and repeats; it converges for any
smoothing, which need not go to zero. Every evaluation also estimates the gap between the hinge's
own objective and its optimum; where that is small enough a certificate decides. Source:
Rockafellar (1976).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from xclf._array_api import Array, namespace, to_host
from xclf._heads import take_heads
from xclf.optim import LBFGS, Iterate, Memory, SpectralPreconditioner
from xclf.rows import PerRow
from xclf.training._hinge_heads import HingeHeads
from xclf.training._hinge_scores import ScoreHinge
from xclf.training._precision import as_stored, widest
from xclf.training._score_space import COARSE, is_wide
from xclf.training._settle import ROUNDING
from xclf.training._smoothed_hinge import SmoothedHinge
from xclf.training._stages import STOPPED, MethodStage, method_stage, results_of, trees_of
from xclf.training._tolerance import rounding
from xclf.training.events import FitResult, Monitor
from xclf.training.lbfgs_fit import KINK, LEAVING, MEMORY, pairs_for
from xclf.training.problem import Problem

# An inner solve ends when its own share of the gap is below this share of the multipliers'.
_INNER_SHARE = 0.2
# Inner solves this short allow half the smoothing; this long, they are cut and get so much more.
_SHORT, _LONG, _MORE = 15, 80, 10.0
# Rounds in a row without a smaller gap, after which rounding is to blame: where the gap is that
# small, and where it is not (progress is not monotone, and hard problems make slow progress).
_PATIENCE, _HARD = 12, 60
# At the end of a round this near the goal its multipliers are certified, if they promise to prove
# more by this much: they prove the most then, and a later iterate may be good enough for them.
_NEAR, _WORTH = 3.0, 0.3
# Below this share of the objective every better round is certified: it may be the last.
_LAST = 1e-9
# This far from the goal a fit is worth a full eigenbasis, if it has gone on for long.
_FAR = 10.0
# How much smaller the estimate must be after each certificate that contradicted it.
_SHARPER = 0.3
# Passes for each iteration of `max_iter` after which a fit ends all the same.
_PASSES = 3
# The most evaluations to wait after a certificate that was not enough; it doubles from `pause`.
_MOST_WAIT = 10


def fit_augmented_lagrangian(
    problem: Problem, theta: Array, *, tol: float, max_iter: int, monitor: Monitor
) -> list[FitResult]:
    """Minimise K hinge objectives from theta (K, P); one result a head.

    Heads share the rows and nothing else: each has its own smoothing, moves its multipliers when
    its own inner solve is good enough, and leaves the batch at its own end.

    max_iter : inner L-BFGS iterations of a head in all; a head also ends after three times as many
        passes over the rows, most of which line searches take then

    A linear model with reg > 0 has converged when `dual_gap` is at most `tol` times the objective.
    Both are certified (`Certificate`): computed in the widest dtype, at the parameters that come
    back, which are rounded to the dtype of the rows. `dual_gap` is a bound on what the objective
    stands above the optimum, also where the fit ended early. Without reg the gap is the objective
    itself, a net has none (NaN), and `converged` is about the smoothed problem: the share of the
    multipliers in the gap below half of `tol` times the objective, and the gradient's max-norm
    below `tol` times its first value.
    """
    with method_stage(monitor, "augmented Lagrangian", theta) as stage:
        if stage.results is not None:
            return stage.results
        fit = _AugmentedLagrangianFit(problem, theta, tol, max_iter, monitor, stage)
        del theta  # the start is not needed any more
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                fit.run()
                if fit.waiting:
                    # The last part of the gap is below float32's rounding, or what overflows it:
                    # go on with wider products.
                    fit.widen()
                    fit.run()
        except KeyboardInterrupt:
            fit.interrupt()
        return stage.finish([result for result in fit.results if result is not None])


class _AugmentedLagrangianFit:
    """K heads on their way: `heads` in the batch, `results` of those that have ended.

    given : reg, margin and the max-norm of the first gradient of all heads
    waiting : heads to go on with in wider products: number, theta, smoothing and multipliers
    """

    def __init__(
        self,
        problem: Problem,
        theta: Array,
        tol: float,
        max_iter: int,
        monitor: Monitor,
        stage: MethodStage,
    ) -> None:
        count = int(theta.shape[0])
        self.stage = stage
        self.whole, self.tol, self.max_iter, self.monitor = problem, tol, max_iter, monitor
        self.results: list[FitResult | None] = [None] * count
        self.waiting: list[tuple[int, Array, float, PerRow]] = []
        self.steps = self.passes = 0
        self.kind: type[SmoothedHinge] = ScoreHinge if is_wide(problem) else SmoothedHinge
        loss: Any = problem.objective.loss  # a hinge, with its margin
        margin = np.zeros(count) + to_host(loss.margin)
        reg = np.zeros(count) + to_host(problem.objective.reg)
        if stage.saved is not None:
            self._restore(stage.saved, reg, margin)
            return
        # Measured: this start balances the two parts of the gap over reg = 1e-1 .. 1e-5.
        smoothing = margin * (1e-2 / np.maximum(reg, 1e-9)) ** 0.43
        inner = self.kind.at_zero(self._begun(problem), margin, smoothing)
        start = inner.inside(theta)
        self._begin(inner, start)
        self.given = reg, margin, self.lbfgs.at.grad_norm
        number, none = np.arange(count), np.zeros(count, dtype=int)
        self.heads = HingeHeads.at_start(start, theta, tol, number, none, *self.given)

    def _begun(self, problem: Problem) -> Problem:
        """The problem with products as the fit begins with them: in the space of the scores, of a
        coarse tolerance, in float32. Weights stay as they are, for certificates."""
        if self.kind is SmoothedHinge or self.tol < COARSE:
            return problem
        return replace(problem, rows=replace(problem.rows, dtype=np.dtype(np.float32)))

    def _begin(
        self, inner: SmoothedHinge, theta: Array, like: SpectralPreconditioner | None = None
    ) -> None:
        inner.build_preconditioner(theta, like)
        rows = inner.problem.rows
        # Pairs outlive an inner solve: the objectives differ in few terms, and starting from
        # their curvature saves a quarter to three quarters of the iterations.
        lbfgs = LBFGS(
            inner.value_and_grad,
            theta,
            memory=pairs_for(inner.place, theta),
            precondition=inner.precondition,
            noise=rounding(rows.dtype, namespace(theta), rows.precision),
        )
        # All that takes time is done: an interrupt finds either the old batch or this one.
        self.inner, self.lbfgs, self.spectral = inner, lbfgs, inner.precondition
        self.evaluations = 0

    def state(self) -> dict[str, Any]:
        """All that `_restore` needs beside the problem."""
        return {
            "heads": vars(self.heads),
            "first_norm": self.given[2],
            "results": trees_of(self.results),
            "waiting": [(*one[:3], one[3].to_host()) for one in self.waiting],
            "counts": (self.steps, self.passes, self.evaluations),
            "wide": self.inner.problem.rows.dtype != self._begun(self.whole).rows.dtype,
            "inner": self.inner.state(),
            "lbfgs": self.lbfgs.state(),
        }

    def _restore(self, state: dict[str, Any], reg: np.ndarray, margin: np.ndarray) -> None:
        self.given = reg, margin, state["first_norm"]
        self.heads = HingeHeads(**state["heads"])
        self.results = results_of(state["results"])
        per_row = self.whole.rows.per_row
        self.waiting = [(*one[:3], per_row(one[3])) for one in state["waiting"]]
        self.steps, self.passes, self.evaluations = state["counts"]
        problem, number = self.whole, self.heads.number
        if state["wide"] or len(number) < len(self.results):
            problem = problem.take_heads(number)
        problem = widest(problem) if state["wide"] else self._begun(problem)
        self.inner = inner = self.kind.from_state(problem, state["inner"])
        self.spectral = inner.precondition
        rows = problem.rows
        self.lbfgs = LBFGS.from_state(
            inner.value_and_grad,
            state["lbfgs"],
            memory=Memory(MEMORY, rows.dtype),
            precondition=inner.precondition,
            noise=rounding(rows.dtype, namespace(rows.x), rows.precision),
        )

    def widen(self) -> None:
        """Take up the heads that wait, where they stand, with products in the widest dtype."""
        numbers, thetas, smoothing, anchors = map(list, zip(*self.waiting, strict=True))
        number, theta = np.asarray(numbers), namespace(thetas[0]).stack(thetas)
        reg, margin, first_norm = take_heads(self.given, number)
        problem = widest(self.whole.take_heads(number))
        self.inner.anchor = PerRow([])  # all heads have ended: theirs are in `anchors`
        self.waiting = [(*one[:3], PerRow([])) for one in self.waiting]
        inner = self.kind.widened(problem, margin, np.asarray(smoothing), anchors)
        theta = inner.exact(theta)
        before = [result for k in numbers if (result := self.results[k]) is not None]
        n_iter = np.asarray([result.n_iter for result in before])
        heads = HingeHeads.at_start(theta, theta, self.tol, number, n_iter, reg, margin, first_norm)
        if self.whole.linear:
            # What was certified stays so: certificates are in the widest dtype in any case.
            heads.best = np.asarray([result.objective for result in before])
            heads.dual = heads.best - np.asarray([result.dual_gap for result in before])
            heads.best_theta = namespace(theta).stack([result.theta for result in before])
        self._begin(inner, theta, self.spectral)
        self.heads, self.waiting = heads, []

    def interrupt(self) -> None:
        """Every head that is not done ends where it stands."""
        self.end(np.full(len(self.heads.number), "interrupted"))
        for number, *_ in self.waiting:
            if (result := self.results[number]) is not None:
                self.results[number] = replace(result, reason="interrupted", interrupted=True)

    def run(self) -> None:
        """Until every head has a reason to end."""
        stopped = False
        while True:
            at, heads = self.lbfgs.at, self.heads
            slack, residual = self.estimated_gap(at)
            objective, gap = _hinge_objective(at), slack + residual
            tight = residual <= _INNER_SHARE * np.maximum(slack, heads.certify_at * abs(at.value))
            solved = (tight | at.stalled | (heads.since_move >= _LONG)) & ~heads.ended
            heads.keep_lowest(objective, at.theta)
            self._certify_where_due(solved, objective, gap)
            better = gap < heads.least_gap
            heads.rounds = np.where(solved, np.where(better, 0, heads.rounds + 1), heads.rounds)
            heads.least_gap = np.where(solved & better, gap, heads.least_gap)
            staying = self.end(self._reasons(at, gap <= self.tol * objective, stopped))
            heads = self.heads
            if heads.ended.all():
                return
            self._move(solved[staying] & ~heads.ended, tight[staying])
            far = gap[staying] > _FAR * self.tol * objective[staying]
            if self.evaluations >= self.inner.full_basis_at and far.any():
                self.inner.use_full_eigenbasis()
                self.lbfgs.precondition = self.spectral = self.inner.precondition
            at = self.lbfgs.advance()
            self.passes, self.evaluations = self.passes + 1, self.evaluations + 1
            heads.n_iter = heads.n_iter + (at.moved & ~heads.ended)
            heads.since_move, heads.wait = heads.since_move + 1, heads.wait - 1
            stopped = bool((at.moved & ~heads.ended).any()) and self._record(at)
            if not stopped:
                self.stage.offer(self.state)

    def _record(self, at: Iterate) -> bool:
        training = ~self.heads.ended
        lowest = float(np.min(at.extra[training, 3]))
        self.steps += 1
        step = min(self.steps, self.monitor.total)  # a head that searched longer ends later
        return self.monitor.record(step, lowest, heads=int(training.sum()))

    def estimated_gap(self, at: Iterate) -> tuple[np.ndarray, np.ndarray]:
        """(slack, residual), (K,) each, whose sum estimates the gap."""
        slack, weights, balance, _ = at.extra.T
        with np.errstate(all="ignore"):
            residual = weights / (4.0 * self.heads.reg) + balance
            # Scaled so that the gradient's goal counts as half the gap's.
            share = at.grad_norm / (self.tol * self.heads.first_norm)
            smooth = 0.5 * self.tol * np.abs(at.value) * share
        smooth = np.where(at.grad_norm > 0.0, smooth, 0.0)
        return np.maximum(slack, 0.0), np.where(self._certifiable, residual, smooth)

    @property
    def _certifiable(self) -> np.ndarray:
        """Heads whose gap can be certified."""
        return np.asarray(self.whole.linear & (self.heads.reg > 0.0))

    @property
    def _certified(self) -> np.ndarray:
        """Heads whose gap is certified to be small enough."""
        return np.asarray(self._certifiable & self.heads.proven(self.tol))

    def _certify_where_due(
        self, solved: np.ndarray, objective: np.ndarray, gap: np.ndarray
    ) -> None:
        heads, goal = self.heads, self.tol * objective
        small = gap <= heads.certify_at * objective
        due = small | ((objective - heads.dual <= goal) & (heads.wait <= 0))
        promising = objective - gap > heads.dual + _WORTH * goal
        due |= solved & (gap <= _NEAR * goal) & promising
        # Where rounding ends a fit before its goal, the best of the last rounds is what comes back.
        last = solved & (gap < heads.least_gap) & (gap <= _LAST * objective)
        self._certify(self._certifiable & ~heads.ended & (due | last))
        # The estimate said enough, and was wrong: from now on it must say more.
        wrong = small & self._certifiable & ~self._certified
        heads.certify_at = np.where(wrong, _SHARPER * heads.certify_at, heads.certify_at)

    def _certify(self, which: np.ndarray, theta: Array = None) -> None:
        """Find what the present iterates of the heads `which` (K,), or theta (K, P), prove."""
        index, heads = np.flatnonzero(which), self.heads
        if not len(index):
            return
        theta = take_heads(self.lbfgs.at.theta if theta is None else theta, index)
        theta = self.inner.outside(theta, index)
        theta = as_stored(self.inner.problem, theta, self.whole.rows.dtype)
        heads.keep_proofs(index, theta, *self.inner.certify(theta, index))
        heads.wait = np.where(which, heads.pause, heads.wait)
        heads.pause = np.where(which, np.minimum(2 * heads.pause, _MOST_WAIT), heads.pause)

    def _reasons(self, at: Iterate, near: np.ndarray, stopped: bool) -> np.ndarray:
        """(K,) strings: why each head ends; empty for those that go on."""
        heads, finite = self.heads, np.isfinite(at.value)
        # The estimated gap may be rounding.
        small = heads.least_gap <= math.sqrt(self.lbfgs.noise) * _hinge_objective(at)
        return np.select(
            [
                finite & np.where(self._certifiable, self._certified, near),
                np.full(len(near), stopped),
                (heads.n_iter >= self.max_iter) | (self.passes >= _PASSES * self.max_iter),
                ~finite,
                heads.rounds >= np.where(self._certifiable & ~small, _HARD, _PATIENCE),
            ],
            [
                "converged",
                STOPPED,
                f"reached max_iter={self.max_iter}",
                "the objective is not finite",
                ROUNDING if self.whole.linear else KINK,
            ],
            "",
        )

    def _move(self, solved: np.ndarray, tight: np.ndarray) -> None:
        """The multipliers of heads whose inner solve has ended move; their smoothing adapts."""
        if not solved.any():
            return
        since = self.heads.since_move
        factor = np.where(tight, np.where(since <= _SHORT, 0.5, 1.0), _MORE)
        self.inner.move(solved, self.inner.smoothing * np.where(solved, factor, 1.0))
        self.lbfgs.restart(solved)
        self.heads.since_move = np.where(solved, -1, since)

    def end(self, reasons: np.ndarray) -> np.ndarray:
        """Write down the heads that have a reason to end. Once they are enough to be worth it they
        leave the batch; returns those that stay, as integers."""
        heads = self.heads
        ending = (reasons != "") & ~heads.ended
        if self.whole.linear:
            early = ending & ~self._certified
            self._certify(early, heads.lowest_theta)
            self._certify(early)
        narrow = self.inner.problem.rows.dtype != widest(self.whole).rows.dtype
        for k in np.flatnonzero(ending).tolist():
            number = int(heads.number[k])
            self.results[number] = self._result(k, str(reasons[k]))
            if reasons[k] == ROUNDING and narrow:
                theta, smoothing = self.lbfgs.at.theta[k, :], float(self.inner.smoothing[k])
                self.waiting.append((number, theta, smoothing, self.inner.anchor_of(k)))
        heads.ended = heads.ended | ending
        staying = np.flatnonzero(~heads.ended)
        if not len(staying) or len(staying) > (1.0 - LEAVING) * len(heads.number):
            return np.arange(len(heads.number))
        self.heads = take_heads(heads, staying)
        self.inner.keep(staying)
        self.lbfgs.keep(staying)
        return staying

    def _result(self, k: int, reason: str) -> FitResult:
        at, heads, linear = self.lbfgs.at, self.heads, self.whole.linear
        objective, gap = float(heads.best[k]), float(heads.best[k] - heads.dual[k])
        theta = heads.best_theta[k, :] if linear else at.theta[k, :]
        theta = namespace(theta).asarray(theta, copy=True)  # a view would keep all heads
        if not linear:
            problem = self.inner.problem.take_heads(np.asarray([k]))
            objective, gap = float(to_host(problem.value(theta[None, :]))[0]), math.nan
        return FitResult(
            theta=theta,
            n_iter=max(int(heads.n_iter[k]), 1),
            objective=objective,
            converged=reason == "converged",
            reason=reason,
            grad_norm=float(at.grad_norm[k]),
            interrupted=reason == "interrupted",
            dual_gap=gap,
        )


def _hinge_objective(at: Iterate) -> np.ndarray:
    """(K,): the hinge's own objective, without smoothing; not below 0."""
    return np.asarray(np.abs(at.extra[:, 3]))
