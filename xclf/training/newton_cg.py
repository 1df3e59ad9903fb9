"""Newton's method with conjugate gradients, for many heads of a small linear problem at once.

A step solves H d = -g by conjugate gradients, to the accuracy that it is worth. In the coordinates
of `RotatedRows` the Hessian of a head is close to A (x) diag(spectrum) + 2 reg I, with A the mean
curvature of the loss in the scores (C, C): its inverse is the preconditioner. A product with H
takes two with the rows, as the gradient does, and no exponential; all that is beside it is as small
as the parameters, where L-BFGS keeps dozens of pairs of their size.
Source: Dembo, Eisenstat & Steihaug (1982); Nocedal & Wright (2006), algorithm 7.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from xclf._array_api import Array, from_host, is_host, namespace, to_host
from xclf._heads import take_heads
from xclf.objectives import Smooth
from xclf.rows import blas_width, in_threads
from xclf.training._newton_heads import Heads, balanced, joined
from xclf.training._newton_terms import Terms, descend, dots, terms_of
from xclf.training._rotated_rows import can_rotate, rotated_rows, rotation_in_passes
from xclf.training._settle import CONVERGED, ROUNDING, SLOW, promise
from xclf.training._stages import STOPPED, MethodStage, method_stage, results_of, trees_of
from xclf.training.events import FitResult, Monitor
from xclf.training.problem import Problem

#: Rows up to which the pairs of L-BFGS take longer than its passes: beyond, its products in float32
#: and fewer of them are faster (3000 x 200 and more, a dozen heads: by a quarter to a half).
MOST_ROWS = 2000

#: Passes of L-BFGS that a rotation may cost: on CIFAR's rows it halves the time from reg 1e-2 down.
ROTATION = 160

#: What a step leaves of the squared residual, preconditioned: far from the optimum and close to it
#: at least. A step is close where the one before was to gain less than this share of the objective.
FAR, CLOSE, NEAR = 0.1, 1e-8, 0.003

# Share of what is to be met that a last step aims at.
_ENOUGH = 0.2

# How many times its height the slope of a whole step may be.
_HEIGHTS = 4.0

# Above 0, so that a quotient is finite.
_TINY = 1e-300

# Rounding error of an objective, relative, with which a step may end above the one before.
_NOISE = 16.0 * 2.0**-52

# Share of a step below which rounding has left nothing to gain.
_SHORTEST = 2.0**-60

# Bytes of the scores of the heads that are computed together: on a CPU they are to stay in cache, a
# device wants few launches. So many arrays of this size are alive at once.
_HOST_SCORES, _DEVICE_SCORES, _SCORES = 1 << 20, 64 << 20, 8

_Results = Sequence[tuple[int, FitResult]]

#: Host (k,) each: the objective, and the norm of its gradient, at zero weights.
AtZero = tuple[np.ndarray, np.ndarray]


def suits(problem: Problem, heads: int) -> bool:
    """Whether the method is made for so many heads of a problem, whose rows are soon rotated."""
    return can_fit(problem) and rotation_in_passes(problem, heads) <= ROTATION


def can_fit(problem: Problem) -> bool:
    """Whether the method is made for a problem: of a smooth loss, with a penalty and few rows."""
    rows, objective = problem.rows, problem.objective
    return (
        isinstance(objective.loss, Smooth)
        and len(rows) <= MOST_ROWS
        and can_rotate(problem)
        and bool(np.all(to_host(objective.reg) > 0.0))
        and 8 * _SCORES * objective.network.widths[-1] * len(rows) <= rows.budget.for_basis()
    )


def fit_newton_cg(
    problem: Problem,
    theta: Array,
    tol: float,
    max_iter: int,
    monitor: Monitor,
    most_products: float = math.inf,
) -> list[FitResult]:
    """Minimise K heads from theta (K, P); one result a head, which remains to be proven: see
    `fit_rotated`."""
    rotated, xp = rotated_rows(problem), namespace(theta)
    terms, start = terms_of(problem, rotated), rotated.inside(theta)
    results = fit_rotated(terms, start, tol, max_iter, monitor, most_products)
    ends = rotated.outside(xp.stack([one.theta for one in results]))
    ends = xp.astype(ends, theta.dtype, copy=False)
    return [replace(one, theta=ends[k, :]) for k, one in enumerate(results)]


def fit_rotated(
    terms: Terms,
    start: Array,
    tol: float,
    max_iter: int,
    monitor: Monitor,
    most_products: float = math.inf,
    zero: AtZero | None = None,
) -> list[FitResult]:
    """Minimise K heads from parameters (K, C, m) in the coordinates of rotated rows; one result a
    head, whose theta are such (C, m).

    A head has converged where its gradient's norm is `tol` times that at zero weights, and the
    preconditioner says that the objective is within `tol` of the optimum, relative.

    max_iter : steps at most, and a third of the passes over the rows
    most_products : passes over the rows after which a head is given up as SLOW
    zero : what the terms are at zero weights, where several fits share that
    """
    with method_stage(monitor, "Newton-CG", start) as stage:
        if stage.results is not None:
            return stage.results
        fit = _NewtonCG(terms, start, tol, max_iter, monitor, most_products, stage, zero)
        try:
            fit.run()
        except KeyboardInterrupt:
            fit.end_all("interrupted")
        return stage.finish([fit.results[k] for k in sorted(fit.results)])


class _NewtonCG:
    """K heads on their way, in groups that are computed together, as many at a time as threads."""

    def __init__(
        self,
        terms: Terms,
        start: Array,
        tol: float,
        max_iter: int,
        monitor: Monitor,
        most_products: float,
        stage: MethodStage,
        zero: AtZero | None,
    ) -> None:
        self.tol, self.max_iter, self.most_products = tol, max_iter, most_products
        self.monitor, self.stage, self.steps = monitor, stage, 0
        self.terms, self.zero = terms, zero
        self.results: dict[int, FitResult] = {}
        if stage.saved is not None:
            self.steps = stage.saved["steps"]
            ended = results_of(stage.saved["results"])
            self.results |= zip(stage.saved["ended"], ended, strict=True)
            self.groups = [Heads(**group) for group in stage.saved["groups"]]
            return
        groups = _groups(int(start.shape[0]), terms)
        self.groups = [self._begin(number, take_heads(start, number)) for number in groups]

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {
            "steps": self.steps,
            "ended": list(self.results),
            "results": trees_of(list(self.results.values())),
            "groups": [dict(vars(group)) for group in self.groups],
        }

    def run(self) -> None:
        """Until every head has a reason to end."""
        while self.groups:
            with closing(in_threads(self._round, self.groups)) as rounds:
                done = list(rounds)
            self.groups = [group for group, _, _ in done if len(group)]
            ended = [pair for _, _, pairs in done for pair in pairs]
            self.results |= ended
            lowest = min(moved for _, moved, _ in done)
            if math.isfinite(lowest):
                self.steps += 1
                seen, heads = min(self.steps, self.monitor.total), sum(map(len, self.groups))
                try:
                    stopped = self.monitor.record(seen, lowest, heads=max(heads, 1))
                except KeyboardInterrupt:
                    self.end_all("interrupted", ended)
                    return
                if stopped:
                    self.end_all(STOPPED, ended)
                    return  # the state before, to go on from, is kept
            self.stage.offer(self.state)

    def end_all(self, reason: str, ended: _Results = ()) -> None:
        """End the heads that are on their way, where they stand; and those of the last round that
        others would go on with."""
        for number, result in ended:
            if not (result.converged and self.groups):
                self.results[number] = replace(
                    result, reason=reason, interrupted=reason == "interrupted"
                )
        for group in self.groups:
            terms = self.terms.take_heads(group.number)
            value, dscores = terms.value(group.at)
            group.value = _host(value)
            norm = _host(terms.norm(terms.gradient(group.at, dscores)))
            self.results |= self._ended(group, np.full(len(group), reason), norm)
        self.groups = []

    def _round(self, group: Heads) -> tuple[Heads, float, _Results]:
        """(the heads that go on, the lowest objective of those that moved, results of those that
        end) after the steps that were to be tried. Heads whose objective did not fall try a shorter
        one."""
        terms, xp = self.terms.take_heads(group.number), namespace(group.at)
        trial, values, dscores = self._tried(group, terms)
        value, products = _host(values), group.products + 1.0
        noise = _NOISE * np.where(np.isfinite(group.value), np.abs(group.value), 0.0)
        good = value <= group.value + 1e-4 * group.length * group.slope + noise
        taken = good & (group.length > 0.0)
        lowest = float(np.min(value, where=taken, initial=np.inf))
        idle = (group.value - value <= noise) & taken
        group = replace(group, n_iter=group.n_iter + taken, products=products)
        parts: list[Heads] = []
        ended: list[tuple[int, FitResult]] = []
        if not good.all():
            rest = take_heads(group, np.flatnonzero(~good))
            rest.length = 0.5 * rest.length
            # Not a number where products of a step have overflown.
            lost = np.where(rest.length >= _SHORTEST, "", ROUNDING)
            ended += self._ended(rest, lost, np.full(len(rest), np.nan))
            parts = [take_heads(rest, np.flatnonzero(lost == ""))]
            kept = np.flatnonzero(good)
            group, terms, trial, dscores = take_heads((group, terms, trial, dscores), kept)
            value, idle = value[kept], idle[kept]
        if len(group):
            group = replace(group, at=trial, value=value)
            moved, more = self._step(group, terms, dscores, idle)
            parts, ended = [moved, *parts], [*ended, *more]
        return joined(xp, parts), lowest, ended

    def _tried(self, group: Heads, terms: Terms) -> tuple[Array, Array, Array]:
        """(points, their objectives, the losses' gradients in the scores) after the steps that are
        to be tried.

        A start above the objective at zero weights is replaced by those: far off, where hardly any
        curvature remains, steps lead nowhere.
        """
        trial = group.at
        if group.length.any():
            length = from_host(group.length, group.at, group.at.dtype)
            trial = trial + length[:, None, None] * group.step
        values, dscores = terms.value(trial)
        first = np.isinf(group.value) & ~np.isnan(group.start)
        if first.any():
            high = first & ~(_host(values) <= self._at_zero(group.number)[0])
            if high.any():
                kept = from_host(~high, trial)[:, None, None]
                trial = namespace(trial).where(kept, trial, 0.0)
                values, dscores = terms.value(trial)
        return trial, values, dscores

    def _step(
        self, group: Heads, terms: Terms, dscores: Array, idle: np.ndarray
    ) -> tuple[Heads, _Results]:
        """`group`, which has moved, with new steps; and the results of the heads that end there."""
        xp, rank = namespace(dscores), terms.rank
        grad = terms.gradient(group.at, dscores)
        curvature = terms.loss.curvature(dscores, terms.mask)
        precondition = terms.preconditioner(curvature)
        curvature = xp.astype(curvature, terms.narrow.dtype)
        own = grad[..., :rank]
        downhill = precondition(grad)
        numbers = [terms.norm(grad), dots(grad, downhill), dots(own, own)]
        norm, square, residual = _host(xp.stack(numbers))
        group.start = np.where(np.isnan(group.start), norm, group.start)  # of a start at zero
        # The bound that certificates have, but for the biases: see `_softmax_gap.py`.
        gap = residual / _host(2.0 * terms.penalty[:, 0, 0])
        reasons = self._reasons(group, norm, 0.5 * square, gap, idle)
        done, ended = np.flatnonzero(reasons != ""), list[tuple[int, FitResult]]()
        if len(done):
            last, own, step, why = take_heads((group, terms, downhill, reasons), done)
            ended = self._ended(balanced(last, own, step), why, norm[done])
            kept = np.flatnonzero(reasons == "")
            if not len(kept):
                return take_heads(group, kept), ended
            parts = (group, terms, curvature, precondition, grad, square, norm, gap)
            group, terms, curvature, precondition, grad, square, norm, gap = take_heads(parts, kept)
        share = self._share(group, norm, gap, square)
        with np.errstate(over="ignore", invalid="ignore"):
            step, products = descend(terms, curvature, precondition, grad, share * square)
        slope = _host(dots(grad, step))
        # Of a parabola that stays above 0 the slope is at most twice its height: a larger one comes
        # from where the curvature has vanished, and the step is far too long.
        length = np.minimum(1.0, _HEIGHTS * np.abs(group.value) / np.maximum(-slope, _TINY))
        moved = replace(
            group,
            step=step,
            slope=slope,
            length=length,
            products=group.products + products,
        )
        return moved, ended

    def _share(
        self, group: Heads, norm: np.ndarray, gap: np.ndarray, square: np.ndarray
    ) -> np.ndarray:
        """(k,): what a step may leave of the squared residual. Near the optimum what is to be met
        after it, no sooner: steps before the last need not be exact."""
        size = np.abs(group.value)
        gained = np.where(group.n_iter > 0, -group.slope, square)
        near = 0.5 * gained <= NEAR * size
        wanted = np.fmin(
            0.5 * promise(self.tol) * size / np.maximum(gap, _TINY),
            (self.tol * group.start / np.maximum(norm, _TINY)) ** 2,
        )
        return np.where(near, np.clip(_ENOUGH * wanted, CLOSE, FAR), FAR)

    def _reasons(
        self,
        group: Heads,
        norm: np.ndarray,
        gain: np.ndarray,
        gap: np.ndarray,
        idle: np.ndarray,
    ) -> np.ndarray:
        """(k,) strings: why each head ends; empty for those that go on.

        norm : of the gradient;  gain : what a preconditioned step is to gain;  gap : a bound on
        what all steps gain;  idle : whether rounding hides what the last one gained
        """
        size = np.abs(group.value)
        met = (norm <= self.tol * group.start) & (gain <= self.tol * size)
        met = met & (gap <= 0.5 * promise(self.tol) * size)
        limit, passes = f"reached max_iter={self.max_iter}", 3 * self.max_iter
        return np.select(
            [
                met | (norm == 0.0),
                ~np.isfinite(gain),
                (group.n_iter >= self.max_iter) | (group.products >= passes),
                group.products >= self.most_products,
                idle,
            ],
            [CONVERGED, "the objective is not finite", limit, SLOW, ROUNDING],
            "",
        )

    def _ended(
        self, group: Heads, reasons: np.ndarray, norm: np.ndarray
    ) -> list[tuple[int, FitResult]]:
        """(number, result) of the heads that have a reason to end."""
        index = np.flatnonzero(reasons != "")
        if not len(index):
            return []
        ends = take_heads(group.at, index)
        return [
            (
                int(group.number[k]),
                FitResult(
                    theta=ends[place, ...],
                    n_iter=max(int(group.n_iter[k]), 1),
                    objective=float(group.value[k]),
                    converged=reasons[k] == CONVERGED,
                    reason=str(reasons[k]),
                    grad_norm=float(norm[k]),
                    interrupted=reasons[k] == "interrupted",
                ),
            )
            for place, k in enumerate(index.tolist())
        ]

    def _begin(self, number: np.ndarray, at: Array) -> Heads:
        """Heads at (k, C, m), with the gradient's norm at zero weights, where that is not known
        from the first step."""
        group = Heads.begin(number, at)
        if bool(namespace(at).any(at != 0.0)):
            group.start = self._at_zero(number)[1]
        return group

    def _at_zero(self, number: np.ndarray) -> AtZero:
        if self.zero is not None:
            return self.zero[0][number], self.zero[1][number]
        return at_zero(self.terms.take_heads(number), len(number))


def at_zero(terms: Terms, heads: int) -> AtZero:
    """See `AtZero`; of as many heads at a time as go on together."""
    parts = [terms.take_heads(own).at_zero(len(own)) for own in _groups(heads, terms)]
    values, norms = (np.concatenate(list(map(_host, own))) for own in zip(*parts, strict=True))
    return values, norms


def _groups(heads: int, terms: Terms) -> list[np.ndarray]:
    """Numbers of the heads that are computed together: some for each thread."""
    on_host, each = is_host(terms.z), 8 * terms.z.shape[-2] * terms.mask.shape[-2]  # of scores
    size = min(max(1, (_HOST_SCORES if on_host else _DEVICE_SCORES) // each), heads)
    size = min(size, -(-heads // blas_width())) if on_host else size
    return [np.arange(k, min(k + size, heads)) for k in range(0, heads, size)]


def _host(values: Array) -> np.ndarray:
    return np.asarray(to_host(values), dtype=np.float64)
