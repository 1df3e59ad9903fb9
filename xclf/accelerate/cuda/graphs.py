"""CUDA graphs of CuPy work, matrix products among it: many launches become one.

CuPy records everything but products: its cuBLAS wrapper refuses while a stream is recorded (CuPy
issue 6290). cuBLAS itself does not, so here its functions are called through ctypes, with a
workspace of their own as its manual asks for ("CUDA Graphs Support"). Recorded work sees a
namespace that has these products, and else only the functions in `RECORDABLE`: those that launch
kernels and nothing else. One that copies from the host would be recorded with an address, and read
whatever is there by then.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from xclf._array_api import Array, in_place_of, loaded, namespace

#: Functions and names of the namespace that recorded work may use as they are.
RECORDABLE = frozenset(
    {
        *("arange", "astype", "empty", "empty_like", "exp", "expand_dims", "expm1", "full"),
        *("isdtype", "log1p", "matrix_transpose", "max", "maximum", "reshape", "sqrt", "squeeze"),
        *("sum", "take", "where", "zeros_like", "bool", "int64", "float32", "float64"),
    }
)
_MOST_JOINED = 8  # arrays: of more, CuPy's concatenate copies the addresses from the host

_WORKSPACE = 32 << 20  # bytes; what cuBLAS's manual recommends for Hopper, and enough elsewhere
_DEFAULT_MATH, _TF32_MATH = 0, 3  # cublasMath_t
_NORMAL, _TRANSPOSED = 0, 1  # cublasOperation_t


class Graph:
    """Recorded work; `launch` queues it once more on CuPy's current stream.

    It keeps the memory that its arrays and products are in, and gives it back when it is deleted.
    What the work reads and writes is for its owner to keep.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        cupy: Any = loaded("cupy")
        self._cupy, self._device = cupy, cupy.cuda.Device().id
        self._pool, self._stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
        self._graph: Any = None
        self._products: Products | None = None
        try:
            self._record(work)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # which hold arrays
            self._free()
            raise

    def launch(self) -> None:
        self._graph.launch()

    def _record(self, work: Callable[[], None]) -> None:
        cuda = self._cupy.cuda
        stream, before = self._stream, cuda.get_current_stream().record()
        with stream, cuda.using_allocator(self._pool.malloc):
            stream.wait_event(before)
            workspace = self._cupy.empty(_WORKSPACE, dtype=self._cupy.uint8)
            self._products = Products(cublas(), stream.ptr, workspace)
            with in_place_of(self._products.xp, _Recordable(self._products)):
                work()
                work()
                stream.begin_capture()
                try:
                    work()
                except BaseException:
                    with suppress(Exception):  # CUDA's complaint says less than what went wrong
                        stream.end_capture()
                    raise
                self._graph = stream.end_capture()
            stream.synchronize()

    def _free(self) -> None:
        """Give the memory back: a pool of CuPy >= 14.1 that is only dropped keeps it for ever."""
        self._graph = self._products = None
        with self._cupy.cuda.Device(self._device):
            self._pool.free_all_blocks()

    def __del__(self) -> None:
        with suppress(Exception):  # Python may be ending
            self._free()


def record(work: Callable[[], None], needed: int) -> Graph:
    """A graph of what `work` launches on the current device.

    `work` takes nothing and returns nothing: it reads and writes arrays that stay where they are.
    It is called three times: twice to be done, so that every kernel is compiled and all memory
    there, and then to be recorded, which does not do it.

    needed : bytes that the work's arrays take, which the graph keeps

    Raises MemoryError where there are fewer, and whatever CuPy, cuBLAS or the work raises where
    something cannot be recorded.
    """
    cupy: Any = loaded("cupy")
    needed += _WORKSPACE
    # Graphs cannot take from CuPy's own pool.
    if cupy.cuda.runtime.memGetInfo()[0] < needed:
        cupy.get_default_memory_pool().free_all_blocks()
    free = int(cupy.cuda.runtime.memGetInfo()[0])
    if free < needed:
        raise MemoryError(f"a graph needs {needed} bytes, {free} are free")
    return Graph(work)


def cublas() -> Any:
    """The cuBLAS that CuPy uses. Raises OSError if it is not found."""
    cupy: Any = loaded("cupy")
    major = int(cupy.cuda.runtime.runtimeGetVersion()) // 1000
    name = f"cublas64_{major}.dll" if os.name == "nt" else f"libcublas.so.{major}"
    try:
        return ctypes.CDLL(name)  # a library that is loaded already is found by its bare name
    except OSError as error:
        try:
            pathfinder = importlib.import_module("cuda.pathfinder")
            path = pathfinder.load_nvidia_dynamic_lib("cublas").abs_path
        except (ImportError, RuntimeError):
            raise error from None
        return ctypes.CDLL(path)


class Products:
    """Matrix products by a cuBLAS handle of its own, on one stream.

    library : cuBLAS, as ctypes loads it
    workspace : memory on the device, which the products use while they run
    """

    def __init__(self, library: Any, stream: int, workspace: Array) -> None:
        self.handle = ctypes.c_void_p()
        self.library, self.workspace, self.xp = library, workspace, namespace(workspace)
        self._call("cublasCreate_v2", ctypes.byref(self.handle))
        # In this order: setting the stream takes the workspace away.
        self._call("cublasSetStream_v2", self.handle, ctypes.c_void_p(stream))
        size = ctypes.c_size_t(workspace.nbytes)
        self._call("cublasSetWorkspace_v2", self.handle, _address(workspace), size)
        mode = _TF32_MATH if _in_tf32() else _DEFAULT_MATH
        self._call("cublasSetMathMode", self.handle, ctypes.c_int(mode))

    def __del__(self) -> None:
        if self.handle.value:
            self.library.cublasDestroy_v2(self.handle)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} failed with status {status}")

    def matmul(self, a: Array, b: Array) -> Array:
        """a @ b of (*heads, M, K) and (*heads, K, N), at most one axis of heads, which broadcasts.

        Transposed views are read as they are; anything else that is not contiguous is copied.
        """
        (m, k), n = a.shape[-2:], b.shape[-1]
        heads = a.shape[:-2] if a.ndim > b.ndim else b.shape[:-2]
        if a.dtype != b.dtype or a.dtype not in (self.xp.float32, self.xp.float64):
            raise TypeError(f"products of {a.dtype} and {b.dtype} cannot be recorded")
        if (
            b.shape[-2] != k
            or len(heads) > 1
            or any(x.ndim > 2 and x.shape[:-2] != heads for x in (a, b))
        ):
            raise ValueError(f"no product of {a.shape} and {b.shape} can be recorded")
        out = self.xp.empty((*heads, m, n), dtype=a.dtype)
        if not out.size:
            return out
        single, batched = a.dtype == self.xp.float32, bool(heads) and heads[0] > 1
        number = ctypes.c_float if single else ctypes.c_double
        # cuBLAS stores by columns: what it sees of our rows is out^T = b^T a^T.
        left, right = self._operand(b), self._operand(a)
        arguments: list[Any] = [self.handle, left.operation, right.operation]
        arguments += [ctypes.c_int(size) for size in (n, m, k)]
        arguments.append(ctypes.byref(number(1.0)))
        arguments += left.arguments(batched) + right.arguments(batched)
        arguments.append(ctypes.byref(number(0.0)))
        arguments += _Operand(out, _NORMAL, n, m * n).arguments(batched)
        if batched:
            arguments.append(ctypes.c_int(heads[0]))
        kind = "StridedBatched" if batched else "_v2"
        self._call(f"cublas{'S' if single else 'D'}gemm{kind}", *arguments)
        return out

    def _operand(self, x: Array) -> _Operand:
        """x as cuBLAS reads x^T."""
        rows, columns = x.shape[-2:]
        down, along = (stride // x.dtype.itemsize for stride in x.strides[-2:])
        between = x.strides[0] // x.dtype.itemsize if x.ndim > 2 else 0
        if (along == 1 or columns == 1) and (down >= columns or rows == 1):
            return _Operand(x, _NORMAL, max(down if rows > 1 else 0, columns), between)
        if (down == 1 or rows == 1) and (along >= rows or columns == 1):
            return _Operand(x, _TRANSPOSED, max(along if columns > 1 else 0, rows), between)
        copy = self.xp.empty(x.shape, dtype=x.dtype)
        copy[...] = x
        return _Operand(copy, _NORMAL, columns, rows * columns if x.ndim > 2 else 0)


class _Operand(NamedTuple):
    """A matrix of that leading dimension, or a stack of them `between` elements apart."""

    x: Array
    transposed: int
    leading: int
    between: int

    @property
    def operation(self) -> ctypes.c_int:
        return ctypes.c_int(self.transposed)

    def arguments(self, batched: bool) -> list[Any]:
        given: list[Any] = [_address(self.x), ctypes.c_int(self.leading)]
        return [*given, ctypes.c_longlong(self.between)] if batched else given


def _address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(int(array.data.ptr))


class _Recordable:
    """CuPy's namespace, as far as a graph can hold what it does."""

    def __init__(self, products: Products) -> None:
        self._xp, self.matmul = products.xp, products.matmul
        self.__name__ = products.xp.__name__
        self.__array_namespace_info__ = products.xp.__array_namespace_info__

    def __getattr__(self, name: str) -> Any:
        if name not in RECORDABLE:
            raise NotImplementedError(f"{name} is not among what a CUDA graph may hold here")
        return getattr(self._xp, name)

    def concat(self, parts: Sequence[Array], axis: int = 0) -> Array:
        if len(parts) > _MOST_JOINED:
            raise NotImplementedError(f"a CUDA graph cannot join {len(parts)} arrays")
        return self._xp.concat(parts, axis=axis)


def _in_tf32() -> bool:
    """Whether CuPy's products of float32 are set to TF32 now."""
    from cupy._core import _routines_linalg, get_compute_type

    return bool(get_compute_type("float32") == _routines_linalg.COMPUTE_TYPE_TF32)
