"""Products as cuBLAS is asked for them, and what a CUDA graph may hold."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import weakref
from types import SimpleNamespace

import cuda_on_cpu
import numpy as np
import pytest
from taped import Blas, Taped, tape

from xclf import _array_api, _cuda_graph
from xclf._cuda_graph import RECORDABLE, Products, cublas, record


def products(blas=None):
    return Products(blas or Blas(), 5, np.empty(64, np.uint8), lambda array: array.ctypes.data)


def laid_out(values, how):
    """The same values in another layout."""
    if how == "rows":
        return np.ascontiguousarray(values)
    if how == "columns":
        return np.swapaxes(np.ascontiguousarray(np.swapaxes(values, -1, -2)), -1, -2)
    wide = np.zeros((*values.shape[:-1], 2 * values.shape[-1] + 3), values.dtype)
    if how == "padded":  # rows further apart than they are long
        wide[..., : values.shape[-1]] = values
        return wide[..., : values.shape[-1]]
    wide[..., : 2 * values.shape[-1] : 2] = values  # "strided": nothing that BLAS can read
    return wide[..., : 2 * values.shape[-1] : 2]


LAYOUTS = ["rows", "columns", "padded", "strided"]
SHAPES = [
    ((4, 3), (3, 5)),
    ((1, 3), (3, 5)),
    ((4, 1), (1, 5)),
    ((4, 3), (3, 1)),
    ((1, 1), (1, 1)),
    ((2, 4, 3), (3, 5)),
    ((4, 3), (2, 3, 5)),
    ((2, 4, 3), (2, 3, 5)),
    ((1, 4, 3), (1, 3, 5)),
    ((6, 1, 3), (6, 3, 1)),
]


@pytest.mark.parametrize(("left", "right"), SHAPES)
@pytest.mark.parametrize("layouts", [*itertools.product(LAYOUTS, LAYOUTS)], ids="-".join)
def test_products(left, right, layouts, dtype):
    rng = np.random.default_rng(0)
    # Small integers: products are exact, in whatever order they are added up.
    a = laid_out(rng.integers(-9, 10, left).astype(dtype), layouts[0])
    b = laid_out(rng.integers(-9, 10, right).astype(dtype), layouts[1])
    out = products().matmul(a, b)
    assert out.dtype == dtype
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, a @ b)


def test_heads_are_one_call():
    blas = Blas()
    a = np.ones((3, 4, 5), np.float32)
    products(blas).matmul(a, np.ones((3, 5, 2), np.float32))
    assert blas.calls[:1] == ["float32 x 3"]


def test_views_are_read_as_they_are():
    """The operands of a step: a slice of the flat parameters, and rows turned on their side."""
    blas = Blas()
    made = products(blas)
    taken = []
    made.xp = SimpleNamespace(
        empty=lambda shape, dtype: taken.append(shape) or np.empty(shape, dtype)
    )
    theta, x = np.arange(40.0), np.arange(35.0).reshape(7, 5)
    w = theta[3:18].reshape(3, 5)
    np.testing.assert_array_equal(made.matmul(w, x.T), w @ x.T)
    assert taken == [(3, 7)]


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        (np.ones((2, 3)), np.ones((4, 2)), ValueError),
        (np.ones((2, 2, 3)), np.ones((3, 3, 2)), ValueError),
        (np.ones((2, 2, 2, 3)), np.ones((3, 2)), ValueError),
        (np.ones((2, 3)), np.ones((3, 2), np.float32), TypeError),
        (np.ones((2, 3), int), np.ones((3, 2), int), TypeError),
    ],
)
def test_products_that_are_not_made(a, b, error):
    with pytest.raises(error, match="recorded"):
        products().matmul(a, b)


def test_the_handle_is_set_up_and_given_back():
    blas = Blas()
    made = products(blas)
    assert blas.stream == 5
    assert blas.workspace == (made.workspace.ctypes.data, 64)  # behind the stream, which takes it
    assert blas.mode == 0
    del made
    assert blas.calls == ["destroy"]


def test_a_failure_of_cublas_is_an_error():
    blas = Blas()
    blas.cublasSgemm_v2 = lambda *given: 13
    ones = np.ones((2, 2), np.float32)
    with pytest.raises(RuntimeError, match="cublasSgemm_v2 failed with status 13"):
        products(blas).matmul(ones, ones)


def test_the_library_is_looked_for(monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        if name != "libcublas.so.12":
            raise OSError(name)
        return "the library"

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setitem(__import__("sys").modules, "cuda.pathfinder", None)
    assert cublas() == "the library"
    assert asked == ["libcublas.so.13", "libcublas.so.12"]
    monkeypatch.setattr(_cuda_graph, "_SONAMES", ("libcublas.so.1",))
    with pytest.raises(OSError, match="cuBLAS was not found"):
        cublas()


# --- the namespace ---------------------------------------------------------------------------


def test_only_what_launches_kernels_is_there():
    xp = _array_api.namespace(np.ones(1))
    seen = products().namespace()
    for name in RECORDABLE:
        assert getattr(seen, name) is getattr(xp, name)
    for name in ("asarray", "nonzero", "unique_values", "linspace", "concatenate"):
        with pytest.raises(NotImplementedError, match=name):
            getattr(seen, name)
    assert _array_api.library(seen) == "numpy"


def test_concat(monkeypatch):
    """One launch for any number of parts and heads, contiguous or not."""
    if cuda_on_cpu.COMPILER is None:
        pytest.skip("there is no g++ to compile the kernel with")
    rng, seen = np.random.default_rng(0), products().namespace()
    kernels = SimpleNamespace(ElementwiseKernel=cuda_on_cpu.ElementwiseKernel)
    monkeypatch.setattr(_cuda_graph, "loaded", {"cupy": kernels}.get)
    _cuda_graph._join.cache_clear()
    for dtype, heads in [(np.float32, ()), (np.float64, (3,))]:
        parts = [rng.standard_normal((*heads, size)).astype(dtype) for size in (4, 1, 7)]
        parts.append(rng.standard_normal((*heads, 10)).astype(dtype)[..., ::2])
        np.testing.assert_array_equal(seen.concat(parts, -1), np.concatenate(parts, -1))
    with pytest.raises(NotImplementedError, match="axis 0"):
        seen.concat([np.ones((2, 2))] * 2, 0)
    _cuda_graph._join.cache_clear()


def test_the_namespace_is_replaced_for_a_while():
    ones = np.ones(1)
    xp = _array_api.namespace(ones)
    with _array_api.in_place_of(xp, "another"):
        assert _array_api.namespace(ones) == "another"
    assert _array_api.namespace(ones) is xp
    with pytest.raises(KeyError), _array_api.in_place_of(xp, "another"):
        raise KeyError
    assert _array_api.namespace(ones) is xp


def test_other_namespaces_are_not_replaced():
    strict = pytest.importorskip("array_api_strict")
    with _array_api.in_place_of(strict, "another"):
        assert _array_api.library(_array_api.namespace(np.ones(1))) == "numpy"


# --- the tape that stands for a graph in other tests -----------------------------------------


def test_a_tape_replays():
    a, b = np.arange(6.0).reshape(2, 3).view(Taped), np.ones((3, 2)).view(Taped)
    out = np.zeros((2, 2)).view(Taped)
    made = products()
    with tape() as held:
        c = np.where(a > 2.0, a, 0.0) * 2.0
        out[...] = made.matmul(c, b) + np.sum(a)
    a[...] = 3.0
    for work in held:
        work()
    np.testing.assert_array_equal(out, np.full((2, 2), 18.0 + 18.0))


# --- recording, on a CuPy of nothing but names -------------------------------------------------


class FakeStream:
    """Writes down what is asked of it and of its neighbours."""

    ptr = 5

    def __init__(self, log, **options):
        self.log, self.capturing = log, False
        assert options == {"non_blocking": True}  # the default stream cannot be captured

    def __enter__(self):
        self.log.append("enter")

    def __exit__(self, *error):
        self.log.append("exit")

    def wait_event(self, event):
        self.log.append(f"wait for {event}")

    def begin_capture(self):
        self.capturing = True

    def end_capture(self):
        assert self.capturing
        self.capturing = False
        self.log.append("end")
        return SimpleNamespace(launch=lambda: self.log.append("launch"))

    def synchronize(self):
        assert not self.capturing
        self.log.append("synchronize")


@pytest.fixture
def fake(monkeypatch):
    log, streams = [], []

    def stream(**options):
        streams.append(FakeStream(log, **options))
        return streams[-1]

    def empty(size, dtype):
        log.append(f"workspace of {size >> 20} MiB")
        return FakeWorkspace(size, dtype)

    class FakeWorkspace(np.ndarray):
        data = SimpleNamespace(ptr=64)

        def __new__(cls, size, dtype):
            return np.empty(size, dtype).view(cls)

    pool = SimpleNamespace(free_all_blocks=lambda: log.append("free") or free.append(64 << 20))
    free = [1 << 30]
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(memGetInfo=lambda: (free[-1], 1 << 30)),
        Stream=stream,
        MemoryPool=lambda: SimpleNamespace(malloc="its own memory"),
        get_current_stream=lambda: SimpleNamespace(record=lambda: "what came before"),
        using_allocator=lambda malloc: log.append(f"from {malloc}") or contextlib.nullcontext(),
    )
    monkeypatch.setattr(_cuda_graph, "cublas", Blas)
    monkeypatch.setattr(_cuda_graph, "_in_tf32", lambda: False)
    cupy = SimpleNamespace(cuda=cuda, empty=empty, uint8=np.uint8)
    cupy.get_default_memory_pool = lambda: pool
    monkeypatch.setattr(_cuda_graph, "loaded", {"cupy": cupy}.get)
    return SimpleNamespace(log=log, streams=streams, free=free)


def test_recording(fake):
    def work():
        assert isinstance(_array_api.namespace(np.ones(1)), _cuda_graph._Recordable)
        fake.log.append("recorded" if fake.streams[0].capturing else "done")

    graph = record(work, 1 << 20)
    before = ["enter", "from its own memory", "wait for what came before", "workspace of 32 MiB"]
    # The allocator is set up as the stream is entered; everything else in this order.
    assert fake.log == [*sorted(before[:2]), *before[2:], "done", "done", "recorded", "end",
                        "synchronize", "exit"]  # fmt: skip
    assert _array_api.namespace(np.ones(1)) is not None
    assert _array_api.library(_array_api.namespace(np.ones(1))) == "numpy"
    graph.launch()
    assert fake.log[-1] == "launch"


def test_memory_that_cupy_only_keeps_is_given_back(fake):
    fake.free.append(1 << 20)
    record(lambda: None, 16 << 20)  # beside 32 MiB for products: 64 are free afterwards
    assert fake.log[0] == "free"
    fake.free.append(1 << 20)
    with pytest.raises(MemoryError, match=f"needs {96 << 20} bytes, {64 << 20} are free"):
        record(lambda: None, 64 << 20)
    assert len(fake.streams) == 1


def test_products_end_with_their_graph(fake):
    """Nothing that sees the namespace of recorded work may keep it."""
    seen = []

    def work():
        xp = _array_api.namespace(np.ones(1))
        seen.append(weakref.ref(xp._products))
        assert _array_api.accumulator(xp, "cpu") == np.float64

    graph = record(work, 0)
    assert seen[-1]() is not None
    del graph
    gc.collect()
    assert seen[-1]() is None


@pytest.mark.parametrize("bad", [1, 3])
def test_what_fails_leaves_nothing_behind(fake, bad):
    calls = []

    def work():
        calls.append(None)
        if len(calls) == bad:
            raise KeyError("the work's own error")

    with pytest.raises(KeyError, match="the work's own error"):
        record(work, 1 << 20)
    assert not fake.streams[0].capturing
    assert ("end" in fake.log) == (bad == 3)
    assert fake.log[-1] == "exit"
    assert not isinstance(_array_api.namespace(np.ones(1)), _cuda_graph._Recordable)


# --- on a GPU --------------------------------------------------------------------------------


def test_a_graph(backend):
    """Products and elementwise work, recorded and replayed on other values."""
    if "cupy" not in str(backend):
        pytest.skip("CUDA graphs are CuPy's")
    xp = backend.xp
    for name in ("float32", "float64"):
        a = backend.asarray(np.arange(6.0, dtype=name).reshape(2, 3))
        b = backend.asarray(np.ones((3, 4), dtype=name))
        flat, out = xp.zeros(16, dtype=a.dtype), xp.zeros((2, 4), dtype=a.dtype)

        def work(a=a, b=b, flat=flat, out=out):
            inside = _array_api.namespace(a)
            out[...] = inside.maximum(inside.matmul(a, b), 3.5)
            turned = inside.reshape(inside.matmul(inside.matrix_transpose(b), a.T), (8,))
            flat[...] = inside.concat([turned, turned])

        graph = record(work, 1 << 20)
        for scale in (1.0, -2.0):
            a[...] = scale * backend.asarray(np.arange(6.0, dtype=name).reshape(2, 3))
            graph.launch()
            want = np.maximum(backend.to_host(a) @ np.ones((3, 4)), 3.5)
            np.testing.assert_array_equal(backend.to_host(out), want)
            turned = (np.ones((4, 3)) @ backend.to_host(a).T).reshape(8)
            np.testing.assert_array_equal(backend.to_host(flat), np.tile(turned, 2))


def test_work_that_cannot_be_recorded(backend):
    if "cupy" not in str(backend):
        pytest.skip("CUDA graphs are CuPy's")
    ones = backend.asarray(np.ones((2, 2), np.float32))
    with pytest.raises(NotImplementedError, match="asarray"):
        record(lambda: _array_api.namespace(ones).asarray([1.0]), 1 << 20)
    assert float((ones @ ones).sum()) == 8.0  # the device is as it was
