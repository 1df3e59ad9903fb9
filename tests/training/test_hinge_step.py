"""A Newton step of the hinge's proximal form: its gradient and its equations, written out.

    phi(v, b) = sum_i share_i sum_{j != y_i} h(m_ij) + reg |v|^2 + rho / 2 |b - b0|^2

with h' = a = clip(m / mu, 0, most) from multipliers of 0. Steps are solutions of some dozens of
equations of condition 1e8 at most: 1e-7 is ten times what rounding leaves.
"""

from __future__ import annotations

import numpy as np
import pytest

from xclf.training._hinge_basis import Basis
from xclf.training._hinge_newton import HingeNewton

N, D, C, REG, MARGIN = 40, 4, 3, 1e-2, 0.7
RNG = np.random.default_rng(0)
U = RNG.normal(size=(N, D)) * [1.0, 3.0, 0.3, 1.0]
LABELS, SHARE = np.arange(N) % C, RNG.uniform(0.5, 2.0, N)
SHARE /= SHARE.sum()
kinds = pytest.mark.parametrize("squared", [False, True], ids=["hinge", "squared"])
biases = pytest.mark.parametrize("bias", [True, False])


def newton_of(squared=False, bias=True):
    basis = Basis.of(U, LABELS, SHARE, C, bias)
    rng = np.random.default_rng(1)
    v, b = 0.3 * rng.normal(size=(C, D)), 0.3 * rng.normal(size=C) * bias
    return HingeNewton(basis, REG, MARGIN, v, b, squared)


def pairs(newton):
    """(i, j, m_ij) of every pair, from the rows."""
    scores = newton.basis.t @ newton.v.T + newton.b
    for i in range(N):
        for j in range(C):
            if j != LABELS[i]:
                yield i, j, scores[i, j] - scores[i, LABELS[i]] + MARGIN


def test_axes_are_principal():
    basis = Basis.of(U, LABELS, SHARE, C, True)
    np.testing.assert_allclose(basis.axes.T @ basis.axes, np.eye(D), atol=1e-14)
    np.testing.assert_allclose(basis.t, U @ basis.axes, atol=1e-13)
    moments = (basis.t * SHARE[:, None]).T @ basis.t
    np.testing.assert_allclose(moments, np.diag(basis.spectrum), atol=1e-13)
    assert (np.diff(basis.spectrum) <= 0.0).all()
    again = basis.labelled((LABELS + 1) % C, C)
    assert (again.mask == np.roll(basis.mask, 1, axis=1)).all()


@kinds
@biases
def test_margins_multipliers_and_gradient(squared, bias):
    newton = newton_of(squared, bias)
    most = np.inf if squared else 1.0
    gv, gb = 2.0 * REG * newton.v, np.zeros(C)
    losses = lower = 0.0
    for i, j, m in pairs(newton):
        a = min(max(m / newton.mu, 0.0), most)
        assert newton.m[i, j] == pytest.approx(m, rel=1e-12, abs=1e-13)
        assert newton.a[i, j] == pytest.approx(a, rel=1e-12, abs=1e-13)
        for k, sign in ((j, 1.0), (LABELS[i], -1.0)):
            gv[k] += sign * SHARE[i] * a * newton.basis.t[i]
            gb[k] += sign * SHARE[i] * a * bias
        losses += SHARE[i] * max(m, 0.0) ** (2 if squared else 1)
        lower += SHARE[i] * (a * m - (a * a / 4.0 if squared else 0.0))
    np.testing.assert_allclose(newton.gv, gv, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(newton.gb, gb, rtol=1e-11, atol=1e-13)
    gap = newton.gap()
    assert gap.value == pytest.approx(losses + REG * float(np.sum(newton.v**2)), rel=1e-12)
    assert gap.slack == pytest.approx(losses - lower, rel=1e-9)
    assert gap.slack >= 0.0


@kinds
@biases
def test_each_way_solves_the_equations(squared, bias):
    newton = newton_of(squared, bias)
    newton.mu = 0.5 if squared else 2.0  # many pairs between their bounds
    newton._place()
    size = D + bias
    t = np.c_[newton.basis.t, np.ones(N)] if bias else newton.basis.t
    ridge = np.append(np.full(D, 2.0 * REG), newton.rho) if bias else np.full(D, 2.0 * REG)
    hessian = np.kron(np.eye(C), np.diag(ridge))
    free = np.zeros((N, C), dtype=bool)
    for i, j, _ in pairs(newton):
        free[i, j] = 0.0 < newton.wanted[i, j] < newton.most
        if free[i, j]:
            e = np.zeros((C, size))
            e[j] += t[i]
            e[LABELS[i]] -= t[i]
            hessian += SHARE[i] / newton.mu * np.outer(e.ravel(), e.ravel())
    assert free.sum() > 10
    grad = np.c_[newton.gv, newton.gb] if bias else newton.gv
    want = -np.linalg.solve(hessian, grad.ravel()).reshape(C, size)
    ways = {
        "pairs": newton._solve(free),
        "hessian": newton._solve_scaled(free),
        "conjugate gradients": newton._conjugate_gradients(free, 1e-22),
        "chosen": newton._step(1e-22),
    }
    for name, (dv, db) in ways.items():
        # What is chosen may stop at a share of 1e-6 of the residual's square.
        far = np.abs(want).max() * (1e4 if name == "chosen" else 1.0)
        np.testing.assert_allclose(dv, want[:, :D], rtol=0, atol=1e-7 * far, err_msg=name)
        if bias:  # what all biases have in common changes no margin
            shift = want[:, D] - want[:, D].mean()
            np.testing.assert_allclose(db - db.mean(), shift, rtol=0, atol=1e-7 * far, err_msg=name)
        else:
            assert not np.any(db)


def test_without_a_pair_between_its_bounds():
    """Each weight has the penalty's curvature alone."""
    newton = newton_of()
    newton.wanted = np.where(newton.wanted > 0.5, 2.0, -1.0)
    newton._clip()
    dv, db = newton._step(1e-3)
    np.testing.assert_allclose(dv, -newton.gv / (2.0 * REG), rtol=1e-14)
    np.testing.assert_allclose(db, -newton.gb / newton.rho, rtol=1e-14)


@kinds
def test_the_length_of_a_step_is_a_minimum_along_it(squared):
    newton = newton_of(squared)

    def slope(length, dv, db):
        """phi' along the step, from its gradient there."""
        there = newton_of(squared)
        there.v, there.b = newton.v + length * dv, newton.b + length * db
        there.mu, there.centre = newton.mu, newton.centre
        there._place()
        return float(np.sum(there.gv * dv) + there.gb @ db)

    for scale in (0.05, 1.0, 30.0):
        dv, db = newton._step(1e-22)
        dv, db = scale * dv, scale * db
        length, dm = newton._search(dv, db)
        first, last = slope(0.0, dv, db), slope(length, dv, db)
        assert first < 0.0
        assert abs(last) <= 0.1 * abs(first) * (1.0 + 1e-9)
        for i in range(N):
            own = newton.basis.t[i] @ dv[LABELS[i]] + db[LABELS[i]]
            for j in range(C):
                want = newton.basis.t[i] @ dv[j] + db[j] - own
                assert dm[i, j] == pytest.approx(want, rel=1e-10, abs=1e-12)


@kinds
def test_advancing_keeps_margins_and_multipliers_of_each_other(squared):
    newton = newton_of(squared)
    for _ in range(12):
        newton.advance(newton.gap(), 1e-6)
        for i, j, m in pairs(newton):
            assert newton.m[i, j] == pytest.approx(m, rel=1e-9, abs=1e-11)
            wanted = newton.anchor[i, j] + m / newton.mu
            assert newton.wanted[i, j] == pytest.approx(wanted, rel=1e-7, abs=1e-9)
        np.testing.assert_array_equal(newton.a[newton.basis.mask], 0.0)
    assert newton.moves > 0
