"""The ground floor: devices, copies to the host and back, the probe for a GPU."""

from __future__ import annotations

import contextlib
import sys
import tracemalloc
import types

import numpy as np
import pytest
from backends import Backend
from device_cases import ProbedDevice as _Device
from device_cases import probed_cupy as _cupy
from device_cases import without_cupy

from xclf import _array_api, _eigh


def test_a_round_trip(backend):
    values = np.arange(6.0).reshape(2, 3)
    there = backend.asarray(values)
    np.testing.assert_array_equal(_array_api.to_host(there), values)
    back = _array_api.from_host(values, there)
    assert _array_api.same_device(back, there)
    np.testing.assert_array_equal(backend.to_host(back), values)
    assert _array_api.from_host(values, there, backend.dtype("float32")).dtype == backend.dtype(
        "float32"
    )


def test_hosts_and_devices(backend):
    there = backend.asarray(np.zeros(2))
    host = backend.value.startswith("numpy")
    assert _array_api.is_host(there) is host
    assert _array_api.same_device(there, np.zeros(1)) is host
    assert _array_api.same_device(there, [1.0]) is host
    name = {"numpy-readonly": "numpy", "torch-cuda": "torch"}.get(str(backend), str(backend))
    assert _array_api.describe_device(there).startswith(f"{name.replace('-', '_')} on ")


def test_two_libraries_are_two_devices():
    strict, torch = (pytest.importorskip(name) for name in ("array_api_strict", "torch"))
    assert not _array_api.same_device(strict.asarray([1.0]), torch.asarray([1.0]))


def test_read_only_and_foreign_byte_order():
    big = np.arange(3.0).astype(">f8")
    assert _array_api.native(big).dtype == np.float64
    assert _array_api.native(big).dtype.isnative
    np.testing.assert_array_equal(_array_api.native(big), big)
    native = np.arange(3.0)
    assert _array_api.native(native) is native


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (2, 65, 65)], ids=str)
def test_eigh_is_right_with_and_without_the_extension(backend, shape):
    """array-api-strict has its extensions switched off here: the matrices go to the host."""
    half = np.random.default_rng(0).normal(size=shape)
    matrix = half @ np.swapaxes(half, -1, -2)
    there = backend.asarray(matrix)
    values, vectors = _eigh.eigh(there)
    assert _array_api.same_device(values, there)
    assert _array_api.same_device(vectors, there)
    values, vectors = backend.to_host(values), backend.to_host(vectors)
    back = (vectors * values[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    # LAPACK's bound is a modest multiple of D u |A|: here 16 of them.
    np.testing.assert_allclose(back, matrix, rtol=0, atol=16 * shape[-1] * 2.2e-16 * values.max())
    assert np.all(np.diff(values) >= 0)


@pytest.mark.parametrize(
    ("shape", "calls"), [((3, 64, 64), 0), ((3, 65, 65), 3), ((8, 8), 1)], ids=str
)
def test_a_stack_of_small_matrices_costs_no_call_each(backend, shape, calls, monkeypatch):
    """Of the library's own solver: on a GPU such a call takes longer than the work."""
    if backend not in (Backend.TORCH, Backend.TORCH_CUDA, Backend.CUPY):
        return  # NumPy is the host, and array-api-strict has no solver here
    linalg, solved = backend.xp.linalg, []
    plain = linalg.eigh
    monkeypatch.setattr(linalg, "eigh", lambda a: solved.append(a.shape) or plain(a))
    _eigh.eigh(backend.asarray(np.zeros(shape)))
    assert len(solved) == calls


def test_only_what_is_loaded_is_seen():
    assert _array_api.loaded("numpy") is np
    assert _array_api.loaded("a_library_that_nobody_has") is None


def test_generators():
    rng = np.random.default_rng(0)
    assert _array_api.generator(rng) is rng
    assert _array_api.generator(3).integers(1 << 40) == np.random.default_rng(3).integers(1 << 40)
    seeded = _array_api.generator(np.random.RandomState(3))
    assert seeded.integers(9) == _array_api.generator(np.random.RandomState(3)).integers(9)


@pytest.mark.parametrize(
    "error, words",
    [
        (ImportError("libcudart.so.12: cannot open"), "installed, but cannot be imported: libcu"),
        (ModuleNotFoundError("No module named 'six'", name="six"), "cannot be imported: No module"),
        (ValueError("numpy.dtype size changed"), "installed, but cannot be imported: numpy.dtype"),
        (None, "CuPy is not installed (No module named 'cupy')"),
    ],
    ids=repr,
)
def test_a_cupy_that_cannot_be_imported(monkeypatch, error, words):
    without_cupy(monkeypatch, error)
    namespace, why = _array_api.cuda()
    assert namespace is None
    assert words in why
    (device_choice,) = _array_api.resolve_devices("auto")
    assert device_choice.xp is None
    assert words in device_choice.text


# What CuPy 14 says at its first kernel where only a driver is installed.
_NO_HEADERS = RuntimeError(
    "Failed to find CUDA headers. Please install the CUDA Toolkit or the [ctk] extra"
)


@pytest.mark.parametrize(
    "cupy, index, word",
    [
        (None, 0, "CuPy is not installed"),
        (_cupy(count=None, driver=0), 0, "but there is no CUDA driver"),
        (_cupy(count=None, driver=12020), 0, "too old: it is for CUDA 12.2, CuPy for 13.2"),
        (_cupy(count=None), 0, "but CUDA finds no device: cudaErrorNoDevice"),
        (_cupy(count=None, driver="?"), 0, "but CUDA does not start: cudaErrorNoDevice"),
        (_cupy(), 1, "there is no device cuda:1; 1 found"),
        (_cupy(count=0), 0, "there is no device cuda:0; 0 found"),
        (_cupy(), -1, "there is no device cuda:-1"),
        (_cupy(broken=RuntimeError("no kernel image")), 0, "on cuda:0 failed: no kernel image"),
        (_cupy(broken=MemoryError("512 bytes")), 0, "there is no memory left on cuda:0: 512"),
        (_cupy(entry=2.0), 0, "a probe on cuda:0 gave a wrong product"),
        (_cupy(broken=_NO_HEADERS), 0, "no CUDA headers to compile kernels with: pip install 'x"),
        (_cupy(broken=_NO_HEADERS), 0, "pip install 'xclf[cuda13]'"),
        (_cupy(broken=_NO_HEADERS, cuda=12090), 0, "pip install 'xclf[cuda12]'"),
    ],
)
def test_why_there_is_no_gpu(monkeypatch, cupy, index, word):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    namespace, why = _array_api.cuda(index)
    assert namespace is None
    assert word in why


def test_a_gpu_that_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", _cupy(count=2))
    namespace, what = _array_api.cuda(1)
    assert namespace is not None
    assert what == "Some GPU, CuPy 99.0"


def test_names_of_devices():
    for name in ("auto", "cpu", "cuda", "cuda:0", "cuda:12", "cuda:all", ("cuda:1", "cuda:0")):
        assert _array_api.is_device_name(name)
    for name in ("cuda:", "cuda:1.0", "CUDA", "gpu", "cpu:0", ("cuda", "auto"), ("cuda:1", 1), []):
        assert not _array_api.is_device_name(name)


def test_several_gpus_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", _cupy(count=3))
    assert [s.text for s in _array_api.resolve_devices("cuda:2")] == [
        "cupy on cuda:2 (Some GPU, CuPy 99.0; asked for)"
    ]
    assert len(_array_api.resolve_devices("cuda:all")) == 3
    assert [s.text[8:14] for s in _array_api.resolve_devices(("cuda:2", "cuda"))] == [
        "cuda:2",
        "cuda:0",
    ]
    with pytest.raises(
        ValueError, match="device 'cuda:3' cannot be used: there is no device cuda:3"
    ):
        _array_api.resolve_devices(("cuda:0", "cuda:3"))


def test_only_cupy_has_a_current_device(backend, monkeypatch):
    """Its arrays are computed with on theirs; for all others nothing is entered."""
    x = backend.asarray(np.ones(2))
    if backend is not Backend.CUPY:
        with _array_api.on_device(x) as entered:
            assert entered is None
        _array_api.finish(x)
    place = _Device(1)
    monkeypatch.setitem(sys.modules, "cupy", _cupy())
    monkeypatch.setattr(_array_api, "library", lambda xp: "cupy")
    monkeypatch.setattr(_array_api, "device", lambda array: place)
    if not _array_api.is_host(x):
        entered = _array_api.on_device(x)
        assert entered.id == 1
        assert entered is not place  # threads enter the same one at a time otherwise


def test_an_array_is_packed_and_awaited_before_and_after_it_moves(monkeypatch):
    """CuPy packs a view on one device's stream and copies it on another's."""
    x, done = Backend.STRICT.asarray(np.arange(6.0)), []
    xp = Backend.STRICT.xp
    like = xp.zeros(1, device=xp.Device("device2"))
    fake = _cupy()
    fake.ascontiguousarray = lambda array: (done.append("packed"), array)[1]
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(_array_api, "library", lambda xp: "cupy")
    monkeypatch.setattr(_array_api, "on_device", lambda array: contextlib.nullcontext())
    monkeypatch.setattr(
        _array_api, "finish", lambda array: done.append(str(_array_api.device(array))[-9:-2])
    )
    moved = _array_api.to_device(x, like)
    assert _array_api.device(moved) == xp.Device("device2")
    assert done == ["packed", "device1", "device2"]
    done.clear()
    assert _array_api.to_device(x, x) is x
    assert done == []


def test_arrays_move_between_devices():
    x = Backend.STRICT.asarray(np.arange(3.0))
    xp = Backend.STRICT.xp
    like = xp.zeros(1, device=xp.Device("device2"))
    moved = _array_api.to_device(x, like)
    assert _array_api.device(moved) == xp.Device("device2")
    np.testing.assert_array_equal(_array_api.to_host(moved), [0.0, 1.0, 2.0])
    assert _array_api.to_device(x, x) is x


def test_free_memory_is_what_the_device_says(backend, monkeypatch):
    if backend not in (Backend.CUPY, Backend.TORCH_CUDA):
        assert _array_api.free_memory(backend.xp, backend.device) is None
    fake = _cupy()
    fake.cuda.runtime.memGetInfo = lambda: (700, 1000)
    pool = types.SimpleNamespace(free_bytes=lambda: 50, used_bytes=lambda: 300, get_limit=lambda: 0)
    fake.get_default_memory_pool = lambda: pool
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(_array_api, "library", lambda xp: "cupy")
    assert _array_api.free_memory(backend.xp, _Device(0)) == 750
    for limit, free in ((2000, 750), (400, 100), (200, 0)):  # what the user lets CuPy take
        pool.get_limit = lambda limit=limit: limit
        assert _array_api.free_memory(backend.xp, _Device(0)) == free


class OutOfMemoryError(RuntimeError):
    """torch's is no MemoryError."""


class CUDADriverError(RuntimeError):
    """CuPy's, as are those of its libraries."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate"),
        OutOfMemoryError("Tried to allocate 2 GiB"),
        CUDADriverError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        RuntimeError("cudaErrorMemoryAllocation: out of memory"),
        RuntimeError("CUSOLVER_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
def test_what_says_that_there_is_no_memory(error):
    assert _array_api.out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED"),
        ValueError("ALLOC_FAILED"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_what_does_not(error):
    assert not _array_api.out_of_memory(error)


@pytest.mark.parametrize("size", [3, 300])
def test_eigh_of_numpy_leaves_the_matrix(size):
    """Up to 1024 rows; and in the memory of the matrix, its copy and the vectors."""
    a = np.random.default_rng(size).standard_normal((size, size))
    matrix = a @ a.T
    before = matrix.copy()
    tracemalloc.start()
    values, vectors = _eigh.eigh(matrix)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(matrix, before)
    np.testing.assert_allclose((vectors * values) @ vectors.T, matrix, atol=1e-12 * values[-1])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(size), atol=1e-12)
    assert peak < 2.5 * matrix.nbytes + (1 << 20)
