"""The layers of the course, forward and backward, on arrays of any backend.

Every forward function returns `(out, cache)`, its backward function takes `(dout, cache)` and
returns the gradients of the loss. The formulas are those of `xclf.kernels`; batch and layer
normalisation and dropout, which only the course has, are written here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xclf._array_api import Array, from_host, namespace
from xclf.cs231n._arrays import as_scalar, beside, labels_beside
from xclf.cs231n._uncovered import missing
from xclf.kernels import affine, affine_grad, cross_entropy, hinge, relu, relu_grad

__all__ = [
    "affine_backward",
    "affine_forward",
    "batchnorm_backward",
    "batchnorm_backward_alt",
    "batchnorm_forward",
    "dropout_backward",
    "dropout_forward",
    "layernorm_backward",
    "layernorm_forward",
    "relu_backward",
    "relu_forward",
    "softmax_loss",
    "svm_loss",
]


def affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    """out = x' w + b, where x' (N, D) is x with each example flattened, D = d_1 * ... * d_k.

    x : (N, d_1, ..., d_k);  w : (D, M);  b : (M,)

    Returns (out, cache): (N, M), and (x, w, b).
    """
    return affine(flat(x), w, b), (x, w, b)


def affine_backward(dout: Array, cache: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """dx = dout w^T in the shape of x,  dw = x'^T dout,  db = sum of dout over examples."""
    x, w, _ = cache
    dx, dw, db = affine_grad(dout, flat(x), w)
    return namespace(x).reshape(dx, x.shape), dw, db


def flat(x: Array) -> Array:
    """x (N, d_1, ..., d_k) as (N, D)."""
    return namespace(x).reshape(x, (x.shape[0], math.prod(x.shape[1:])))


def relu_forward(x: Array) -> tuple[Array, Array]:
    """out = max(0, x), any shape. Returns (out, cache) with cache = x."""
    return relu(x), x


def relu_backward(dout: Array, cache: Array) -> Array:
    """dx = dout where x > 0, else 0 (also at x = 0)."""
    return relu_grad(dout, cache)


def svm_loss(x: Array, y: Array) -> tuple[Any, Array]:
    """Mean multiclass hinge loss (sum form, margin 1) and its gradient in the scores x.

        loss = 1/N sum_i sum_{j != y_i} max(0, x[i,j] - x[i,y_i] + 1)

    x : (N, C) scores;  y : (N,) integers in [0, C), on the host or beside x

    Returns (loss, dx): a NumPy scalar or, on other backends, a 0-d array; and (N, C). Raises
    ValueError for labels outside [0, C).
    """
    loss, dx = hinge(x, labels_beside(y, x, x.shape[1]))
    return as_scalar(loss), dx


def softmax_loss(x: Array, y: Array) -> tuple[Any, Array]:
    """Mean softmax cross-entropy and its gradient in the scores x.

        loss = 1/N sum_i (log sum_j exp(x[i,j]) - x[i,y_i]),   dx = (softmax(x) - onehot(y)) / N

    Arguments and results as in `svm_loss`.
    """
    loss, dx = cross_entropy(x, labels_beside(y, x, x.shape[1]))
    return as_scalar(loss), dx


def dropout_forward(x: Array, dropout_param: dict[str, Any]) -> tuple[Array, Any]:
    """Inverted dropout: out = x * mask with mask = [u < p] / p in training, out = x at test time.

    dropout_param : "mode" 'train' or 'test'; "p" in (0, 1], the probability to KEEP a value;
                    "seed", optional: seeds NumPy's global stream before the mask is drawn, so
                    that every mask is the same (and so is all that draws from it afterwards)

    Returns (out, cache). Raises ValueError for an unknown mode or a p outside (0, 1].
    """
    mode, p = dropout_param["mode"], dropout_param["p"]
    if not 0 < p <= 1:
        raise ValueError(f"dropout keeps a value with probability p in (0, 1], got p={p!r}")
    if not _training(mode):
        return x, (dropout_param, None)
    if dropout_param.get("seed") is not None:
        np.random.seed(dropout_param["seed"])
    mask = from_host((np.random.rand(*x.shape) < p) / p, x, x.dtype)
    return x * mask, (dropout_param, mask)


def dropout_backward(dout: Array, cache: Any) -> Array:
    """dx = dout * mask in training, dx = dout at test time."""
    _, mask = cache
    return dout if mask is None else dout * mask


def _training(mode: str) -> bool:
    if mode not in ("train", "test"):
        raise ValueError(f"mode must be 'train' or 'test', got {mode!r}")
    return mode == "train"


def batchnorm_forward(
    x: Array, gamma: Array, beta: Array, bn_param: dict[str, Any]
) -> tuple[Array, Any]:
    """out = gamma * z + beta, where z is x with mean 0 and variance 1 in every column.

        z = (x - mean) / sqrt(var + eps),    running <- momentum * running + (1 - momentum) * batch

    In training mean and (biased) variance are the batch's, at test time the running ones.

    x : (N, D);  gamma, beta : (D,)
    bn_param : "mode" 'train' or 'test'; "eps" (1e-5), "momentum" (0.9), "running_mean" and
               "running_var" (zeros (D,)), which training writes back into this dict

    Returns (out, cache). Raises ValueError for an unknown mode. Source: Ioffe & Szegedy (2015).
    """
    xp = namespace(x)
    eps = bn_param.setdefault("eps", 1e-5)
    momentum = bn_param.setdefault("momentum", 0.9)
    running = {}
    for name in ("running_mean", "running_var"):
        running[name] = beside(bn_param.get(name, np.zeros(x.shape[1])), x, x.dtype)
    if _training(bn_param["mode"]):
        z, mean, var = _standardized(x, eps, axis=0)
        batch = {"running_mean": xp.squeeze(mean, axis=0), "running_var": xp.squeeze(var, axis=0)}
        for name, value in batch.items():
            bn_param[name] = momentum * running[name] + (1 - momentum) * value
        scale, batch_axis = 1 / xp.sqrt(var + eps), 0
    else:
        scale, batch_axis = 1 / xp.sqrt(running["running_var"] + eps), None
        z = (x - running["running_mean"]) * scale
    return gamma * z + beta, (z, gamma, scale, batch_axis)


def batchnorm_backward(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Gradients through `batchnorm_forward`: dx (N, D), dgamma (D,), dbeta (D,).

        dz = gamma dout,   dx = (dz - mean(dz) - z mean(z dz)) / sqrt(var + eps)

    with means over the batch; at test time, where the statistics are constants, dx = dz / sqrt.
    """
    z, gamma, scale, axis = cache
    xp = namespace(dout)
    dx = _standardized_grad(dout * gamma, z, scale, axis)
    return dx, xp.sum(dout * z, axis=0), xp.sum(dout, axis=0)


# The handouts have the same gradient twice, once through a graph and once in closed form.
batchnorm_backward_alt = batchnorm_backward


def layernorm_forward(
    x: Array, gamma: Array, beta: Array, ln_param: dict[str, Any]
) -> tuple[Array, Any]:
    """out = gamma * z + beta, where z is x with mean 0 and variance 1 in every row.

    x : (N, D);  gamma, beta : (D,);  ln_param : "eps" (1e-5). The same in training and test.

    Returns (out, cache). Source: Ba, Kiros & Hinton (2016).
    """
    eps = ln_param.setdefault("eps", 1e-5)
    z, _, var = _standardized(x, eps, axis=1)
    return gamma * z + beta, (z, gamma, 1 / namespace(x).sqrt(var + eps), 1)


# The cache holds the axis, rows in place of columns, which is the only difference.
layernorm_backward = batchnorm_backward


def _standardized(x: Array, eps: float, axis: int) -> tuple[Array, Array, Array]:
    """((x - mean) / sqrt(var + eps), mean, var) along `axis`, which is kept."""
    xp = namespace(x)
    mean = xp.mean(x, axis=axis, keepdims=True)
    var = xp.mean((x - mean) ** 2, axis=axis, keepdims=True)
    return (x - mean) / xp.sqrt(var + eps), mean, var


def _standardized_grad(dz: Array, z: Array, scale: Array, axis: int | None) -> Array:
    """Gradient through `_standardized`; axis None: mean and variance are constants."""
    if axis is None:
        return dz * scale
    xp = namespace(dz)
    centred = dz - xp.mean(dz, axis=axis, keepdims=True)
    return scale * (centred - z * xp.mean(dz * z, axis=axis, keepdims=True))


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
