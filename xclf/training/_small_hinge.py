"""A hinge of few rows: Newton's method for one head, and what its multipliers prove.

A small linear problem is solved on the host in float64, in centred features: multipliers a_ij in
[0, 1] and G_ij = w_i (a_ij - [j = y_i] sum_k a_ik), w_i the rows' shares, prove at weights V and
biases b with margins m, for any optimum (V*, b*),

    P - P* <= sum_i w_i sum_j (max(0, m_ij) - a_ij m_ij)  +  |X^T G + 2 reg V|^2 / (4 reg)
              + 1^T G (b - b*).

For the squared hinge a_ij may be any number >= 0, and a term is max(0, m)^2 - a m + a^2 / 4.
It is computed at the parameters as a model stores them, with a bound of each score's rounding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from xclf._array_api import Array, from_host, namespace, to_host
from xclf.objectives import Layer, SquaredHinge
from xclf.training._hinge_basis import MOST_IN_GRAM, Basis
from xclf.training._hinge_newton import HingeNewton
from xclf.training._newton import on_host
from xclf.training._precision import rounding_bounds, stored
from xclf.training._settle import CONVERGED, ROUNDING
from xclf.training._stages import STOPPED
from xclf.training.events import FitResult, Monitor
from xclf.training.problem import Problem

# What the estimated gap is to be, relative: the optimum up to rounding; where that proves nothing
# less may, down to a share that is rounding.
_GOAL, _LEAST_GOAL = 1e-10, 1e-12
# Moves of the multipliers without half the gap, after which rounding is to blame: near, and far.
_PATIENCE, _NEAR, _HARD = 5, 1e-5, 25
# Units in the last place that stored parameters grow by, to meet the margins in spite of rounding.
_GROWTH = (0, 1, 2, 4, 8, 16, 64, 256, 1024, 1 << 13, 1 << 16, 1 << 20)

# Share of the objective above which the rounding of a column's gradient is looked at, and products
# that this may take.
_ROUGH, _REFINED = 1e-12, 1 << 22

_EPS = 2.0**-52


def most_pairs(problem: Problem) -> int:
    """Equations of Newton's method that there is memory for, beside its other arrays."""
    n, d, c = len(problem.rows), *problem.objective.network.widths
    gram = n * n if n <= MOST_IN_GRAM else 0
    spare = problem.rows.budget.for_basis() / 8 - 5 * n * d - 14 * n * c - gram
    return int(min(math.sqrt(max(spare, 0.0) / 1.2), n * c))


class Proof(NamedTuple):
    """Raw weights (C, D) and biases (C,) as stored, the objective, how far it stands above the
    optimum at most, and the max-norm of the gradient that the multipliers give."""

    w: np.ndarray
    b: np.ndarray
    value: float
    gap: float
    grad_norm: float


class SmallHinge:
    """One head of a small problem: rows in float64 on the host, centred if there are biases.

    theta : (P,) where it starts;  dtype : that models keep;  promised : the relative gap at most;
    like : a head whose basis may do
    """

    def __init__(
        self,
        problem: Problem,
        theta: Array,
        dtype: object,
        promised: float,
        like: SmallHinge | None,
    ) -> None:
        network, xp = problem.objective.network, namespace(theta)
        self.network, self.theta, self.promised = network, theta, promised
        self.held = to_host(xp.zeros((1,), dtype=dtype)).dtype
        x, y, weights = on_host(problem)
        self.x, self.weights = x, weights
        if float(np.abs(x).max(initial=0.0)) > math.sqrt(float(np.finfo(self.held).max) / x.size):
            raise ValueError("X holds values so large that their squares overflow: scale X")
        self.share = weights / weights.sum()
        self.reg = float(np.ravel(to_host(problem.objective.reg))[0])
        self.loss = problem.objective.loss.to_host()
        self.margin = float(np.ravel(self.loss.margin)[0])  # type: ignore[attr-defined]
        self.classes, self.bias = network.widths[1], network.bias
        self.scale = np.ones(x.shape[1]) if network.scale is None else to_host(network.scale)
        self.centre = self.share @ x if self.bias else np.zeros(x.shape[1])
        self.u = (x - self.centre) / self.scale
        # A class that no row is in takes no part: its bias is so low that it meets all margins.
        there = np.bincount(y, minlength=self.classes) > 0
        self.present = np.flatnonzero(there | (not self.bias))
        self.y = np.searchsorted(self.present, y)
        self.basis: Basis = (
            like.basis.labelled(self.y, len(self.present))
            if like is not None and self._has_rows_of(like)
            else Basis.of(self.u, self.y, self.share, len(self.present), self.bias)
        )
        raw = network.raw(network.layers(theta))[0]
        w = np.asarray(to_host(raw.w), dtype=float)
        b = np.zeros(len(w)) if raw.b is None else np.asarray(to_host(raw.b), dtype=float)[:, 0]
        v = (w * self.scale)[self.present] @ self.basis.axes
        squared = isinstance(self.loss, SquaredHinge)
        place, most = self._placed(w, b), most_pairs(problem)
        self.newton = HingeNewton(self.basis, self.reg, self.margin, v, place, squared, most)
        self.steps, self.dual = 0, 0.0
        self.best: Proof | None = None
        self.lowest = (math.inf, self.newton.v, self.newton.b)

    def _has_rows_of(self, other: SmallHinge) -> bool:
        """Whether the heads have the same rows with the same weights: folds of one size do not."""
        pairs = ((self.share, other.share), (self.u, other.u))
        return all(np.array_equal(mine, its) for mine, its in pairs)

    def run(self, tol: float, max_iter: int, monitor: Monitor, before: int, heads: int) -> str:
        """Newton steps until there is a reason to end, which is returned.

        before : steps of other heads;  heads : those that are not done
        """
        goal, least, at = min(_GOAL, 0.1 * tol), math.inf, 0
        nearest = math.inf, self.newton.v, self.newton.b, self.newton.a
        while True:
            gap = self.newton.gap()
            if gap.value < self.lowest[0]:
                self.lowest = gap.value, self.newton.v, self.newton.b
            if gap.total < nearest[0] * gap.value:
                nearest = gap.total / gap.value, self.newton.v, self.newton.b, self.newton.a
            if gap.total < 0.5 * least * gap.value:
                least, at = gap.total / gap.value, self.newton.moves
            patience = _PATIENCE if least <= _NEAR else _HARD
            spent = self.newton.moves - at > patience or not math.isfinite(gap.value)
            spent = spent or self.newton.ended
            if gap.total <= goal * gap.value or spent:
                self._prove(self.newton.v, self.newton.b, goal)
                if spent and not self.proven():
                    self.newton.a = nearest[3]
                    self._prove(*nearest[1:3], goal)
                if self.proven():
                    return CONVERGED
                if spent or goal < _LEAST_GOAL:
                    return ROUNDING
                goal *= 0.01
            if self.steps >= max_iter:
                return f"reached max_iter={max_iter}" if max_iter else STOPPED
            self.newton.advance(gap, goal)
            self.steps += 1
            step = min(before + self.steps, monitor.total)
            if monitor.record(step, min(self.lowest[0], self.newton.gap().value), heads=heads):
                return STOPPED

    def result(self, reason: str) -> FitResult:
        """What the head has come to."""
        if self.best is None:
            self._prove(*self.lowest[1:], 0.0)
            self._prove(self.newton.v, self.newton.b, 0.0)
        best = self.best
        assert best is not None
        layer = Layer(
            from_host(best.w, self.theta),
            from_host(best.b[:, None], self.theta) if self.bias else None,
        )
        theta = self.network.flatten([tuple(one) for one in self.network.fitting([layer])])
        done = reason == CONVERGED or (self.proven() and reason != STOPPED)
        return FitResult(
            theta=theta,
            n_iter=max(self.steps, 1),
            objective=best.value,
            converged=done and reason != "interrupted",
            reason=reason,
            grad_norm=best.grad_norm,
            interrupted=reason == "interrupted",
            dual_gap=best.value - self.dual,
        )

    def proven(self) -> bool:
        """Whether the gap is as small as promised."""
        best = self.best
        return best is not None and best.value - self.dual <= self.promised * best.value

    def _prove(self, v: np.ndarray, b: np.ndarray, goal: float) -> None:
        """Take into account what the present multipliers prove at v, b as stored."""
        least = math.inf
        for units in _GROWTH:
            grown = 1.0 + units * float(np.finfo(self.held).eps)
            proof = self._proof(*self._stored(v * grown, b * grown))
            self.dual = max(self.dual, proof.value - proof.gap)
            if self.best is None or proof.value < self.best.value:
                self.best = proof
            if proof.gap <= goal * proof.value or proof.gap > 2.0 * least:
                break
            least = min(least, proof.gap)

    def _placed(self, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Biases (C',) about the centre, from raw ones: where columns are far off, all digits of
        the sum are needed."""
        place = w.astype(np.longdouble) @ self.centre.astype(np.longdouble) + b
        return np.asarray(place.astype(float)[self.present])

    def _stored(self, v: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw weights and biases of all classes as a model stores them."""
        w = np.zeros((self.classes, self.u.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            w[self.present] = (v - v.mean(axis=0)) @ self.basis.axes.T / self.scale
            w = stored(np, w, self.held)
            raw = np.zeros(self.classes)
            if self.bias:
                far = w.astype(np.longdouble) @ self.centre.astype(np.longdouble)
                raw[self.present] = b - far[self.present].astype(float)
                raw[self.present] -= raw[self.present].mean()
                absent = np.setdiff1d(np.arange(self.classes), self.present)
                if len(absent):
                    scores = self.u @ (w * self.scale)[self.present].T + self._placed(w, raw)
                    low = scores[np.arange(len(scores)), self.y].min() - 2.0 * self.margin
                    raw[absent] = low - 1e-3 * abs(low) - far[absent].astype(float)
            return w, stored(np, raw[:, None], self.held)[:, 0]

    def _proof(self, w: np.ndarray, b: np.ndarray) -> Proof:
        """What the multipliers prove at stored parameters. Absent classes meet all margins."""
        basis, share, reg = self.basis, self.share[:, None], self.reg
        with np.errstate(all="ignore"):
            v, b_here = (w * self.scale)[self.present], self._placed(w, b)
            m = basis.spread(self.u @ v.T + b_here) + self.margin
            m[basis.mask] = 0.0
            value = float(np.sum(share * self.newton.losses(m))) + reg * float(np.sum(v * v))
            inner, outer = rounding_bounds(_EPS / 2, len(self.centre), len(share))
            off = inner * (np.abs(self.u) @ np.abs(v).T + np.abs(b_here) + self.margin)
            off += np.take_along_axis(off, self.basis.labels[:, None], axis=1)
            off[basis.mask] = 0.0
            a = self.newton.a
            slack = self.newton.losses(m + off) - self.newton.lower(m) + a * off
            gap = float(np.sum(share * np.maximum(slack, 0.0))) + outer * value
            g = basis.gathered(a * share)
            residual = g.T @ self.u + 2.0 * reg * v
            rounding = 2 * (inner + outer) * (np.abs(g).T @ np.abs(self.u))
            rounding += 4 * reg * inner * np.abs(v)
            rough = np.sum(rounding**2, axis=0) > 4.0 * reg * _ROUGH * value
            self._refine(np.flatnonzero(rough), residual, rounding, v)
            residual = np.abs(residual)
            gap += float(np.sum((residual + rounding) ** 2)) / (4.0 * reg)
            norm = float(residual.max(initial=0.0))
            if self.bias:
                wide = self._wide_gradient()
                flow = wide.sum(axis=0).astype(float)
                unit = float(np.finfo(wide.dtype).eps) * (len(share) + 8)
                push = 0.5 * float(np.sum(np.abs(flow) + unit * np.abs(g).sum(axis=0)))
                gap = self._with_biases(gap, push, value, v, b_here)
                norm = max(norm, float(np.abs(flow).max()))
        value = value if math.isfinite(value) else math.inf
        return Proof(w, b, value, gap if gap <= value else value, norm)

    def _wide_gradient(self) -> np.ndarray:
        """The gradient in the scores (n, C'), with all digits there are."""
        weights = self.weights.astype(np.longdouble)
        return np.asarray(self.basis.gathered(self.newton.a * (weights / weights.sum())[:, None]))

    def _refine(
        self, columns: np.ndarray, residual: np.ndarray, rounding: np.ndarray, v: np.ndarray
    ) -> None:
        """Compute the residual of a few large columns again, with all digits there are."""
        if not 0 < len(columns) * self.basis.mask.size <= _REFINED:
            return
        wide, g = np.longdouble, self._wide_gradient()
        u = (self.x[:, columns].astype(wide) - self.centre[columns]) / self.scale[columns]
        exact = g.T @ u + 2.0 * self.reg * v[:, columns].astype(wide)
        residual[:, columns] = exact.astype(float)
        unit = len(u) * float(np.finfo(wide).eps) + _EPS / 2
        off = float(np.finfo(wide).eps) * (len(u) + 8) * (np.abs(g).T @ np.abs(u))
        rounding[:, columns] = off.astype(float) + unit * np.abs(exact).astype(float)

    def _with_biases(
        self, gap: float, push: float, value: float, v: np.ndarray, b: np.ndarray
    ) -> float:
        """The gap with 1^T G (b - b*), of which the entries of G's flow add up to 2 push.

        Rows of class c give  b*_j - b*_c <= lead_bound(P W / W_c) + |(V*_j - V*_c) mean x of c|,
        and  reg |V* - V|^2 <= P - P*, which is solved for.
        """
        mask = self.basis.mask * self.share[:, None]
        weight = mask.sum(axis=0)
        means = (mask.T @ self.u) / weight[:, None]
        scores = means @ v.T
        apart = float(np.max(self.loss.lead_bound(value / weight))) + float(b.max() - b.min())
        apart += float(np.abs(scores - np.diagonal(scores)[:, None]).max())
        far = push * math.sqrt(2.0 / self.reg) * float(np.linalg.norm(means, axis=1).max())
        return (0.5 * (far + math.sqrt(far * far + 4.0 * (gap + push * apart)))) ** 2
