"""Accelerators of fits on NumPy rows."""

from xclf.accelerate.cpu.compiled_products import COMPILED_PRODUCTS
from xclf.accelerate.cpu.in_place_sums import (
    IN_PLACE_SUMS,
    HingeProximalSums,
    SoftmaxRowSums,
    softmax_in_place,
)

__all__ = [
    "CPU",
    "HingeProximalSums",
    "SoftmaxRowSums",
    "softmax_in_place",
]

#: In the order in which they are applied.
CPU = (IN_PLACE_SUMS, COMPILED_PRODUCTS)
