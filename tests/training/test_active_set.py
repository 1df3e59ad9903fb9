"""Small hinge problems are solved exactly: the active set found from multipliers nearly right."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on
from sklearn.datasets import load_digits

from xclf import SVMClassifier
from xclf.objectives import Network
from xclf.training._active_set import exact_hinge

module = sys.modules["xclf.training._active_set"]
X, Y = blobs(60, 5, 3)
WEIGHTS = np.random.default_rng(1).integers(0, 4, size=60).astype(float)
NUMPY = Backend.NUMPY


def _near(model, x, y, margin=1.0):
    """Multipliers of a fit that is nearly done: 1 past the margin, 0 short of it."""
    scores = x @ model.coef_.T + model.intercept_
    m = scores - scores[np.arange(len(y)), y][:, None] + margin
    a = np.clip(0.5 + m.T / 1e-3, 0.0, 1.0)
    a[y, np.arange(len(y))] = 0.0
    return a


def _kkt(problem, found, margin=1.0):
    """Largest violation of the optimum's conditions, in units of score and of multipliers."""
    network, rows = problem.objective.network, problem.rows
    (v, b), *_ = network.layers(found.theta)
    z = (
        rows.x
        if network.scale is None
        else (rows.x - (network.shift if network.bias else 0)) / network.scale
    )
    y = rows.labels.argmax(axis=0)
    w = np.ones(len(y)) if rows.weights is None else rows.weights
    w = w / w.sum()
    a = found.multipliers
    scores = v @ z.T + (0.0 if b is None else b)
    m = scores - scores[y, np.arange(len(y))] + margin
    g = a * w
    g[y, np.arange(len(y))] = -g.sum(axis=0)
    other = (np.arange(len(a))[:, None] != y) & (w > 0)
    wrong = [np.abs(g @ z / (2 * problem.objective.reg) + v).max()]
    wrong += [np.abs(m[other & (a > 1e-9) & (a < 1 - 1e-9)]).max(initial=0.0)]
    wrong += [m[other & (a <= 1e-9)].max(initial=0.0), -m[other & (a >= 1 - 1e-9)].min(initial=0.0)]
    wrong += [np.abs(g.sum(axis=1)).max()] if network.bias else []
    assert a.min() >= 0.0
    assert a.max() <= 1.0
    return max(wrong)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize("reg", [1e-1, 1e-3])
def test_the_conditions_of_the_optimum_hold(bias, weights, standardised, reg):
    scale = np.linspace(0.5, 2.0, 5)
    place = {"scale": scale, "shift": X.mean(axis=0) if bias else None} if standardised else {}
    problem = problem_on(
        NUMPY, Network((5, 3), bias=bias, **place), X, Y, loss="hinge", reg=reg, weights=weights
    )
    zero = np.zeros((3, 60))
    found = None
    # From far off the method may not find its way, as documented; from nearby it must.
    model = SVMClassifier(reg, tol=1e-3, fit_intercept=bias, standardize=standardised)
    if not standardised:
        model.fit(X, Y, sample_weight=weights)
        found = exact_hinge(problem, 1.0, _near(model, X, Y))
        assert found is not None
    else:
        found = exact_hinge(problem, 1.0, zero + 0.5 * (np.arange(3)[:, None] != Y))
    if found is not None:
        assert _kkt(problem, found) < 1e-8


def test_what_is_too_large_narrow_or_far_away_is_left_alone(monkeypatch):
    problem = problem_on(NUMPY, Network((5, 3)), X, Y, loss="hinge", reg=1e-2)
    half = 0.5 * (np.arange(3)[:, None] != Y)
    narrow = problem_on(NUMPY, Network((5, 3)), X, Y, loss="hinge", reg=1e-2, dtype="float32")
    assert exact_hinge(narrow, 1.0, half) is None
    monkeypatch.setattr(module, "_PAIRS", 10)
    assert exact_hinge(problem, 1.0, half) is None
    monkeypatch.setattr(module, "_ENTRIES", 100)
    assert exact_hinge(problem, 1.0, np.zeros((3, 60))) is None


def test_a_fit_ends_at_the_optimum_itself(monkeypatch):
    """A tolerance of 1e-4, and a certified gap of rounding; repeated rows are weights."""
    monkeypatch.setattr("xclf.training.hinge.MOST_ROWS", 0)
    model = SVMClassifier(1e-2, tol=1e-4).fit(X, Y)
    assert model.converged_
    assert model.dual_gap_ < 1e-11
    times = WEIGHTS.astype(int)
    one = SVMClassifier(1e-2, tol=1e-4).fit(X, Y, sample_weight=times)
    two = SVMClassifier(1e-2, tol=1e-4).fit(np.repeat(X, times, axis=0), np.repeat(Y, times))
    np.testing.assert_allclose(one.coef_, two.coef_, atol=1e-11)


def test_digits_take_far_fewer_iterations(monkeypatch):
    monkeypatch.setattr("xclf.training.hinge.MOST_ROWS", 0)
    x, y = load_digits(return_X_y=True)
    x, y = x[:600] / 16.0, y[:600]
    exact = SVMClassifier(1e-2).fit(x, y)
    monkeypatch.setattr("xclf.training.augmented_lagrangian.exact_hinge", lambda *_: None)
    slow = SVMClassifier(1e-2).fit(x, y)
    assert exact.dual_gap_ < 1e-11 < slow.dual_gap_
    assert exact.n_iter_ < slow.n_iter_
    assert 0.0 <= slow.objective_ - exact.objective_ <= slow.dual_gap_
