"""Floor 0: which array library an array belongs to, and the few doors between it and the host.

This is the only file that imports array_api_compat. Everything above calls `namespace(x)` once
and then uses standard Array API functions of what it returns, whatever the backend is.
"""

from __future__ import annotations

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


def namespace(*arrays: Array) -> Namespace:
    """The Array API namespace of `arrays`; TypeError if they belong to several, or to none."""
    xp = compat.array_namespace(*arrays)
    replaced = getattr(_replaced, "by", None)
    return xp if replaced is None or xp is not replaced[0] else replaced[1]


@contextmanager
def in_place_of(xp: Namespace, other: Namespace) -> Iterator[None]:
    """While it lasts, and in this thread, `namespace` gives `other` where it would give xp."""
    before = getattr(_replaced, "by", None)
    _replaced.by = (xp, other)
    try:
        yield
    finally:
        _replaced.by = before


def is_array(value: object) -> bool:
    """Whether `value` is an array of a library that speaks the Array API standard."""
    return bool(compat.is_array_api_obj(value))


def is_host(value: object) -> bool:
    """Whether `value` lives with NumPy; lists and data frames count, they become NumPy arrays."""
    return isinstance(value, np.ndarray | np.generic) or not is_array(value)


def is_lazy(value: object) -> bool:
    """Whether `value` computes nothing until asked (Dask): it cannot be trained on directly."""
    return bool(compat.is_lazy_array(value))


def device(array: Array) -> Any:
    """The device of `array`, as its own library names it."""
    return compat.device(array)


def same_device(a: Array, b: Array) -> bool:
    """Whether two arrays share namespace and device, so that one operation may use both."""
    if is_host(a) and is_host(b):
        return True
    if is_host(a) != is_host(b):
        return False
    try:
        namespace(a, b)
    except TypeError:
        return False
    return bool(device(a) == device(b))


def describe_device(array: Array) -> str:
    """Where `array` lives, for messages: 'numpy on cpu', 'cupy on <CUDA Device 0>'."""
    return f"{library(namespace(array))} on {device(array)}"


def library(xp: Namespace) -> str:
    """The library behind a namespace: 'numpy', 'cupy', 'torch', 'array_api_strict', ..."""
    name = str(getattr(xp, "__name__", type(xp).__name__))
    return name.removeprefix("array_api_compat.").partition(".")[0]


def compat_namespace(xp: Namespace) -> Namespace:
    """The namespace computed with for a module that a caller names (`torch`, `cupy`)."""
    return namespace(xp.asarray([0.0]))


def to_host(array: Array) -> np.ndarray:
    """A NumPy array with the values of `array`; copies from a device, and waits for it."""
    if isinstance(array, np.ndarray | np.generic):
        return np.asarray(array)
    if compat.is_cupy_array(array):
        return np.asarray(array.get())
    if compat.is_torch_array(array):
        return np.asarray(array.detach().cpu().numpy())
    try:
        return np.from_dlpack(array)
    except (AttributeError, TypeError, ValueError, BufferError, RuntimeError):
        return np.asarray(array)


def from_host(values: Any, like: Array, dtype: Any = None) -> Array:
    """`values` (NumPy) in the namespace and on the device of `like`."""
    return asarray(namespace(like), values, dtype=dtype, device=device(like))


def detached(array: Array) -> Array:
    """`array` outside torch's autograd, which would otherwise record a whole fit."""
    return array.detach() if compat.is_torch_array(array) else array


def asarray(
    xp: Namespace, values: Any, *, dtype: Any = None, device: Any = None, copy: bool = False
) -> Array:
    """`xp.asarray` of host values; makes the copy that torch asks for when memory is read-only."""
    host = np.asarray(values)
    if copy or (library(xp) == "torch" and not host.flags.writeable):
        host = host.copy()
    return xp.asarray(host, dtype=dtype, device=device)


def native(array: np.ndarray) -> np.ndarray:
    """`array` in the machine's byte order, which BLAS and every device need."""
    if array.dtype.isnative:
        return array
    return array.astype(array.dtype.newbyteorder("="))


def to_device(array: Array, like: Array) -> Array:
    """`array` on the device of `like`, of the same library; itself if it is there already.

    Streams of different devices do not wait for each other: the array is complete before it is
    copied, and arrived before anything else happens to it, or to where it was.
    """
    target = device(like)
    if device(array) == target:
        return array
    with on_device(array):
        # Otherwise CuPy packs a view within the copy, whose stream does not wait for that.
        packed = _packed(array)
        finish(packed)
    with on_device(like):
        arrived = compat.to_device(packed, target)
        finish(arrived)
    return arrived


def _packed(array: Array) -> Array:
    """`array`, contiguous if CuPy's."""
    cupy = loaded("cupy")
    if cupy is None or library(namespace(array)) != "cupy":
        return array
    return cupy.ascontiguousarray(array)


def on_device(array: Array) -> AbstractContextManager[Any]:
    """A context in which new work of CuPy goes to the device of `array`.

    CuPy computes on its current device, wherever the operands are. Every other library follows its
    operands, and nothing is done.
    """
    cupy = loaded("cupy")
    if cupy is None or is_host(array) or library(namespace(array)) != "cupy":
        return nullcontext()
    # One of its own: what is entered remembers which device was current, and not for which thread.
    where: AbstractContextManager[Any] = cupy.cuda.Device(device(array).id)
    return where


def finish(array: Array) -> None:
    """Wait for the work on the device of `array`, where there is any to wait for."""
    cupy = loaded("cupy")
    if cupy is not None and not is_host(array) and library(namespace(array)) == "cupy":
        with on_device(array):
            cupy.cuda.get_current_stream().synchronize()


def free_memory(xp: Namespace, place: Any) -> int | None:
    """Bytes that are free on a device, or None where its library does not tell."""
    name = library(xp)
    if name == "cupy":
        import cupy

        with cupy.cuda.Device(place.id):
            pool = cupy.get_default_memory_pool()
            free = int(cupy.cuda.runtime.memGetInfo()[0]) + int(pool.free_bytes())
            limit = int(pool.get_limit())  # 0 where the user has set none
            return free if limit == 0 else max(0, min(free, limit - int(pool.used_bytes())))
    torch = loaded("torch")
    if name == "torch" and torch is not None and str(place).startswith("cuda"):
        return int(torch.cuda.mem_get_info(place)[0])
    return None


def is_integer(xp: Namespace, array: Array) -> bool:
    """Whether the dtype of `array` is an integer or a boolean."""
    return bool(xp.isdtype(array.dtype, ("bool", "integral")))


# By names: cupy.cuda.Device cannot be hashed, and a namespace that is replaced is not to be kept.
_WIDEST: dict[tuple[str, str], Any] = {}


def accumulator(xp: Namespace, place: Any) -> Any:
    """The dtype for long sums: float64 where the device has it, else float32."""
    key = (library(xp), str(place))
    if key not in _WIDEST:
        dtypes = xp.__array_namespace_info__().dtypes(device=place, kind="real floating")
        _WIDEST[key] = dtypes.get("float64", xp.float32)
    return _WIDEST[key]


_SMALL, _LARGE = 256, 1024


def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of a symmetric matrix, in its namespace and on its device.

    `linalg` is an optional extension of the standard: without it the (small) matrix goes to the
    host and back. Stacks (K, D, D) are taken apart: CuPy's batched solver is made for matrices of a
    few dozen rows. A NumPy matrix of more than 1024 rows is overwritten.
    """
    xp = namespace(matrix)
    if matrix.ndim > 2:
        parts = [eigh(matrix[k, ...]) for k in range(matrix.shape[0])]
        return xp.stack([values for values, _ in parts]), xp.stack([v for _, v in parts])
    if isinstance(matrix, np.ndarray) and len(matrix) > _SMALL:
        # LAPACK's other driver: in the same time, and with half the memory, as NumPy's works on a
        # copy and takes twice the matrix beside. In place it needs columns in order, which for a
        # symmetric matrix are its rows.
        import scipy.linalg

        own = matrix if len(matrix) > _LARGE else matrix.copy()
        values, vectors = scipy.linalg.eigh(
            own.T, driver="evr", overwrite_a=True, check_finite=False
        )
        return values, vectors
    if _has_linalg(xp):
        values, vectors = xp.linalg.eigh(matrix)
        return values, vectors
    host_values, host_vectors = np.linalg.eigh(to_host(matrix))
    return from_host(host_values, matrix), from_host(host_vectors, matrix)


def _has_linalg(xp: Namespace) -> bool:
    try:
        return callable(xp.linalg.eigh)
    except (AttributeError, RuntimeError):  # array-api-strict raises for an extension switched off
        return False


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory for an array, whatever the library calls it.

    CuPy's OutOfMemoryError is a MemoryError; torch's is not, and a workspace or a kernel that
    cuBLAS, cuSOLVER or CUDA itself found no memory for is an error of theirs.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


_NO_MEMORY = ("ALLOC_FAILED", "MemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")


def generator(random_state: Any) -> np.random.Generator:
    """A host random generator: every backend sees the same batches and initial weights.

    An int or None seeds a new Generator; a Generator is used as it is; a legacy RandomState, which
    scikit-learn's tools pass on, seeds one.
    """
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**31))
    return np.random.default_rng(random_state)


def loaded(name: str) -> ModuleType | None:
    """A backend if the caller has imported it already; nothing is imported here."""
    import sys

    return sys.modules.get(name)


def _why_no_device(runtime: Any, error: Exception) -> str:
    """In words: no driver, a driver too old for CuPy's CUDA, or what CUDA says."""
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


class ComputeDevice(NamedTuple):
    """Where to compute: a namespace and its device, both None for NumPy; `text` says why there."""

    xp: Namespace | None
    device: Any
    text: str


#: Places that a name stands for beside those of `resolve_devices`: the tests let another library
#: play a GPU.
NAMED_DEVICES: dict[str, tuple[Namespace, Any]] = {}


def is_device_name(value: object) -> bool:
    """Whether `value` has the form of a device: a name for `resolve_devices`, or several."""
    if isinstance(value, tuple | list):
        several = [name for name in value if isinstance(name, str)]
        return 0 < len(value) == len(set(several)) and all(
            is_device_name(name) and name not in ("auto", "cpu", "cuda:all") for name in several
        )
    if not isinstance(value, str):
        return False
    head, colon, number = value.partition(":")
    number_fits = number.isdecimal() if colon else True
    return value in ("auto", "cpu", "cuda:all", *NAMED_DEVICES) or (head == "cuda" and number_fits)


def resolve_devices(name: str | Sequence[str]) -> list[ComputeDevice]:
    """What "auto", "cpu", "cuda", "cuda:N", "cuda:all" or several names of GPUs stand for.

    "auto" is the first GPU if a probe succeeds there, else NumPy. Raises ValueError, with what was
    found, for a GPU that cannot be used. Imports CuPy, unless the name is "cpu".
    """
    if not isinstance(name, str):
        return [device_choice for each in name for device_choice in resolve_devices(each)]
    if name in NAMED_DEVICES:
        xp, device = NAMED_DEVICES[name]
        return [ComputeDevice(xp, device, f"{name} (asked for)")]
    if name == "cpu":
        return [ComputeDevice(None, None, "numpy on the CPU (asked for)")]
    index = name.partition(":")[2]
    numbers = range(_gpus()) if index == "all" else [int(index or 0)]
    found = []
    for number in numbers or [0]:
        xp, told = cuda(number)
        if xp is None and name == "auto":
            return [ComputeDevice(None, None, f"numpy on the CPU ({told})")]
        if xp is None:
            raise ValueError(f"device {name!r} cannot be used: {told}")
        told = told if name == "auto" else f"{told}; asked for"
        place = loaded("cupy").cuda.Device(number)  # type: ignore[union-attr]
        found.append(ComputeDevice(xp, place, f"cupy on cuda:{number} ({told})"))
    return found


def _gpus() -> int:
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # whatever is wrong there, `cuda` says it
        return 0


def cuda(index: int = 0) -> tuple[Namespace | None, str]:
    """(CuPy's namespace, what was found), or (None, why not): no CuPy, or one that cannot be
    imported, no driver, one too old, no such device, no memory there.

    A small product is computed on device `index` as a probe: a driver that is too old, or a device
    without memory, shows only then. Imports CuPy.
    """
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return None, f"CuPy is not installed ({error})"
        return None, f"CuPy is installed, but cannot be imported: {error}"
    except Exception as error:  # a build for another NumPy, a library of CUDA that is missing
        return None, f"CuPy is installed, but cannot be imported: {error}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # whatever a broken installation raises means: not usable
        return None, f"CuPy is installed, but {_why_no_device(cupy.cuda.runtime, error)}"
    try:
        if not 0 <= index < count:
            return None, f"there is no device cuda:{index}; {count} found"
        with cupy.cuda.Device(index):
            probe = cupy.ones((8, 8), dtype=cupy.float32)
            good = float((probe @ probe).sum()) == 512.0
            name = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
    except Exception as error:
        if out_of_memory(error):
            return None, f"there is no memory left on cuda:{index}: {error}"
        return None, f"a probe on cuda:{index} failed: {error}"
    if not good:
        return None, f"a probe on cuda:{index} gave a wrong product"
    return compat_namespace(cupy), f"{name}, CuPy {cupy.__version__}"
