"""The backends that tests run on: array libraries and devices, and why one is missing here."""

from __future__ import annotations

import enum
import functools
import importlib
import os
from typing import Any

import numpy as np
import pytest
from quick_strict import quicken

from xclf import _array_api

#: What XCLF_REQUIRE may name besides: programs and packages that some tests need.
PROGRAMS = {"chromium", "dask"}


class Backend(enum.Enum):
    """Array libraries and devices; the value is the name that XCLF_REQUIRE and test ids use."""

    NUMPY = "numpy"
    NUMPY_READONLY = "numpy-readonly"  # a memory map opened for reading looks like this
    STRICT = "array-api-strict"
    TORCH = "torch"
    CUPY = "cupy"
    TORCH_CUDA = "torch-cuda"

    def __str__(self) -> str:
        return self.value

    @property
    def xp(self) -> Any:
        """The namespace that kernels see: array-api-compat's where the library needs wrapping."""
        return _array_api.namespace(self.asarray(np.zeros(1)))

    @property
    def device(self) -> Any:
        """The device of every array that `asarray` makes."""
        return _array_api.device(self.asarray(np.zeros(1)))

    def asarray(self, values: Any, dtype: Any = None) -> Any:
        """A fresh array of this backend with the values (and dtype) of a NumPy array."""
        host = np.array(values, dtype=dtype)
        return _MAKERS[self](host)

    def to_host(self, array: Any) -> np.ndarray:
        """A NumPy copy of an array of this backend."""
        return np.array(_array_api.to_host(array))

    def dtype(self, name: Any) -> Any:
        """This backend's dtype of that (NumPy) name."""
        return getattr(self.xp, np.dtype(name).name)


#: These are run wherever they are: a machine with a GPU is there to prove them.
ON_GPUS = (Backend.CUPY, Backend.TORCH_CUDA)


def _readonly(host: np.ndarray) -> np.ndarray:
    host.flags.writeable = False
    return host


def _strict(host: np.ndarray) -> Any:
    """On `device1`, which is not the default: forgetting a device argument then raises."""
    xp = _strict_namespace()
    return xp.asarray(host, device=xp.Device("device1"))


@functools.cache
def _strict_namespace() -> Any:
    xp = importlib.import_module("array_api_strict")
    # NumPy's own behaviour where the standard leaves a choice is what users' backends lack.
    xp.set_array_api_strict_flags(
        boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
    )
    quicken(xp)
    return xp


def _torch(host: np.ndarray) -> Any:
    return importlib.import_module("torch").asarray(host)


def _cupy(host: np.ndarray) -> Any:
    return importlib.import_module("cupy").asarray(host)


def _torch_cuda_available() -> bool:
    return importlib.import_module("torch").cuda.is_available()


def _torch_cuda(host: np.ndarray) -> Any:
    return importlib.import_module("torch").asarray(host, device="cuda")


_MAKERS = {
    Backend.NUMPY: np.asarray,
    Backend.NUMPY_READONLY: _readonly,
    Backend.STRICT: _strict,
    Backend.TORCH: _torch,
    Backend.CUPY: _cupy,
    Backend.TORCH_CUDA: _torch_cuda,
}


@functools.cache
def why_missing(backend: Backend) -> str | None:
    """None if `backend` works here, else the reason.

    CuPy imports without a GPU, and a driver that is too old fails only at the first product: so a
    small product is the probe, on every backend.
    """
    try:
        if backend is Backend.CUPY and not importlib.import_module("cupy").is_available():
            return "cupy sees no GPU"
        if backend is Backend.TORCH_CUDA and not _torch_cuda_available():
            return "torch sees no GPU"
        ones = backend.asarray(np.ones((2, 2), dtype=np.float32))
        if backend.to_host(backend.xp.matmul(ones, ones)).tolist() != [[2.0, 2.0]] * 2:
            return "a 2 x 2 product came out wrong"
    except Exception as error:  # a broken driver raises its own classes, which cannot be named here
        return f"{type(error).__name__}: {error}"
    return None


@functools.cache
def usable_or_required() -> list[Backend]:
    """Those whose tests are collected."""
    required = required_backends()
    return [each for each in Backend if why_missing(each) is None or each.value in required]


def required_backends() -> set[str]:
    """The names in XCLF_REQUIRE; an unknown one is an error, lest a slip require nothing."""
    known = [*(backend.value for backend in Backend), *sorted(PROGRAMS)]
    names = {name.strip() for name in os.environ.get("XCLF_REQUIRE", "").split(",")} - {""}
    if unknown := names - set(known):
        raise pytest.UsageError(
            f"XCLF_REQUIRE: unknown {sorted(unknown)}; known: {', '.join(known)}"
        )
    return names
