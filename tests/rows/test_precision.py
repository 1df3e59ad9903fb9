"""`precision`: a setting of the array library while a fit runs, or an error."""

from __future__ import annotations

import contextlib
import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from backends import Backend
from device_cases import gpus  # noqa: F401  a fixture
from estimator_cases import CLASSES, blobs, quick

from xclf import SoftmaxClassifier, SweepCV
from xclf.rows import _precision as module
from xclf.rows import product_precision
from xclf.training._tolerance import rounding

X, Y = blobs(90, 5, 3, dtype=np.float32)
classes_ = pytest.mark.parametrize("cls", CLASSES)


class Setting:
    """What a library would hold, and everything it was set to."""

    def __init__(self, value):
        self.value, self.log = value, []

    def write(self, value):
        self.value = value
        self.log.append(value)


@pytest.fixture
def setting(monkeypatch, gpus):  # noqa: F811
    """array-api-strict plays a GPU that has TF32."""
    made = Setting("plain")
    switch = module._setting(lambda: made.value, made.write, "tf32")
    monkeypatch.setitem(module._SETTINGS, "array_api_strict", switch)
    monkeypatch.setattr(module, "_capability", lambda *_: 90)
    return made


def _one_device_told(yes):
    return pytest.warns(UserWarning, match="one device") if yes else contextlib.nullcontext()


def _watched(setting):
    seen = []
    return seen, lambda event: seen.append(setting.value)


@classes_
@pytest.mark.parametrize("device", [None, "gpu", ("gpu", "gpu2")])
def test_it_holds_while_a_fit_runs(cls, device, setting):
    seen, watch = _watched(setting)
    x = X if device else Backend.STRICT.asarray(X)
    model = quick(cls, precision="tf32", device=device, callbacks=[watch])
    with _one_device_told(isinstance(device, tuple)):  # `quick` takes minibatches
        model.fit(x, Y)
    assert seen == ["tf32"]
    assert setting.log == ["tf32", "plain"]
    model.partial_fit(x, Y)
    assert setting.log == ["tf32", "plain"] * 2
    model.predict(x)
    assert len(setting.log) == 4


def test_it_is_put_back_on_an_error_and_an_interrupt(setting):
    def stop(event):
        assert setting.value == "tf32"
        raise stop.error

    for stop.error in (ValueError("mine"), KeyboardInterrupt()):
        model = quick(SoftmaxClassifier, precision="tf32", device="gpu", callbacks=[stop])
        with pytest.raises(type(stop.error)):
            model.fit(X, Y)
        assert setting.value == "plain"


def test_a_fit_within_a_fit(setting):
    """The inner one leaves the setting to the outer one; an unasking one finds what it finds."""
    seen, watch = _watched(setting)

    def inner(event):
        quick(SoftmaxClassifier, precision="tf32", device="gpu").fit(X, Y)
        watch(event)

    quick(SoftmaxClassifier, precision="tf32", device="gpu", callbacks=[inner]).fit(X, Y)
    assert seen == ["tf32"]
    assert setting.log == ["tf32", "plain"]


def test_the_last_of_several_threads_puts_it_back(setting):
    x, count = Backend.STRICT.asarray(X), 8
    inside, leave = threading.Barrier(count + 1), threading.Event()

    def work():
        with product_precision(x, x.dtype, "tf32"):
            inside.wait()
            leave.wait()

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    inside.wait()
    assert setting.value == "tf32"
    leave.set()
    for thread in threads:
        thread.join()
    assert setting.log == ["tf32", "plain"]


def test_a_sweep_asks_for_it_too(setting):
    model = SoftmaxClassifier(precision="tf32", device="gpu", solver="adam", max_iter=1)
    search = SweepCV(model, {"reg": [1e-3, 1e-2]}, cv=2, refit=False)
    search.fit(X, Y)
    assert set(setting.log[::2]) == {"tf32"}
    assert set(setting.log[1::2]) == {"plain"}
    assert setting.value == "plain"
    grid = {"precision": [None, "tf32"]}
    setting.log.clear()
    SweepCV(model, grid, cv=2, refit=False).fit(X, Y)
    assert len(setting.log) == 4  # a pass for each fold, of those that ask for it alone


@classes_
def test_where_it_cannot_be_it_is_an_error(cls, backend):
    """On a CPU it would change nothing, silently."""
    if backend in (Backend.CUPY, Backend.TORCH_CUDA):
        return
    model = quick(cls, precision="tf32")
    told = r"^precision='tf32' needs a CUDA GPU, and the fit runs on .*: leave precision at None"
    for call in (model.fit, lambda x, y: model.partial_fit(x, y, classes=[0, 1, 2])):
        with pytest.raises(ValueError, match=told):
            call(backend.asarray(X), Y)
    assert not hasattr(model, "classes_")


def test_float64_and_old_gpus_are_errors_too(setting, monkeypatch):
    model = SoftmaxClassifier(precision="tf32", device="gpu")
    with pytest.raises(ValueError, match="is for products of float32, and X is float64"):
        model.fit(X.astype(np.float64), Y)
    monkeypatch.setattr(module, "_capability", lambda *_: 75)
    with pytest.raises(ValueError, match=r"capability 8\.0 or later, .* has 7\.5"):
        model.fit(X, Y)
    assert setting.log == []


def test_nothing_is_done_unless_asked(setting):
    quick(SoftmaxClassifier, device="gpu").fit(X, Y)
    assert setting.log == []


def test_rounding_errors_are_those_of_the_products():
    assert rounding(np.float32, np, "tf32") > 10 * rounding(np.float32, np)
    assert rounding(np.float64, np, "tf32") == rounding(np.float64, np)


def test_the_setting_of_cupy(monkeypatch):
    """The functions that its products read: cupy._core.get_compute_type, set_compute_type."""
    kept = {"float32": 1}
    core = ModuleType("cupy._core")
    core.get_compute_type = lambda dtype: kept[dtype]
    core.set_compute_type = lambda dtype, value: kept.update({dtype: value})
    core._routines_linalg = SimpleNamespace(COMPUTE_TYPE_TF32=7)
    monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
    monkeypatch.setitem(sys.modules, "cupy._core", core)
    switch = module._cupy_setting()
    with switch:
        assert kept == {"float32": 7}
        with switch:
            assert kept == {"float32": 7}
        assert kept == {"float32": 7}
    assert kept == {"float32": 1}


def test_the_setting_of_torch():
    torch = pytest.importorskip("torch")
    before = torch.get_float32_matmul_precision()
    with module._torch_setting():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_compute_capability():
    cupy_like = SimpleNamespace(compute_capability="90")
    assert module._capability("cupy", cupy_like) == 90
    assert module._capability("torch", "cpu") is None
    assert module._capability("array_api_strict", "device1") is None
