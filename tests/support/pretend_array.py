"""The arrays of `pretend_cupy`: NumPy's, in a coat that refuses what CuPy's refuse."""

from __future__ import annotations

import operator
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import taped

DEVICES = 2
local = threading.local()


class CUDARuntimeError(RuntimeError):
    pass


class Device:
    def __init__(self, id: Any = None) -> None:
        self.id = current() if id is None else int(getattr(id, "id", id))
        if not 0 <= self.id < DEVICES:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    __hash__ = None  # type: ignore[assignment]
    compute_capability = "90"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Device:
        local.devices = [*getattr(local, "devices", []), self.id]
        return self

    def __exit__(self, *error: object) -> None:
        local.devices.pop()

    def synchronize(self) -> None:
        refuse("waiting")


def current() -> int:
    """The device that this thread computes on."""
    devices = getattr(local, "devices", None)
    return devices[-1] if devices else 0


def recording() -> bool:
    return bool(getattr(local, "capturing", False))


def refuse(what: str) -> None:
    if recording():
        raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what}")


class MemoryPool:
    """CuPy's accounts of memory, which is NumPy's.

    A pool keeps what no array uses any more until `free_all_blocks`; for ever, if it is dropped.
    """

    reserved: ClassVar[Counter[int]] = Counter()  # bytes of all pools, by device

    def __init__(self) -> None:
        self.kept: Counter[int] = Counter()

    def malloc(self, size: int) -> None:
        raise AssertionError("memory is NumPy's here")

    def hold(self, host: np.ndarray) -> None:
        MemoryPool.reserved[current()] += host.nbytes
        weakref.finalize(host, self._keep, current(), host.nbytes)

    def _keep(self, number: int, size: int) -> None:
        self.kept[number] += size

    def free_all_blocks(self) -> None:
        MemoryPool.reserved[current()] -= self.kept.pop(current(), 0)

    def free_bytes(self) -> int:
        return 1 << 20

    def get_limit(self) -> int:
        return 0

    def used_bytes(self) -> int:
        return 0

    total_bytes = used_bytes


def bare(value: Any) -> Any:
    """NumPy's side of what CuPy accepts as an operand."""
    if isinstance(value, ndarray):
        if value.number != current():
            raise CUDARuntimeError(f"an array of device {value.number} on device {current()}")
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, list | tuple):
        return type(value)(bare(part) for part in value)
    return value


def clad(value: Any) -> Any:
    """CuPy's side of a result: never a scalar."""
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(clad(part) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(clad(part) for part in value)
    return value


def done(work: Callable[[], Any], sources: Any) -> Any:
    """The result of work; while a graph is recorded it is put down, unless it is a view."""
    found = work()
    if recording() and isinstance(found, np.ndarray | np.generic):
        found = np.asarray(found)
        inputs = [part for part in sources if isinstance(part, np.ndarray)]
        if not any(np.shares_memory(found, part) for part in inputs):
            taped.note(work, found)
    return clad(found)


def function(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        out = options.pop("out", None)
        args, options = bare(args), {name: bare(value) for name, value in options.items()}
        made = done(lambda: f(*args, **options), args)
        if out is None:
            return made
        out[...] = made
        return out

    return call


def product(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        if recording():
            raise NotImplementedError("calling cuBLAS API during stream capture is unsupported")
        return function(f)(*args, **options)

    return call


def view(f: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose result may be a view of its first argument, which any device may make."""

    def call(a: Any, *args: Any, **options: Any) -> Any:
        here = current()
        with Device(a.number):
            found = function(f)(a, *args, **options)
        if a.number != here and not np.shares_memory(found.host, a.host):
            raise CUDARuntimeError(f"an array of device {a.number} on device {here}")
        return found

    return call


class ndarray:  # noqa: N801
    __array_ufunc__ = None

    def __init__(self, host: np.ndarray) -> None:
        self.host, self.number = host, current()
        pool = getattr(local, "pool", None)
        if pool is not None and host.flags.owndata:
            pool.hold(host)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()`")

    @property
    def device(self) -> Device:
        return Device(self.number)

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.host.ctypes.data)

    dtype = property(lambda self: self.host.dtype)
    shape = property(lambda self: self.host.shape)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    itemsize = property(lambda self: self.host.itemsize)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: self.host.flags)
    T = property(lambda self: view(np.transpose)(self))

    def get(self, stream: Any = None, order: str = "C") -> np.ndarray:
        refuse("a copy to the host")
        return np.array(self.host, order=order)

    def set(self, values: np.ndarray, stream: Any = None) -> None:
        refuse("a copy from the host")
        assert isinstance(values, np.ndarray)
        assert values.dtype == self.dtype
        self.host[...] = values

    def astype(self, dtype: Any, copy: bool = True, order: str = "K") -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        return function(np.ndarray.astype)(self, dtype)

    def __len__(self) -> int:
        return len(self.host)

    def __repr__(self) -> str:
        return f"pretended {self.host!r}"

    def __getitem__(self, key: Any) -> ndarray:
        return view(operator.getitem)(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        target, place, plain = bare(self), bare(key), bare(value)

        def work() -> None:
            target[place] = plain

        work()
        if recording():
            taped.note(work, None)

    def fill(self, value: Any) -> None:
        self[...] = value

    def tolist(self) -> Any:
        return self.get().tolist()

    def item(self, *place: int) -> Any:
        return self.get().item(*place)

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __index__(self) -> int:
        return operator.index(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __iter__(self) -> Any:
        return (self[k] for k in range(len(self)))

    __hash__ = None  # type: ignore[assignment]


VIEWS = (
    *("reshape", "ravel", "transpose", "squeeze", "swapaxes", "view"),
    *("expand_dims", "broadcast_to", "moveaxis", "matrix_transpose"),
)
_METHODS = (
    *("copy", "take", "repeat", "argsort"),
    *("sum", "mean", "max", "min", "all", "any", "argmax", "argmin", "cumsum", "prod"),
)


def _operators() -> None:
    names = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
    for name in names:
        plain = getattr(operator, name if hasattr(operator, name) else f"{name}_")

        def there(self: Any, other: Any, plain: Any = plain) -> Any:
            return function(plain)(self, other)

        def back(self: Any, other: Any, plain: Any = plain) -> Any:
            return function(plain)(other, self)

        def within(self: Any, other: Any, plain: Any = plain) -> Any:
            made = plain(bare(self), bare(other))
            assert made.shape == self.shape
            self[...] = function(plain)(self, other)
            return self

        for prefix, method in (("", there), ("r", back), ("i", within)):
            setattr(ndarray, f"__{prefix}{name}__", method)
    for name in ["lt", "le", "eq", "ne", "gt", "ge"]:
        setattr(ndarray, f"__{name}__", function(getattr(operator, name)))
    for name in ["neg", "pos", "abs", "invert"]:
        setattr(ndarray, f"__{name}__", function(getattr(operator, name)))
    ndarray.__matmul__ = product(operator.matmul)
    for name in VIEWS[:6]:
        setattr(ndarray, name, view(getattr(np.ndarray, name)))
    for name in _METHODS:
        setattr(ndarray, name, function(getattr(np.ndarray, name)))


_operators()


def asarray(values: Any, dtype: Any = None, order: Any = None, **_: Any) -> ndarray:
    return array(values, dtype, copy=False, order=order)


def array(values: Any, dtype: Any = None, copy: bool = True, order: Any = None) -> ndarray:
    if isinstance(values, ndarray):
        if not copy and values.number == current() and dtype in (None, values.dtype):
            return values
        if values.number != current():
            return clad(np.array(values.host, dtype=dtype))
        return function(np.array)(values, dtype=dtype)
    refuse("a copy from the host")
    if isinstance(values, list | tuple) and any(isinstance(v, ndarray) for v in values):
        return function(np.array)(values, dtype=dtype)
    return clad(np.array(values, dtype=dtype))


def empty(shape: Any, dtype: Any = float, order: Any = "C", device: Any = None) -> ndarray:
    return clad(_garbage(np.empty(shape, dtype)))


def empty_like(a: ndarray, dtype: Any = None, shape: Any = None, **_: Any) -> ndarray:
    return clad(_garbage(np.empty_like(a.host, dtype=dtype, shape=shape)))


def _garbage(made: np.ndarray) -> np.ndarray:
    made[...] = 77
    return made
