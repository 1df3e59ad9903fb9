"""Corners that users reach sooner or later."""

from __future__ import annotations

import numpy as np
import pytest
from estimator_cases import CLASSES, blobs, quick
from sklearn.exceptions import ConvergenceWarning

import xclf
from xclf import SoftmaxClassifier, TwoLayerClassifier

X, Y = blobs(40, 4, 3)
classes_ = pytest.mark.parametrize("cls", CLASSES)


def test_parts_do_not_go_on_with_another_width():
    net = quick(TwoLayerClassifier).partial_fit(X, Y, classes=[0, 1, 2])
    scores = net.decision_function(X)
    net.set_params(hidden=5)
    np.testing.assert_array_equal(net.decision_function(X), scores)  # the model is what it was
    with pytest.raises(ValueError, match=r"partial_fit cannot go on: .*\(4, 8, 3\).*\(4, 5, 3\)"):
        net.partial_fit(X, Y)


def test_a_net_that_stops_at_a_kink_says_so():
    net = TwoLayerClassifier(8, reg=1e-1, solver="lbfgs", random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"kink.*use a minibatch solver"):
        net.fit(X, Y)
    assert not net.converged_


@classes_
def test_a_fit_that_diverges_keeps_its_best_parameters(cls):
    """Finite predictions, a finite objective, and a warning."""
    model = quick(cls, solver="sgd", learning_rate=1e160, max_iter=9)
    with np.errstate(all="ignore"), pytest.warns(ConvergenceWarning, match="not finite"):
        model.fit(X, Y)
    assert np.isfinite(model.decision_function(X)).all()
    assert np.isfinite(model.objective_)


def test_half_precision_of_torch():
    torch = pytest.importorskip("torch")
    x = torch.asarray(X).to(torch.bfloat16)
    model = quick(SoftmaxClassifier).fit(x, Y)
    assert model.coef_.dtype == torch.float32
    x[5, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN at row 5, column 2"):
        model.predict(x)


def test_half_precision_of_torch_in_probes_searches_and_checkpoints(tmp_path):
    """As float32 of the same values, whose fingerprint they have."""
    torch = pytest.importorskip("torch")
    x = torch.asarray(X).to(torch.bfloat16)
    probes = [xclf.probe((rows, Y), C=[1.0], test=0.3) for rows in (x, x.float())]
    facts, widened = (probe.to_dict()["data"][0]["fingerprint"] for probe in probes)
    assert facts == widened
    assert probes[0].accuracy == probes[1].accuracy
    checkpoint = xclf.Checkpoint(tmp_path / "c", every=0)
    models = [SoftmaxClassifier(callbacks=[checkpoint]).fit(rows, Y) for rows in (x, x.float())]
    np.testing.assert_array_equal(models[0].coef_, models[1].coef_)
    search = xclf.SweepCV(SoftmaxClassifier(), {"reg": [0.1, 1.0]}, cv=2).fit(x, Y)
    assert search.best_score_ > 0.5


def test_rows_that_torch_would_differentiate():
    torch = pytest.importorskip("torch")
    x = torch.asarray(X, dtype=torch.float64).requires_grad_()
    model = quick(SoftmaxClassifier).fit(x, Y)
    assert not model.coef_.requires_grad
    assert not model.decision_function(x).requires_grad


def test_missing_labels_of_pandas():
    pandas = pytest.importorskip("pandas")
    y = pandas.Series(["ash", pandas.NA, "birch", "ash"] * 10, dtype=object)
    with pytest.raises(ValueError, match=r"no label .* at row 1"):
        SoftmaxClassifier().fit(X, y)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "float16", "float32", "longdouble"])
def test_labels_of_narrow_numbers_on_every_backend(backend, dtype):
    values = np.array([3, 7, 100]).astype(dtype)
    x = backend.asarray(X)
    model = SoftmaxClassifier().fit(x, values[Y])
    guess = backend.to_host(model.predict(x))
    assert set(guess.tolist()) <= {3, 7, 100}
    assert np.mean(guess == values[Y]) > 0.8


def test_a_subclass_may_have_its_own_parameters():
    class Mine(SoftmaxClassifier):
        def __init__(self, reg=1e-4, *, flavour="plain", solver="auto"):
            super().__init__(reg, solver=solver)
            self.flavour = flavour

    assert Mine(flavour="sour").fit(X, Y).score(X, Y) > 0.8


def test_weights_whose_sum_overflows():
    weights = np.full(40, 1e308)
    got, want = SoftmaxClassifier().fit(X, Y, weights), SoftmaxClassifier().fit(X, Y)
    np.testing.assert_allclose(got.coef_, want.coef_, rtol=1e-6)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("solver", ["sgd", "momentum"])
def test_rows_of_weight_zero_are_not_there_in_minibatches(cls, solver):
    """One batch an epoch: a fit with zeros is the fit without those rows."""
    weights = np.tile([0.0, 1.0, 2.0, 1.0], 10)
    options = {"solver": solver, "batch_size": 99, "max_iter": 5, "reg": 0.1}
    zero = quick(cls, **options).fit(X, Y, sample_weight=weights)
    kept = weights > 0
    gone = quick(cls, **options).fit(X[kept], Y[kept], sample_weight=weights[kept])
    np.testing.assert_allclose(
        zero.decision_function(X), gone.decision_function(X), rtol=1e-9, atol=1e-9
    )


def test_a_callback_may_return_a_numpy_boolean():
    model = SoftmaxClassifier(callbacks=[lambda event: np.float64(event.step) >= 2]).fit(X, Y)
    assert model.n_iter_ == 2
