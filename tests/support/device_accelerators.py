"""What the tests of the CUDA accelerators share: a CuPy, a real one where there is a GPU."""

from __future__ import annotations

import importlib
from typing import Any

import cuda_on_cpu
import numpy as np
import pretend_cupy
import pytest
from backends import Backend, required_backends, why_missing

from xclf.accelerate import _registry
from xclf.accelerate.cuda import CUDA


@pytest.fixture(scope="module")
def cupy():
    """CuPy on a GPU, or the pretended one for the tests of a module."""
    reason = why_missing(Backend.CUPY)
    if reason is None:
        yield importlib.import_module("cupy")
        return
    if "cupy" in required_backends():
        pytest.fail(f"XCLF_REQUIRE names cupy, which is missing: {reason}")
    if cuda_on_cpu.COMPILER is None:
        pytest.skip("there is no g++ to compile kernels with")
    with pretend_cupy.installed() as module:
        yield module


@pytest.fixture
def pretended(cupy):
    """`cupy` where faults can do no harm."""
    if pretend_cupy.RawKernel is not cupy.RawKernel:
        pytest.skip("a GPU is not to be brought to fail")
    return cupy


@pytest.fixture(autouse=True)
def _fresh_accelerators(monkeypatch):
    """What one test chooses, or switches off, is as before in the next."""
    monkeypatch.setattr(_registry, "_choice", _registry._choice)
    yield
    for accelerator in CUDA:
        accelerator.failure = None


def host(array: Any) -> np.ndarray:
    """A NumPy copy of an array of CuPy."""
    return np.array(array.get())
