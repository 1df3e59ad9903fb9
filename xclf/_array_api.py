"""The namespace and device of arrays, host copies, and the search for devices.

The only file that imports array_api_compat. Everything above calls `namespace(x)` once and then
standard Array API functions of the result, whatever the backend.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import array_api_compat as compat
import numpy as np

Array: TypeAlias = Any  # any array of an Array API namespace; the standard has no nominal type
Namespace: TypeAlias = Any

_replaced = threading.local()
_NUMPY = compat.array_namespace(np.empty(0))


def namespace(*arrays: Array) -> Namespace:
    """The Array API namespace of `arrays`; TypeError if they belong to several, or to none."""
    # Without asking for NumPy's, which stacks of small problems ask for some thousand times.
    host = all(type(array) is np.ndarray for array in arrays) and bool(arrays)
    xp = _NUMPY if host else compat.array_namespace(*arrays)
    replaced = getattr(_replaced, "by", None)
    return xp if replaced is None or xp is not replaced[0] else replaced[1]


@contextmanager
def in_place_of(xp: Namespace, other: Namespace) -> Iterator[None]:
    """A context in which, in this thread, `namespace` returns `other` instead of `xp`."""
    before = getattr(_replaced, "by", None)
    _replaced.by = (xp, other)
    try:
        yield
    finally:
        _replaced.by = before


def is_array(value: object) -> bool:
    """Whether `value` is an array of an Array API library."""
    return bool(compat.is_array_api_obj(value))


def is_host(value: object) -> bool:
    """Whether `value` is NumPy's; lists and data frames, which become NumPy arrays, count too, and
    sparse matrices of NumPy arrays."""
    if hasattr(value, "tocsr"):
        return is_host(getattr(value, "data", None))
    host = isinstance(value, np.ndarray | np.generic) or not is_array(value)
    return host or bool(getattr(value, "in_host_memory", False))


def is_lazy(value: object) -> bool:
    """Whether `value` is evaluated lazily."""
    return bool(compat.is_lazy_array(value))


def device(array: Array) -> Any:
    """The device of `array`, as its own library names it."""
    return compat.device(array)


def same_device(a: Array, b: Array) -> bool:
    """Whether two arrays share namespace and device, so that one operation may use both."""
    if any(host := [is_host(each) or library(namespace(each)) == "numpy" for each in (a, b)]):
        return all(host)  # rows in blocks count as NumPy's
    try:
        namespace(a, b)
    except TypeError:
        return False
    return bool(device(a) == device(b))


def describe_device(array: Array) -> str:
    """Library and device of `array` for messages: 'numpy on cpu', 'cupy on <CUDA Device 0>'."""
    return f"{library(namespace(array))} on {device(array)}"


def library(xp: Namespace) -> str:
    """The name of a namespace's library: 'numpy', 'cupy', 'torch', 'array_api_strict', ..."""
    name = str(getattr(xp, "__name__", type(xp).__name__))
    return name.removeprefix("array_api_compat.").partition(".")[0]


def compat_namespace(xp: Namespace) -> Namespace:
    """The standard-conforming namespace of a library's module (`torch`, `cupy`)."""
    return namespace(xp.asarray([0.0]))


def to_host(array: Array) -> np.ndarray:
    """`array` as a NumPy array; copies from a device, and waits for it.

    torch's bfloat16, for which NumPy has no dtype, becomes float32, which holds its values.
    """
    if isinstance(array, np.ndarray | np.generic):
        return np.asarray(array)
    if compat.is_cupy_array(array):
        return np.asarray(array.get())
    if compat.is_torch_array(array):
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":
            array = array.float()
        return np.asarray(array.numpy())
    try:
        return np.from_dlpack(array)
    except (AttributeError, TypeError, ValueError, BufferError, RuntimeError):
        return np.asarray(array)


def from_host(values: Any, like: Array, dtype: Any = None) -> Array:
    """`values` (NumPy) in the namespace and on the device of `like`."""
    return asarray(namespace(like), values, dtype=dtype, device=device(like))


def detached(array: Array) -> Array:
    """`array` without torch's autograd, which would record a whole fit."""
    return array.detach() if compat.is_torch_array(array) else array


def asarray(
    xp: Namespace, values: Any, *, dtype: Any = None, device: Any = None, copy: bool = False
) -> Array:
    """`xp.asarray` of host values; read-only memory, which torch refuses, is copied first."""
    host = np.asarray(values)
    if copy or (library(xp) == "torch" and not host.flags.writeable):
        host = host.copy()
    return xp.asarray(host, dtype=dtype, device=device)


def native(array: np.ndarray) -> np.ndarray:
    """`array` in the machine's byte order, which BLAS and every device need."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _cupy_of(array: Array) -> ModuleType | None:
    """CuPy's module if `array` belongs to it."""
    cupy = loaded("cupy")
    return None if cupy is None or library(namespace(array)) != "cupy" else cupy


def to_device(array: Array, like: Array) -> Array:
    """`array` on the device of `like`, of the same library; itself if it is there already.

    Streams of different devices are not ordered: the source is complete before the copy starts,
    and the copy is complete when this returns.
    """
    target = device(like)
    if device(array) == target:
        return array
    with on_device(array):
        # CuPy would pack a view during the copy, whose stream does not wait for the packing.
        cupy = _cupy_of(array)
        source = array if cupy is None else cupy.ascontiguousarray(array)
        finish(source)
    with on_device(like):
        copy = compat.to_device(source, target)
        finish(copy)
    return copy


def on_device(array: Array) -> AbstractContextManager[Any]:
    """A context in which CuPy's new work goes to the device of `array`.

    CuPy computes on its current device, wherever the operands are. Every other library follows its
    operands: nothing is entered.
    """
    cupy = None if is_host(array) else _cupy_of(array)
    # A new object each time: an entered one remembers the device before it, for one thread only.
    return nullcontext() if cupy is None else cupy.cuda.Device(device(array).id)


def finish(array: Array) -> None:
    """Wait for pending work on the device of `array`, where there is any."""
    cupy = None if is_host(array) else _cupy_of(array)
    if cupy is not None:
        with on_device(array):
            cupy.cuda.get_current_stream().synchronize()


def free_memory(xp: Namespace, device: Any) -> int | None:
    """Free bytes on a device, or None if its library does not report them."""
    name = library(xp)
    if name == "cupy":
        import cupy

        with cupy.cuda.Device(device.id):
            pool = cupy.get_default_memory_pool()
            free = int(cupy.cuda.runtime.memGetInfo()[0]) + int(pool.free_bytes())
            limit = int(pool.get_limit())  # 0: the user has set none
            return free if limit == 0 else max(0, min(free, limit - int(pool.used_bytes())))
    torch = loaded("torch")
    if name == "torch" and torch is not None and str(device).startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return None


# Keyed by names: cupy.cuda.Device cannot be hashed, and a replaced namespace must not be kept.
_WIDEST: dict[tuple[str, str], Any] = {}


def accumulator(xp: Namespace, device: Any) -> Any:
    """The dtype for long sums: float64 where the device has it, else float32."""
    key = (library(xp), str(device))
    if key not in _WIDEST:
        dtypes = xp.__array_namespace_info__().dtypes(device=device, kind="real floating")
        _WIDEST[key] = dtypes.get("float64", xp.float32)
    return _WIDEST[key]


_NO_MEMORY = ("ALLOC_FAILED", "MemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` reports a failed allocation, in any library's wording.

    CuPy's OutOfMemoryError is a MemoryError; torch's is not. Workspaces of cuBLAS and cuSOLVER and
    kernels of CUDA fail with RuntimeErrors of their own.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def generator(random_state: Any) -> np.random.Generator:
    """A host random generator: every backend gets the same batches and initial weights.

    An int or None seeds a new Generator, as does a legacy RandomState, which scikit-learn's tools
    pass on; a Generator is returned as it is.
    """
    if isinstance(random_state, np.random.RandomState):
        random_state = random_state.randint(2**31)
    return np.random.default_rng(random_state)


def loaded(name: str) -> ModuleType | None:
    """A library's module if the program has imported it already; imports nothing."""
    return sys.modules.get(name)


class ComputeDevice(NamedTuple):
    """A namespace and its device, both None for NumPy; `text` describes it and why it was taken."""

    xp: Namespace | None
    device: Any
    text: str


#: Further names of devices: the tests let another library play a GPU.
NAMED_DEVICES: dict[str, tuple[Namespace, Any]] = {}


def is_device_name(value: object) -> bool:
    """Whether `value` has the form of an argument of `resolve_devices`."""
    if isinstance(value, tuple | list):
        names = [name for name in value if isinstance(name, str)]
        return 0 < len(value) == len(set(names)) and all(
            is_device_name(name) and name not in ("auto", "cpu", "cuda:all") for name in names
        )
    if not isinstance(value, str):
        return False
    kind, colon, number = value.partition(":")
    named = value in ("auto", "cpu", "cuda:all", *NAMED_DEVICES)
    return named or (kind == "cuda" and (number.isdecimal() if colon else True))


def is_on(array: Array, name: str) -> bool:
    """Whether `array` lives on the device of that name, one that `is_device_name` takes."""
    if name in NAMED_DEVICES:
        return bool(NAMED_DEVICES[name][1] == device(array))
    actual, (wanted, _, number) = device(array), name.partition(":")
    kind = str(getattr(actual, "type", "cpu" if "cpu" in str(actual).lower() else "cuda"))
    index = getattr(actual, "id", getattr(actual, "index", None)) or 0
    return wanted == kind and (not number or number == str(index))


def resolve_devices(name: str | Sequence[str]) -> list[ComputeDevice]:
    """The devices of "auto", "cpu", "cuda", "cuda:N", "cuda:all" or several names of GPUs.

    "auto" is the first GPU if its probe succeeds, else NumPy. Raises ValueError, with the reason,
    for a GPU that cannot be used. Imports CuPy, unless the name is "cpu".
    """
    if not isinstance(name, str):
        return [choice for each in name for choice in resolve_devices(each)]
    if name in NAMED_DEVICES:
        return [ComputeDevice(*NAMED_DEVICES[name], f"{name} (asked for)")]
    if name == "cpu":
        return [ComputeDevice(None, None, "numpy on the CPU (asked for)")]
    index = name.partition(":")[2]
    choices = []
    for number in (range(_gpus()) if index == "all" else [int(index or 0)]) or [0]:
        xp, reason = cuda(number)
        if xp is None and name == "auto":
            return [ComputeDevice(None, None, f"numpy on the CPU ({reason})")]
        if xp is None:
            raise ValueError(f"device {name!r} cannot be used: {reason}")
        reason += "" if name == "auto" else "; asked for"
        gpu = loaded("cupy").cuda.Device(number)  # type: ignore[union-attr]
        choices.append(ComputeDevice(xp, gpu, f"cupy on cuda:{number} ({reason})"))
    return choices


def _gpus() -> int:
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # `cuda` says what is wrong
        return 0


def cuda(index: int = 0) -> tuple[Namespace | None, str]:
    """CuPy's namespace and a description of GPU `index`, or None and why it cannot be used.

    A small product is computed as a probe: a driver that is too old, missing headers, or a device
    without memory show only then. Imports CuPy.
    """
    try:
        import cupy
    except Exception as error:  # also a build for another NumPy, a missing library of CUDA
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return None, f"CuPy is not installed ({error})"
        return None, f"CuPy is installed, but cannot be imported: {error}"
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except Exception as error:  # a broken installation may raise anything
        return None, f"CuPy is installed, but {_why_no_device(runtime, error)}"
    if not 0 <= index < count:
        return None, f"there is no device cuda:{index}; {count} found"
    try:
        with cupy.cuda.Device(index):
            probe = cupy.ones((8, 8), dtype=cupy.float32)
            good = float((probe @ probe).sum()) == 512.0
            name = runtime.getDeviceProperties(index)["name"].decode()
    except Exception as error:
        return None, _why_no_probe(runtime, index, error)
    if not good:
        return None, f"a probe on cuda:{index} gave a wrong product"
    return compat_namespace(cupy), f"{name}, CuPy {cupy.__version__}"


def _why_no_device(runtime: Any, error: Exception) -> str:
    try:
        driver, wanted = int(runtime.driverGetVersion()), int(runtime.runtimeGetVersion())
    except Exception:
        return f"CUDA does not start: {error}"
    if driver == 0:
        return "there is no CUDA driver"
    if driver // 1000 < wanted // 1000:
        have, want = (f"{n // 1000}.{n % 1000 // 10}" for n in (driver, wanted))
        return f"the CUDA driver is too old: it is for CUDA {have}, CuPy for {want}"
    return f"CUDA finds no device: {error}"


def _why_no_probe(runtime: Any, index: int, error: Exception) -> str:
    if out_of_memory(error):
        return f"there is no memory left on cuda:{index}: {error}"
    if "CUDA headers" in str(error):  # a plain wheel of CuPy, on a machine with only a driver
        extra = f"cuda{int(runtime.runtimeGetVersion()) // 1000}"  # which has them
        return f"CuPy finds no CUDA headers to compile kernels with: pip install 'xclf[{extra}]'"
    return f"a probe on cuda:{index} failed: {error}"
