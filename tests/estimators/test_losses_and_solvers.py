"""Every loss with every solver: on every backend, in parts, warm, in files."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from estimator_cases import (
    LOSSES_OF,
    MINIBATCH,
    blobs,
    layers_of,
    objective_of,
    with_loss,
)
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, load
from xclf._tensor_file import read_tensors, write_tensors
from xclf.objectives import LOSSES
from xclf.optim import SOLVERS

X, Y = blobs(60, 5, 3)
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, size=60)
losses = pytest.mark.parametrize("cls, loss", LOSSES_OF)
solvers = pytest.mark.parametrize("solver", SOLVERS)


def _model(cls, loss, solver, **parameters):
    options = {"solver": solver, "random_state": 0, "reg": 1e-1}
    if cls is TwoLayerClassifier:
        options["hidden"] = 6
    if solver in MINIBATCH:
        options |= {"max_iter": 3, "batch_size": 20, "learning_rate": 0.01}
    elif cls is TwoLayerClassifier:
        options["tol"] = 1e-2  # not convex: rounding decides which way a long fit takes
    return with_loss(cls, loss, **options | parameters)


def _flat(model):
    return np.concatenate([a.ravel() for layer in layers_of(model) for a in layer])


def test_every_loss_has_its_classes():
    assert {loss for _, loss in LOSSES_OF} == set(LOSSES)
    assert TwoLayerClassifier._losses == tuple(LOSSES)


@functools.cache
def _on_numpy(cls, loss, solver):
    """(objective_, converged_) of the fit that is the same elsewhere."""
    model = _model(cls, loss, solver).fit(X, Y, sample_weight=WEIGHTS)
    return model.objective_, model.converged_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@losses
@solvers
def test_every_backend_minimises_what_is_documented(backend, cls, loss, solver):
    """The objective in plain loops to rounding, and the fit on NumPy: minibatch paths to rounding,
    full-batch fits to their tolerance."""
    want, converged = _on_numpy(cls, loss, solver)
    got = _model(cls, loss, solver).fit(backend.asarray(X), Y, sample_weight=WEIGHTS)
    host = got.to_namespace(np)
    assert objective_of(host, X, Y, WEIGHTS) == pytest.approx(got.objective_, rel=1e-10)
    rel = 1e-9 if solver in MINIBATCH else 1e-2 if cls is TwoLayerClassifier else 1e-5
    assert got.objective_ == pytest.approx(want, rel=rel)
    assert got.converged_ == converged
    certified = cls is not TwoLayerClassifier and solver == "lbfgs"
    assert hasattr(got, "dual_gap_") == certified


@pytest.mark.parametrize("margin", [0.5, 2.0])
@pytest.mark.parametrize("intercept", [True, False])
def test_the_squared_hinge_reaches_its_optimum(margin, intercept):
    """SciPy's, from plain NumPy; the gradient of the squared hinge is continuous."""
    model = SVMClassifier(1e-2, loss="squared_hinge", margin=margin, fit_intercept=intercept)
    model.fit(X, Y, sample_weight=WEIGHTS)
    assert model.converged_

    def value(flat):
        model.coef_ = flat[:15].reshape(3, 5)
        model.intercept_ = flat[15:] if intercept else np.zeros(3)
        return objective_of(model, X, Y, WEIGHTS, margin)

    fitted = model.objective_
    best = minimize(value, np.zeros(18 if intercept else 15), options={"gtol": 1e-7})
    assert fitted == pytest.approx(best.fun, rel=1e-7)


def test_two_classes_of_the_squared_hinge_are_liblinears():
    """C = 1 / (reg * N): the penalty of the two halves +-w/2 is reg |w|^2 / 2."""
    y, reg = Y % 2, 1e-2
    want = LinearSVC(C=1 / (reg * 60), fit_intercept=False, tol=1e-10, max_iter=10**6).fit(X, y)
    got = SVMClassifier(reg, loss="squared_hinge", fit_intercept=False).fit(X, y)
    np.testing.assert_allclose(got.coef_, want.coef_, rtol=1e-4)


@losses
@pytest.mark.parametrize("solver", ["momentum", "nesterov"])
def test_parts_are_the_epochs_of_a_fit(cls, loss, solver):
    whole = _model(cls, loss, solver, momentum=0.7).fit(X, Y)
    model = _model(cls, loss, solver, momentum=0.7)
    for _ in range(3):
        model.partial_fit(X, Y, classes=[0, 1, 2])
    np.testing.assert_array_equal(_flat(model), _flat(whole))


@losses
@solvers
def test_a_warm_start_begins_where_the_last_fit_ended(cls, loss, solver):
    model = _model(cls, loss, solver, warm_start=True).fit(X, Y)
    before = model.objective_, _flat(model), model.n_iter_
    if solver in MINIBATCH:
        model.set_params(learning_rate=1e-300).fit(X, Y)
        np.testing.assert_allclose(_flat(model), before[1], rtol=1e-12, atol=1e-14)
    elif cls is TwoLayerClassifier:  # its tolerance is relative to where it starts
        with pytest.warns(ConvergenceWarning):
            model.set_params(max_iter=1).fit(X, Y)
        assert model.objective_ <= 1.1 * before[0]  # the smoothed hinge descends, not the hinge
    else:
        assert model.fit(X, Y).objective_ <= before[0] * (1 + 1e-5)
        assert model.n_iter_ < before[2]


@losses
@solvers
def test_files_keep_loss_and_solver(cls, loss, solver, tmp_path):
    model = _model(cls, loss, solver).fit(X, Y)
    model.save(tmp_path / "model")
    other = load(tmp_path / "model")
    assert other.get_params() == model.get_params()
    np.testing.assert_array_equal(other.decision_function(X), model.decision_function(X))
    assert getattr(other, "dual_gap_", None) == getattr(model, "dual_gap_", None)


def test_a_file_from_before_the_loss_was_a_parameter(tmp_path):
    """An SVM of then had the hinge."""
    path = tmp_path / "model"
    model = SVMClassifier(1e-2, margin=2.0).fit(X, Y)
    model.save(path)
    body, arrays = read_tensors(path, "xclf-model", "model")
    description = json.loads(body)
    del description["parameters"]["loss"]
    write_tensors(path, "xclf-model", json.dumps(description, sort_keys=True), arrays)
    other = load(path)
    assert (other.loss, other.margin) == ("hinge", 2.0)
    np.testing.assert_array_equal(other.predict(X), model.predict(X))
    assert other.fit(X, Y).objective_ == model.objective_


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_another_solver_leaves_no_certificate_behind(loss):
    model = SVMClassifier(1e-2, loss=loss).fit(X, Y)
    assert model.dual_gap_ >= 0.0
    model.set_params(solver="sgd", max_iter=1, random_state=0)
    assert not hasattr(model.fit(X, Y), "dual_gap_")


@pytest.mark.parametrize("loss", LOSSES)
def test_probabilities_are_the_softmax_losss(loss):
    net = TwoLayerClassifier(4, loss=loss, max_iter=1, random_state=0).fit(X, Y)
    assert hasattr(net, "predict_proba") == hasattr(net, "predict_log_proba") == (loss == "softmax")


def test_momentum_without_nesterov_is_another_path():
    paths = [_flat(_model(SoftmaxClassifier, "softmax", s).fit(X, Y)) for s in SOLVERS]
    for i, one in enumerate(paths):
        assert not any(np.array_equal(one, other) for other in paths[:i])
