"""CUDA graphs of CuPy work, matrix products among it: many launches become one.

A step on small batches is some forty launches of a few microseconds each, and CuPy needs longer
to ask for one than a GPU to do it. A graph is recorded once, and replayed by a single call.

CuPy records everything but products: its cuBLAS wrapper refuses while a stream is recorded (CuPy
issue 6290). cuBLAS itself does not, so here its functions are called through ctypes, with a
workspace of their own as its manual asks for ("CUDA Graphs Support"). Recorded work sees a
namespace that has these products, and else only the functions in `RECORDABLE`: those that launch
kernels and nothing else. One that copies from the host would be recorded with an address, and read
there whatever is there by then: `concat` of small arrays does so in CuPy, and has a stand-in here.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from xclf._array_api import Array, in_place_of, loaded, namespace

#: Functions and names of the namespace that recorded work may use as they are.
RECORDABLE = frozenset(
    {
        *("arange", "astype", "empty_like", "exp", "expand_dims", "expm1", "full", "isdtype"),
        "log1p",
        *("matrix_transpose", "max", "maximum", "reshape", "sqrt", "squeeze", "sum", "take"),
        *("where", "zeros_like", "bool", "int64", "float32", "float64"),
    }
)

_WORKSPACE = 32 << 20  # bytes; what cuBLAS's manual recommends for Hopper, and enough elsewhere
_DEFAULT_MATH, _TF32_MATH = 0, 3  # cublasMath_t
_OPERATIONS = {"N": 0, "T": 1}  # cublasOperation_t
_SONAMES = ("libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so")


class Graph:
    """Recorded work; `launch` queues it once more on CuPy's current stream.

    What the work reads and writes is for its owner to keep.

    keep : the memory that the work makes its arrays in, its products and their stream
    """

    def __init__(self, graph: Any, keep: Sequence[Any]) -> None:
        self._graph, self._keep = graph, tuple(keep)

    def launch(self) -> None:
        self._graph.launch()


def record(work: Callable[[], None], needed: int) -> Graph:
    """A graph of what `work` launches on the current device.

    `work` takes nothing and returns nothing: it reads and writes arrays that stay where they are.
    It is called three times, twice in earnest, so that every kernel is compiled and all memory
    there before the third is recorded, and not done.

    needed : bytes that the work's arrays take, which the graph keeps

    Raises MemoryError where there is no room for them, and whatever CuPy, cuBLAS or the work does
    where something cannot be recorded.
    """
    cupy: Any = loaded("cupy")
    _free_memory_for(cupy, needed + _WORKSPACE)
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    before = cupy.cuda.get_current_stream().record()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        stream.wait_event(before)
        products = Products(cublas(), stream.ptr, cupy.empty(_WORKSPACE, dtype=cupy.uint8))
        with in_place_of(products.xp, products.namespace()):
            work()
            work()
            stream.begin_capture()
            try:
                work()
            except BaseException:
                with suppress(Exception):  # what CUDA says of it is less than what went wrong
                    stream.end_capture()
                raise
            graph = stream.end_capture()
        stream.synchronize()
    return Graph(graph, (products, pool, stream))


def _free_memory_for(cupy: Any, needed: int) -> None:
    """See that so many bytes are free outside CuPy's own pool, which graphs cannot take from."""
    if cupy.cuda.runtime.memGetInfo()[0] < needed:
        cupy.get_default_memory_pool().free_all_blocks()
    free = int(cupy.cuda.runtime.memGetInfo()[0])
    if free < needed:
        raise MemoryError(f"a graph needs {needed} bytes, {free} are free")


def cublas() -> Any:
    """The cuBLAS that CuPy loads. Raises OSError where there is none to be found."""
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
        return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
    except (ImportError, OSError, RuntimeError):
        pass  # an older CuPy, or a CUDA that is installed elsewhere
    for name in _SONAMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError(f"cuBLAS was not found: none of {', '.join(_SONAMES)}")


class Products:
    """Matrix products by a cuBLAS handle of its own, on one stream.

    library : cuBLAS, as ctypes loads it
    workspace : memory on the device, which the products use while they run
    """

    def __init__(
        self,
        library: Any,
        stream: int,
        workspace: Array,
        address: Callable[[Array], int] = lambda array: int(array.data.ptr),
    ) -> None:
        self.handle = ctypes.c_void_p()
        self.library, self.workspace, self.address = library, workspace, address
        self.xp = namespace(workspace)
        self._call("cublasCreate_v2", ctypes.byref(self.handle))
        # In this order: setting the stream takes the workspace away.
        self._call("cublasSetStream_v2", self.handle, ctypes.c_void_p(stream))
        size = ctypes.c_size_t(workspace.nbytes)
        self._call("cublasSetWorkspace_v2", self.handle, ctypes.c_void_p(address(workspace)), size)
        mode = _TF32_MATH if _in_tf32() else _DEFAULT_MATH
        self._call("cublasSetMathMode", self.handle, ctypes.c_int(mode))

    def namespace(self) -> Any:
        """What work that is recorded with these products may use of the arrays' namespace."""
        return _Recordable(self.xp, self)

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
        xp = namespace(a)
        (m, k), n = a.shape[-2:], b.shape[-1]
        heads = a.shape[:-2] if a.ndim > b.ndim else b.shape[:-2]
        if a.dtype != b.dtype or a.dtype not in (xp.float32, xp.float64):
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
        single = a.dtype == xp.float32
        number = ctypes.c_float if single else ctypes.c_double
        # cuBLAS stores by columns: what it sees of our rows is out^T = b^T a^T.
        left, right = self._operand(b), self._operand(a)
        batched = bool(heads) and heads[0] > 1
        name = f"cublas{'S' if single else 'D'}gemm" + ("StridedBatched" if batched else "_v2")
        arguments: list[Any] = [self.handle, left.operation, right.operation]
        arguments += [ctypes.c_int(size) for size in (n, m, k)]
        arguments.append(ctypes.byref(number(1.0)))
        arguments += left.arguments(batched) + right.arguments(batched)
        arguments.append(ctypes.byref(number(0.0)))
        arguments += _Operand(out, "N", n, m * n, self.address).arguments(batched)
        if batched:
            arguments.append(ctypes.c_int(heads[0]))
        self._call(name, *arguments)
        return out

    def _operand(self, x: Array) -> _Operand:
        """x as cuBLAS is to read x^T."""
        rows, columns = x.shape[-2:]
        down, along = (stride // x.dtype.itemsize for stride in x.strides[-2:])
        between = x.strides[0] // x.dtype.itemsize if x.ndim > 2 else 0
        if (along == 1 or columns == 1) and (down >= columns or rows == 1):
            return _Operand(x, "N", max(down if rows > 1 else 0, columns), between, self.address)
        if (down == 1 or rows == 1) and (along >= rows or columns == 1):
            return _Operand(x, "T", max(along if columns > 1 else 0, rows), between, self.address)
        copy = self.xp.empty(x.shape, dtype=x.dtype)
        copy[...] = x
        return _Operand(copy, "N", columns, rows * columns if x.ndim > 2 else 0, self.address)


class _Operand:
    """A matrix, or a stack of them `between` elements apart, as cuBLAS takes it."""

    def __init__(
        self, x: Array, operation: str, leading: int, between: int, address: Callable[[Array], int]
    ) -> None:
        self.x, self.leading, self.between, self.address = x, leading, between, address
        self.operation = ctypes.c_int(_OPERATIONS[operation])

    def arguments(self, batched: bool) -> list[Any]:
        given: list[Any] = [ctypes.c_void_p(self.address(self.x)), ctypes.c_int(self.leading)]
        return [*given, ctypes.c_longlong(self.between)] if batched else given


class _Recordable:
    """The namespace xp, as far as a graph can hold what it does."""

    def __init__(self, xp: Any, products: Products) -> None:
        self._xp, self._products = xp, products
        self.__name__ = xp.__name__

    def __getattr__(self, name: str) -> Any:
        if name not in RECORDABLE:
            raise NotImplementedError(f"{name} is not among what a CUDA graph may hold here")
        return getattr(self._xp, name)

    def __array_namespace_info__(self) -> Any:
        return self._xp.__array_namespace_info__()

    def empty(self, shape: tuple[int, ...], *, dtype: Any) -> Array:
        return self._xp.empty(shape, dtype=dtype)

    def matmul(self, a: Array, b: Array) -> Array:
        return self._products.matmul(a, b)

    def concat(self, parts: Sequence[Array], axis: int = 0) -> Array:
        """Parts one behind the other along the last axis, by one launch."""
        if axis % parts[0].ndim != parts[0].ndim - 1:
            raise NotImplementedError(
                f"concat along axis {axis} is not what a CUDA graph holds here"
            )
        sizes = [int(part.shape[-1]) for part in parts]
        out = self.empty((*parts[0].shape[:-1], sum(sizes)), dtype=parts[0].dtype)
        _join(len(parts))(*map(self._packed, parts), *sizes, sum(sizes), out)
        return out

    def _packed(self, part: Array) -> Array:
        if part.flags.c_contiguous:
            return part
        copy = self.empty(part.shape, dtype=part.dtype)
        copy[...] = part
        return copy


@functools.cache
def _join(count: int) -> Any:
    """A kernel that puts so many contiguous arrays (..., size) behind each other."""
    cupy: Any = loaded("cupy")
    places = range(count)
    taken = [f"raw T p{k}" for k in places] + [f"int64 n{k}" for k in places] + ["int64 width"]
    steps = ["const long long line = i / width", "long long at = i - line * width", "out = T(0)"]
    for k in places:
        steps += [f"if (at >= 0 && at < n{k}) out = p{k}[line * n{k} + at]", f"at -= n{k}"]
    return cupy.ElementwiseKernel(", ".join(taken), "T out", ";\n".join(steps) + ";", "xclf_join")


def _in_tf32() -> bool:
    """Whether CuPy's products of float32 are set to TF32 now."""
    if loaded("cupy") is None:
        return False
    from cupy._core import _routines_linalg, get_compute_type

    return bool(get_compute_type("float32") == _routines_linalg.COMPUTE_TYPE_TF32)
