"""CuPy with two GPUs, or with the two that `pretend_cupy` has: places, and what crosses between."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from backends import Backend, why_missing
from estimator_cases import blobs

from xclf import SoftmaxClassifier, SVMClassifier, SweepCV, TwoLayerClassifier, accelerators

X, Y = blobs(300, 8, 4)
MODELS = [
    SoftmaxClassifier(reg=1e-3),
    SVMClassifier(reg=1e-2),
    SoftmaxClassifier(solver="adam", max_iter=6, batch_size=30, random_state=0),
    TwoLayerClassifier(10, max_iter=6, batch_size=30, random_state=0),
    TwoLayerClassifier(10, solver="lbfgs", reg=1e-2, max_iter=8, random_state=0),
]
models = pytest.mark.parametrize("model", MODELS, ids=lambda m: f"{type(m).__name__}-{m.solver}")


@pytest.fixture
def cupy():
    reason = why_missing(Backend.CUPY)
    if reason is not None:
        pytest.skip(f"cupy: {reason}")
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    if count < 2:
        pytest.skip(f"cupy: {count} GPU; this is about two")
    return cupy


@pytest.fixture
def quiet():
    """No warning but that of a fit that stops early, and no accelerator is disabled."""
    before = accelerators()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*did not converge.*")
        warnings.filterwarnings("ignore", message="minibatches are computed on one device")
        yield
    assert accelerators() == before


# Sums in another order, in float64, through a fit that converges or takes few steps. The SVM ends
# where its gap is small: on a CPU at the optimum itself, elsewhere a little above.
CLOSE = 1e-4


@models
@pytest.mark.parametrize("place", ["cuda", "cuda:1", "cuda:all", ("cuda:1", "cuda:0")], ids=str)
def test_cupy_devices_by_name(cupy, quiet, model, place):
    want = model.set_params(device=None).fit(X, Y).decision_function(X)
    model.set_params(device=place).fit(X, Y)
    number = 1 if place in ("cuda:1", ("cuda:1", "cuda:0")) else 0
    first = model.coef_ if hasattr(model, "coef_") else model.weights_["w1"]
    assert first.device == cupy.cuda.Device(number)
    got = model.decision_function(X)
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE * np.abs(want).max())
    assert model.score(X, Y) == np.mean(model.predict(X) == Y)
    assert cupy.cuda.runtime.getDevice() == 0  # as it was


@models
def test_cupy_arrays_of_another_device_than_the_current(cupy, quiet, model):
    want = model.set_params(device=None).fit(X, Y).decision_function(X)
    with cupy.cuda.Device(1):
        there, elsewhere = cupy.asarray(X), cupy.asarray(Y)
    here = cupy.asarray(X)
    for labels in (Y, elsewhere):
        got = model.fit(there, labels).decision_function(there)
        assert got.device == cupy.cuda.Device(1)
        np.testing.assert_allclose(got.get(), want, rtol=0, atol=CLOSE * np.abs(want).max())
    assert model.predict(there).device == cupy.cuda.Device(1)
    with pytest.raises(ValueError, match=r"model is cupy on .*1.* but X is cupy on .*0"):
        model.predict(here)
    moved = model.to_namespace(cupy, cupy.cuda.Device(0))
    got = moved.decision_function(here)
    assert got.device == cupy.cuda.Device(0)
    np.testing.assert_allclose(got.get(), want, rtol=0, atol=CLOSE * np.abs(want).max())
    with pytest.raises(ValueError, match=r"X is cupy .* but y is cupy"):
        model.fit(here, elsewhere)


def test_cupy_sweep_on_the_second_device(cupy, quiet):
    grid = {"reg": [1e-4, 1e-2, 1.0]}
    want = SweepCV(SoftmaxClassifier(), grid, cv=3).fit(X, Y)
    got = SweepCV(SoftmaxClassifier(device="cuda:1"), grid, cv=3).fit(X, Y)
    assert got.best_params_ == want.best_params_
    name = "mean_test_score"
    np.testing.assert_allclose(got.cv_results_[name], want.cv_results_[name], atol=1e-12)


def test_cupy_device_that_is_not_there(cupy):
    with pytest.raises(ValueError, match="there is no device cuda:99"):
        SoftmaxClassifier(device="cuda:99").fit(X, Y)
