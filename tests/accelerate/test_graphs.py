"""Products as cuBLAS computes them, what a CUDA graph may hold, and what it leaves behind."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pretend_cupy
import pytest
from device_accelerators import host
from pairwise import pairwise
from taped import Blas

from xclf import _array_api
from xclf.accelerate.cuda import graphs
from xclf.accelerate.cuda.graphs import RECORDABLE, Products, record

CUBLAS = pretend_cupy.CUBLAS  # the pretended CuPy puts another in its place


def products(cupy, blas=None):
    stream = cupy.cuda.get_current_stream().ptr
    return Products(blas or graphs.cublas(), stream, cupy.empty(1 << 20, dtype=np.uint8))


def laid_out(cupy, values, how):
    """The same values in another layout."""
    if how == "rows":
        return cupy.asarray(values)
    if how == "columns":
        columns = np.ascontiguousarray(values.swapaxes(-1, -2))
        return cupy.swapaxes(cupy.asarray(columns), -1, -2)
    wide = np.zeros((*values.shape[:-1], 2 * values.shape[-1] + 3), values.dtype)
    if how == "padded":  # rows further apart than they are long
        wide[..., : values.shape[-1]] = values
        return cupy.asarray(wide)[..., : values.shape[-1]]
    wide[..., : 2 * values.shape[-1] : 2] = values  # "strided": nothing that BLAS can read
    return cupy.asarray(wide)[..., : 2 * values.shape[-1] : 2]


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


@pairwise(shapes=SHAPES, one=LAYOUTS, other=LAYOUTS)
def test_products(cupy, shapes, one, other, dtype):
    rng = np.random.default_rng(0)
    # Small integers: products are exact, in whatever order they are added up.
    a, b = (rng.integers(-9, 10, shape).astype(dtype) for shape in shapes)
    parts = laid_out(cupy, a, one), laid_out(cupy, b, other)
    out = products(cupy).matmul(*parts)
    assert out.dtype == dtype
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(host(out), a @ b)


def test_heads_are_one_call(pretended):
    blas = Blas()
    a, b = (pretended.asarray(np.ones(s, np.float32)) for s in ((3, 4, 5), (3, 5, 2)))
    products(pretended, blas).matmul(a, b)
    assert blas.calls[:1] == ["float32 x 3"]


def test_views_are_read_as_they_are(pretended):
    """The operands of a step: a slice of the flat parameters, and rows turned on their side."""
    own = products(pretended)
    taken = []
    own.xp = SimpleNamespace(
        float32=np.float32,
        float64=np.float64,
        empty=lambda shape, dtype: taken.append(shape) or pretended.empty(shape, dtype),
    )
    theta, x = np.arange(40.0), np.arange(35.0).reshape(7, 5)
    w = pretended.asarray(theta)[3:18].reshape(3, 5)
    got = own.matmul(w, pretended.asarray(x).T)
    np.testing.assert_array_equal(host(got), theta[3:18].reshape(3, 5) @ x.T)
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
def test_products_that_cannot_be_recorded(cupy, a, b, error):
    with pytest.raises(error, match="recorded"):
        products(cupy).matmul(cupy.asarray(a), cupy.asarray(b))


def test_the_handle_is_set_up_and_given_back(pretended):
    blas = Blas()
    own = products(pretended, blas)
    assert blas.stream == pretended.cuda.get_current_stream().ptr
    # Behind the stream, which takes it away.
    assert blas.workspace == (own.workspace.data.ptr, own.workspace.nbytes)
    assert blas.mode == 0
    del own
    assert blas.calls == ["destroy"]


def test_a_failure_of_cublas_is_an_error(pretended):
    blas = Blas()
    blas.cublasSgemm_v2 = lambda *given: 13
    ones = pretended.asarray(np.ones((2, 2), np.float32))
    with pytest.raises(RuntimeError, match="cublasSgemm_v2 failed with status 13"):
        products(pretended, blas).matmul(ones, ones)


@pytest.mark.parametrize("version", [12090, 13000])
@pytest.mark.parametrize("system", ["posix", "nt"])
def test_the_library_is_the_one_that_cupy_uses(monkeypatch, version, system):
    """Of the same major version, whatever others are installed."""
    runtime = SimpleNamespace(runtimeGetVersion=lambda: version)
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setattr(graphs, "loaded", {"cupy": cupy}.get)
    monkeypatch.setattr(graphs, "os", SimpleNamespace(name=system))
    names = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: names.append(name) or "the library")
    assert CUBLAS() == "the library"
    major = version // 1000
    assert names == [f"cublas64_{major}.dll" if system == "nt" else f"libcublas.so.{major}"]


def test_a_library_in_its_own_package_is_found(monkeypatch):
    runtime = SimpleNamespace(runtimeGetVersion=lambda: 12090)
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setattr(graphs, "loaded", {"cupy": cupy}.get)

    def load(name):
        if name != "/site-packages/libcublas.so.12":
            raise OSError(f"{name}: no such file")
        return "the library"

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    with pytest.raises(OSError, match=r"libcublas.so.12: no such file"):
        CUBLAS()
    found = SimpleNamespace(abs_path="/site-packages/libcublas.so.12")
    finder = SimpleNamespace(load_nvidia_dynamic_lib={"cublas": found}.get)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", finder)
    assert CUBLAS() == "the library"


# --- recording -------------------------------------------------------------------------------


def test_only_what_launches_kernels_is_there(cupy):
    own = products(cupy)
    seen = graphs._Recordable(own)
    for name in RECORDABLE:
        assert getattr(seen, name) is getattr(own.xp, name)
    for name in ("asarray", "nonzero", "unique_values", "linspace", "concatenate"):
        with pytest.raises(NotImplementedError, match=name):
            getattr(seen, name)
    assert _array_api.library(seen) == "cupy"


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


def test_a_graph(cupy, dtype):
    """Products, joined parts and elementwise work, recorded and replayed on other values."""
    first = np.arange(6.0, dtype=dtype).reshape(2, 3)
    a, b = cupy.asarray(first), cupy.asarray(np.ones((3, 4), dtype=dtype))
    flat, out = cupy.zeros(64, dtype=dtype), cupy.zeros((2, 4), dtype=dtype)

    def work():
        inside = _array_api.namespace(a)
        out[...] = inside.maximum(inside.matmul(a, b), 3.5)
        turned = inside.reshape(inside.matmul(inside.matrix_transpose(b), a.T), (8,))
        flat[...] = inside.concat([turned] * 8)

    graph = record(work, 1 << 20)
    for scale in (1.0, -2.0):
        a[...] = cupy.asarray(scale * first)
        graph.launch()
        want = np.maximum(scale * first @ np.ones((3, 4)), 3.5)
        np.testing.assert_array_equal(host(out), want)
        turned = (np.ones((4, 3)) @ (scale * first).T).reshape(8)
        np.testing.assert_array_equal(host(flat), np.tile(turned, 8))


def refused_while_recording(cupy):
    ones = cupy.asarray(np.ones((2, 2), np.float32))
    xp = _array_api.namespace
    return {
        "asarray": (lambda: xp(ones).asarray([1.0]), NotImplementedError),
        "join 9 arrays": (lambda: xp(ones).concat([ones] * 9), NotImplementedError),
        "own error": (lambda: {}["missing"], KeyError),
    }


@pytest.mark.parametrize("case", ["asarray", "join 9 arrays", "own error"])
@pytest.mark.parametrize("call", [1, 3], ids=["at once", "when recorded"])
def test_work_that_cannot_be_recorded(cupy, case, call):
    """The device, the namespace and the memory are as they were."""
    work, error = refused_while_recording(cupy)[case]
    calls, free = [], free_memory(cupy)

    def at(number=call):
        calls.append(cupy.zeros(1 << 20, dtype=np.float32))
        if len(calls) == number:
            work()

    with pytest.raises(error):
        record(at, 1 << 20)
    calls.clear()
    ones = cupy.asarray(np.ones((2, 2), np.float32))
    assert float((ones @ ones).sum()) == 8.0
    assert not cupy.cuda.get_current_stream().is_capturing()
    assert not isinstance(_array_api.namespace(ones), graphs._Recordable)
    # What the test's own list held longer than the graph is not given back.
    assert free - free_memory(cupy) <= call * (4 << 20)


def free_memory(cupy):
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    return cupy.cuda.runtime.memGetInfo()[0]


def a_recording(cupy):
    out, ones = cupy.zeros(1 << 20), cupy.asarray(np.ones(1 << 20))

    def work():
        out[...] = _array_api.namespace(ones).exp(ones) + 1.0

    return record(work, 32 << 20)


def test_a_graph_gives_its_memory_back(cupy):
    """A pool that is only dropped keeps it: 32 MiB of workspace and some for each recorded fit."""
    a_recording(cupy)  # compiles kernels, which stay
    free = free_memory(cupy)
    for _ in range(3):
        graph = a_recording(cupy)
        assert free_memory(cupy) <= free - (32 << 20)
        graph.launch()
        del graph
        assert free_memory(cupy) == free


def test_on_the_device_where_it_was_recorded(pretended):
    """The current device may be another by then, and a pool frees that of the current one."""
    with pretended.cuda.Device(1):
        free = free_memory(pretended)
        graph = a_recording(pretended)
    del graph
    with pretended.cuda.Device(1):
        assert free_memory(pretended) == free


def test_what_fails_gives_its_memory_back(cupy):
    a_recording(cupy)
    free = free_memory(cupy)

    def work():
        whole = cupy.zeros(1 << 20)
        raise KeyError(whole.shape)

    with pytest.raises(KeyError) as held:
        record(work, 16 << 20)
    assert free_memory(cupy) == free
    assert held.traceback  # in which frames may hold arrays


def test_products_end_with_their_graph(cupy):
    """Nothing that sees the namespace of recorded work may keep it."""
    seen = []
    ones = cupy.asarray(np.ones(1))

    def work():
        xp = _array_api.namespace(ones)
        seen.append(weakref.ref(xp))
        assert _array_api.accumulator(xp, ones.device) == np.float64

    graph = record(work, 0)
    own = weakref.ref(graph._products)
    assert own() is not None
    del graph
    gc.collect()
    assert seen[-1]() is None
    assert own() is None


def test_memory_that_cupy_only_keeps_is_given_back_first(pretended, monkeypatch):
    free, freed = [1 << 20], []
    pool = SimpleNamespace(free_all_blocks=lambda: freed.append(free.append(64 << 20)))
    monkeypatch.setattr(pretended, "get_default_memory_pool", lambda: pool)
    monkeypatch.setattr(pretended.cuda.runtime, "memGetInfo", lambda: (free[-1], 1 << 30))
    record(lambda: None, 16 << 20)  # beside 32 MiB for products: 64 are free afterwards
    assert len(freed) == 1
    with pytest.raises(MemoryError, match=f"needs {96 << 20} bytes, {64 << 20} are free"):
        record(lambda: None, 64 << 20)
