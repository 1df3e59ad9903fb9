"""Affine and ReLU layers and the l2 penalty, each with its gradient beside it."""

from __future__ import annotations

import math
from typing import Any

from xclf._array_api import Array, accumulator, device, namespace
from xclf.kernels._reductions import plain


def affine(x: Array, w: Array, b: Array | None, *, axis: int = -1) -> Array:
    """Affine map of every row.

        axis -1 (rows first):     out = x @ w + b,   x (..., N, D), w (..., D, M), b (M,)
        axis -2 (features first): out = w @ x + b,   x (..., D, N), w (..., M, D), b (..., M, 1)

    `axis` is the feature axis of x and of the result. Leading axes are heads. `b` broadcasts with
    the result; None stands for no bias. Nothing is checked beyond what `matmul` checks.

    Returns out, (..., N, M) or (..., M, N), in the promoted dtype, on the device of x.
    """
    xp = namespace(x)
    out = xp.matmul(x, w) if _rows_first(axis) else xp.matmul(w, x)
    return out if b is None else out + b


def affine_grad(
    dout: Array, x: Array, w: Array, *, need_dx: bool = True, axis: int = -1
) -> tuple[Array | None, Array, Array]:
    """Gradients of a loss through `affine`, given its gradient `dout` in the result.

        axis -1:  dx = dout @ w^T,  dw = x^T @ dout,  db = sum of dout over rows
        axis -2:  dx = w^T @ dout,  dw = dout @ x^T,  db = the same

    Returns (dx, dw, db): the shapes of x and w, and (..., M); dx is None with need_dx=False. With
    rows first, db is summed in float64 and rounded once: NumPy's float32 sum down a column is not
    pairwise (a million times 0.1 gives 100958).
    """
    xp = namespace(dout)
    if _rows_first(axis):
        dx = xp.matmul(dout, xp.matrix_transpose(w)) if need_dx else None
        dw = xp.matmul(xp.matrix_transpose(x), dout)
        wide = accumulator(xp, device(dout))
        return dx, dw, xp.astype(xp.sum(dout, axis=-2, dtype=wide), dout.dtype, copy=False)
    dx = xp.matmul(xp.matrix_transpose(w), dout) if need_dx else None
    return dx, xp.matmul(dout, xp.matrix_transpose(x)), xp.sum(dout, axis=-1)


def _rows_first(axis: int) -> bool:
    if axis not in (-1, -2):
        raise ValueError(f"axis must be -1 (rows first) or -2 (features first), got {axis!r}")
    return axis == -1


def relu(x: Array) -> Array:
    """max(x, 0) elementwise; NaN stays NaN. Any shape and device, floating dtype of x."""
    return namespace(x).maximum(x, 0.0)


def relu_grad(dout: Array, x: Array) -> Array:
    """Gradient through `relu`: dout where x > 0, else 0 (also at x = 0).

    `x` is what went into relu or what came out: both are positive at the same places.
    """
    return namespace(dout).where(x > 0, dout, 0.0)


def l2(w: Array, strength: Any, *, need_loss: bool = True) -> tuple[Array | None, Array]:
    """Squared-norm penalty and its gradient.

        loss = strength * sum(w^2),    dw = 2 * strength * w

    strength : float >= 0, or an array with one per head, heads being the leading axes of `w`;
               NOT checked
    need_loss : False skips the loss, and None stands in its place

    Returns (loss, dw): one value per head (0-d for a scalar strength), and the shape of w; both in
    its dtype, on its device. The loss is summed in float64. No factor 1/2: the notes' and this
    library's convention; PyTorch's weight_decay is 2 * strength.
    """
    xp = namespace(w)
    strength = plain(strength)
    heads = getattr(strength, "ndim", 0)
    if heads:
        if tuple(strength.shape) != tuple(w.shape[:heads]):
            raise ValueError(
                f"strength must be a number, or one per head: shape {tuple(strength.shape)} does "
                f"not lead w's, {tuple(w.shape)}"
            )
        rate = xp.reshape(strength, (*strength.shape, *(1,) * (w.ndim - heads)))
        dw = (2.0 * rate) * w
    else:
        dw = (2.0 * strength) * w
    if not need_loss:
        return None, dw
    wide, shape = accumulator(xp, device(w)), (*w.shape[:heads], math.prod(w.shape[heads:]))
    flat = xp.reshape(w, shape)
    # Without a copy, which of many heads is as large as X.
    widest = w.dtype == wide
    squares = xp.vecdot(flat, flat) if widest else xp.sum(flat * flat, axis=-1, dtype=wide)
    return xp.astype(strength * squares, w.dtype), dw
