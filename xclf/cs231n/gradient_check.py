"""Numeric gradients, against which the notebooks test analytic ones."""

from __future__ import annotations

from collections.abc import Callable
from random import randrange
from typing import Any

import numpy as np

from xclf._array_api import Array, from_host, namespace
from xclf.cs231n._arrays import beside
from xclf.gradcheck import every_index, neighbours

__all__ = ["eval_numerical_gradient", "eval_numerical_gradient_array", "grad_check_sparse"]


def eval_numerical_gradient(
    f: Callable[[Array], Any], x: Array, verbose: bool = True, h: float = 1e-5
) -> Array:
    """(f(x + h e_k) - f(x - h e_k)) / 2h for every entry k of x, f giving one number.

    x is changed in place and restored, so f may read it through another name, as in
    `eval_numerical_gradient(lambda _: model.loss(X, y)[0], model.params["W1"])`. With `verbose`
    every gradient is printed.

    Returns the gradient, an array like x. Raises TypeError if x is not floating.
    """
    gradients = np.zeros(tuple(x.shape))
    for k, (above, below) in zip(every_index(x), neighbours(f, x, h, every_index(x)), strict=True):
        gradients[k] = (float(above) - float(below)) / (2 * h)
        if verbose:
            print(k, gradients[k])
    return from_host(gradients, x, x.dtype)


def eval_numerical_gradient_array(
    f: Callable[[Array], Array], x: Array, df: Array, h: float = 1e-5
) -> Array:
    """sum((f(x + h e_k) - f(x - h e_k)) * df) / 2h for every entry k of x, f giving an array.

    df : the gradient of the loss in f(x), an array of its shape. x is changed in place and
    restored.

    Returns the gradient of the loss in x, an array like x; nothing is read on the host on the way.
    Raises TypeError if x is not floating, ValueError if df has not the shape of f(x).
    """
    xp = namespace(x)
    weights = xp.reshape(beside(df, x), (-1,))
    gradients = []
    for above, below in neighbours(f, x, h, every_index(x)):
        if above.shape != df.shape:
            raise ValueError(
                f"df has shape {tuple(df.shape)}, but f(x) has {tuple(above.shape)}: "
                "it must be the gradient in f(x)"
            )
        gradients.append(xp.vecdot(xp.reshape(above - below, (-1,)), weights))
    if not gradients:
        return xp.zeros_like(x)
    return xp.reshape(xp.stack(gradients) / (2 * h), x.shape)


def grad_check_sparse(
    f: Callable[[Array], Any],
    x: Array,
    analytic_grad: Array,
    num_checks: int = 10,
    h: float = 1e-5,
) -> None:
    """Prints numeric and analytic gradient, and their relative error, at random entries of x.

    The error is |n - a| / (|n| + |a|), or 0 if both are 0. Entries are drawn by Python's `random`.
    x is changed in place and restored. Raises TypeError if x is not floating.
    """
    indices = [tuple(randrange(size) for size in x.shape) for _ in range(num_checks)]
    for k, (above, below) in zip(indices, neighbours(f, x, h, indices), strict=True):
        numeric = (float(above) - float(below)) / (2 * h)
        analytic = float(analytic_grad[k])
        total = abs(numeric) + abs(analytic)
        error = abs(numeric - analytic) / total if total else 0.0
        print(f"numerical: {numeric:f} analytic: {analytic:f}, relative error: {error:e}")
