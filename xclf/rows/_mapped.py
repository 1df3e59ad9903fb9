"""Rows in mapped files: pages of the system's memory, which are not copied where they are read."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from xclf._array_api import Array


def is_mapped(x: Array) -> bool:
    """Whether x is a view of a mapped file."""
    part: Any = x
    while isinstance(part, np.ndarray):
        part = part.base
    return isinstance(part, mmap.mmap)


def bring_in(x: Array) -> None:
    """Have the system load the pages of x, if it is a view of a mapped file, in their order.

    Of a file that the system holds already this takes a seventh of the time of a copy, and of one
    on a disk it is what keeps the disk busy while another thread computes.
    """
    if is_mapped(x) and x.size and x.flags.c_contiguous:
        x.reshape(-1).view(np.uint8)[:: mmap.PAGESIZE].max()


def off_file(x: Array) -> Array:
    """x, as a copy if it is a view of a mapped file."""
    return np.array(x) if is_mapped(x) else x
