"""What the CUDA kernels of this room share: sources, arguments, and when they are left."""

from __future__ import annotations

import threading
import warnings
from functools import partial
from importlib import resources
from typing import Any

import numpy as np

from xclf._array_api import Array, out_of_memory
from xclf.kernels import cross_entropy, hinge

NULL = np.uintp(0)


class Trust:
    """Whether a kernel is used: until anything about it fails, then never again.

    what, instead : the kernel in words, and the clause that says what is done without it
    """

    def __init__(self, what: str, instead: str) -> None:
        self.what, self.instead = what, instead
        self.lost, self._lock = False, threading.Lock()

    def disable(self, error: Exception) -> None:
        """Warn, once; raises MemoryError where the error says that there was no memory."""
        if out_of_memory(error) or "OUT_OF_MEMORY" in str(error):
            raise MemoryError(str(error)) from error
        with self._lock:
            first, self.lost = not self.lost, True
        if first:
            warnings.warn(
                f"{self.what} cannot be used; {self.instead}, which is slower: "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=3,
            )


def source_of(name: str) -> str:
    """The source text of a kernel beside this file."""
    return resources.files("xclf.objectives").joinpath(name).read_text(encoding="utf-8")


def options_of(macros: dict[str, Any]) -> tuple[str, ...]:
    """What the compiler is told: XCLF_NAME for each of them."""
    return ("-std=c++17", *(f"-DXCLF_{name}={value}" for name, value in macros.items()))


def margin_of(loss: Any) -> Any:
    """The margin of a hinge, a number or an array; 0 for softmax; None for any other loss."""
    if loss is cross_entropy:
        return 0.0
    if isinstance(loss, partial) and loss.func is hinge and not loss.args:
        return loss.keywords["margin"] if set(loss.keywords) == {"margin"} else None
    return None


def strides_of(a: Array) -> list[np.int64]:
    """In elements."""
    return [np.int64(stride // a.dtype.itemsize) for stride in a.strides]


def labels_arguments(labels: Array, classes: int, rows: int) -> Any:
    """(labels, stride of classes, of rows) as the kernels take them; None where they do not."""
    if labels.shape == (rows,) and labels.dtype == np.int64:
        return labels, np.int64(0), *strides_of(labels)
    if labels.shape == (classes, rows) and labels.dtype == np.bool_:
        return labels, *strides_of(labels)
    return None
