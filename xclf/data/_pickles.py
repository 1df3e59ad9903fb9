"""The values in a pickle, read without unpickling it.

A pickle is a program, and Python's unpickler runs it. Here `pickletools` splits the file into
instructions, which executes nothing, and the few that build plain data are carried out below.
Global names are only compared with a list: nothing is imported or called. Arrays are built from
raw bytes in the file, once their type and shape are checked.

Memory and time stay in proportion to the file: sizes announced in it are never allocated ahead,
dictionary keys are strings (hashing nested tuples may take for ever), and no value is traversed,
so one that contains itself does no harm.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xclf.data._dataset import DataError, listing, reading, size

# A batch of CIFAR has 31 MB and some 60,000 instructions.
_MAX_BYTES = 2**30
_MAX_STEPS = 4_000_000
_MAX_DIMS = 8


class _RefusedError(ValueError):
    """The pickle holds something that is not plain data, or is broken."""


class _Global(Enum):
    """The names that NumPy's own pickles use; each stands for a step carried out here."""

    RECONSTRUCT = "_reconstruct"
    FROMBUFFER = "_frombuffer"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    ENCODE = "encode"
    SCALAR = "scalar"


_GLOBALS = {
    **{f"numpy.{core}.multiarray _reconstruct": _Global.RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _Global.FROMBUFFER for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _Global.SCALAR for core in ("core", "_core")},
    "numpy ndarray": _Global.NDARRAY,
    "numpy dtype": _Global.DTYPE,
    "_codecs encode": _Global.ENCODE,  # how Python 3 writes bytes in protocol 2
}

_DTYPES = frozenset({"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"})

_IGNORED = ("PROTO", "FRAME", "STOP")

_INTEGERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING")
_UNICODE = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_LITERALS = ("NONE", "FLOAT", "BINFLOAT", *_INTEGERS, *_STRINGS, *_UNICODE, *_BYTES)


class _Pending:
    """An array or dtype whose content a later BUILD instruction gives."""

    def __init__(self, code: str | None = None) -> None:
        self.code = code  # of a dtype; None for an array
        self.memo_keys: list[int] = []


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in the pickle `path`: arrays, lists, tuples, dicts, strings, bytes, numbers.

    Keys that Python 2 wrote as byte strings come as str; Python 2 strings as latin-1 str. Arrays
    are read-only, of booleans, integers or floats.

    Raises DataError for a pickle that holds anything else, or is broken, or holds no dictionary;
    also for protocol 0 of Python 2 with bytes beyond ASCII, which pickletools cannot split.
    """
    with reading(path):
        length = path.stat().st_size
        if length > _MAX_BYTES:
            raise DataError(f"{path}: {size(length)} is too large for a batch of images")
        data = path.read_bytes()
    try:
        with warnings.catch_warnings():  # pickletools' own, about odd escapes in strings
            warnings.simplefilter("ignore", DeprecationWarning)
            value = _Machine(len(data)).run(data)
    except _RefusedError as error:
        raise DataError(
            f"{path}: {error}; a pickle may hold arrays, lists, dicts, strings and numbers"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: a string in this pickle is damaged, or not ASCII in protocol 0; "
            "unpack it again, or write it with protocol 2 or later"
        ) from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise DataError(f"{path}: not a complete pickle; unpack or download it again") from error
    if type(value) is not dict:
        raise DataError(f"{path}: the pickle holds a {type(value).__name__}, not a dictionary")
    return {key if type(key) is str else key.decode("latin-1"): value[key] for key in value}


class _Machine:
    """Carries out the instructions of one pickle that build plain data; refuses all others."""

    def __init__(self, length: int) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.encodable = length  # characters; each string in the file is encoded once at most
        self.steps: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "NEWTRUE": lambda _: self.stack.append(True),
            "NEWFALSE": lambda _: self.stack.append(False),
            "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_DICT": lambda _: self.stack.append({}),
            "EMPTY_TUPLE": lambda _: self.stack.append(()),
            "LIST": lambda _: self.stack.append(self.pop_mark()),
            "DICT": lambda _: self.make_dict(),
            "TUPLE": lambda _: self.stack.append(tuple(self.pop_mark())),
            "TUPLE1": lambda _: self.stack.append(tuple(self.pop(1))),
            "TUPLE2": lambda _: self.stack.append(tuple(self.pop(2))),
            "TUPLE3": lambda _: self.stack.append(tuple(self.pop(3))),
            "APPEND": lambda _: self.extend(self.pop(1)),
            "APPENDS": lambda _: self.extend(self.pop_mark()),
            "SETITEM": lambda _: self.update(self.pop(2)),
            "SETITEMS": lambda _: self.update(self.pop_mark()),
            "MEMOIZE": lambda _: self.put(len(self.memo)),
            "GLOBAL": self.name,
            "STACK_GLOBAL": lambda _: self.stack_name(),
            "REDUCE": lambda _: self.reduce(*self.pop(2)),
            "BUILD": lambda _: self.build(*self.pop(2)),
            **dict.fromkeys(_LITERALS, self.stack.append),
            **dict.fromkeys(_IGNORED, lambda _: None),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self.put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self.get),
        }

    def run(self, data: bytes) -> Any:
        """The value that the pickle `data` describes."""
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            step = self.steps.get(opcode.name)
            if step is None:
                raise _RefusedError(f"the pickle uses the instruction {opcode.name}")
            if number >= _MAX_STEPS:
                raise _RefusedError(f"the pickle has more than {_MAX_STEPS:,} instructions")
            step(argument)
        if len(self.stack) != 1 or self.marks:
            raise _RefusedError("the pickle does not end with one value")
        return self.stack[0]

    def pop(self, number: int) -> list[Any]:
        self.require(number)
        items = self.stack[-number:]
        del self.stack[-number:]
        return items

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise _RefusedError("the pickle closes a list that it did not open")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self) -> Any:
        self.require(1)
        return self.stack[-1]

    def require(self, number: int) -> None:
        """Refuse a pickle with fewer values than `number` above the last mark."""
        if len(self.stack) - number < (self.marks[-1] if self.marks else 0):
            raise _RefusedError("the pickle uses a value that it does not define")

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise _RefusedError(f"the pickle appends to a {type(target).__name__}")
        target.extend(items)

    def make_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.update(items)

    def update(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(items) % 2:
            raise _RefusedError(f"the pickle sets an item of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str and type(key) is not bytes:
                raise _RefusedError(f"the pickle has a {type(key).__name__} as dictionary key")
            target[key] = value

    def put(self, key: int) -> None:
        if not 0 <= key < 2**32:
            raise _RefusedError("the pickle has a memo number out of range")
        value = self.memo[key] = self.top()
        if type(value) is _Pending:
            value.memo_keys.append(key)

    def get(self, key: int) -> None:
        if key not in self.memo:
            raise _RefusedError("the pickle refers to a value that it does not define")
        self.stack.append(self.memo[key])

    def stack_name(self) -> None:
        module, name = self.pop(2)
        if type(module) is not str or type(name) is not str:
            raise _RefusedError("the pickle asks for something without a name")
        self.name(f"{module} {name}")

    def name(self, argument: str) -> None:
        if argument not in _GLOBALS:
            raise _RefusedError(f"the pickle asks for {listing([argument.replace(' ', '.')])}")
        self.stack.append(_GLOBALS[argument])

    def reduce(self, function: Any, args: Any) -> None:
        if type(args) is not tuple:
            raise _RefusedError("the pickle calls something without arguments")
        if function is _Global.RECONSTRUCT and len(args) == 3 and args[0] is _Global.NDARRAY:
            self.stack.append(_Pending())  # the shape and type given here are replaced by BUILD
        elif function is _Global.DTYPE and args and type(args[0]) is str:
            if args[0] not in _DTYPES:
                raise _RefusedError(f"the pickle has an array of type {listing([args[0]])}")
            self.stack.append(_Pending(args[0]))
        elif function is _Global.FROMBUFFER and len(args) == 4:
            data, dtype, shape, order = args
            self.stack.append(self.array(shape, dtype, _is_one_of(order, "F"), data))
        elif function is _Global.SCALAR and len(args) == 2:
            self.stack.append(self.array((), args[0], False, args[1]).item())
        elif function is _Global.ENCODE and len(args) == 2 and type(args[0]) is str:
            if not _is_one_of(args[1], "latin1", "latin-1"):
                raise _RefusedError("the pickle encodes a string in an unknown way")
            self.stack.append(self.encode(args[0]))
        else:
            raise _RefusedError("the pickle makes a call that builds no array")

    def build(self, target: Any, state: Any) -> None:
        if type(target) is not _Pending or type(state) is not tuple:
            raise _RefusedError("the pickle sets the state of something other than an array")
        value: Any
        if target.code is None:
            if len(state) != 5:
                raise _RefusedError("the pickle has an array without its five parts")
            value = self.array(*state[1:])
        else:
            if len(state) < 2 or not _is_one_of(state[1], "<", ">", "|", "="):
                raise _RefusedError("the pickle has an array type without byte order")
            value = np.dtype(state[1] + target.code)
        for key in target.memo_keys:
            self.memo[key] = value
        self.stack.append(value)

    def array(self, shape: Any, dtype: Any, fortran: Any, data: Any) -> np.ndarray:
        if type(data) is str:  # Python 2
            data = self.encode(data)
        if not isinstance(dtype, np.dtype) or type(data) not in (bytes, bytearray):
            raise _RefusedError("the pickle has an array that is not plain numbers")
        sizes = shape if type(shape) is tuple and len(shape) <= _MAX_DIMS else (None,)
        if not all(type(n) is int and 0 <= n < 2**62 for n in sizes):
            raise _RefusedError("the pickle has an array without a usable shape")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise _RefusedError(f"the pickle has an array of shape {shape} in {size(len(data))}")
        order: Literal["F", "C"] = "F" if type(fortran) in (bool, int) and fortran else "C"
        array = np.ndarray(shape, dtype, buffer=data, order=order)
        array.flags.writeable = False
        return array

    def encode(self, text: str) -> bytes:
        self.encodable -= len(text)
        if self.encodable < 0:
            raise _RefusedError("the pickle repeats its strings beyond its own size")
        return text.encode("latin-1")


def _is_one_of(value: Any, *names: str) -> bool:
    """Whether `value` is one of these strings; values of other types are not even compared."""
    return type(value) is str and value in names
