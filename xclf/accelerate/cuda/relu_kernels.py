"""A hidden layer's bias, ReLU and their gradient: on CuPy arrays one kernel each, in place.

By the formulas of `xclf.kernels` a ReLU layer is an addition and a maximum, its gradient a
comparison and a choice: a launch each, and a small step is all launches.
"""

from __future__ import annotations

import functools
from typing import Any

from xclf._array_api import Array, library, loaded, namespace
from xclf.kernels import relu, relu_grad


def hidden(out: Array, b: Array | None) -> Array:
    """relu(out + b), in `out` itself where that is CuPy's, which must be nobody else's.

    out : (*heads, M, n);  b : (*heads, M, 1), (M, 1) or None
    """
    if b is None:
        return relu(out)
    if library(namespace(out)) != "cupy":
        return relu(out + b)
    _kernel("hidden")(out, b, out)
    return out


def hidden_grad(dout: Array, x: Array) -> Array:
    """relu_grad(dout, x), in `dout` itself where that is CuPy's, which must be nobody else's."""
    if library(namespace(dout)) != "cupy":
        return relu_grad(dout, x)
    _kernel("hidden_grad")(dout, x, dout)
    return dout


# NaN stays NaN where it was a score, and is no gradient, as the formulas have it.
_STATEMENTS = {
    "hidden": ("T out, T b", "T y", "T v = out + b;\ny = v > 0 ? v : v == v ? T(0) : v;"),
    "hidden_grad": ("T dout, T x", "T y", "y = x > 0 ? dout : T(0);"),
}


@functools.cache
def _kernel(name: str) -> Any:
    cupy: Any = loaded("cupy")
    return cupy.ElementwiseKernel(*_STATEMENTS[name], f"xclf_{name}")
