"""Newton's method for a linear hinge model of few rows: steps of a proximal method of multipliers.

With rows t_i in an orthonormal basis of the features and multipliers a_ij in [0, 1], the hinge's
proximal form

    phi(v, b) = sum_i w_i sum_j max_a (a m_ij - mu/2 (a - a0_ij)^2)  +  reg |v|^2 + rho/2 |b - b0|^2

is piecewise quadratic. Newton steps with an exact line search minimise it, then the multipliers
a0 <- a and b0 <- b move, and mu shrinks if that gained little. Only pairs (i, j) with a strictly
between its bounds have curvature. A step comes from a system of as many equations, from the scaled
Hessian, or from conjugate gradients with the mean class curvature as preconditioner. All lengths
are in units of the problem: on separable rows, where multipliers scale with reg, the steps do not
depend on it.

The squared hinge is this form itself, with a0 = 0, mu = 1/2 and no upper bound of the multipliers:
a = 2 max(0, m) and a m - a^2 / 4 = max(0, m)^2. Only b0 moves, after every step. From v = 0 it
begins with a larger mu, as good as a larger reg: fewer pairs change sides on the way.
Source: Rockafellar (1976); Li, Sun & Toh (2018), semismooth Newton for such problems.
"""

from __future__ import annotations

import bisect
import math
from typing import NamedTuple

import numpy as np
import scipy.linalg

from xclf.training._hinge_basis import Basis, PairEquations
from xclf.training._newton import factor_of

# Steps at most between two moves of the multipliers, and those in a row without a smaller gradient.
_INNER, _IDLE = 60, 20
# An inner solve ends when its share of the gap is this share of what the move changes.
_INNER_SHARE = 0.1
# Shares of the slack that a move may leave, and how the smoothing shrinks then.
_SHRINK = ((0.1, 1.0), (0.6, 0.3), (0.95, 0.1), (np.inf, 0.01))
# Share of the smoothing that margins reach, below which a move can change nothing yet.
_REACH = 1e-3
# Share of the first smoothing with which a fit goes on from another: more would leave it.
_WARM = 0.01
# The smoothing that is the squared hinge, the share of |t|^2 / reg that it begins with, and how it
# shrinks.
_OWN, _FIRST, _LESS = 0.5, 1e-3, 0.1
# Curvature of the biases beside that of a pair, where no pair between its bounds has any; and where
# steps are exact enough for less: what it leaves of the flow counts in the gap.
_BIAS, _LEAST_BIAS = 1e-8, 1e-16
# Share of the largest weight below which rows do not count for that.
_LIGHT = 1e-8
# Rounds of conjugate gradients at most, and those that a step is assumed to take.
_ROUNDS, _USUAL = 500, 100
# Multiply-adds that gathering an entry of the equations takes as long as.
_GATHERED = 50
# Condition of the equations of pairs up to which their solution is a step; beyond it the Hessian's
# scaled equations are solved, if they are so many at most, or so few that this takes no time: then
# by QR, if its matrix has so many entries at most.
_STIFF, MOST_EQUATIONS, FEW_EQUATIONS, _MOST_ENTRIES = 1e8, 2000, 256, 1 << 22
# Ratio of the features' mean squares up to which they are alike.
_SPREAD = 1e6
# Equations of a step up to which a fit goes on by QR once it stands still.
_MOST_BY_QR = 1024

_EPS = 2.0**-52
# Share of the sum of its terms below which a sum is rounding.
_NOISE = 8.0 * _EPS


class Gap(NamedTuple):
    """An objective, and three parts of an estimate of what it stands above the optimum: slack of
    the multipliers, gradient, and what the next move of multipliers and biases changes."""

    value: float
    slack: float
    residual: float
    change: float

    @property
    def total(self) -> float:
        return self.slack + self.residual


class HingeNewton:
    """One head on its way: v (C, r), b (C,), their margins m (n, C), multipliers a (n, C).

    squared : whether the loss is the squared hinge
    most_pairs : equations at most that there is memory for, solved at a time
    """

    def __init__(
        self,
        basis: Basis,
        reg: float,
        margin: float,
        v: np.ndarray,
        b: np.ndarray,
        squared: bool = False,
        most_pairs: int = 2000,
    ) -> None:
        self.most_pairs = most_pairs
        self._most_equations = min(MOST_EQUATIONS, max(FEW_EQUATIONS, most_pairs // 2))
        self.basis, self.reg, self.margin, self.squared = basis, reg, margin, squared
        self.v, self.b = v, b
        self.anchor, self.centre = np.zeros(basis.mask.shape), b
        self.square = float(basis.spectrum.sum())
        # What a multiplier's whole range changes the margin of its own row by.
        self.mu = max(margin, self.square * float(basis.share.max()) / reg)
        if v.any():
            self.mu *= _WARM
        if squared:
            self.mu = _OWN if v.any() else max(_OWN, _FIRST * self.square / reg)
        self.most = np.inf if squared else 1.0
        # Smoothing whose equations are still well conditioned: the multipliers converge with any.
        # Where features are far from alike, those of the small ones need less.
        large, small = (
            float(f(basis.spectrum)) if len(basis.spectrum) else 1.0 for f in (np.max, np.min)
        )
        self._equations = len(b) * (basis.t.shape[1] + 1)
        self._orthogonal = self._equations <= FEW_EQUATIONS
        alike = large <= _SPREAD * small and not self._orthogonal
        self.least_mu = large / (2.0 * reg * _STIFF) if alike else 0.0
        self.large = large
        self.inner = self.idle = self.moves = 0
        self.ended = False
        # The pairs between their bounds at the last step, the factor of their equations with its
        # mu, and the multiply-adds of conjugate gradients since there was one.
        self.free = np.zeros_like(basis.mask)
        self.spent = 0.0
        self.factor: tuple[float, PairEquations] | None = None
        self.least = self.last = np.inf
        self._place()

    def _place(self) -> None:
        basis = self.basis
        self.m = basis.spread(basis.t @ self.v.T + self.b)
        self.m += self.margin
        self.m[basis.mask] = 0.0
        self.wanted = self.anchor + self.m / self.mu
        self._clip()

    def _clip(self) -> None:
        share = self.basis.share
        bias = _LEAST_BIAS if self._equations <= _MOST_BY_QR else _BIAS
        self.rho = bias * max(float(share.min()), _LIGHT * float(share.max())) / self.mu
        self.a = np.clip(self.wanted, 0.0, self.most)
        self.a[self.basis.mask] = 0.0
        g = self.basis.gathered(self.a * self.basis.share[:, None])
        self.flow = g.sum(axis=0) if self.basis.bias else np.zeros(len(self.b))
        self.gv = g.T @ self.basis.t + 2.0 * self.reg * self.v
        self.gb = self.flow + self.rho * (self.b - self.centre) * self.basis.bias
        # What rounding leaves of their sum, next to no curvature would make a long step of.
        self.gb[np.argmax(np.abs(self.gb))] -= self.gb.sum()

    def losses(self, m: np.ndarray) -> np.ndarray:
        """The loss of each pair's margin."""
        hinge: np.ndarray = np.maximum(m, 0.0)
        return hinge * hinge if self.squared else hinge

    def lower(self, m: np.ndarray) -> np.ndarray:
        """A lower bound of `losses`, from the multipliers; linear in m."""
        bound: np.ndarray = self.a * m
        return bound - 0.25 * self.a * self.a if self.squared else bound

    def gap(self) -> Gap:
        """Of the present point and its multipliers."""
        share, losses = self.basis.share, self.losses(self.m)
        penalty = self.reg * float(np.sum(self.v * self.v))
        value = float(share @ losses.sum(axis=1)) + penalty
        slack = float(share @ (losses - self.lower(self.m)).sum(axis=1))
        moved = np.where(self.basis.mask, 0.0, self.a - self.anchor)
        change = 0.5 * self.mu * float(share @ (moved * moved).sum(axis=1))
        far = float(np.abs(self.m).max(initial=0.0)) + self.margin
        residual = float(np.sum(self.gv * self.gv)) / (4.0 * self.reg)
        residual += 0.5 * float(np.abs(self.flow).sum()) * far
        return Gap(value, slack, residual, change)

    def advance(self, gap: Gap, tol: float) -> None:
        """Move the multipliers if the inner solve has ended at `gap`; a Newton step in any case."""
        goal = _INNER_SHARE * max(min(gap.change, gap.slack), 0.3 * tol * gap.value)
        self.idle = self.idle + 1 if gap.residual > 0.9 * self.least else 0
        self.least = min(self.least, gap.residual)
        if gap.residual <= goal:
            self._move(gap)
        elif self.inner >= _INNER or self.idle >= _IDLE:
            if self._orthogonal or self._equations > _MOST_BY_QR:
                self._move(gap)
            else:
                self._orthogonal, self.least_mu, self.inner, self.idle = True, 0.0, 0, 0
        self.inner += 1
        dv, db = self._step(goal / max(gap.residual, 1e-300))
        if not (dv.any() or db.any()):
            self.idle = _IDLE
        length, dm = self._search(dv, db)
        self.v, self.b = self.v + length * dv, self.b + length * db
        # Computed anew, rounding of m over mu would be that of a, and too much for large features.
        self.m += length * dm
        self.wanted += (length / self.mu) * dm
        self.centre = self.b if self.squared else self.centre
        self._clip()

    def _move(self, gap: Gap) -> None:
        """Multipliers and smoothing at the end of an inner solve. Where the squared hinge is
        minimised as it is, there is none to come."""
        self.ended = self.squared and self.mu == _OWN and self.idle >= _IDLE
        kept = gap.slack / self.last if self.last > 0.0 else 0.0
        self.last, self.inner, self.least, self.idle = gap.slack, 0, np.inf, 0
        self.moves += kept <= _SHRINK[-2][0] or bool(np.abs(self.m).max() >= _REACH * self.mu)
        if self.squared:
            before, self.mu = self.mu, max(_OWN, _LESS * self.mu)
            self.wanted *= before / self.mu
            self._clip()
        else:
            self.mu *= next(shrink for most, shrink in _SHRINK if kept <= most)
            self.mu = max(self.mu, self.least_mu)
            self.anchor, self.centre = self.a, self.b
            self._place()

    def _step(self, wanted: float) -> tuple[np.ndarray, np.ndarray]:
        basis, (n, r), c = self.basis, self.basis.t.shape, len(self.b)
        free = (self.wanted > 0.0) & (self.wanted < self.most) & ~basis.mask
        count = int(free.sum())
        if not np.array_equal(free, self.free):
            self.free, self.factor = free, None
        if not count:
            return -self.gv / (2.0 * self.reg), -self.gb / self.rho
        stiff = self.large / (2.0 * self.reg * self.mu)
        if stiff > _STIFF:
            return self._solve_stiff(free, count)
        # The equations, if they take no longer than conjugate gradients do, or did since the last.
        allowed = max(_USUAL * 4 * c * r * (n + c), self.spent)
        if self.factor is not None and self.factor[0] == self.mu:
            allowed = math.inf
        exact = count**2 * (count / 3 + _GATHERED) <= allowed
        if exact and count <= self.most_pairs:
            return self._solve(free)
        if self._has_time_for_qr(count):
            return self._solve_orthogonal(free)
        return self._conjugate_gradients(free, min(1e-2, max(1e-6, 0.1 * wanted)))

    def _solve_stiff(self, free: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The step where pairs weigh many orders more than the penalty: with as much care as there
        is time for. No more pairs than rows may determine each other without the penalty, or all
        where the rows themselves do not depend on each other."""
        (n, r), c = self.basis.t.shape, len(self.b)
        if self._has_time_for_qr(count):
            return self._solve_orthogonal(free)
        if count <= self.most_pairs and count <= max(n, (c - 1) * r):
            try:
                return self._solve(free)
            except np.linalg.LinAlgError:  # they do not
                pass
        if c * (r + 1) <= self._most_equations:
            return self._solve_scaled(free)
        return self._conjugate_gradients(free, 1e-6)

    def _has_time_for_qr(self, count: int) -> bool:
        equations = self._equations
        return bool(self._orthogonal and equations * (equations + count) <= _MOST_ENTRIES)

    def _solve(self, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The step from the equations of the pairs between their bounds."""
        basis = self.basis
        if self.factor is None or self.factor[0] != self.mu:
            self.factor = self.mu, PairEquations(basis, free, self.reg, self.mu)
            self.spent = 0.0
        g = basis.gathered(self.a * basis.share[:, None])
        noise = _NOISE * np.abs(g).sum(axis=0)
        return self.factor[1].step(self.gv, self.gb, self.rho, noise)

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(features (n, m), curvature of penalties (m,), gradient (C, m)), biases a last column."""
        t, ridge = self.basis.t, np.full(self.basis.t.shape[1], 2.0 * self.reg)
        if not self.basis.bias:
            return t, ridge, self.gv
        ones = np.ones((len(t), 1))
        return np.hstack([t, ones]), np.append(ridge, self.rho), np.c_[self.gv, self.gb]

    def _solve_orthogonal(self, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The step from the R of a QR decomposition of the roots of the Hessian's terms.

        With the largest rows first and columns exchanged, the smallest terms, of the penalty, keep
        their digits beside those of pairs. Source: Cox & Higham (1998).
        """
        basis, (i, j), c = self.basis, np.nonzero(free), len(self.b)
        t, ridge, grad = self._columns()
        m, every = t.shape[1], np.arange(len(i))
        terms = np.zeros((len(i) + c * m, c, m))
        half = t[i] * np.sqrt(basis.share[i] / self.mu)[:, None]
        terms[every, j], terms[every, basis.labels[i]] = half, -half
        terms = terms.reshape(len(terms), c * m)
        terms[len(i) :][np.diag_indices(c * m)] = np.tile(np.sqrt(ridge), c)
        unit = 1.0 / np.linalg.norm(terms, axis=0)
        terms *= unit
        terms = terms[np.argsort(-np.abs(terms).max(axis=1))]
        root, order = scipy.linalg.qr(
            terms, mode="r", pivoting=True, overwrite_a=True, check_finite=False
        )
        root = root[: c * m]
        inverse = scipy.linalg.solve_triangular(root, np.eye(c * m), check_finite=False)
        g = basis.gathered(self.a * basis.share[:, None])
        at = np.c_[self.v, self.b - self.centre] if basis.bias else self.v
        noise = _EPS * (np.abs(g).T @ np.abs(t) + ridge * np.abs(at))
        along = inverse.T @ (unit * grad.ravel())[order]
        along[along**2 <= inverse.T**2 @ ((unit * noise.ravel())[order]) ** 2] = 0.0
        along = inverse @ along
        step = np.empty(c * m)
        step[order] = along
        step = (-unit * step).reshape(c, m)
        return (step[:, :-1], step[:, -1]) if basis.bias else (step, np.zeros(c))

    def _solve_scaled(self, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The step from the Hessian, scaled so that features of any size are alike."""
        basis, c = self.basis, len(self.b)
        weight = free * (basis.share / self.mu)[:, None]
        t, ridge, grad = self._columns()
        m = t.shape[1]
        hessian = np.zeros((c, m, c, m))
        every = np.arange(c)
        hessian[:, range(m), :, range(m)] += ridge[:, None, None] * np.eye(c)
        for k in range(c):
            rows = np.flatnonzero(basis.mask[:, k] & free.any(axis=1))
            weighted = weight[rows][:, :, None] * t[rows][:, None, :]
            blocks = (weighted.reshape(len(rows), c * m).T @ t[rows]).reshape(c, m, m)
            hessian[every, :, every, :] += blocks
            hessian[k, :, k, :] += blocks.sum(axis=0)
            hessian[:, :, k, :] -= blocks
            hessian[k] -= blocks.transpose(1, 0, 2)
        matrix = hessian.reshape(c * m, c * m)
        unit = 1.0 / np.sqrt(np.diagonal(matrix))
        matrix = matrix * unit[:, None] * unit
        factor, _ = factor_of(matrix)
        if factor is None:
            return self._conjugate_gradients(free, 1e-6)
        along = scipy.linalg.cho_solve((factor, True), unit * grad.ravel(), check_finite=False)
        step = (-unit * along).reshape(c, m)
        return (step[:, :-1], step[:, -1]) if basis.bias else (step, np.zeros(c))

    def _conjugate_gradients(self, free: np.ndarray, eta: float) -> tuple[np.ndarray, np.ndarray]:
        basis = self.basis
        weight = free * (basis.share / self.mu)[:, None]
        flows = basis.mask.T.astype(float) @ weight
        flows += flows.T
        values, classes = np.linalg.eigh(np.diag(flows.sum(axis=1)) - flows)
        values = np.maximum(values, 0.0)
        t, ridge, grad = self._columns()
        spectrum, left = np.append(basis.spectrum, np.ones(len(ridge) - len(basis.spectrum))), -grad
        scale = 1.0 / (values[:, None] * spectrum + ridge)
        x = np.zeros_like(left)
        z = classes @ ((classes.T @ left) * scale)
        p, square = z, float(np.sum(left * z))
        goal = eta * square
        for _ in range(_ROUNDS):
            d = basis.spread(t @ p.T)
            d *= weight
            h = basis.gathered(d).T @ t
            h += ridge * p
            curvature = float(np.sum(p * h))
            if not (square > 0.0 and curvature > 0.0):
                break
            length = square / curvature
            x += length * p
            left -= length * h
            z = classes @ ((classes.T @ left) * scale)
            before, square = square, float(np.sum(left * z))
            self.spent += 4.0 * basis.mask.size * t.shape[1]
            if square <= goal:
                break
            p = z + square / before * p
        return (x[:, :-1], x[:, -1]) if basis.bias else (x, np.zeros(len(self.b)))

    def _search(self, dv: np.ndarray, db: np.ndarray) -> tuple[float, np.ndarray]:
        """The length of a step that minimises phi along it, and its change of the margins."""
        basis = self.basis
        dm = basis.spread(basis.t @ dv.T + db)
        other = ~basis.mask

        def derivative(length: float) -> float:
            a = np.clip(self.wanted + (length / self.mu) * dm, 0.0, self.most)
            return float(basis.share @ (a * dm * other).sum(axis=1)) + plain + length * square

        plain = 2.0 * self.reg * float(np.sum(self.v * dv))
        plain += self.rho * float((self.b - self.centre) @ db)
        square = 2.0 * self.reg * float(np.sum(dv * dv)) + self.rho * float(db @ db)
        if abs(derivative(1.0)) <= 0.1 * abs(derivative(0.0)):
            return 1.0, dm
        with np.errstate(all="ignore"):
            ends = np.stack([-self.wanted, self.most - self.wanted]) * (self.mu / dm)
        kinks = np.sort(ends[np.isfinite(ends) & (ends > 0.0)])
        # Between kinks the derivative is linear: where it is 0 lies behind the last that is below.
        last = bisect.bisect_left(
            range(len(kinks)), True, key=lambda k: derivative(float(kinks[k])) >= 0
        )
        low = float(kinks[last - 1]) if last else 0.0
        high = float(kinks[last]) if last < len(kinks) else 2.0 * low + 1.0
        at_low, at_high = derivative(low), derivative(high)
        if not at_high > at_low:
            return low, dm
        return low - at_low * ((high - low) / (at_high - at_low)), dm
