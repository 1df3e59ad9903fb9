"""The fully connected nets of the course: one forward and one backward pass for any depth.

    {affine - [batch or layer normalisation] - ReLU - [dropout]} x (depth - 1) - affine - softmax

Parameters are a dict: W1, b1, W2, b2, ... and, with normalisation, gamma1, beta1, ...
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xclf import kernels
from xclf._array_api import Array, namespace
from xclf.cs231n import layers
from xclf.cs231n._arrays import as_scalar, move_params

NORMALIZATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "batchnorm": (layers.batchnorm_forward, layers.batchnorm_backward),
    "layernorm": (layers.layernorm_forward, layers.layernorm_backward),
}


def initial(sizes: Sequence[int], scale: float) -> dict[str, np.ndarray]:
    """W_k = scale * randn, b_k = 0 for layers between these sizes; W1 is drawn first, then W2."""
    params: dict[str, np.ndarray] = {}
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), start=1):
        params[f"W{k}"] = scale * np.random.randn(fan_in, fan_out)
        params[f"b{k}"] = np.zeros(fan_out)
    return params


def evaluate(
    params: dict[str, Array],
    X: Array,
    y: Array | None,
    strength: float,
    *,
    dtype: Any = None,
    normalization: str | None = None,
    norm_params: Sequence[dict[str, Any]] = (),
    dropout_param: dict[str, Any] | None = None,
) -> Any:
    """Scores (N, C) if y is None, else (loss, gradients with the keys of `params`).

        loss = 1/N sum_i -log P(y_i) + strength * (sum of the squared weights; biases are free)

    The parameters move to the device of X. X is computed with in `dtype`, by default theirs.
    """
    move_params(params, X, dtype)
    dtype = params["W1"].dtype if dtype is None else dtype
    x = namespace(X).astype(layers.flat(X), dtype, copy=False)
    scores, caches = _forward(params, x, normalization, norm_params, dropout_param)
    if y is None:
        return scores
    loss, dscores = layers.softmax_loss(scores, y)
    grads = _backward(dscores, caches, normalization)
    for name in params:
        if name.startswith("W"):
            penalty, gradient = kernels.l2(params[name], float(strength))
            loss, grads[name] = loss + penalty, grads[name] + gradient
    return as_scalar(loss), {name: grads[name] for name in params}


def _forward(
    params: dict[str, Array],
    x: Array,
    normalization: str | None,
    norm_params: Sequence[dict[str, Any]],
    dropout_param: dict[str, Any] | None,
) -> tuple[Array, list[Any]]:
    """Scores (N, C) of x (N, D), and the caches of every layer for the backward pass."""
    caches: list[Any] = []
    depth = sum(name.startswith("W") for name in params)
    for k in range(1, depth):
        norm_cache = drop_cache = None
        x, affine_cache = layers.affine_forward(x, params[f"W{k}"], params[f"b{k}"])
        if normalization is not None:
            normalize, _ = NORMALIZATIONS[normalization]
            scaling = params[f"gamma{k}"], params[f"beta{k}"]
            x, norm_cache = normalize(x, *scaling, norm_params[k - 1])
        x, relu_cache = layers.relu_forward(x)
        if dropout_param is not None:
            x, drop_cache = layers.dropout_forward(x, dropout_param)
        caches.append((affine_cache, norm_cache, relu_cache, drop_cache))
    scores, affine_cache = layers.affine_forward(x, params[f"W{depth}"], params[f"b{depth}"])
    return scores, [*caches, (affine_cache, None, None, None)]


def _backward(dout: Array, caches: Sequence[Any], normalization: str | None) -> dict[str, Array]:
    """The gradient of the loss in every parameter, given its gradient `dout` in the scores."""
    grads: dict[str, Array] = {}
    for k in range(len(caches), 0, -1):
        affine_cache, norm_cache, relu_cache, drop_cache = caches[k - 1]
        if k < len(caches):
            if drop_cache is not None:
                dout = layers.dropout_backward(dout, drop_cache)
            dout = layers.relu_backward(dout, relu_cache)
            if normalization is not None:
                _, normalize_grad = NORMALIZATIONS[normalization]
                dout, grads[f"gamma{k}"], grads[f"beta{k}"] = normalize_grad(dout, norm_cache)
        x, w, _ = affine_cache
        # The gradient in the images, a third of the work of the first layer, is unused.
        dout, grads[f"W{k}"], grads[f"b{k}"] = kernels.affine_grad(dout, x, w, need_dx=k > 1)
    return grads
