"""Default learning rates: hinges of linear models converge on features of any size."""

from __future__ import annotations

import numpy as np
import pytest
from estimator_cases import blobs
from sklearn.utils.estimator_checks import check_class_weight_classifiers

from xclf import SoftmaxClassifier, SVMClassifier, SweepCV, TwoLayerClassifier

X, Y = blobs(60, 5, 3)
SOLVERS = ["sgd", "momentum", "nesterov"]
hinges = pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])


def _rate_of_first_step(model, x):
    """From the weights after one step on all rows: the rate times the gradient at 0."""
    model.set_params(max_iter=1, batch_size=len(x), fit_intercept=False, reg=0.0)
    w = model.fit(x, Y).coef_
    return np.linalg.norm(w) / np.linalg.norm(model.set_params(learning_rate=1.0).fit(x, Y).coef_)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("solver", SOLVERS)
@hinges
def test_scikit_learns_check_on_wide_rows(solver, loss):
    check_class_weight_classifiers("SVMClassifier", SVMClassifier(loss=loss, solver=solver))


@pytest.mark.parametrize("solver", SOLVERS)
@hinges
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_the_objective_falls_whatever_the_features_are_measured_in(solver, loss, scale):
    model = SVMClassifier(loss=loss, solver=solver, reg=0.0, random_state=0).fit(scale * X, Y)
    curve = model.history_["loss"]
    assert curve[-1] < curve[0] < 2.0 * {"hinge": 2.0, "squared_hinge": 2.0}[loss]


@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_the_hinge_takes_the_margin_over_the_largest_moment(margin):
    # Rows along one axis: the moment is the mean of their squares, and no other direction adds.
    x = np.zeros((60, 3))
    x[:, 0] = np.where(np.arange(60) % 2 == 0, 30.0, -30.0)
    for loss, limit in (("hinge", margin), ("squared_hinge", 1.0 / 3.0)):
        rate = _rate_of_first_step(SVMClassifier(loss=loss, solver="sgd", margin=margin), x)
        assert rate == pytest.approx(limit / 900.0, rel=1e-12)


def test_small_features_and_given_rates_are_left_alone():
    assert _rate_of_first_step(SVMClassifier(solver="sgd"), 0.1 * X) == pytest.approx(0.01)
    given = SVMClassifier(solver="sgd", learning_rate=0.02)
    assert _rate_of_first_step(given, 100.0 * X) == pytest.approx(0.02)


@pytest.mark.parametrize("model", [SoftmaxClassifier(), TwoLayerClassifier(4)])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_other_models_keep_the_solvers_default(model, solver):
    rate = {"sgd": 0.01, "adam": 0.001}[solver]
    options = {"solver": solver, "max_iter": 2, "random_state": 0}
    fits = [
        type(model)(**options, learning_rate=value).fit(50.0 * X, Y).objective_
        for value in (None, rate)
    ]
    assert fits[0] == fits[1]


def test_standardized_features_count_as_they_are_fitted():
    options = {"solver": "sgd", "standardize": True, "max_iter": 3, "random_state": 0}
    default = SVMClassifier(**options).fit(1e4 * X, Y)
    assert (
        default.objective_
        == SVMClassifier(**options, learning_rate=0.01).fit(1e4 * X, Y).objective_
    )


@hinges
def test_a_sweep_takes_each_folds_rates(loss):
    model = SVMClassifier(loss=loss, solver="momentum", max_iter=3, random_state=0)
    sweep = SweepCV(model, {"reg": [1e-3, 1e-1]}, cv=3).fit(40.0 * X, Y)
    best = model.set_params(**sweep.best_params_).fit(40.0 * X, Y)
    np.testing.assert_allclose(sweep.best_estimator_.coef_, best.coef_, rtol=1e-10)
