"""Devices that the tests can have: array-api-strict's device1 and device2 play two GPUs, and a few
names of CuPy what the probe for one finds."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import pytest
from backends import Backend

from xclf import _array_api


@pytest.fixture
def gpus() -> Iterator[Any]:
    """`device="gpu"`, and "gpu2", stand for these; yields the namespace."""
    xp = Backend.STRICT.xp
    _array_api.NAMED_DEVICES.update(
        {"gpu": (xp, xp.Device("device1")), "gpu2": (xp, xp.Device("device2"))}
    )
    yield xp
    _array_api.NAMED_DEVICES.clear()


class ProbedDevice:
    """`cupy.cuda.Device`, as far as the probe goes."""

    def __init__(self, index: int) -> None:
        self.id = index

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def probed_cupy(
    *,
    driver: Any = 13000,
    cuda: int = 13020,
    count: int | None = 1,
    entry: float = 1.0,
    broken: Any = None,
) -> types.ModuleType:
    """What the probe touches of CuPy, on NumPy. No devices (count None) is an error, as there."""

    def ones(shape: Any, dtype: Any) -> np.ndarray:
        if broken is not None:
            raise broken
        return np.full(shape, entry, dtype)

    def devices() -> int:
        if count is None:
            raise RuntimeError("cudaErrorNoDevice")
        return count

    runtime = types.SimpleNamespace(
        getDeviceCount=devices,
        getDeviceProperties=lambda index: {"name": b"Some GPU"},
        driverGetVersion=lambda: int(driver),
        runtimeGetVersion=lambda: cuda,
    )
    module: Any = types.ModuleType("cupy")
    module.ndarray, module.__spec__ = type("ndarray", (), {}), ModuleSpec("cupy", None)
    module.cuda = types.SimpleNamespace(runtime=runtime, Device=ProbedDevice)
    module.ones, module.float32, module.asarray = ones, np.float32, np.asarray
    module.__version__ = "99.0"
    return module


class _Finder:
    """One of Python's finders of modules, for which CuPy is absent, or cannot be imported."""

    def __init__(self, finder: Any, error: Exception | None) -> None:
        self.finder, self.error = finder, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "cupy":
            return self.finder.find_spec(name, path, target)
        if self.error is not None:
            raise self.error
        return None


def without_cupy(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    """`import cupy` fails: where it is not installed, or with an error of its own."""
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Finder(each, error) for each in sys.meta_path])
