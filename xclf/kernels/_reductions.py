"""What the loss kernels share: where the true class is, how rows are weighted and summed.

Shapes. `scores` has one class axis; of the remaining axes the last is the row axis, and those
before it are heads: (N, C) with axis -1, (C, N) with axis 0, (K, C, N) with axis -2, (C, K, N)
with axis 0 are all the same to the formulas.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

from xclf._array_api import Array, Namespace, accumulator, device

REDUCTIONS = ("mean", "sum", "none")

# A float32 sum of C terms in sequence is off by up to C * 6e-8 relative. Past this many classes
# the sum runs in float64 (one value per row is widened, not the matrix that is returned).
_WIDE_CLASSES = 64


def class_axis(scores: Array, axis: int) -> int:
    """`axis` counted from the end; ValueError if `scores` has no such axis or no row axis."""
    ndim = scores.ndim
    if ndim < 2 or not -ndim <= axis < ndim:
        raise ValueError(
            f"scores must have a row axis and class axis {axis}, got shape {tuple(scores.shape)}"
        )
    return axis if axis < 0 else axis - ndim


def beside_classes(xp: Namespace, values: Array, scores: Array, axis: int, name: str) -> Array:
    """`values`, one per row (N,) or per head and row, shaped to broadcast along the class axis."""
    sample = list(scores.shape)
    del sample[axis]
    if values.ndim == 1:
        shape = [1] * len(sample)
        shape[-1] = values.shape[0]
    else:
        shape = list(values.shape)
    if (values.ndim > 1 and shape != sample) or shape[-1:] != sample[-1:]:
        raise ValueError(
            f"{name} must have shape ({sample[-1]},) or {tuple(sample)}, got {tuple(values.shape)}"
        )
    shape.insert(len(shape) + axis + 1, 1)
    return xp.reshape(values, tuple(shape))


def per_head(xp: Namespace, values: Any, scores: Array, axis: int) -> Any:
    """A scalar as it is; one value per head shaped to broadcast over rows and classes."""
    values = plain(values)
    if not getattr(values, "ndim", 0):
        return values
    heads = list(scores.shape)
    del heads[axis]
    if list(values.shape) != heads[:-1]:
        raise ValueError(
            f"margin and smoothing must be numbers, or one per head {tuple(heads[:-1])}; got "
            f"shape {tuple(values.shape)}"
        )
    shape = [*values.shape, 1]
    shape.insert(len(shape) + axis + 1, 1)
    return xp.reshape(values, tuple(shape))


def true_class(
    xp: Namespace, scores: Array, labels: Array, axis: int
) -> tuple[Array, Callable[[Array], Array]]:
    """(mask, pick): True at the true class, and a function that picks its entry of every row.

    A boolean `labels` is the mask itself. Integers are compared with the class numbers, and the
    entry is gathered, which for many classes costs far less than a masked sum.
    """
    if xp.isdtype(labels.dtype, "bool"):
        mask = _checked_mask(labels, scores, axis)
        return mask, lambda a: xp.sum(xp.where(mask, a, 0.0), axis=axis, keepdims=True)
    if not xp.isdtype(labels.dtype, "integral"):
        raise TypeError(f"labels must be integers or a boolean mask, got dtype {labels.dtype}")
    index = beside_classes(xp, labels, scores, axis, "labels")
    if index.dtype != xp.int64:  # torch gathers with int64 only
        index = xp.astype(index, xp.int64)
    shape = [1] * scores.ndim
    shape[axis] = -1
    classes = xp.arange(scores.shape[axis], dtype=xp.int64, device=device(scores))
    mask = xp.reshape(classes, tuple(shape)) == index
    return mask, lambda a: xp.take_along_axis(a, index, axis=axis)


def _checked_mask(mask: Array, scores: Array, axis: int) -> Array:
    """`mask`, which may leave out heads or hold one for all, but neither rows nor classes."""
    row_axis = -2 if axis == -1 else -1
    shape, full = tuple(mask.shape), tuple(scores.shape)
    fits = max(-axis, -row_axis) <= len(shape) <= len(full) and all(
        m == s or (m == 1 and place not in (axis, row_axis))
        for place, m, s in zip(range(-len(shape), 0), shape, full[-len(shape) :], strict=True)
    )
    if not fits:
        raise ValueError(
            f"boolean labels must mark the true class in the shape of scores, {full}; got {shape}"
        )
    return mask


def plain(value: Any) -> Any:
    """A NumPy scalar as a Python number, which does not promote float32; all else as it is."""
    return float(value) if isinstance(value, numbers.Real) else value


def one_hot(xp: Namespace, labels: Array, n_classes: int) -> Array:
    """(*heads, C, N) boolean: True at the true class of each row. labels (*heads, N) integer."""
    classes = xp.arange(n_classes, dtype=labels.dtype, device=device(labels))
    return classes[:, None] == labels[..., None, :]


def sum_classes(xp: Namespace, values: Array, axis: int) -> Array:
    """Sum over the class axis, kept as an axis of length 1, in the dtype of `values`."""
    wide = accumulator(xp, device(values))
    if values.shape[axis] <= _WIDE_CLASSES or values.dtype == wide:
        return xp.sum(values, axis=axis, keepdims=True)
    return xp.astype(xp.sum(values, axis=axis, keepdims=True, dtype=wide), values.dtype)


def row_factor(
    xp: Namespace, scores: Array, weights: Array | None, reduction: str, axis: int
) -> Any:
    """The factor of each row's gradient, 1, 1/N, w_i or w_i / sum(w), broadcasting with scores."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
    if weights is None:
        rows = scores.shape[-2 if axis == -1 else -1]
        if rows == 0 and reduction == "mean":
            raise ValueError(f"there is no mean over no rows: scores have shape {scores.shape}")
        return 1.0 / rows if reduction == "mean" else 1.0
    if reduction == "mean":
        weights = weights / xp.sum(weights, axis=-1, keepdims=True)
    return beside_classes(xp, weights, scores, axis, "weights")


def reduce_rows(xp: Namespace, losses: Array, factor: Any, reduction: str, axis: int) -> Array:
    """Per-row losses (class axis of length 1) times `factor`: per row, or summed in float64."""
    dtype = losses.dtype
    if not (isinstance(factor, float) and factor == 1.0):
        losses = losses * factor
    losses = xp.squeeze(losses, axis=axis)
    if reduction == "none":
        return losses
    wide = accumulator(xp, device(losses))
    return xp.astype(xp.sum(losses, axis=-1, dtype=wide), dtype)
