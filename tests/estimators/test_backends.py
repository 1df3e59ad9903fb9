"""Arrays of any library in, coefficients and predictions of that library out; no switch."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from backends import Backend, usable_or_required, why_missing
from estimator_cases import CLASSES, blobs, objective_of, quick, small
from helpers import assert_same_kind

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, _array_api

X, Y = blobs(40, 4, 3)
NAMES = np.array(["ash", "birch", "cedar"])[Y]
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, size=40)
classes_ = pytest.mark.parametrize("cls", CLASSES)

#: One configuration for each class and way of training.
MODELS = {
    "softmax": lambda: SoftmaxClassifier(reg=1e-2),
    "softmax standardised": lambda: SoftmaxClassifier(reg=1e-2, standardize=True),
    "softmax adam": lambda: SoftmaxClassifier(solver="adam", max_iter=4, random_state=0),
    "svm": lambda: SVMClassifier(reg=0.5),
    "svm early": lambda: SVMClassifier(
        solver="sgd", max_iter=4, random_state=0, early_stopping=True, validation_fraction=0.2
    ),
    "net": lambda: TwoLayerClassifier(5, max_iter=4, random_state=0),
    "net hinge": lambda: TwoLayerClassifier(
        5, loss="hinge", solver="momentum", max_iter=4, random_state=0, standardize=True
    ),
}
models_ = pytest.mark.parametrize("name", MODELS)


def _arrays(model):
    return list(model.weights_.values()) if hasattr(model, "weights_") else [
        model.coef_, model.intercept_,
    ]  # fmt: skip


@models_
def test_everything_stays_where_the_data_is(backend, name, dtype):
    x = backend.asarray(X, dtype)
    model = MODELS[name]().fit(x, backend.asarray(Y))
    for array in _arrays(model):
        assert_same_kind(array, x)
    assert isinstance(model.classes_, np.ndarray)
    assert_same_kind(model.decision_function(x), x)
    if hasattr(model, "predict_proba"):
        assert_same_kind(model.predict_proba(x), x)
        assert_same_kind(model.predict_log_proba(x), x)
    guess = model.predict(x)
    assert _array_api.same_device(guess, x)
    assert backend.to_host(guess).dtype == model.classes_.dtype
    assert isinstance(model.score(x, backend.asarray(Y)), float)
    np.testing.assert_array_equal(backend.to_host(x), X.astype(dtype), "X was written to")


@functools.cache
def _on_numpy(name):
    return MODELS[name]().fit(X, Y, sample_weight=WEIGHTS)


@models_
def test_every_backend_fits_what_numpy_fits(backend, name):
    want = _on_numpy(name)
    got = MODELS[name]().fit(backend.asarray(X), backend.asarray(Y), backend.asarray(WEIGHTS))
    rel = 1e-9 if got.solver in ("adam", "sgd", "momentum") or name.startswith("net") else 1e-6
    assert got.objective_ == pytest.approx(want.objective_, rel=rel)
    assert got.converged_ == want.converged_
    host = got.to_namespace(np)
    # Full-batch fits agree to their tolerance, minibatch paths to rounding.
    loose = 1e-9 if rel == 1e-9 else 1e-2
    np.testing.assert_allclose(
        host.decision_function(X), want.decision_function(X), rtol=loose, atol=loose
    )
    if "standardised" not in name and not got.standardize:
        value = objective_of(host, X, Y, WEIGHTS)
        if not got.early_stopping:
            assert value == pytest.approx(got.objective_, rel=1e-10)


@classes_
@pytest.mark.parametrize("where", ["host", "there"])
def test_labels_and_weights_may_stay_on_the_host(backend, cls, where):
    x = backend.asarray(X)
    move = np.asarray if where == "host" else backend.asarray
    model = quick(cls).fit(x, move(Y), sample_weight=move(WEIGHTS))
    want = quick(cls).fit(x, Y, sample_weight=WEIGHTS)
    for a, b in zip(_arrays(model), _arrays(want), strict=True):
        np.testing.assert_array_equal(backend.to_host(a), backend.to_host(b))
    assert model.score(x, move(Y), sample_weight=move(WEIGHTS)) > 0.0


@classes_
def test_string_labels_are_predicted_on_the_host(backend, cls):
    x = backend.asarray(X)
    model = small(cls, class_weight={"ash": 2.0, "birch": 1.0, "cedar": 1.0}).fit(x, NAMES)
    guess = model.predict(x)
    assert isinstance(guess, np.ndarray)
    assert guess.dtype == NAMES.dtype
    assert np.mean(guess == NAMES) > 0.7
    assert model.score(x, NAMES) == np.mean(guess == NAMES)
    for array in _arrays(model):
        assert_same_kind(array, x)


@classes_
def test_boolean_and_float_labels(backend, cls):
    x = backend.asarray(X)
    for values in (np.array([False, True]), np.array([0.0, 2.0])):
        model = quick(cls).fit(x, backend.asarray(values[Y % 2]))
        guess = model.predict(x)
        assert _array_api.same_device(guess, x)
        assert set(np.unique(backend.to_host(guess))) <= set(values)
        assert backend.to_host(guess).dtype == values.dtype


@classes_
def test_two_classes_are_one_vector_on_every_backend(backend, cls):
    x = backend.asarray(X)
    model = quick(cls).fit(x, Y % 2)
    assert tuple(model.decision_function(x).shape) == (40,)
    if cls is not TwoLayerClassifier:
        assert tuple(model.coef_.shape) == (1, 4)
        assert tuple(model.intercept_.shape) == (1,)


@classes_
def test_partial_fit_and_warm_start_on_every_backend(backend, cls):
    x = backend.asarray(X)
    got = small(cls, solver="adam", random_state=0)
    want = small(cls, solver="adam", random_state=0)
    for _ in range(3):
        got.partial_fit(x, Y, classes=[0, 1, 2])
        want.partial_fit(X, Y, classes=[0, 1, 2])
    scores = backend.to_host(got.decision_function(x))
    np.testing.assert_allclose(scores, want.decision_function(X), rtol=1e-9, atol=1e-9)
    got.set_params(warm_start=True).fit(x, Y)
    for array in _arrays(got):
        assert_same_kind(array, x)


@classes_
def test_integer_arrays_are_widened(backend, cls):
    x = backend.asarray((10 * X).astype(np.int32))
    model = quick(cls, standardize=True).fit(x, Y)
    assert model.decision_function(x).dtype == backend.dtype("float32")


@classes_
def test_there_and_back_again(backend, cls):
    """to_namespace moves a copy; a round trip through any backend changes nothing."""
    here = quick(cls).fit(X, Y)
    there = here.to_namespace(backend.xp, backend.device)
    x = backend.asarray(X)
    for array in _arrays(there):
        assert_same_kind(array, x)
    scores = backend.to_host(there.decision_function(x))
    np.testing.assert_allclose(scores, here.decision_function(X), rtol=1e-12, atol=1e-12)
    back = there.to_namespace(np)
    assert back is not here
    for a, b in zip(_arrays(back), _arrays(here), strict=True):
        np.testing.assert_array_equal(a, b)
    assert back.history_["loss"] == here.history_["loss"]
    assert back.get_params() == here.get_params()
    assert isinstance(here.decision_function(X), np.ndarray)  # the first one has not moved


@classes_
def test_a_moved_copy_is_its_own(cls):
    model, twin = (quick(cls).partial_fit(X, Y, classes=[0, 1, 2]) for _ in range(2))
    copy = model.to_namespace(np)
    copy.partial_fit(X, Y)
    for array in _arrays(copy):
        array[...] = 0.0
    assert len(model.history_["loss"]) == 1
    for a, b in zip(_arrays(model.partial_fit(X, Y)), _arrays(twin.partial_fit(X, Y)), strict=True):
        np.testing.assert_array_equal(a, b)


@classes_
def test_to_namespace_takes_the_library_that_users_import(cls):
    torch = pytest.importorskip("torch")
    model = quick(cls).fit(X, Y).to_namespace(torch)
    x = torch.asarray(X)
    assert isinstance(model.predict(x), torch.Tensor)
    assert isinstance(model.decision_function(x), torch.Tensor)
    assert model.to_namespace(torch, device="cpu").predict(x).device.type == "cpu"


@classes_
def test_the_same_fit_in_many_chunks(backend, cls, monkeypatch):
    """Chunks of 15 rows: the same objective, the same predictions."""
    x = backend.asarray(X)
    want = small(cls, reg=0.5).fit(x, Y)
    scores = backend.to_host(want.decision_function(x))
    monkeypatch.setattr("xclf.rows._rows._chunk_rows", lambda *_: 15)
    got = small(cls, reg=0.5).fit(x, Y)
    assert got.objective_ == pytest.approx(want.objective_, rel=1e-6)
    chunked = backend.to_host(want.decision_function(x))
    np.testing.assert_allclose(chunked, scores, rtol=1e-12, atol=1e-12)


# --- things in different places --------------------------------------------------------------


def pytest_generate_tests(metafunc):
    """`other`: any backend but NumPy's."""
    if "other" in metafunc.fixturenames:
        numpy = (Backend.NUMPY, Backend.NUMPY_READONLY)
        metafunc.parametrize("other", [b for b in usable_or_required() if b not in numpy], ids=str)


@classes_
def test_model_and_rows_in_different_places(cls, other):
    here = quick(cls).fit(X, Y)
    there = quick(cls).fit(other.asarray(X), Y)
    for method in ("predict", "decision_function", "score", "predict_proba", "predict_log_proba"):
        if not hasattr(here, method):
            continue
        more = (Y,) if method == "score" else ()
        with pytest.raises(ValueError, match=r"model is numpy on cpu but X is .*to_namespace"):
            getattr(here, method)(other.asarray(X), *more)
        with pytest.raises(ValueError, match=r"but X is numpy on cpu: move X there, or move the"):
            getattr(there, method)(X, *more)


@classes_
def test_labels_or_weights_on_a_device_that_is_not_of_the_rows(cls, other):
    if other is Backend.TORCH:
        pytest.skip("torch on the CPU: the next test")
    model = quick(cls).fit(X, Y)
    for x, y, w, name in (
        (X, other.asarray(Y), None, "y"),
        (X.tolist(), Y, other.asarray(WEIGHTS), "sample_weight"),
    ):
        told = rf"X is numpy on cpu but {name} is .*: move {name}"
        for method in (quick(cls).fit, model.partial_fit, model.score):
            with pytest.raises(ValueError, match=told):
                method(x, y, sample_weight=w)


def _in_host_memory():
    """The same values as arrays of every library that has some there."""
    places = {"list": np.ndarray.tolist, "numpy": np.asarray}
    if why_missing(Backend.TORCH) is None:
        places["torch"] = Backend.TORCH.asarray
    if why_missing(Backend.STRICT) is None:
        places["strict"] = Backend.STRICT.xp.asarray  # on its default device, the CPU
    return places


@classes_
@pytest.mark.parametrize("library", ["list", "numpy", "torch", "strict"])
def test_labels_and_weights_in_host_memory_of_any_library(backend, cls, library):
    """Whatever X is: they come to the same fit, bit for bit, and to the same score."""
    put = _in_host_memory().get(library)
    if put is None:
        pytest.skip(f"{library} is not here")
    x, y, w = backend.asarray(X), put(Y), put(WEIGHTS)
    got, want = quick(cls), quick(cls)
    for method in ("fit", "partial_fit"):
        getattr(got, method)(x, y, sample_weight=w)
        getattr(want, method)(x, Y, sample_weight=WEIGHTS)
        for one, other in zip(_arrays(got), _arrays(want), strict=True):
            np.testing.assert_array_equal(backend.to_host(one), backend.to_host(other))
    assert got.score(x, y, sample_weight=w) == want.score(x, Y, sample_weight=WEIGHTS)
    np.testing.assert_array_equal(got.classes_, [0, 1, 2])


def test_weights_of_a_type_that_numpy_lacks():
    torch = pytest.importorskip("torch")
    weights = torch.asarray(WEIGHTS).to(torch.bfloat16)
    rounded = weights.to(torch.float64).numpy()
    got, want = (SoftmaxClassifier().fit(X, Y, w) for w in (weights, rounded))
    np.testing.assert_array_equal(got.coef_, want.coef_)
    assert got.score(X, Y, weights) == want.score(X, Y, rounded)


def test_two_devices_of_one_library():
    strict = pytest.importorskip("array_api_strict")
    x = strict.asarray(X, device=strict.Device("device1"))
    y = strict.asarray(Y, device=strict.Device("device2"))
    with pytest.raises(
        ValueError, match=r"X is array_api_strict on .*device1.* but y is .*device2"
    ):
        SoftmaxClassifier().fit(x, y)
    model = SoftmaxClassifier().fit(x, Y)
    x2 = strict.asarray(X, device=strict.Device("device2"))
    with pytest.raises(ValueError, match="move X there, or move the model"):
        model.predict(x2)
    moved = model.to_namespace(strict, strict.Device("device2"))
    assert moved.predict(x2).device == strict.Device("device2")


@classes_
def test_going_on_in_another_place(cls, other):
    model = quick(cls).fit(X, Y)
    with pytest.raises(ValueError, match="the model is numpy on cpu but X is"):
        model.partial_fit(other.asarray(X), Y)
    model.set_params(warm_start=True)
    with pytest.raises(ValueError, match="the model is numpy on cpu but X is"):
        model.fit(other.asarray(X), Y)
    model.partial_fit(X, Y)
    moved = model.to_namespace(other.xp, other.device)
    moved.partial_fit(other.asarray(X), Y)
    moved.fit(other.asarray(X), Y)
    assert_same_kind(_arrays(moved)[0], other.asarray(X))


def test_lazy_arrays_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(_array_api, "is_lazy", lambda value: True)
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match="got a lazy Array: compute it first"):
        SoftmaxClassifier().fit(strict.asarray(X), Y)
