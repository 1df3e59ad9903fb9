"""Full-batch fits of the hinge: an augmented Lagrangian around L-BFGS.

The hinge has kinks, at which L-BFGS stalls. With multipliers a_ij in [0, 1] for the hinge's terms
the proximal method of multipliers replaces it by a smooth function (`proximal_hinge`), minimises
that, moves the multipliers towards the maximisers there, and repeats; it converges for any
smoothing, which need not go to zero. Every evaluation also estimates how far the hinge's own
objective still is from its optimum; where that looks near enough a certificate decides. Source:
Rockafellar (1976).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from xclf._array_api import Array, from_host, namespace, to_host
from xclf.optim import LBFGS, Iterate, SpectralPreconditioner
from xclf.rows import PerRow
from xclf.training._active_set import exact_hinge, is_small
from xclf.training._smoothed_hinge import SmoothedHinge, widest
from xclf.training.events import FitResult, Monitor
from xclf.training.full_batch import KINK, LEAVING, ROUNDING, pairs_for, rounding
from xclf.training.problem import Problem

# An inner solve ends when its own share of the gap is below this share of the multipliers'.
_BALANCE = 0.2
# SmoothedHinge solves this short allow half the smoothing; this long, they are cut and get so much
# more.
_SHORT, _LONG, _MORE = 15, 80, 10.0
# Outer rounds in a row without a smaller gap, after which rounding is to blame: where the gap is
# that small, and where it is not (progress is not monotone, and hard problems make slow progress).
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
# A round that ends this near the optimum, relative, may know who is at a margin: small problems are
# solved exactly from there. If not, it is tried again at a tenth of that.
_EXACT_SOLVE_GAP, _EXACT_SOLVE_RETRY = 1e-2, 0.1
# A relative gap that is rounding.
_EXACT = 1e-11
# Evaluations to wait after a certificate that was not enough: so many, then twice as many, up to.
_WAIT, _MOST_WAIT = 5, 10


def fit_augmented_lagrangian(
    problem: Problem, theta: Array, *, tol: float, max_iter: int, monitor: Monitor
) -> list[FitResult]:
    """Minimise K hinge objectives from theta (K, P); one result a head.

    Heads share the rows and nothing else: each has its own smoothing, moves its multipliers when
    its own inner solve is good enough, and leaves the batch at its own end.

    max_iter : inner L-BFGS iterations of a head in all

    A linear model with reg > 0 has converged when `dual_gap` is at most `tol` times the objective.
    Both are certified (`Certificate`): computed in the widest dtype, at the parameters that come
    back, which are rounded to the dtype of the rows. `dual_gap` is a bound on what the objective
    stands above the optimum, also where the fit ended early. Without reg the gap is the objective
    itself, a net has none (NaN), and `converged` is about the smoothed problem: the share of the
    multipliers in the gap below half of `tol` times the objective, and the gradient's max-norm
    below `tol` times its first value.
    """
    heads = int(theta.shape[0])
    loss: Any = problem.objective.loss  # a hinge, with its margin
    margins = np.zeros(heads) + to_host(loss.margin)
    fit = _AugmentedLagrangianFit(problem, theta, margins, tol, max_iter, monitor)
    del theta  # the start is not needed any more
    try:
        fit.run()
        if fit.waiting:
            # The last part of the gap is below float32's rounding: go on with wider products.
            fit.widen()
            fit.run()
    except KeyboardInterrupt:
        fit.interrupt()
    return [result for result in fit.results if result is not None]


class _AugmentedLagrangianFit:
    """K heads on their way. `alive` are the original numbers of those still in the batch; all else
    is in their order, but for `results` and what __init__ keeps of the whole.

    used : evaluations since the multipliers moved;  stale : rounds since the gap was least
    wait, pause : evaluations until the next certificate, and to wait after a failed one
    best, dual : the lowest objective and the highest lower bound certified;  kept : theta there
    waiting, lines : heads to go on with in wider products: number, theta and smoothing; multipliers
    aim : what the estimated gap must fall to, relative, before it is certified: `tol` at first
    ended : heads that only wait to leave the batch
    """

    _STATE = (
        *("alive", "n_iter", "used", "stale", "least", "wait", "pause", "best", "dual", "ended"),
        *("aim", "ripe", "first_norm", "reg", "lowest"),
    )

    def __init__(
        self,
        problem: Problem,
        theta: Array,
        margin: np.ndarray,
        tol: float,
        max_iter: int,
        monitor: Monitor,
    ) -> None:
        heads = int(theta.shape[0])
        self.whole, self.margin = problem, margin
        self.tol, self.max_iter, self.monitor = tol, max_iter, monitor
        self.results: list[FitResult | None] = [None] * heads
        self.waiting: list[tuple[int, Array, float]] = []
        self.lines: list[PerRow] = []
        # Measured: this start balances the two parts of the gap over reg = 1e-1 .. 1e-5.
        reg = np.zeros(heads) + to_host(problem.objective.reg)
        smoothing = margin * (1e-2 / np.maximum(reg, 1e-9)) ** 0.43
        self.n_iter, self.steps = np.zeros(heads, dtype=int), 0
        self.reg, self.alive = reg, np.arange(heads)
        self._begin(SmoothedHinge.at_zero(problem, margin, smoothing), theta, self.alive)
        self.first_norm = self.lbfgs.at.grad_norm
        self.whole_norm, self.whole_reg = self.first_norm, reg

    def _begin(
        self,
        inner: SmoothedHinge,
        theta: Array,
        alive: np.ndarray,
        like: SpectralPreconditioner | None = None,
    ) -> None:
        xp, rows = namespace(theta), inner.problem.rows
        inner.build_preconditioner(theta, like)
        # Pairs outlive an inner solve: the objectives differ in few terms, and starting from
        # their curvature saves a quarter to three quarters of the iterations.
        lbfgs = LBFGS(
            inner.value_and_grad,
            theta,
            memory=pairs_for(inner.problem, theta),
            precondition=inner.precondition,
            noise=rounding(rows.dtype, xp, rows.precision),
        )
        # All that takes time is done: an interrupt finds either the old batch or this one.
        self.inner, self.lbfgs, self.spectral = inner, lbfgs, inner.precondition
        self.alive, heads = alive, len(alive)
        self.kept, self.low = xp.asarray(theta, copy=True), theta
        self.lowest = np.full(heads, math.inf)
        self.used, self.stale = np.zeros(heads, dtype=int), np.zeros(heads, dtype=int)
        self.wait, self.pause = np.zeros(heads, dtype=int), np.full(heads, _WAIT)
        self.least, self.best = np.full(heads, math.inf), np.full(heads, math.inf)
        self.dual, self.ended = np.zeros(heads), np.zeros(heads, dtype=bool)
        self.aim, self.ripe = np.full(heads, self.tol), np.full(heads, _EXACT_SOLVE_GAP)

    def widen(self) -> None:
        """Take up the heads that wait, where they stand, with products in the widest dtype."""
        heads, thetas, smoothing = zip(*self.waiting, strict=True)
        xp, alive = namespace(thetas[0]), np.asarray(heads)
        problem = widest(self.whole.take_heads(alive))
        self.inner.anchor = PerRow([])  # all heads have ended: theirs are in `lines`
        inner = SmoothedHinge.widened(
            problem, self.margin[alive], np.asarray(smoothing), self.lines
        )
        self._begin(inner, xp.stack(thetas), alive, self.spectral)
        self.first_norm, self.reg = self.whole_norm[alive], self.whole_reg[alive]
        before = [result for k in heads if (result := self.results[k]) is not None]
        self.n_iter = np.asarray([result.n_iter for result in before])
        if self.whole.linear:
            # What was certified stays so: certificates are in the widest dtype in any case.
            self.best = np.asarray([result.objective for result in before])
            self.dual = self.best - np.asarray([result.dual_gap for result in before])
            self.kept = xp.stack([result.theta for result in before])
        self.waiting = []

    def interrupt(self) -> None:
        """Every head that is not done ends where it stands."""
        self.end(np.full(len(self.alive), "interrupted"))
        for head, *_ in self.waiting:
            if (result := self.results[head]) is not None:
                self.results[head] = replace(result, reason="interrupted", interrupted=True)

    def run(self) -> None:
        """Until every head has a reason to end."""
        asked, evaluations = False, 0
        while True:
            at = self.lbfgs.at
            slack, residual = self.gap(at)
            plain, near = np.abs(at.extra[3]), slack + residual
            tight = residual <= _BALANCE * np.maximum(slack, self.aim * np.abs(at.value))
            over = (tight | at.stalled | (self.used >= _LONG)) & ~self.ended
            better = (plain < self.lowest) & ~self.ended
            if better.any():
                mask = from_host(better[:, None], self.low)
                self.low = namespace(self.low).where(mask, at.theta, self.low)
                self.lowest = np.where(better, plain, self.lowest)
            self._certify_where_due(over, plain, near)
            ripe = over & (near <= self.ripe * plain) & self._certain & ~self._proven
            self._polish(ripe)
            self.ripe = np.where(ripe, _EXACT_SOLVE_RETRY * self.ripe, self.ripe)
            self.stale = np.where(over, np.where(near < self.least, 0, self.stale + 1), self.stale)
            self.least = np.where(over, np.minimum(self.least, near), self.least)
            going = self.end(self._reasons(at, near <= self.tol * plain, asked))
            if self.ended.all():
                return
            self._move(over[going] & ~self.ended, tight[going])
            far = near[going] > _FAR * self.tol * plain[going]
            if evaluations >= self.inner.full_basis_at and far.any():
                self.inner.use_full_eigenbasis()
                self.lbfgs.precondition = self.spectral = self.inner.precondition
            at, evaluations = self.lbfgs.advance(), evaluations + 1
            self.n_iter = self.n_iter + (at.moved & ~self.ended)
            self.used, self.wait = self.used + 1, self.wait - 1
            asked = bool((at.moved & ~self.ended).any()) and self._record(at)

    def _record(self, at: Iterate) -> bool:
        here = ~self.ended
        lowest = float(np.min(at.extra[3][here]))
        self.steps += 1
        step = min(self.steps, self.monitor.total)  # a head that searched longer ends later
        return self.monitor.record(step, lowest, heads=int(here.sum()))

    def gap(self, at: Iterate) -> tuple[np.ndarray, np.ndarray]:
        """(slack, residual), (K,) each, whose sum estimates the gap."""
        slack, weights, balance, _ = at.extra
        with np.errstate(all="ignore"):
            residual = weights / (4.0 * self.reg) + balance
            # Scaled so that the gradient's goal counts as half the gap's.
            share = at.grad_norm / (self.tol * self.first_norm)
            smooth = 0.5 * self.tol * np.abs(at.value) * share
        smooth = np.where(at.grad_norm > 0.0, smooth, 0.0)
        return np.maximum(slack, 0.0), np.where(self._certain, residual, smooth)

    @property
    def _certain(self) -> np.ndarray:
        """Heads whose gap can be certified."""
        return np.asarray(self.whole.linear & (self.reg > 0.0))

    @property
    def _small(self) -> np.ndarray:
        """Heads whose estimated gap may be rounding."""
        least = math.sqrt(self.lbfgs.noise) * np.abs(self.lbfgs.at.extra[3])
        return np.asarray(self.least <= least)

    @property
    def _proven(self) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            near = self.best - self.dual <= self.tol * self.best
        return np.asarray(np.isfinite(self.best) & near)

    def _certify_where_due(self, over: np.ndarray, plain: np.ndarray, near: np.ndarray) -> None:
        goal, there = self.tol * plain, near <= self.aim * plain
        due = there | ((plain - self.dual <= goal) & (self.wait <= 0))
        due |= over & (near <= _NEAR * goal) & (plain - near > self.dual + _WORTH * goal)
        # Where rounding ends a fit before its goal, the best of the last rounds is what comes back.
        last = over & (near < self.least) & (near <= _LAST * plain)
        self._certify(self._certain & ~self.ended & (due | last))
        # The estimate said enough, and was wrong: from now on it must say more.
        wrong = there & self._certain & ~self._proven
        self.aim = np.where(wrong, _SHARPER * self.aim, self.aim)

    def _certify(self, heads: np.ndarray, theta: Array = None) -> None:
        """Find what the present iterates of `heads` (K,), or theta (K, P), prove."""
        index = np.flatnonzero(heads)
        if not len(index):
            return
        theta = self.lbfgs.at.theta if theta is None else theta
        xp = namespace(self.kept)
        theta = xp.take(theta, from_host(index, theta), axis=0)
        theta = self.inner.as_stored(theta, self.whole.rows.dtype)
        value, gap = self.inner.certify(theta, index)
        for place, k in enumerate(index.tolist()):
            if value[place] < self.best[k]:
                self.best[k] = value[place]
                self.kept[k, ...] = theta[place, ...]
            if math.isfinite(value[place]):
                self.dual[k] = max(self.dual[k], value[place] - gap[place])
        self.wait = np.where(heads, self.pause, self.wait)
        self.pause = np.where(heads, np.minimum(2 * self.pause, _MOST_WAIT), self.pause)

    def _polish(self, heads: np.ndarray) -> None:
        """Where the problem is small try to put the optimum itself in the place of what is near."""
        for k in np.flatnonzero(heads).tolist():
            one = self.whole.take_heads(self.alive[[k]])
            if not is_small(one):
                return
            near = self.inner.multipliers(self.lbfgs.at.theta, k)
            found = exact_hinge(one, float(self.margin[self.alive[k]]), near)
            if found is None:
                continue
            before = self.inner.anchor[k, ...].copy()
            self.inner.anchor[k, ...] = found.multipliers
            theta = self.inner.as_stored(found.theta[None, :], self.whole.rows.dtype)
            value, gap = self.inner.certify(theta, np.asarray([k]))
            self.inner.anchor[k, ...] = before
            if gap[0] < self.best[k] - self.dual[k]:
                self.best[k], self.dual[k] = value[0], max(self.dual[k], value[0] - gap[0])
                self.kept[k, ...] = theta[0, ...]

    def _reasons(self, at: Iterate, near: np.ndarray, asked: bool) -> np.ndarray:
        """(K,) strings: why each head ends; empty for those that go on."""
        finite = np.isfinite(at.value)
        return np.select(
            [
                finite & np.where(self._certain, self._proven, near),
                np.full(len(near), asked),
                self.n_iter >= self.max_iter,
                ~finite,
                self.stale >= np.where(self._certain & ~self._small, _HARD, _PATIENCE),
            ],
            [
                "converged",
                "a callback stopped the fit",
                f"reached max_iter={self.max_iter}",
                "the objective is not finite",
                ROUNDING if self.whole.linear else KINK,
            ],
            "",
        )

    def _move(self, over: np.ndarray, tight: np.ndarray) -> None:
        """The multipliers of heads whose inner solve is over move, and their smoothing adapts."""
        if not over.any():
            return
        factor = np.where(tight, np.where(self.used <= _SHORT, 0.5, 1.0), _MORE)
        self.inner.move(over, self.inner.smoothing * np.where(over, factor, 1.0))
        self.lbfgs.restart(over)
        self.used = np.where(over, -1, self.used)

    def end(self, reasons: np.ndarray) -> np.ndarray:
        """Write down the heads that have a reason to end. Once they are enough to be worth it they
        leave the batch; returns those that stay, as integers."""
        ending = (reasons != "") & ~self.ended
        if self.whole.linear:
            early = ending & ~(self._proven & self._certain)
            self._certify(early, self.low)
            self._certify(early)
            rough = self.best - self.dual > _EXACT * self.best
            self._polish(ending & self._proven & self._certain & rough)
        narrow = self.inner.problem.rows.dtype != widest(self.whole).rows.dtype
        for k in np.flatnonzero(ending).tolist():
            self.results[self.alive[k]] = self._result(k, str(reasons[k]))
            if reasons[k] == ROUNDING and narrow:
                self.lines.append(self.inner.line(k))
                theta, smoothing = self.lbfgs.at.theta[k, :], float(self.inner.smoothing[k])
                self.waiting.append((int(self.alive[k]), theta, smoothing))
        self.ended = self.ended | ending
        stay = np.flatnonzero(~self.ended)
        if not len(stay) or len(stay) > (1.0 - LEAVING) * len(self.alive):
            return np.arange(len(self.alive))
        for name in self._STATE:
            setattr(self, name, getattr(self, name)[stay])
        for name in ("kept", "low"):
            value = getattr(self, name)
            setattr(self, name, namespace(value).take(value, from_host(stay, value), axis=0))
        self.inner.keep(stay)
        self.lbfgs.keep(stay)
        return stay

    def _result(self, k: int, reason: str) -> FitResult:
        at, linear = self.lbfgs.at, self.whole.linear
        objective, gap = float(self.best[k]), float(self.best[k] - self.dual[k])
        theta = self.kept[k, :] if linear else at.theta[k, :]
        theta = namespace(theta).asarray(theta, copy=True)  # a view would keep all heads
        if not linear:
            problem = self.inner.problem.take_heads(np.asarray([k]))
            objective, gap = float(to_host(problem.value(theta[None, :]))[0]), math.nan
        return FitResult(
            theta=theta,
            n_iter=max(int(self.n_iter[k]), 1),
            objective=objective,
            converged=reason == "converged",
            reason=reason,
            grad_norm=float(at.grad_norm[k]),
            interrupted=reason == "interrupted",
            dual_gap=gap,
        )
