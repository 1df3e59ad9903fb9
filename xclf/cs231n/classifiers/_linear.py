"""The scores and the penalty of both linear losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xclf._array_api import Array, describe_device, same_device
from xclf.cs231n._arrays import as_scalar, labels_beside, same_float
from xclf.kernels import affine, affine_grad, l2


def linear_loss(
    kernel: Callable[[Array, Array], tuple[Array, Array]], W: Array, X: Array, y: Array, reg: float
) -> tuple[Any, Array]:
    """kernel(X W, y) + reg * sum(W^2) and its gradient in W.

    TypeError for two devices, ValueError for labels that are no class of W.
    """
    if not same_device(W, X):
        raise TypeError(
            f"W is {describe_device(W)}, but X is {describe_device(X)}: move one of them"
        )
    X, W = same_float(X, W)
    data_loss, dscores = kernel(affine(X, W, None), labels_beside(y, X, W.shape[1]))
    _, dW, _ = affine_grad(dscores, X, W, need_dx=False)
    penalty, dpenalty = l2(W, float(reg))
    return as_scalar(data_loss + penalty), dW + dpenalty


def penalty_naive(W: Array, reg: float, dW: Array) -> Any:
    """reg * sum_k sum_l W[k,l]^2, term by term; adds its gradient 2 reg W[k,l] to dW in place."""
    total = 0.0
    for k in range(W.shape[0]):
        for j in range(W.shape[1]):
            total += reg * W[k, j] ** 2
            dW[k, j] += 2 * reg * W[k, j]
    return total
