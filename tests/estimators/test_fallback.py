"""No GPU, or none that works: everything goes on with NumPy, and says why."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from cli_cases import Shell
from device_cases import probed_cupy, without_cupy
from estimator_cases import CLASSES, blobs, small

from xclf import SoftmaxClassifier, SweepCV, _array_api

X, Y = blobs(60, 5, 3)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class OutOfMemoryError(MemoryError):
    pass


DIAGNOSES = {
    "no CuPy": (None, "CuPy is not installed"),
    "no driver": (probed_cupy(count=None, driver=0), "there is no CUDA driver"),
    "driver too old": (
        probed_cupy(count=None, driver=12040),
        "the CUDA driver is too old: it is for CUDA 12.4, CuPy for 13.2",
    ),
    "no device": (probed_cupy(count=0), "there is no device cuda:0; 0 found"),
    "no memory": (
        probed_cupy(broken=OutOfMemoryError("Out of memory allocating 512 bytes")),
        "there is no memory left on cuda:0: Out of memory allocating 512 bytes",
    ),
    "no kernel": (
        probed_cupy(broken=RuntimeError("no kernel image is available")),
        "a probe on cuda:0 failed: no kernel image is available",
    ),
    "no cuBLAS": (
        probed_cupy(broken=ImportError("libcublas.so.13: cannot open")),
        "a probe on cuda:0 failed: libcublas.so.13: cannot open",
    ),
    "wrong numbers": (probed_cupy(entry=3.0), "a probe on cuda:0 gave a wrong product"),
}


@pytest.fixture(params=DIAGNOSES)
def why(request, monkeypatch):
    """What is told of the GPU that is not there."""
    cupy, words = DIAGNOSES[request.param]
    if cupy is None:
        without_cupy(monkeypatch)
    else:
        monkeypatch.setitem(sys.modules, "cupy", cupy)
    return words


@pytest.fixture
def shell(capsys, tmp_path, monkeypatch):
    probe = _array_api.cuda
    made = Shell(capsys, tmp_path, monkeypatch)
    monkeypatch.setattr(_array_api, "cuda", probe)  # the real one, of the CuPy that there is
    return made


def test_backends_says_what_is_wrong(shell, why):
    text = " ".join(shell.good("backends").split())
    assert "CUDA: not usable: " in text
    assert why in text.partition("CUDA: not usable: ")[2].partition("--device auto")[0]
    auto = text.partition("--device auto would use numpy on the CPU")
    assert auto[1]
    # That there is no CuPy is said once.
    assert (why in auto[2]) != ("is not installed" in why)


def test_auto_is_numpy_bit_for_bit(why):
    for cls in CLASSES:
        want = small(cls, max_iter=3).fit(X, Y)
        got = small(cls, max_iter=3, device="auto").fit(X, Y)
        assert got.objective_ == want.objective_
        for one, other in zip(got._layers(), want._layers(), strict=True):
            assert type(one.w) is np.ndarray
            np.testing.assert_array_equal(one.w, other.w)
    search = SweepCV(SoftmaxClassifier(device="auto"), {"reg": [1e-1, 1e-2]}, cv=2).fit(X, Y)
    assert type(search.best_estimator_.coef_) is np.ndarray


def test_the_shell_says_where_it_computes_and_why(shell, why):
    told = " ".join(shell.said("train", "digits", "--max-iter", 2, "--verbose").split())
    assert f"numpy on the CPU ({why.split(':')[0]}" in told or why in told


def test_a_gpu_that_is_asked_for_is_one_line(shell, why):
    line = shell.fails("train", "digits", "--device", "cuda")
    assert line.startswith("--device cuda cannot be used: ")
    assert why in line
    assert line.endswith("'xclf backends' says more, and --device cpu always works")
    with pytest.raises(ValueError, match="device 'cuda' cannot be used: ") as caught:
        SoftmaxClassifier(device="cuda").fit(X, Y)
    assert why in str(caught.value)
