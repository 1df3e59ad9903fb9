"""Accelerators: optional, faster ways to compute some formulas, asked for in one place."""

from xclf.accelerate._registry import (
    Accelerated,
    Accelerator,
    AcceleratorState,
    Request,
    accelerators,
    register,
    select,
)
from xclf.accelerate.cpu import CPU
from xclf.accelerate.cuda import CUDA

__all__ = [
    "Accelerated",
    "Accelerator",
    "AcceleratorState",
    "Request",
    "accelerators",
    "register",
    "select",
]

register(*CPU, *CUDA)
