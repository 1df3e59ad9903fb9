"""--device: where to compute, and why there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf import _array_api
from xclf._array_api import Array
from xclf.cli._console import UserError


@dataclass(frozen=True)
class Place:
    """A place to compute: `text` says which and why.

    device : the estimators' parameter for it; None for NumPy on the CPU
    xp, where : namespace and device there, the first of several; None for NumPy
    """

    text: str
    device: str | None = None
    xp: Any = None
    where: Any = None

    def put(self, x: np.ndarray) -> Array:
        """x (host) where this place computes, in its own dtype."""
        return x if self.xp is None else _array_api.asarray(self.xp, x, device=self.where)


def choose(device: str) -> Place:
    """The place that "auto", "cpu", "cuda", "cuda:N" or "cuda:all" stands for; `UserError` if there
    is none."""
    if not _array_api.is_device_name(device):
        raise UserError(f"--device must be auto, cpu, cuda, cuda:N or cuda:all, got {device!r}")
    try:
        found = _array_api.resolve_devices(device)
    except ValueError as error:
        why = str(error).partition(": ")[2]
        raise UserError(
            f"--device {device} cannot be used: {why}; 'xclf backends' says more, "
            "and --device cpu always works"
        ) from None
    text = "; ".join(device_choice.text for device_choice in found)
    first = found[0]
    return Place(text, None if first.xp is None else device, first.xp, first.device)
