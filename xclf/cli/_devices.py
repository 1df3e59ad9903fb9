"""--device: where to compute, and why there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xclf import _array_api
from xclf._array_api import Array
from xclf._sparse import is_sparse
from xclf._sparse_input import canonical
from xclf.cli._console import UserError, verbosity
from xclf.rows import sent_sparse


@dataclass(frozen=True)
class ChosenDevice:
    """The device to compute on; `text` says which and why.

    name : the estimators' `device` parameter; None for NumPy on the CPU
    xp, device : namespace and device there, the first of several; None for NumPy
    """

    text: str
    name: str | None = None
    xp: Any = None
    device: Any = None

    def put(self, x: np.ndarray) -> Array:
        """x (host) on this device, in its own dtype."""
        if self.xp is None:
            return x
        if is_sparse(x):
            return sent_sparse(canonical(x), self.xp, self.device)
        return _array_api.asarray(self.xp, x, device=self.device)

    def put_model(self, model: Any) -> Any:
        """A fitted model on this device."""
        return model if self.xp is None else model.to_namespace(self.xp, self.device)


def choose(name: str) -> ChosenDevice:
    """The device for "auto", "cpu", "cuda", "cuda:N" or "cuda:all"; `UserError` without one."""
    if not _array_api.is_device_name(name):
        raise UserError(f"--device must be auto, cpu, cuda, cuda:N or cuda:all, got {name!r}")
    try:
        devices = _array_api.resolve_devices(name)
    except ValueError as error:
        why = str(error).partition(": ")[2]
        raise UserError(
            f"--device {name} cannot be used: {why}; 'xclf backends' says more, "
            "and --device cpu always works"
        ) from None
    first, text = devices[0], "; ".join(device.text for device in devices)
    if first.xp is None and name == "auto" and "not installed" in text and verbosity.get() < 1:
        text = "numpy on the CPU"  # `xclf backends` says why
    if first.xp is not None and _array_api.library(first.xp) == "cupy" and _nothing_compiled():
        text += "; the first fit compiles CuPy's kernels, once: 10 to 20 s"
    return ChosenDevice(text, None if first.xp is None else name, first.xp, first.device)


def _nothing_compiled() -> bool:
    """Whether CuPy's cache of compiled kernels is empty."""
    cache = Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
    return not (cache.is_dir() and any(cache.iterdir()))
