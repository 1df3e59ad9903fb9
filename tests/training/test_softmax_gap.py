"""The softmax's bound: against its dual, the optimum, and the formula in plain loops."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on
from scipy.optimize import minimize

from xclf.objectives import Network
from xclf.training import full_batch

module = sys.modules["xclf.training._softmax_gap"]

N, D, C = 60, 4, 3
X, Y = blobs(N, D, C)
X = X + 2.0  # the mean is no origin
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2.0, size=N)
SHARE = WEIGHTS / WEIGHTS.sum()
UNIT = float(np.finfo(np.float32).eps) / 2


def _problem(reg, bias=True, dtype=np.float64, weights=WEIGHTS):
    place = {"reg": reg, "weights": weights, "dtype": dtype}
    return problem_on(Backend.NUMPY, Network((D, C), bias=bias), X, Y, loss="softmax", **place)


def _certify(problem, theta, tol=1e-9):
    return module.certify(problem, theta, module.Spread.of(problem), tol, full_batch.curvature_at)


def _parts(theta, bias=True):
    w = theta[: C * D].reshape(C, D)
    return w, theta[C * D :] if bias else np.zeros(C)


def _probabilities(w, b):
    e = np.exp(X @ w.T + b)
    return e / e.sum(axis=1, keepdims=True)


def _primal(w, b, reg):
    return -SHARE @ np.log(_probabilities(w, b)[np.arange(N), Y]) + reg * np.sum(w * w)


def _residual(w, b):
    return SHARE[:, None] * (_probabilities(w, b) - np.eye(C)[Y])


def _best(reg, bias):
    def both(theta):
        w, b = _parts(theta, bias)
        r = _residual(w, b)
        grads = [(r.T @ X + 2 * reg * w).ravel()] + ([r.sum(axis=0)] if bias else [])
        return _primal(w, b, reg), np.concatenate(grads)

    size = C * D + (C if bias else 0)
    found = minimize(both, np.zeros(size), jac=True, method="BFGS", options={"gtol": 1e-10})
    return found.fun, found.x


@pytest.mark.parametrize("reg", [1e-2, 1.0])
def test_without_biases_the_gap_is_primal_minus_dual(reg):
    """The dual at p is its entropy less |X^T (p - y)|^2 / (4 reg)."""
    theta = np.random.default_rng(2).normal(size=C * D)
    w, b = _parts(theta, bias=False)
    p = _probabilities(w, b)
    dual = -SHARE @ np.sum(p * np.log(p), axis=1) - np.sum((_residual(w, b).T @ X) ** 2) / (4 * reg)
    got = _certify(_problem(reg, bias=False), theta[None])
    np.testing.assert_allclose(got.value, _primal(w, b, reg), rtol=1e-12)
    np.testing.assert_allclose(got.gap, _primal(w, b, reg) - dual, rtol=1e-9)
    assert got.gap[0] >= _primal(w, b, reg) - _best(reg, False)[0]


@pytest.mark.parametrize(("offset", "tight"), [(1.0, math.inf), (0.1, 1.05)])
@pytest.mark.parametrize("reg", [1e-2, 10.0])
def test_biases_that_are_far_off_are_in_the_bound(reg, offset, tight):
    best, at = _best(reg, True)
    theta = at + offset * np.r_[np.zeros(C * D), 2.0, -1.0, 0.0]
    above = _primal(*_parts(theta), reg) - best
    got = _certify(_problem(reg), theta[None])
    assert above > 1e-3
    # From nearby, three steps in the biases reach their optimum: that is the whole way here.
    assert above <= got.gap[0] <= tight * above
    assert _certify(_problem(reg), at[None]).gap[0] < 1e-9 * best


def test_without_a_penalty_nothing_is_bounded():
    theta = np.zeros((2, C * D + C))
    got = _certify(_problem(np.array([0.0, 0.1])), theta)
    assert np.isinf(got.gap[0])
    assert np.isfinite(got.gap[1])


def _numbers(rng, absent):
    share = np.array([0.5, 0.3, 0.2]) if not absent else np.array([0.6, 0.0, 0.4])
    push = rng.normal(size=3) * 1e-3
    push[1] = -1e-3
    return module._Numbers(*rng.uniform(0.5, 3.0, size=8), push, rng.normal(size=3), share)


def _written_out(at, reg, bias):
    """Rounding of sums over rows moves the gradient; that of the scores the dual's variables away
    from their optimum, which costs its square."""
    inner, outer = (UNIT * (4 * math.sqrt(size) + 16) for size in (D, N))
    norm, far = math.sqrt(at.squares), math.sqrt(at.about_origin)
    mass = min(2 * at.value, 2.0)
    scores = 2 * inner * min(norm * far, math.sqrt(at.scaled * at.features))
    moved = scores * min(mass, 1.0)  # of the gradient in the scores
    off = 2 * far * outer * mass + 4 * reg * norm * UNIT
    rounding = scores * (mass + moved)
    gap = (math.sqrt(at.residual) + off) ** 2 / (4 * reg) + outer * at.value + rounding
    gap += scores * moved
    if bias:
        there = [c for c in range(C) if at.share[c] > 0]
        least = min(at.share[c] for c in there)
        places = [at.place[c] for c in there]
        apart = max(places) - min(places) + at.value / least
        apart += math.sqrt(2 * at.value / reg / least * at.about_centre)
        pushed = sum(abs(at.push[c]) for c in there)
        gap += 0.5 * (pushed + 2 * outer * mass) * apart
    return gap, rounding / at.value


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("small", [1.0, 1e-3])
def test_the_bound_with_its_rounding_in_float32(bias, absent, small):
    problem, reg = _problem(0.3, bias, np.float32), np.array([0.3])
    at = _numbers(np.random.default_rng(3), absent)
    # Without any residual, and with values as small, the terms of rounding stand alone.
    at = at._replace(value=small * at.value, residual=0.0 * at.residual, push=small**3 * at.push)
    batch = module._Numbers(*(np.asarray(part)[None] for part in at))
    gap, rounding = module._bound(problem, batch, reg)
    want = _written_out(at, 0.3, bias)
    np.testing.assert_allclose([gap[0], rounding[0]], want, rtol=1e-12)


def test_a_class_that_is_in_no_row_must_not_gain():
    problem, reg = _problem(0.3, True, np.float32), np.array([0.3])
    at = _numbers(np.random.default_rng(3), True)
    for push, bounded in ((-1e-3, True), (1e-3, False)):
        moved = at._replace(push=np.array([0.0, push, 0.0]))
        gap, _ = module._bound(problem, module._Numbers(*(np.asarray(p)[None] for p in moved)), reg)
        assert np.isfinite(gap[0]) == bounded


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_numbers_of_a_bound(weights):
    problem, theta = _problem(0.3, weights=weights), np.random.default_rng(4).normal(size=C * D + C)
    share = np.full(N, 1 / N) if weights is None else SHARE
    w, b = _parts(theta)
    r = share[:, None] * (_probabilities(w, b) - np.eye(C)[Y])
    centre = share @ X
    spread = module.Spread.of(problem)
    value, grad = problem.value_and_grad(theta[None])
    masses = module.class_masses(problem, theta[None])
    at = module._numbers(problem, theta[None], value, grad, spread, masses)
    gw = r.T @ (X - centre) + 2 * 0.3 * w
    want = {
        "squares": np.sum(w * w),
        "residual": np.sum(gw * gw),
        "scaled": np.sum((w * np.sqrt(share @ X**2)) ** 2),
        "features": D,
        "about_centre": share @ np.sum((X - centre) ** 2, axis=1),
        "about_origin": share @ np.sum(X**2, axis=1),
        "push": r.sum(axis=0),
        "place": b + w @ centre,
        "share": np.bincount(Y, share),
    }
    for name, expected in want.items():
        np.testing.assert_allclose(getattr(at, name)[0], expected, rtol=1e-10, atol=1e-14)


def test_the_estimate_is_what_steps_in_single_parameters_gain():
    reg, theta = 0.3, np.random.default_rng(5).normal(size=C * D + C)
    problem, (w, b) = _problem(reg), _parts(theta)
    _, grad = problem.value_and_grad(theta[None])
    spread = module.Spread.of(problem)
    curvature = np.abs(np.random.default_rng(6).normal(size=(1, C, C)))
    got = module._estimate(problem, theta[None], grad, spread, lambda *_: curvature)
    r, centre = _residual(w, b), SHARE @ X
    gw, gb = r.T @ (X - centre) + 2 * reg * w, r.sum(axis=0)
    want = 0.0
    for c in range(C):
        h = curvature[0, c].max()
        want += 0.5 * gb[c] ** 2 / h
        for d in range(D):
            want += 0.5 * gw[c, d] ** 2 / (h * (SHARE @ (X[:, d] - centre[d]) ** 2) + 2 * reg)
    np.testing.assert_allclose(got, [want], rtol=1e-10)
    flat = module._estimate(problem, theta[None], grad, spread, lambda *_: 0.0 * curvature)
    np.testing.assert_allclose(flat, [0.5 * np.sum(gw**2) / (2 * reg)], rtol=1e-10)


def test_a_step_in_the_biases_is_newtons_and_no_longer_than_four():
    problem, theta = _problem(0.3), np.zeros((1, C * D + C))
    at = _numbers(np.random.default_rng(7), True)._replace(push=np.array([1.0, 0.5, -3.0]))
    batch = module._Numbers(*(np.asarray(part)[None] for part in at))
    inverse = np.diag([0.5, 1.0, 2.0])[None]
    moved = module._bias_step(problem, theta, batch, inverse)
    np.testing.assert_array_equal(moved[0, : C * D], 0.0)
    np.testing.assert_allclose(moved[0, C * D :], [-0.5, -800.0, 4.0])
