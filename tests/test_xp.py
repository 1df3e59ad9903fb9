"""The ground floor: places, copies to the host and back, the probe for a GPU."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from xclf import _xp


def test_a_round_trip(backend):
    values = np.arange(6.0).reshape(2, 3)
    there = backend.asarray(values)
    np.testing.assert_array_equal(_xp.to_host(there), values)
    back = _xp.from_host(values, there)
    assert _xp.same_place(back, there)
    np.testing.assert_array_equal(backend.to_host(back), values)
    assert _xp.from_host(values, there, backend.dtype("float32")).dtype == backend.dtype("float32")


def test_places(backend):
    there = backend.asarray(np.zeros(2))
    host = backend.value.startswith("numpy")
    assert _xp.is_host(there) is host
    assert _xp.same_place(there, np.zeros(1)) is host
    assert _xp.same_place(there, [1.0]) is host
    name = {"numpy-readonly": "numpy", "torch-cuda": "torch"}.get(str(backend), str(backend))
    assert _xp.place(there).startswith(f"{name.replace('-', '_')} on ")


def test_two_libraries_are_two_places():
    strict, torch = (pytest.importorskip(name) for name in ("array_api_strict", "torch"))
    assert not _xp.same_place(strict.asarray([1.0]), torch.asarray([1.0]))


def test_kinds_of_numbers(backend):
    for dtype, whole in (("bool", True), ("uint8", True), ("int64", True), ("float32", False)):
        assert _xp.is_integer(backend.xp, backend.asarray(np.zeros(2), dtype)) is whole


def test_read_only_and_foreign_byte_order():
    big = np.arange(3.0).astype(">f8")
    assert _xp.native(big).dtype == np.float64
    assert _xp.native(big).dtype.isnative
    np.testing.assert_array_equal(_xp.native(big), big)
    native = np.arange(3.0)
    assert _xp.native(native) is native


def test_eigenvectors_with_and_without_the_extension(backend):
    """array-api-strict has its extensions switched off here: the small matrix goes to the host."""
    half = np.random.default_rng(0).normal(size=(4, 4))
    matrix = half @ half.T
    values, vectors = _xp.eigh(backend.asarray(matrix))
    values, vectors = backend.to_host(values), backend.to_host(vectors)
    np.testing.assert_allclose((vectors * values) @ vectors.T, matrix, atol=1e-12)
    assert np.all(np.diff(values) >= 0)


def test_only_what_is_loaded_is_seen():
    assert _xp.loaded("numpy") is np
    assert _xp.loaded("a_library_that_nobody_has") is None


def test_generators():
    rng = np.random.default_rng(0)
    assert _xp.generator(rng) is rng
    assert _xp.generator(3).integers(1 << 40) == np.random.default_rng(3).integers(1 << 40)
    seeded = _xp.generator(np.random.RandomState(3))
    assert seeded.integers(9) == _xp.generator(np.random.RandomState(3)).integers(9)


class _Device:
    def __init__(self, index):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


def _cupy(*, available=True, count=1, entry=1.0, broken=False):
    """What the probe touches of CuPy, on NumPy."""

    def ones(shape, dtype):
        if broken:
            raise RuntimeError("CUDA driver version is insufficient")
        return np.full(shape, entry, dtype)

    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: count, getDeviceProperties=lambda index: {"name": b"Some GPU"}
    )
    module = types.ModuleType("cupy")
    module.is_available = lambda: available
    module.cuda = types.SimpleNamespace(runtime=runtime, Device=_Device)
    module.ones, module.float32, module.asarray = ones, np.float32, np.asarray
    module.__version__ = "99.0"
    return module


@pytest.mark.parametrize(
    "cupy, index, word",
    [
        (None, 0, "CuPy is not installed"),
        (_cupy(available=False), 0, "finds no CUDA device or driver"),
        (_cupy(), 1, "there is no device cuda:1; 1 found"),
        (_cupy(count=0), 0, "there is no device cuda:0; 0 found"),
        (_cupy(), -1, "there is no device cuda:-1"),
        (_cupy(broken=True), 0, "a probe on cuda:0 failed: CUDA driver version"),
        (_cupy(entry=2.0), 0, "a probe on cuda:0 gave a wrong product"),
    ],
)
def test_why_there_is_no_gpu(monkeypatch, cupy, index, word):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    namespace, why = _xp.cuda(index)
    assert namespace is None
    assert word in why


def test_a_gpu_that_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", _cupy(count=2))
    namespace, what = _xp.cuda(1)
    assert namespace is not None
    assert what == "Some GPU, CuPy 99.0"
