"""Accelerators: optional, faster ways to compute some formulas, asked for in one place."""

from xclf.accelerate._registry import (
    MODES,
    VARIABLE,
    Accelerated,
    Accelerator,
    AcceleratorState,
    Request,
    accelerators,
    check_switch,
    register,
    select,
)
from xclf.accelerate.cpu import CPU
from xclf.accelerate.cuda import CUDA

__all__ = [
    "MODES",
    "VARIABLE",
    "Accelerated",
    "Accelerator",
    "AcceleratorState",
    "Request",
    "accelerators",
    "check_switch",
    "register",
    "select",
]

register(*CPU, *CUDA)
