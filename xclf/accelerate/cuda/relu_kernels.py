"""A hidden layer's bias and ReLU, and their gradient, as one in-place CUDA kernel each.

By the formulas of `xclf.kernels` a ReLU layer is an addition and a maximum, its gradient a
comparison and a choice: a launch each, and a small step is all launches.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from xclf._array_api import Array, loaded
from xclf.accelerate._registry import Accelerated, Accelerator, Request
from xclf.accelerate.cuda._support import attempt, missing, on_cupy
from xclf.objectives import FORMULAS

# NaN stays NaN where it was a score, and is no gradient, as in the formulas.
_STATEMENTS = {
    "hidden": ("T out, T b", "T y", "T v = out + b;\ny = v > 0 ? v : v == v ? T(0) : v;"),
    "hidden_grad": ("T dout, T x", "T y", "y = x > 0 ? dout : T(0);"),
}


@functools.cache
def _kernel(name: str) -> Any:
    cupy: Any = loaded("cupy")
    return cupy.ElementwiseKernel(*_STATEMENTS[name], f"xclf_{name}")


def hidden(out: Array, b: Array | None) -> Array:
    """`Operations.hidden`, in `out`."""
    if b is None or not attempt(RELU_KERNELS, lambda: _kernel("hidden")(out, b, out)):
        return FORMULAS.hidden(out, b)
    return out


def hidden_grad(dout: Array, x: Array) -> Array:
    """`Operations.hidden_grad`, in `dout`."""
    if not attempt(RELU_KERNELS, lambda: _kernel("hidden_grad")(dout, x, dout)):
        return FORMULAS.hidden_grad(dout, x)
    return dout


def accelerate(chosen: Accelerated, request: Request) -> Accelerated:
    """The kernels, for networks with a hidden layer on CuPy rows."""
    if not on_cupy(request) or len(request.network.widths) == 2:
        return chosen
    operations = replace(chosen.operations, hidden=hidden, hidden_grad=hidden_grad)
    return chosen._replace(operations=operations)


RELU_KERNELS = Accelerator(
    "cuda_relu_kernels",
    "bias, ReLU and their gradient on CuPy arrays, one kernel each; no result of a device yet",
    default=False,
    missing=missing,
    accelerate=accelerate,
)
