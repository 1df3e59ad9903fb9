"""The parameter `precision`: products of float32 arrays by faster, coarser arithmetic.

"tf32": a GPU of compute capability 8.0 or later rounds both operands of a product to 11 significant
bits and adds up in float32. CuPy and torch each have a setting for it, which holds for the whole
process: it is on while fits that ask for it run, and then as it was before.

There is no "bf16": CuPy's compute type of that name leaves products of float32 as they are (read in
CuPy 14's source, cupy/_core/_routines_linalg.pyx).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from xclf._array_api import Array, describe_device, device, is_host, library, loaded, namespace
from xclf.rows._threads import SharedSetting

PRECISIONS = ("tf32",)

# Ten times the compute capability from which a GPU has TF32.
_CAPABLE = 80

_SETTINGS: dict[str, SharedSetting] = {}


def product_precision(
    x: Array, dtype: Any, precision: str | None
) -> contextlib.AbstractContextManager[None]:
    """A context in which products of arrays like x, computed in `dtype`, run in `precision`.

    Raises ValueError where that would change nothing: for float64, for data that is not on a CUDA
    GPU, and for a GPU without TF32.
    """
    if precision is None:
        return contextlib.nullcontext()
    xp = namespace(x)
    name = library(xp)
    if dtype != xp.float32:
        raise ValueError(
            f"precision={precision!r} is for products of float32, and X is float64: pass float32 "
            "data, or leave precision at None"
        )
    capability = None if is_host(x) else _capability(name, device(x))
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
    if name not in _SETTINGS:
        _SETTINGS[name] = _cupy_setting() if name == "cupy" else _torch_setting()
    return _SETTINGS[name]


def _capability(name: str, device: Any) -> int | None:
    """Ten times the compute capability of a CUDA device, None for any other."""
    if name == "cupy":
        return int(device.compute_capability)
    if name == "torch" and str(device).startswith("cuda"):
        major, minor = loaded("torch").cuda.get_device_capability(device)  # type: ignore[union-attr]
        return 10 * int(major) + int(minor)
    return None


def _setting(read: Callable[[], Any], write: Callable[[Any], None], on: Any) -> SharedSetting:
    def apply() -> Callable[[], None]:
        before = read()
        write(on)
        return lambda: write(before)

    return SharedSetting(apply)


def _cupy_setting() -> SharedSetting:
    from cupy._core import _routines_linalg, get_compute_type, set_compute_type

    return _setting(
        lambda: get_compute_type("float32"),
        lambda value: set_compute_type("float32", value),
        _routines_linalg.COMPUTE_TYPE_TF32,
    )


def _torch_setting() -> SharedSetting:
    torch: Any = loaded("torch")
    return _setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "high")
