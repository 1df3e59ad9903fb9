"""--device: where to compute, and why there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf import _xp
from xclf._xp import Array
from xclf.cli._console import UserError


@dataclass(frozen=True)
class Place:
    """A place to compute: `text` says which and why; xp is None for NumPy on the CPU."""

    text: str
    xp: Any = None
    index: int = 0

    def put(self, x: np.ndarray) -> Array:
        """x (host) where this place computes, in its own dtype."""
        if self.xp is None:
            return x
        import cupy  # only a CUDA place comes here, and its probe has imported it

        with cupy.cuda.Device(self.index):
            return self.xp.asarray(x)


def choose(device: str) -> Place:
    """The place that "auto", "cpu", "cuda" or "cuda:N" stands for; `UserError` if there is none."""
    if device == "cpu":
        return Place("numpy on the CPU (asked for)")
    if device == "auto":
        xp, found = _xp.cuda()
        if xp is None:
            return Place(f"numpy on the CPU ({found})")
        return Place(f"cupy on cuda:0 ({found})", xp)
    head, _, number = device.partition(":")
    if head != "cuda" or (number and not number.isdecimal()):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, got {device!r}")
    index = int(number or 0)
    xp, found = _xp.cuda(index)
    if xp is None:
        raise UserError(
            f"--device {device} cannot be used: {found}; 'xclf backends' says more, "
            "and --device cpu always works"
        )
    return Place(f"cupy on cuda:{index} ({found}; asked for)", xp, index)
