"""Accelerators of fits on NumPy rows."""

from xclf.accelerate.cpu.in_place_sums import (
    IN_PLACE_SUMS,
    hinge_proximal_sums,
    softmax_in_place,
    softmax_row_sums,
)

__all__ = [
    "CPU",
    "hinge_proximal_sums",
    "softmax_in_place",
    "softmax_row_sums",
]

#: In the order in which they are applied.
CPU = (IN_PLACE_SUMS,)
