"""Softmax loss of a linear classifier: once as the notes' loops, once as array code.

L = 1/N sum_i -log(e^{s_{y_i}} / sum_j e^{s_j}) + reg * sum_k sum_l W[k,l]^2,   s = x_i W
"""

from __future__ import annotations

import math
from typing import Any

from xclf._array_api import Array, namespace
from xclf.cs231n._arrays import labels_beside
from xclf.cs231n.classifiers._linear import linear_loss, penalty_naive
from xclf.kernels import cross_entropy

__all__ = ["softmax_loss_naive", "softmax_loss_vectorized"]


def softmax_loss_naive(W: Array, X: Array, y: Array, reg: float) -> tuple[Any, Array]:
    """The loss and its gradient, summed term by term.

    For each example i and each class j, dL/dW_j gains (P_j - [j = y_i]) x_i / N, where
    P_j = e^{s_j} / sum_k e^{s_k}; the largest score is taken off first, or e^{s_j} overflows.

    W : (D, C);  X : (N, D);  y : (N,) integers in [0, C);  reg : float >= 0

    Returns (loss, dW): a number, and (D, C). Raises ValueError for labels that are no class of W.
    """
    N, C = X.shape[0], W.shape[1]
    y = labels_beside(y, X, C)
    loss, dW = 0.0, namespace(W).zeros_like(W)
    for i in range(N):
        y_i = int(y[i])
        scores = [float(X[i, :] @ W[:, j]) for j in range(C)]
        e = [math.exp(s - max(scores)) for s in scores]
        loss += (math.log(sum(e)) - (scores[y_i] - max(scores))) / N
        for j in range(C):
            probability = e[j] / sum(e)
            dW[:, j] += (probability - (j == y_i)) * X[i, :] / N
    return loss + penalty_naive(W, reg, dW), dW


def softmax_loss_vectorized(W: Array, X: Array, y: Array, reg: float) -> tuple[Any, Array]:
    """The same loss and gradient as array operations. Arguments and results as in the naive form.

    y may be on the host whatever X is. Returns a NumPy scalar, or a 0-d array on other backends.
    """
    return linear_loss(cross_entropy, W, X, y, reg)
