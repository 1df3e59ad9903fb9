"""The parameter `precision`: products of float32 arrays by faster, coarser arithmetic.

"tf32": a GPU of compute capability 8.0 or later rounds both operands of a product to 11 significant
bits and adds up in float32. CuPy and torch each have a switch for it, which holds for the whole
process; it is thrown while a fit runs, and put back behind the last one that asked for it.

CuPy has no such switch for bfloat16: its "bf16" compute type leaves products of float32 as they are
(read in CuPy 14's source, cupy/_core/_routines_linalg.pyx), so there is no such choice here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from xclf._array_api import Array, describe_device, device, is_host, library, loaded, namespace

PRECISIONS = ("tf32",)

# Compute capability from which a GPU has TF32.
_CAPABLE = 80


class _Switch:
    """A setting of the process, on while anyone asks for it, and then as it was before."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None], on: Any) -> None:
        self.read, self.write, self.on = read, write, on
        self._lock = threading.Lock()
        self._users = 0
        self._before: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = self.read()
                self.write(self.on)
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self.write(self._before)


_SWITCHES: dict[str, _Switch] = {}


def product_precision(
    x: Array, dtype: Any, precision: str | None
) -> contextlib.AbstractContextManager[None]:
    """A context in which products of arrays like x, computed in `dtype`, run in `precision`.

    Raises ValueError where that cannot be, or would change nothing: for data that is not on a CUDA
    GPU, for a GPU without TF32, for float64.
    """
    if precision is None:
        return contextlib.nullcontext()
    xp = namespace(x)
    library_ = library(xp)
    if dtype != xp.float32:
        raise ValueError(
            f"precision={precision!r} is for products of float32, and X is float64: pass float32 "
            "data, or leave precision at None"
        )
    capability = None if is_host(x) else _capability(library_, device(x))
    if capability is None:
        raise ValueError(
            f"precision={precision!r} needs a CUDA GPU, and the fit runs on {describe_device(x)}: "
            "leave precision at None, or see the parameter device"
        )
    if capability < _CAPABLE:
        raise ValueError(
            f"precision={precision!r} needs a GPU of compute capability 8.0 or later, "
            f"{describe_device(x)} has {capability / 10}"
        )
    if library_ not in _SWITCHES:
        _SWITCHES[library_] = _cupy_switch() if library_ == "cupy" else _torch_switch()
    return _SWITCHES[library_]


def _capability(library_: str, where: Any) -> int | None:
    """Compute capability times ten of a CUDA device, None for any other."""
    if library_ == "cupy":
        return int(where.compute_capability)
    if library_ == "torch" and str(where).startswith("cuda"):
        major, minor = loaded("torch").cuda.get_device_capability(where)  # type: ignore[union-attr]
        return 10 * int(major) + int(minor)
    return None


def _cupy_switch() -> _Switch:
    from cupy._core import _routines_linalg, get_compute_type, set_compute_type

    return _Switch(
        lambda: get_compute_type("float32"),
        lambda value: set_compute_type("float32", value),
        _routines_linalg.COMPUTE_TYPE_TF32,
    )


def _torch_switch() -> _Switch:
    torch: Any = loaded("torch")
    return _Switch(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "high")
