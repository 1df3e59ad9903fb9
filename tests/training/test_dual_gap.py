"""`dual_gap_` is a true bound, and a tight one: against a general solver of the same programme."""

from __future__ import annotations

import functools
import warnings
from itertools import product

import numpy as np
import pytest
from estimator_cases import blobs, objective_of, svm_by_general_solver
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from xclf import SVMClassifier, TwoLayerClassifier, load

# The reference is a feasible point of the primal: at or above the optimum, by less than this share.
CLOSE = 1e-8

#: Rows up to which Newton's method is the one, for either method.
METHODS = {"few": 2000, "many": 0}


@functools.cache
def _optimum(name, reg):
    """SciPy's solution of the quadratic programme, in float64."""
    case, x, y, weights = _data(name)
    if case["standardize"]:
        mean = np.average(x, axis=0)
        x = (x - mean) / np.sqrt(np.average((x - mean) ** 2, axis=0))
    return svm_by_general_solver(x, y, reg, weights, case["margin"], case["bias"])


def _weights(how, n):
    rng = np.random.default_rng(1)
    return {"equal": np.ones(n), "some": rng.uniform(0.2, 2.0, size=n)}[how]


CASES = {
    "three classes": {"classes": 3},
    "weights": {"classes": 3, "how": "some"},
    "two classes": {"classes": 2},
    "wide margin": {"classes": 4, "margin": 2.5, "how": "some"},
    "no biases": {"classes": 3, "bias": False, "how": "some"},
    "two classes, no biases": {"classes": 2, "bias": False, "margin": 0.5},
    "a class of one row": {"classes": 3, "lone": True},
    "float32": {"classes": 3, "dtype": "float32"},
    "standardised": {"classes": 3, "standardize": True},
}


def _data(name):
    case = {"how": "equal", "margin": 1.0, "bias": True, "lone": False, "dtype": "float64"}
    case |= {"standardize": False} | CASES[name]
    x, y = blobs(18, 3, case["classes"], seed=4)
    if case["lone"]:
        y = np.where(y == 2, 0, y)
        y[3] = 2
    return case, x.astype(case["dtype"]).astype(float), y, _weights(case["how"], len(y))


def _case(name, reg, **options):
    """(model, its objective written out, the optimum)."""
    case, x, y, weights = _data(name)
    model = SVMClassifier(
        reg=reg, margin=case["margin"], fit_intercept=case["bias"],
        standardize=case["standardize"], **options,
    )  # fmt: skip
    model.fit(x.astype(case["dtype"]), y, sample_weight=weights)
    value = objective_of(model, x, y, weights, margin=case["margin"])
    if case["standardize"]:  # the penalty is on the weights of standardised features
        variance = np.average((x - np.average(x, axis=0)) ** 2, axis=0)
        value += reg * np.sum((variance - 1.0) * model.coef_**2)
    return model, value, _optimum(name, reg)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reg", [1e-1, 1e-2])
@pytest.mark.parametrize("name", CASES)
def test_the_gap_of_a_converged_fit(name, reg, method, monkeypatch):
    monkeypatch.setattr("xclf.training.hinge.MOST_ROWS", METHODS[method])
    tol = 1e-4 if name == "float32" else 1e-6
    model, value, best = _case(name, reg)
    assert model.converged_
    assert model.objective_ == pytest.approx(value, rel=1e-12)
    assert 0.0 <= model.dual_gap_ <= tol * model.objective_
    assert best * (1 - CLOSE) <= model.objective_
    assert model.objective_ - model.dual_gap_ <= best


@pytest.mark.parametrize("method, max_iter", [*product(METHODS, [1, 3, 10]), ("many", 20)])
@pytest.mark.parametrize("name", CASES)
def test_the_gap_of_a_fit_cut_short_is_true_too(name, method, max_iter, monkeypatch):
    """And the warning says how large it is."""
    monkeypatch.setattr("xclf.training.hinge.MOST_ROWS", METHODS[method])
    with pytest.warns(ConvergenceWarning, match="at most .* above the optimum"):
        model, value, best = _case(name, 1e-2, max_iter=max_iter, tol=1e-12)
    assert not model.converged_
    assert model.objective_ == pytest.approx(value, rel=1e-12)
    assert best * (1 - CLOSE) <= model.objective_
    assert model.objective_ - model.dual_gap_ <= best
    assert 0 < model.dual_gap_ <= model.objective_


@pytest.mark.parametrize("name", ["three classes", "no biases", "weights"])
def test_the_gap_is_tight(name):
    """Small in the end, and within a small factor of the truth on the way."""
    model, value, _ = _case(name, 1e-2, tol=1e-9)
    assert model.converged_
    assert model.dual_gap_ <= 1e-9 * value
    with pytest.warns(ConvergenceWarning):
        part, reached, _ = _case(name, 1e-2, tol=1e-9, max_iter=10)
    assert reached - value <= part.dual_gap_ <= 100 * (reached - value) + 1e-3 * value


def test_a_tolerance_below_rounding_ends_no_worse():
    """The best certified iterate is kept, whatever rounding does to later ones."""
    x, y = blobs(40, 4, 3, seed=6)
    best = SVMClassifier(reg=1e-2, tol=1e-10).fit(x, y)
    with pytest.warns(ConvergenceWarning, match="rounding"):
        model = SVMClassifier(reg=1e-2, tol=0.0).fit(x, y)
    assert model.dual_gap_ <= 1e-10 * model.objective_
    assert model.objective_ == pytest.approx(best.objective_, rel=2e-10)


def test_without_penalty_the_gap_is_the_objective():
    x, y = blobs(30, 5, 3)
    model = SVMClassifier(reg=0.0, tol=1e-4).fit(x + 50.0 * np.eye(3, 5)[y], y)
    assert model.converged_
    assert model.dual_gap_ == model.objective_


def test_who_has_a_gap(tmp_path):
    x, y = blobs(30, 5, 3)
    model = SVMClassifier(reg=1e-1).fit(x, y)
    model.save(tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").dual_gap_ == model.dual_gap_
    model.set_params(solver="sgd", max_iter=1).fit(x, y)
    assert not hasattr(model, "dual_gap_")
    net = TwoLayerClassifier(hidden=4, loss="hinge", solver="lbfgs", tol=1e-1, random_state=0)
    with warnings.catch_warnings(action="ignore"):  # whether it converges is not the matter
        net.fit(x, y)
    assert not hasattr(net, "dual_gap_")


@pytest.mark.parametrize("reg", [1.0, 1e1, 1e3])
def test_strong_penalties_too(reg):
    """Hardly any pair is active then, and an estimate of the gap promises more than it can: what
    the certificate denies makes the fit go on, not stop."""
    x, y = load_digits(return_X_y=True)
    x, y = x[::3] / 16, y[::3]
    model = SVMClassifier(reg=reg, tol=1e-5).fit(x, y)
    better = SVMClassifier(reg=reg, tol=1e-8).fit(x, y)
    assert model.converged_
    assert model.dual_gap_ <= 1e-5 * model.objective_
    assert better.objective_ * (1 - 1e-8) <= model.objective_
    assert model.objective_ - model.dual_gap_ <= better.objective_
