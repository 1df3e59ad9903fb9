"""Newton's method of small softmax problems: coordinates, gradient, Hessian, step and its bounds.

Against the formulas in plain loops and differences of them. Central differences of step 1e-5 are
right to 1e-10 of the third derivative and 1e-11 of the value, which are near 1: 1e-8 in all.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from backends import Backend
from estimator_cases import problem_on
from helpers import numerical_gradient
from pairwise import pairwise

from xclf.objectives import Network
from xclf.training._newton import Newton, Point, factor_of

RNG = np.random.default_rng(0)
N, D, C, REG = 30, 3, 3, 1e-2
X = RNG.normal(size=(N, D)) * [1e-3, 1.0, 50.0] + [0.0, 4.0, -300.0]
Y, WEIGHTS = np.arange(N) % C, RNG.uniform(0.2, 2.0, N)
SHARE = WEIGHTS / WEIGHTS.sum()


def newton_of(bias=True, reg=REG, x=X, y=Y, weights=WEIGHTS, scale=None):
    network = Network((x.shape[1], C), bias=bias, scale=scale)
    problem = problem_on(Backend.NUMPY, network, x, y, reg=reg, weights=weights)
    return Newton(problem, lambda w, b: (w, b))


def oracle(w, b, scale=1.0, reg=REG):
    """The objective of raw parameters, row by row."""
    value = reg * float(np.sum((w * scale) ** 2))
    for row, label, share in zip(X, Y, SHARE, strict=True):
        s = [float(sum(row[d] * w[c, d] for d in range(D)) + b[c]) for c in range(C)]
        top = max(s)
        value += share * (top + math.log(sum(math.exp(each - top) for each in s)) - s[label])
    return value


both = pytest.mark.parametrize("bias", [True, False])


@pairwise(bias=[True, False], scale=[None, np.array([2.0, 0.5, 30.0])])
def test_coordinates(bias, scale):
    """Columns are centred if there are biases, and of deviation 1; the objective is the same."""
    newton = newton_of(bias, scale=scale)
    z = newton.z[:, :D]
    mean = SHARE @ z
    assert np.abs(mean).max() <= 1e-13 if bias else np.abs(mean).max() > 0.1
    deviation = newton.scale if bias else np.sqrt(SHARE @ X**2)
    np.testing.assert_allclose(z * newton.scale, X - (SHARE @ X if bias else 0.0), rtol=1e-9)
    np.testing.assert_allclose(newton.scale, deviation, rtol=1e-12)
    if bias:
        np.testing.assert_allclose(SHARE @ z**2, 1.0, rtol=1e-12)
    w, b = RNG.normal(size=(C, D)) / newton.scale, RNG.normal(size=C) * bias
    theta = newton.inside(w, b)
    want = oracle(w, b, 1.0 if scale is None else scale)
    # Biases are sums of terms up to a few hundred times the result.
    assert newton.value(theta) == pytest.approx(want, rel=1e-11)
    back = newton.outside(theta)
    np.testing.assert_allclose(back[0], w, rtol=1e-14)
    np.testing.assert_allclose(back[1], b, rtol=1e-12, atol=1e-12)


@both
def test_gradient_hessian_and_step(bias):
    newton = newton_of(bias)
    m = newton.z.shape[1]
    theta = newton.balanced(RNG.normal(size=(C, m)))
    value, grad, d = newton.gradient(theta)
    assert value == newton.value(theta)
    want = numerical_gradient(newton.value, theta)
    assert np.abs(grad - want).max() <= 1e-8 * np.abs(want).max()

    hessian = newton._hessian(d)
    flat = theta.ravel()
    columns = []
    for k in range(C * m):
        up, down = flat.copy(), flat.copy()
        up[k] += 1e-5
        down[k] -= 1e-5
        pair = (newton.gradient(each.reshape(C, m))[1].ravel() for each in (up, down))
        columns.append((next(pair) - next(pair)) / 2e-5)
    numeric = np.stack(columns, axis=1)
    apart = np.kron(np.eye(C) - 1.0 / C, np.eye(m))  # what classes do not have in common
    error = np.abs(apart @ (hessian - numeric) @ apart).max()
    assert error <= 1e-8 * np.abs(numeric).max()
    assert np.linalg.eigvalsh(hessian).min() > 0.0

    step = newton.step(grad, d)
    inverse = np.linalg.inv(hessian)
    np.testing.assert_allclose(step.change.ravel(), -inverse @ grad.ravel(), rtol=1e-8, atol=1e-11)
    assert step.square == pytest.approx(float(grad.ravel() @ inverse @ grad.ravel()), rel=1e-9)
    moved = newton.z @ step.change.T
    assert step.reach == pytest.approx(max(max(row) - min(row) for row in moved), rel=1e-9)


def proven(newton, theta):
    """The proof, the step and gradient that it is of, p - y, and the objective's rounding."""
    value, grad, d = newton.gradient(theta)
    at = Point(theta, value, grad, d, newton.step(grad, d))
    return newton.proof(at), at.step, grad, d, newton._rounding(at)[1]


def lowest(newton, theta):
    """The optimum, by damped steps to the last digit."""
    for _ in range(60):
        _, grad, d = newton.gradient(theta)
        step = newton.step(grad, d)
        theta = theta + step.change / (1.0 + step.reach)
    return theta


def hidden_of(step):
    """What the ridge hides: it times the squares of the step, in units of the diagonal."""
    entries = zip(step.change.ravel(), step.unit, strict=True)
    return 4.0 * step.ridge * sum(float(change / unit) ** 2 for change, unit in entries)


@both
@pytest.mark.parametrize("far", [1e-1, 1e-4])
def test_the_bound_is_one(bias, far):
    """And no more than a few times what it bounds, where Newton's method ends."""
    newton = newton_of(bias)
    optimum = lowest(newton, np.zeros((C, newton.z.shape[1])))
    best, off = newton.value(optimum), np.random.default_rng(1).normal(size=optimum.shape)
    theta = newton.balanced(optimum + far * off)
    proof, step, _, d, noise = proven(newton, theta)
    bound, above = newton.bound(proof), newton.value(theta) - best
    assert above <= bound * (1.0 + 1e-9)
    if far < 1e-2:
        assert 0.0 < bound <= 2.0 * above
    # The formula: the decrement, and by how much scores may change for a unit of it.
    m = newton.z.shape[1]
    inverse = np.linalg.inv(newton._hessian(d)).reshape(C, m, C, m)
    np.testing.assert_allclose(proof.inverse, inverse, rtol=1e-7, atol=1e-10)
    lengths = sorted(
        math.sqrt(max(float(z @ inverse[j, :, j, :] @ z) for z in newton.z)) for j in range(C)
    )
    product = (lengths[-1] + lengths[-2]) * math.sqrt(proof.square)
    want = math.inf if product >= 0.9 else proof.square / (2 + 2 * math.log1p(-product) / 3)
    assert bound == pytest.approx(want, rel=1e-7)
    # Rounding of the gradient, a few 1e-16, beside steps of 1e-4 and more.
    assert step.square < proof.square <= (1.0 + 1e-8) * step.square
    size = theta**2 / step.unit.reshape(C, m) ** 2
    hidden = hidden_of(step) + 4.0 * step.ridge * size.sum()
    assert proof.hidden == pytest.approx(hidden + noise, rel=1e-9)
    assert 0.0 < noise < 1e-12 * max(1.0, newton.value(theta))


def test_nothing_is_known_far_from_the_optimum():
    newton = newton_of()
    proof = proven(newton, newton.balanced(20.0 * RNG.normal(size=(C, D + 1))))[0]
    assert newton.bound(proof) == math.inf


def test_what_classes_have_in_common_costs_its_penalty():
    """Moving all classes together changes no score: the bound grows by the penalty of it."""
    newton = newton_of(reg=0.5)
    theta = newton.balanced(0.01 * RNG.normal(size=(C, D + 1)))
    shared = np.append(np.full(D, 0.1), 0.0)
    alone, moved = (proven(newton, at)[0] for at in (theta, theta + shared))
    assert moved.square - alone.square >= 2.0 * C * float(newton.penalty @ shared**2) * (1 - 1e-9)


def test_a_ridge_is_counted():
    """Of columns that are the same: what is added to the diagonal hides as much of the optimum."""
    x = np.stack([X[:, 1], X[:, 1], X[:, 1]], axis=1)
    newton = newton_of(x=x, reg=0.0)
    proof, step, _, _, noise = proven(newton, np.zeros((C, D + 1)))
    assert step.ridge > 0.0
    assert proof.hidden == pytest.approx(hidden_of(step) + noise, rel=1e-12)


def test_the_factor():
    """To a positive definite matrix a few roundings are added, to others no more than 1."""
    a = RNG.normal(size=(5, 5))
    factor, ridge = factor_of(a @ a.T + np.eye(5))
    assert 0.0 < ridge <= 100 * np.finfo(float).eps
    factor = np.tril(factor)
    np.testing.assert_allclose(factor @ factor.T, a @ a.T + np.eye(5), rtol=1e-12)
    assert factor_of(-np.eye(5))[0] is None


@both
def test_deviations_of_columns_whose_squares_underflow(bias):
    tiny = X * 1e-170
    scale = newton_of(bias, x=tiny).scale
    np.testing.assert_allclose(scale * 1e170, newton_of(bias).scale, rtol=1e-12)


def test_a_bound_is_finite_and_positive_or_there_is_none():
    """Of a product p of the decrement and the scores' lengths: 1 + log(1 - p) / 3 is 0 at 0.95."""
    newton = newton_of()
    proof = proven(newton, np.zeros((C, D + 1)))[0]
    inverse = proof.inverse
    lengths = sorted(
        math.sqrt(max(float(z @ inverse[j, :, j, :] @ z) for z in newton.z)) for j in range(C)
    )
    for product in (0.3, 0.89, 0.91, 0.94, 0.96, 0.999, 1.0, 1.5, math.nan):
        square = (product / (lengths[-1] + lengths[-2])) ** 2
        bound = newton.bound(proof._replace(square=square))
        if product < 0.9:
            assert bound == pytest.approx(square / (2 + 2 * math.log1p(-product) / 3), rel=1e-9)
        else:
            assert bound == math.inf


def test_one_class_alone_is_bounded_by_its_decrement():
    """No other has weight, and so no score moves against another."""
    newton = newton_of(y=np.zeros(N, int))
    proof = proven(newton, np.zeros((C, D + 1)))[0]
    one = proof._replace(square=0.25, inverse=proof.inverse[:1][:, :, :1])
    assert len(proof.inverse) == 1
    assert newton.bound(one) == 0.125
