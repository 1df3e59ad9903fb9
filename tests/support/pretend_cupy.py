"""A CuPy without a GPU, for the tests: `XCLF_PRETEND=cupy pytest` runs those of the real one.

NumPy does the arithmetic; what is CuPy's own is how it refuses. Nothing crosses to NumPy without
being asked to, no operation mixes NumPy's arrays or another device's with its own, new memory holds
garbage, and while a graph is recorded there is no product, no copy and no look at a value. Kernels
are compiled for the processor (`cuda_on_cpu`); graphs are tapes (`taped`).
It says nothing of speed, and nothing of the order of work on streams: `fake_cupy` does.
"""

from __future__ import annotations

import functools
import importlib.machinery
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import cuda_on_cpu
import numpy as np
import taped
from pretend_array import (
    DEVICES,
    VIEWS,
    CUDARuntimeError,
    Device,
    MemoryPool,
    array,
    asarray,
    bare,
    current,
    empty,
    empty_like,
    function,
    local,
    ndarray,
    product,
    recording,
    refuse,
    view,
)

from xclf.accelerate.cuda import graphs

CUBLAS = graphs.cublas

_PRODUCTS = ("matmul", "dot", "tensordot", "einsum", "inner", "vdot", "outer", "vecdot")


class Stream:
    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr, self.non_blocking = id(self), non_blocking

    def __enter__(self) -> Stream:
        local.streams = [*getattr(local, "streams", []), self]
        return self

    def __exit__(self, *error: object) -> None:
        local.streams.pop()

    def record(self, event: Any = None) -> Any:
        refuse("an event of another stream")
        return event or Event()

    def wait_event(self, event: Any) -> None:
        assert isinstance(event, Event)

    def synchronize(self) -> None:
        refuse("waiting")

    def is_capturing(self) -> bool:
        return recording()

    def begin_capture(self, mode: Any = None) -> None:
        assert self.non_blocking
        assert stream() is self
        local.capturing, local.tape = True, taped.tape()
        self.held = local.tape.__enter__()

    def end_capture(self) -> Any:
        assert recording()
        local.capturing = False
        local.tape.__exit__(None, None, None)
        return Graph(self.__dict__.pop("held"))


class Graph:
    def __init__(self, held: list[Callable[[], None]]) -> None:
        self.held = held

    def launch(self, stream: Any = None) -> None:
        for work in self.held:
            work()


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        refuse("waiting")


_default_stream = Stream(null=True)


def stream() -> Stream:
    streams = getattr(local, "streams", None)
    return streams[-1] if streams else _default_stream


_one_kernel = threading.Lock()  # what stands for a GPU's threads is one


class RawKernel(cuda_on_cpu.RawKernel):
    def __call__(self, grid: Any, block: Any, args: Any) -> None:
        plain = bare(tuple(args))

        def work() -> None:
            with _one_kernel:
                super(RawKernel, self).__call__(grid, block, plain)

        work()
        if recording():
            taped.note(work, None)


class ElementwiseKernel(cuda_on_cpu.ElementwiseKernel):
    def __call__(self, *arguments: Any) -> None:
        plain = bare(arguments)

        def work() -> None:
            super(ElementwiseKernel, self).__call__(*plain)

        work()
        if recording():
            taped.note(work, None)


@contextmanager
def using_allocator(allocator: Any) -> Any:
    local.pool = allocator.__self__
    try:
        yield
    finally:
        local.pool = None


@functools.cache
def _modules() -> dict[str, ModuleType]:
    names = ("cupy", "cupy.linalg", "cupy.fft", "cupy.cuda", "cupy.cuda.device", "cupy._core")
    made = {name: ModuleType(name) for name in (*names, "cupy._core._routines_linalg", "cupyx")}
    for name, module in made.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(made[parent], last, module)
    for name, source in (("cupy", np), ("cupy.linalg", np.linalg), ("cupy.fft", np.fft)):
        for key in dir(source):
            value = getattr(source, key)
            if key.startswith("_") or isinstance(value, ModuleType) or hasattr(made[name], key):
                continue
            if isinstance(value, np.ufunc | FunctionType) or type(value).__name__ in (
                "builtin_function_or_method",
                "_ArrayFunctionDispatcher",
            ):
                kind = product if key in _PRODUCTS else view if key in VIEWS else function
                value = kind(value)
            setattr(made[name], key, value)
    cupy, cuda, linalg = made["cupy"], made["cupy.cuda"], made["cupy._core._routines_linalg"]
    own = (asarray, array, empty, empty_like, ndarray, RawKernel, ElementwiseKernel)
    for value in own:
        setattr(cupy, value.__name__, value)
    pool = MemoryPool()
    cupy.__version__, cupy.is_available = "14.2.0", lambda: True
    cupy.get_default_memory_pool = lambda: pool
    cupy.asnumpy = lambda a: a.get()
    for value in (Device, Stream, Event, MemoryPool, Graph, using_allocator):
        setattr(cuda, value.__name__, value)
    made["cupy.cuda.device"].Device = Device
    cuda.get_current_stream, cuda.alloc = stream, pool.malloc
    cuda.runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=lambda: DEVICES,
        getDevice=current,
        memGetInfo=lambda: ((8 << 30) - MemoryPool.reserved[current()], 16 << 30),
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        getDeviceProperties=lambda number: {"name": b"a pretended GPU", "totalGlobalMem": 16 << 30},
    )
    linalg.COMPUTE_TYPE_TF32, kinds = 1, {}
    made["cupy._core"].get_compute_type = lambda name: kinds.get(str(name), 0)
    made["cupy._core"].set_compute_type = lambda name, kind: kinds.update({str(name): kind})
    made["cupyx"].empty_pinned = lambda shape, dtype=float, order="C": np.empty(shape, dtype)
    return made


def _is_own(name: str) -> bool:
    return name.partition(".")[0] in ("cupy", "cupyx") or name.startswith("array_api_compat.cupy")


_compat: dict[str, ModuleType] = {}
_for_good = ExitStack()


@contextmanager
def installed() -> Iterator[ModuleType]:
    """`import cupy` finds this meanwhile, and CUDA graphs a cuBLAS on the host."""
    before = {name: module for name, module in sys.modules.items() if _is_own(name)}
    graphs.cublas = taped.Blas
    for name in before:
        del sys.modules[name]
    sys.modules.update({**_modules(), **_compat})
    try:
        yield _modules()["cupy"]
    finally:
        graphs.cublas = CUBLAS
        for name in [name for name in sys.modules if _is_own(name)]:
            module = sys.modules.pop(name)
            if name.startswith("array_api_compat"):
                _compat[name] = module  # which it remembers to be the arrays' namespace
        sys.modules.update(before)


def install() -> None:
    """`installed`, for the rest of the process."""
    assert "cupy" not in sys.modules
    _for_good.enter_context(installed())


def wanted() -> bool:
    return os.environ.get("XCLF_PRETEND") == "cupy"
