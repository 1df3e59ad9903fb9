"""Multiclass SVM loss of a linear classifier: once as the notes' loops, once as array code.

L = 1/N sum_i sum_{j != y_i} max(0, s_j - s_{y_i} + 1) + reg * sum_k sum_l W[k,l]^2,   s = x_i W
"""

from __future__ import annotations

from typing import Any

from xclf._array_api import Array, namespace
from xclf.cs231n._arrays import labels_beside
from xclf.cs231n.classifiers._linear import linear_loss, penalty_naive
from xclf.kernels import hinge

__all__ = ["svm_loss_naive", "svm_loss_vectorized"]


def svm_loss_naive(W: Array, X: Array, y: Array, reg: float) -> tuple[Any, Array]:
    """The loss and its gradient, summed term by term.

    For each example i and each wrong class j whose margin is positive,
    dL/dW_j gains x_i / N and dL/dW_{y_i} loses x_i / N.

    W : (D, C);  X : (N, D);  y : (N,) integers in [0, C);  reg : float >= 0

    Returns (loss, dW): a number, and (D, C). Raises ValueError for labels that are no class of W.
    """
    N, C = X.shape[0], W.shape[1]
    y = labels_beside(y, X, C)
    loss, dW = 0.0, namespace(W).zeros_like(W)
    for i in range(N):
        y_i = int(y[i])
        for j in range(C):
            if j == y_i:
                continue
            margin = X[i, :] @ W[:, j] - X[i, :] @ W[:, y_i] + 1
            if margin > 0:
                loss += margin / N
                dW[:, j] += X[i, :] / N
                dW[:, y_i] -= X[i, :] / N
    return loss + penalty_naive(W, reg, dW), dW


def svm_loss_vectorized(W: Array, X: Array, y: Array, reg: float) -> tuple[Any, Array]:
    """The same loss and gradient as array operations. Arguments and results as in `svm_loss_naive`.

    y may be on the host whatever X is. Returns a NumPy scalar, or a 0-d array on other backends.
    """
    return linear_loss(hinge, W, X, y, reg)
