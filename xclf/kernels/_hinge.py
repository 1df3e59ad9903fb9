"""Multiclass hinge losses, Weston-Watkins sum form, with gradients: plain, squared, smoothed."""

from __future__ import annotations

from typing import Any

from xclf._array_api import Array, Namespace, namespace
from xclf.kernels._reductions import (
    class_axis,
    per_head,
    reduce_rows,
    row_factor,
    sum_classes,
    true_class,
)


def _margins(
    xp: Namespace, scores: Array, labels: Array, margin: Any, axis: int
) -> tuple[Array, Array]:
    """(m, true): m[i,j] = s[i,j] - s[i,y_i] + margin, and the mask of the true class.

    The difference comes first: it is exact for close scores, however large they are.
    """
    true, pick = true_class(xp, scores, labels, axis)
    return (scores - pick(scores)) + per_head(xp, margin, scores, axis), true


def _violations(
    xp: Namespace, scores: Array, labels: Array, margin: Any, axis: int
) -> tuple[Array, Array]:
    """(max(0, m), 0 at the true class, and the mask of the true class)."""
    m, true = _margins(xp, scores, labels, margin, axis)
    return xp.where(true, 0.0, xp.maximum(m, 0.0)), true


def _pull(xp: Namespace, push: Array, true: Array, factor: Any, axis: int) -> Array:
    """Gradient in scores of sum_j push[i,j] * m[i,j]: what pushes the others down pulls y_i up."""
    return xp.where(true, -sum_classes(xp, push, axis), push) * factor


def hinge(
    scores: Array,
    labels: Array,
    *,
    margin: Any = 1.0,
    weights: Array | None = None,
    reduction: str = "mean",
    axis: int = -1,
    need_loss: bool = True,
) -> tuple[Array | None, Array]:
    """Multiclass hinge loss, Weston-Watkins sum form, and its gradient in `scores`.

        L_i = sum_{j != y_i} max(0, m[i,j]),     m[i,j] = s[i,j] - s[i,y_i] + margin
        dL_i/ds[i,j] = [m[i,j] > 0],             dL_i/ds[i,y_i] = -sum_{j != y_i} [m[i,j] > 0]

    The gradient at a kink (m = 0) is 0. Reductions, layouts and weights as in `cross_entropy`.

    scores : (N, C) float32 or float64, any class axis by `axis`; not written to
    labels : (N,), or per head, integers in [0, C), same namespace and device; NOT range-checked
             (that would synchronise the device). Or a boolean mask, True at the true class.
    margin : float > 0, or an array of one per head, in units of score; NOT checked
    weights : None, (N,) or per head, of the dtype of `scores`; NOT checked
    need_loss : False skips the loss, and None stands in its place

    Returns (loss, dscores): one value per head, 0-d for (N, C), or per row for "none"; and the
    shape of `scores`; both in its dtype, on its device. Rows of dscores sum to 0.

    Raises ValueError for shapes that do not fit or an unknown reduction, TypeError for labels that
    are neither integers nor booleans. Source: Weston & Watkins (1999), margin as a parameter; not
    the Crammer-Singer max form. `torch.nn.MultiMarginLoss` is this divided by C.
    """
    xp = namespace(scores)
    axis = class_axis(scores, axis)
    factor = row_factor(xp, scores, weights, reduction, axis)
    violation, true = _violations(xp, scores, labels, margin, axis)
    push = xp.astype(violation > 0, scores.dtype)
    dscores = _pull(xp, push, true, factor, axis)
    if not need_loss:
        return None, dscores
    losses = sum_classes(xp, violation, axis)
    return reduce_rows(xp, losses, factor, reduction, axis), dscores


def squared_hinge(
    scores: Array,
    labels: Array,
    *,
    margin: Any = 1.0,
    weights: Array | None = None,
    reduction: str = "mean",
    axis: int = -1,
    need_loss: bool = True,
) -> tuple[Array | None, Array]:
    """Multiclass squared hinge loss, Weston-Watkins sum form, and its gradient in `scores`.

        L_i = sum_{j != y_i} max(0, m[i,j])^2,   m[i,j] = s[i,j] - s[i,y_i] + margin
        dL_i/ds[i,j] = 2 max(0, m[i,j]),         dL_i/ds[i,y_i] = -2 sum_{j != y_i} max(0, m[i,j])

    Continuously differentiable. Parameters, results and errors are those of `hinge`. Source: Weston
    & Watkins (1999) with squared slacks.
    """
    xp = namespace(scores)
    axis = class_axis(scores, axis)
    factor = row_factor(xp, scores, weights, reduction, axis)
    violation, true = _violations(xp, scores, labels, margin, axis)
    dscores = _pull(xp, 2.0 * violation, true, factor, axis)
    if not need_loss:
        return None, dscores
    losses = sum_classes(xp, violation * violation, axis)
    return reduce_rows(xp, losses, factor, reduction, axis), dscores


def proximal_hinge(
    scores: Array,
    labels: Array,
    anchor: Array,
    smoothing: Any,
    *,
    margin: Any = 1.0,
    weights: Array | None = None,
    axis: int = -1,
) -> tuple[Array, Array, Array, Array]:
    """Smoothed hinge around given multipliers: the inner objective of an augmented Lagrangian.

        phi(m; a0) = max_{0 <= a <= 1} a m - smoothing/2 (a - a0)^2
        a = clip(a0 + m / smoothing, 0, 1),   dphi/dm = a

    With a0 = 0 this is the Huber form of max(0, m); with a0 at the optimal multipliers its
    minimiser is the hinge's own, for any smoothing. Continuously differentiable: L-BFGS applies.

    anchor : a0, the shape of `scores`, in [0, 1]; the true class's entries are ignored
    smoothing : float > 0, or one per head, in units of score; NOT checked

    Returns (losses, dscores, slack, multipliers): w_i phi_i per row; its gradient; the share of
    each row in the duality gap, w_i sum_j (max(0, m) - a m) >= 0; and a, 0 at the true class.
    Source: Rockafellar (1976), the proximal method of multipliers.
    """
    xp = namespace(scores)
    axis = class_axis(scores, axis)
    factor = row_factor(xp, scores, weights, "none", axis)
    m, true = _margins(xp, scores, labels, margin, axis)
    mu = per_head(xp, smoothing, scores, axis)
    a = xp.where(true, 0.0, xp.minimum(xp.maximum(anchor + m / mu, 0.0), 1.0))
    moved = xp.where(true, 0.0, a - anchor)
    losses = sum_classes(xp, a * m - (0.5 * mu) * moved * moved, axis)
    slack = sum_classes(xp, xp.where(true, 0.0, xp.maximum(m, 0.0) - a * m), axis)
    return (
        reduce_rows(xp, losses, factor, "none", axis),
        _pull(xp, a, true, factor, axis),
        reduce_rows(xp, slack, factor, "none", axis),
        a,
    )
