"""`device`: rows in host memory, computed with elsewhere; a stricter library plays the GPU."""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pytest
from backends import Backend
from device_cases import gpus  # noqa: F401
from estimator_cases import CLASSES, blobs, quick, small
from pairwise import mostly_long
from sklearn.model_selection import cross_val_score

from xclf import SoftmaxClassifier, TwoLayerClassifier, _array_api, load
from xclf.rows import Rows, Sharded, Streamed

rows_of_a_chunk = "xclf.rows._rows._chunk_rows"
X, Y = blobs(150, 6, 3)
X = np.round(X * 8)  # whole numbers: uint8 and float16 hold them too
NAMES = np.asarray(["red", "green", "blue"])[Y]
classes_ = pytest.mark.parametrize("cls", CLASSES)

pytestmark = [
    pytest.mark.usefixtures("gpus"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


@pytest.fixture
def full(monkeypatch):
    """Devices without memory for X."""
    monkeypatch.setattr(_array_api, "free_memory", lambda *_: 1)


@pytest.fixture
def asked(monkeypatch):
    """The X of each fit."""
    seen = []

    def watched(x, *args, **options):
        seen.append(x)
        return Rows(x, *args, **options)

    monkeypatch.setattr("xclf.estimators._fitting.Rows", watched)
    return seen


def _host_layers(model):
    return [_array_api.to_host(a) for layer in model._layers() for a in layer]


def _assert_same_fit(got, want, bound=1e-10):
    assert got.objective_ == pytest.approx(want.objective_, rel=bound)
    assert got.n_iter_ == want.n_iter_


def _told(yes):
    """That of several devices minibatches use the first."""
    told = r"one device, the first of device=\('gpu', 'gpu2'\): all of them are for full-batch"
    return pytest.warns(UserWarning, match=told) if yes else contextlib.nullcontext()


@pytest.mark.usefixtures("every_problem_is_large")
@mostly_long(
    cls=CLASSES,
    standardize=[False, True],
    way=["moved", "streamed", "several", "several streamed"],
)
def test_a_fit_elsewhere_is_the_fit_on_the_cpu(cls, standardize, way, asked, monkeypatch):
    """The objective of full fits to 1e-10 (float64), whatever carries the rows."""
    monkeypatch.setattr(rows_of_a_chunk, lambda *_: 40)
    if "streamed" in way:
        monkeypatch.setattr(_array_api, "free_memory", lambda *_: 1)
    options = {"standardize": standardize, "max_iter": 15}
    want = small(cls, **options).fit(X, NAMES)
    several = "several" in way
    model = small(cls, device=("gpu", "gpu2") if several else "gpu", **options)
    with _told(several and cls is TwoLayerClassifier):
        model.fit(X, NAMES)
    _assert_same_fit(model, want)
    (x,) = asked[1:]
    if several and cls is not TwoLayerClassifier:
        assert type(x) is Sharded
    else:  # minibatches, on the first of several
        plain = type(Backend.STRICT.asarray([1.0]))
        assert type(x) is (Streamed if "streamed" in way else plain)
    for layer in model._layers():
        assert _array_api.device(layer.w) == _array_api.NAMED_DEVICES["gpu"][1]
    np.testing.assert_array_equal(model.predict(X), want.predict(X))


@pytest.mark.usefixtures("every_problem_is_large")
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "float64", "bool"])
@pytest.mark.parametrize("cls", [SoftmaxClassifier, TwoLayerClassifier])
def test_rows_travel_as_they_are(cls, dtype, asked, full, monkeypatch):
    """And widen over there; what that library lacks is widened here."""
    monkeypatch.setattr(rows_of_a_chunk, lambda *_: 40)
    x = (X > 0 if dtype == "bool" else np.abs(X)).astype(dtype)
    x.flags.writeable = False
    sent = []
    plain = Streamed._writer

    def watched(self, where):
        sent.append(self.sent)
        return plain(self, where)

    monkeypatch.setattr(Streamed, "_writer", watched)
    want = small(cls, max_iter=5).fit(x, Y)
    got = small(cls, max_iter=5, device="gpu").fit(x, Y)
    assert isinstance(asked[-1], Streamed)
    expected = "float32" if dtype == "float16" else dtype  # the standard has no float16
    assert {str(one) for one in sent if one} == {expected}
    # float32: 15 roundings a product of 6 terms, at most a few times that in the objective.
    _assert_same_fit(got, want, 1e-10 if dtype == "float64" else 1e-5)


@pytest.mark.usefixtures("every_problem_is_large")
def test_a_memory_map_is_read_only_and_may_be_streamed(tmp_path, asked, full):
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    model = SoftmaxClassifier(device="gpu").fit(x, NAMES)
    assert isinstance(asked[-1], Streamed)
    assert np.shares_memory(asked[-1].host, x)
    _assert_same_fit(model, SoftmaxClassifier().fit(X, NAMES))


@classes_
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("device", ["gpu", ("gpu", "gpu2")])
def test_minibatches_are_gathered_on_the_host(cls, solver, early_stopping, device, asked, full):
    options = {"solver": solver, "max_iter": 4, "batch_size": 32, "random_state": 3}
    options |= {"early_stopping": early_stopping, "class_weight": "balanced"}
    want = small(cls, **options).fit(X, NAMES)
    with _told(device != "gpu"):
        model = small(cls, device=device, **options).fit(X, NAMES)
    assert type(asked[-1]) is Streamed
    _assert_same_fit(model, want)
    for got, expected in zip(_host_layers(model), _host_layers(want), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12)
    if early_stopping:
        assert model.history_["val_accuracy"] == want.history_["val_accuracy"]


def test_parts_go_on_where_the_model_is():
    options = {"solver": "adam", "batch_size": 32, "random_state": 0}
    want, model = SoftmaxClassifier(**options), SoftmaxClassifier(device="gpu", **options)
    for one in (want, model):
        for part in (slice(0, 70), slice(70, 150)):
            one.partial_fit(X[part], Y[part], classes=[0, 1, 2])
    _assert_same_fit(model, want)
    assert not isinstance(model.coef_, np.ndarray)


def test_a_warm_start_goes_on_where_the_model_is():
    model = SoftmaxClassifier(device="gpu", warm_start=True, max_iter=3).fit(X, Y)
    before = model.objective_
    assert model.fit(X, Y).objective_ < before


@classes_
def test_predictions_of_host_rows_come_back(cls):
    want, model = quick(cls).fit(X, Y), quick(cls, device="gpu").fit(X, Y)
    for method in ("predict", "decision_function", "predict_proba", "predict_log_proba"):
        if not hasattr(want, method):
            continue
        got = getattr(model, method)(X)
        assert type(got) is np.ndarray
        np.testing.assert_allclose(got, getattr(want, method)(X), rtol=1e-12)
    assert model.score(X, Y) == want.score(X, Y)
    moved = model.to_namespace(np)
    np.testing.assert_array_equal(moved.predict(X), want.predict(X))


def test_predictions_of_rows_on_the_device_stay_there():
    model = SoftmaxClassifier(device="gpu").fit(X, Y)
    got = model.predict(Backend.STRICT.asarray(X))
    assert _array_api.device(got) == _array_api.NAMED_DEVICES["gpu"][1]


def test_scikit_learns_tools_see_host_arrays_only():
    got = cross_val_score(SoftmaxClassifier(device="gpu"), X, NAMES, cv=3)
    np.testing.assert_array_equal(got, cross_val_score(SoftmaxClassifier(), X, NAMES, cv=3))


def test_a_saved_model_remembers_where_it_was(tmp_path):
    model = SoftmaxClassifier(device="gpu", max_memory="1 GB", max_iter=3).fit(X, NAMES)
    model.save(tmp_path / "m.safetensors")
    read = load(tmp_path / "m.safetensors")
    assert (read.device, read.max_memory) == ("gpu", "1 GB")
    np.testing.assert_array_equal(read.predict(X), model.predict(X))
    several = SoftmaxClassifier(device=("gpu", "gpu2"), max_iter=3).fit(X, NAMES)
    several.save(tmp_path / "s.safetensors")
    read = load(tmp_path / "s.safetensors")
    _assert_same_fit(read.fit(X, NAMES), several)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_the_cpu_is_where_numpy_rows_are(device, asked):
    model = SoftmaxClassifier(device=device).fit(X, Y)
    assert type(model.coef_) is np.ndarray
    assert type(asked[0]) is np.ndarray


def test_auto_is_numpy_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(_array_api, "cuda", lambda index=0: (None, "no driver"))
    model = SoftmaxClassifier(device="auto").fit(X, Y)
    assert type(model.coef_) is np.ndarray
    assert _array_api.resolve_devices("auto")[0].text == "numpy on the CPU (no driver)"


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cuda:all", ("cuda:0", "cuda:1")])
def test_a_gpu_that_is_not_there_is_one_clear_error(monkeypatch, device):
    monkeypatch.setattr(_array_api, "cuda", lambda index=0: (None, f"no device {index}"))
    model = SoftmaxClassifier(device=device)
    with pytest.raises(ValueError, match=r"device 'cuda(:\d|:all)?' cannot be used: no device \d"):
        model.fit(X, Y)
    assert not hasattr(model, "classes_")


def test_rows_that_are_elsewhere_already(backend):
    """They are computed with where they are; `device` may say so, and nothing else."""
    x = backend.asarray(X)
    SoftmaxClassifier(device="auto", max_iter=2).fit(x, Y)
    if backend in (Backend.NUMPY, Backend.NUMPY_READONLY):
        return
    there = {Backend.STRICT: "gpu", Backend.TORCH: "cpu"}.get(backend, "cuda")
    SoftmaxClassifier(device=there, max_iter=2).fit(x, Y)
    wrong = "gpu2" if there == "gpu" else "cuda:7"
    with pytest.raises(ValueError, match=re.escape(f"and device='{wrong}': device moves rows in")):
        SoftmaxClassifier(device=wrong).fit(x, Y)


def test_free_memory_of_the_device_decides(monkeypatch, asked):
    for free, kind in ((2 * X.nbytes, False), (1.5 * X.nbytes, True)):
        monkeypatch.setattr(_array_api, "free_memory", lambda *_, free=free: free)
        SoftmaxClassifier(device="gpu", max_iter=2).fit(X, Y)
        assert isinstance(asked[-1], Streamed) is kind


def test_max_memory_decides_too(asked):
    """At most half of it for X; the rest is for the fit."""
    for most, streamed in (("10MB", False), (160 * X.nbytes, True)):
        x = X if not streamed else np.tile(X, (100, 1))
        y = Y if not streamed else np.tile(Y, 100)
        SoftmaxClassifier(device="gpu", max_memory=most, max_iter=2).fit(x, y)
        assert isinstance(asked[-1], Streamed) is streamed
