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
from xclf.cs231n._arrays import plain

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


def in_dtype(x: Array, dtype: Any) -> Array:
    """x with one row per example, in the dtype of the parameters."""
    xp = namespace(x)
    return xp.astype(layers.flat(x), dtype, copy=False)


def forward(
    params: dict[str, Array],
    x: Array,
    *,
    normalization: str | None = None,
    norm_params: Sequence[dict[str, Any]] = (),
    dropout_param: dict[str, Any] | None = None,
) -> tuple[Array, list[Any]]:
    """Scores (N, C) of x (N, D), and what every layer keeps for the way back."""
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


def backward(
    dout: Array, caches: Sequence[Any], normalization: str | None = None
) -> dict[str, Array]:
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
        # The gradient in the images themselves is a third of the work of the first layer, and
        # unused.
        dout, grads[f"W{k}"], grads[f"b{k}"] = kernels.affine_grad(dout, x, w, need_dx=k > 1)
    return grads


def loss_and_grads(
    params: dict[str, Array],
    scores: Array,
    caches: Sequence[Any],
    y: Array,
    strength: float,
    normalization: str | None = None,
) -> tuple[Any, dict[str, Array]]:
    """softmax loss + strength * sum of the squared weights (biases are free), and all gradients."""
    loss, dscores = layers.softmax_loss(scores, y)
    grads = backward(dscores, caches, normalization)
    for name in params:
        if name.startswith("W"):
            penalty, gradient = kernels.l2(params[name], float(strength))
            loss, grads[name] = loss + penalty, grads[name] + gradient
    return plain(loss), {name: grads[name] for name in params}
