"""A namespace that counts: a thin array class over NumPy with the manners of a device array.

Time on a GPU goes into launches and into waiting, and neither shows on a CPU. Here every function
call and every array operation adds one to `operations`, and everything that would make the host
wait for the device adds one to `reads`:

    with counting() as tally:
        cross_entropy(counted(scores), counted(labels))
    assert tally.reads == 0
    assert tally.operations == 17, tally.names

A CountingArray does not mix with NumPy arrays, has no `__dlpack__` and cannot be iterated, so code
that slips back to NumPy fails instead of crossing unseen. Views share memory, as NumPy's do.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import array_api_compat.numpy as numpy_namespace
import numpy as np

# Functions of dtypes and shapes alone: no launch anywhere.
_METADATA = frozenset(
    {"isdtype", "finfo", "iinfo", "result_type", "can_cast", "__array_namespace_info__"}
)
# The shape of the result depends on values, so a device has to report back before going on.
_WAITING = frozenset(
    {"nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values", "repeat"}
    | {"argwhere", "flatnonzero", "compress", "extract", "bincount", "unique"}
)


class Tally:
    """What happened inside one `with counting()`: counts by name, and their totals."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.read_names: Counter[str] = Counter()

    @property
    def operations(self) -> int:
        return self.names.total()

    @property
    def reads(self) -> int:
        return self.read_names.total()

    def __repr__(self) -> str:
        return f"Tally(operations={dict(self.names)}, reads={dict(self.read_names)})"


_ACTIVE: list[Tally] = []
_LOCK = threading.Lock()  # rows may be summed by several threads, and += on a Counter is two steps


@contextlib.contextmanager
def counting() -> Iterator[Tally]:
    """Count the operations on every CountingArray, in any thread, until the block ends."""
    tally = Tally()
    _ACTIVE.append(tally)
    try:
        yield tally
    finally:
        _ACTIVE.remove(tally)


def _operation(name: str) -> None:
    with _LOCK:
        for tally in _ACTIVE:
            tally.names[name] += 1


def _read(name: str) -> None:
    with _LOCK:
        for tally in _ACTIVE:
            tally.read_names[name] += 1


def _unwrap(value: Any, *, host: bool = False) -> Any:
    """`value` with NumPy arrays in place of counting ones, inside containers too."""
    if isinstance(value, CountingArray):
        return value._values
    if isinstance(value, np.ndarray) and not host:
        raise TypeError("a NumPy array met a CountingArray: move it with asarray first")
    if type(value) in (list, tuple):
        return type(value)(_unwrap(item, host=host) for item in value)
    if type(value) is dict:
        return {key: _unwrap(item, host=host) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(_unwrap(part) for part in (value.start, value.stop, value.step)))
    return value


def _wrap(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return CountingArray(np.asarray(value))
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple, as eigh returns
        return type(value)(*map(_wrap, value))
    if isinstance(value, list | tuple):
        return type(value)(map(_wrap, value))
    return value


class CountingArray:
    """An array of the counting namespace. `counted` makes one; so does the namespace's asarray."""

    __slots__ = ("_values",)
    __array_ufunc__ = None  # NumPy then leaves mixed operations to the operators below
    __hash__ = None

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    def __array_namespace__(self, *, api_version: str | None = None) -> CountingNamespace:
        return NAMESPACE

    def __repr__(self) -> str:  # without values: printing would be a read
        return f"CountingArray(shape={self.shape}, dtype={self.dtype})"

    shape = property(lambda self: self._values.shape)
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    dtype = property(lambda self: self._values.dtype)
    nbytes = property(lambda self: self._values.nbytes)
    device = property(lambda self: "cpu")

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Any:
        raise TypeError("iterating over an array reads it element by element")

    @property
    def T(self) -> CountingArray:  # noqa: N802
        _operation("T")
        return CountingArray(self._values.T)

    @property
    def mT(self) -> CountingArray:  # noqa: N802
        _operation("mT")
        return CountingArray(self._values.mT)

    def to_device(self, device: Any, /, *, stream: Any = None) -> CountingArray:
        if device != "cpu":
            raise ValueError(f"the only device is 'cpu', got {device!r}")
        return self

    def __getitem__(self, key: Any) -> CountingArray:
        _operation("getitem")
        key = _unwrap(key)
        for part in key if isinstance(key, tuple) else (key,):
            if isinstance(part, np.ndarray) and part.dtype == bool:
                _read("getitem by mask")  # as many rows as the mask has True: the device must say
        return CountingArray(self._values[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        _operation("setitem")
        self._values[_unwrap(key)] = _unwrap(value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        _read("__array__")
        return np.array(self._values, dtype=dtype)  # a device array arrives as a copy

    def item(self, *index: int) -> Any:
        _read("item")
        return self._values.item(*index)

    def tolist(self) -> Any:
        _read("tolist")
        return self._values.tolist()


def _reading(name: str) -> Callable[[CountingArray], Any]:
    def method(self: CountingArray) -> Any:
        _read(name)
        return getattr(self._values, name)()

    return method


def _unary(name: str) -> Callable[[CountingArray], CountingArray]:
    def method(self: CountingArray) -> CountingArray:
        _operation(name)
        return CountingArray(getattr(self._values, name)())

    return method


def _binary(name: str) -> Callable[[CountingArray, Any], Any]:
    def method(self: CountingArray, other: Any) -> Any:
        if not isinstance(other, CountingArray | int | float | complex | np.generic):
            if isinstance(other, np.ndarray):
                raise TypeError("a NumPy array met a CountingArray: move it with asarray first")
            return NotImplemented
        _operation(name)
        result = getattr(self._values, name)(_unwrap(other))
        return self if name.startswith("__i") and result is self._values else _wrap(result)

    return method


_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
_BITWISE = ("and", "or", "xor", "lshift", "rshift")
for _name in ("bool", "int", "float", "complex", "index"):
    setattr(CountingArray, f"__{_name}__", _reading(f"__{_name}__"))
for _name in ("neg", "pos", "abs", "invert"):
    setattr(CountingArray, f"__{_name}__", _unary(f"__{_name}__"))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(CountingArray, f"__{_name}__", _binary(f"__{_name}__"))
for _name in _ARITHMETIC + _BITWISE:
    for _prefix in ("", "r", "i"):
        setattr(CountingArray, f"__{_prefix}{_name}__", _binary(f"__{_prefix}{_name}__"))


class CountingNamespace:
    """array-api-compat's NumPy namespace, or one of its extensions, with every call counted."""

    def __init__(self, module: ModuleType, name: str, prefix: str = "") -> None:
        self._module = module
        self._prefix = prefix
        self.__name__ = name

    def __repr__(self) -> str:
        return f"<namespace {self.__name__!r}>"

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if isinstance(value, ModuleType):
            value = CountingNamespace(value, f"{self.__name__}.{name}", f"{name}.")
        elif callable(value) and not isinstance(value, type):
            value = _counted_function(value, name, self._prefix)
        setattr(self, name, value)  # found once: the same object every time, as a module gives
        return value


def _counted_function(function: Callable[..., Any], name: str, prefix: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        from_host = name in ("asarray", "array")  # the one door by which host values come in
        plain = [_unwrap(value, host=from_host) for value in args]
        options = {key: _unwrap(value) for key, value in kwargs.items()}
        if name in _METADATA:
            return function(*plain, **options)
        _operation(prefix + name)
        if name in _WAITING:
            _read(prefix + name)
        return _wrap(function(*plain, **options))

    call.__name__ = name
    return call


NAMESPACE = CountingNamespace(numpy_namespace, "counting")


def counted(values: Any, dtype: Any = None) -> CountingArray:
    """A CountingArray with a copy of `values`; making it is not counted."""
    return CountingArray(np.array(values, dtype=dtype))
