"""Softmax cross-entropy and its gradient."""

from __future__ import annotations

from xclf._array_api import Array, namespace
from xclf.kernels._reductions import class_axis, reduce_rows, row_factor, sum_classes, true_class


def cross_entropy(
    scores: Array,
    labels: Array,
    *,
    weights: Array | None = None,
    reduction: str = "mean",
    axis: int = -1,
    need_loss: bool = True,
) -> tuple[Array | None, Array]:
    """Softmax cross-entropy and its gradient in `scores`.

        L_i = log(sum_j exp(s[i,j])) - s[i,y_i],    dL_i/ds[i,j] = p[i,j] - [j = y_i]

    with p = softmax(s). "mean" is sum_i w_i L_i / sum(w), "sum" is sum_i w_i L_i, "none" keeps
    w_i L_i per row; `dscores` is the gradient of that quantity (of each row's own for "none").

    scores : (N, C) float32 or float64, any class axis by `axis`; of the other axes the last holds
             rows and those before it heads, as in (C, N), (K, C, N), (C, K, N). Not written to.
    labels : (N,), or per head, integers in [0, C), same namespace and device; NOT range-checked
             (that would synchronise the device). Or a boolean mask, True at the true class, that
             broadcasts with scores: computed once, it is the cheaper form for few classes.
    weights : None, (N,) or per head, of the dtype of `scores`; NOT checked for sign or zero sum.
    need_loss : False skips the loss, and None stands in its place.

    Returns (loss, dscores): one value per head, 0-d for (N, C), or per row for "none"; and the
    shape of `scores`; both in its dtype, on its device. Rows of dscores sum to 0. Small values are
    exact to rounding: a lead of 40 gives a loss of 4e-18, and the same gradient at the true class.

    Raises ValueError for shapes that do not fit or an unknown reduction, TypeError for labels that
    are neither integers nor booleans. Source: the standard definition; the forms with log1p and
    expm1 are derived below.
    """
    xp = namespace(scores)
    axis = class_axis(scores, axis)
    true, pick = true_class(xp, scores, labels, axis)
    factor = row_factor(xp, scores, weights, reduction, axis)

    z = scores - xp.max(scores, axis=axis, keepdims=True)
    e = xp.exp(z)
    others = sum_classes(xp, xp.where(true, 0.0, e), axis)
    # p - 1 at the true class would cancel; the other classes' share is the same number exactly.
    dscores = xp.where(true, -others, e) * (factor / sum_classes(xp, e, axis))
    if not need_loss:
        return None, dscores

    # L = log(others + exp(lead)) - lead, where lead = s_y - max(s) <= 0. Where the true class has
    # the largest score, lead = 0 and the sum is 1 + others: log1p keeps a tiny `others` that a
    # rounded 1 + others would lose. Elsewhere others >= 1, and log1p(others - 1 + exp(lead)) is
    # as good as the log.
    lead = pick(z)
    losses = xp.log1p(others + xp.expm1(lead)) - lead
    return reduce_rows(xp, losses, factor, reduction, axis), dscores


def log_softmax(scores: Array, *, axis: int = -1) -> Array:
    """log p[i,j] = s[i,j] - log(sum_k exp(s[i,k])), in the shape and dtype of `scores`.

    Written through `cross_entropy`, whose loss at the class with the largest score is minus the
    largest log p, exact also when it is close to 0. `scores` as there.
    """
    xp = namespace(scores)
    axis = class_axis(scores, axis)
    top = xp.argmax(scores, axis=axis)
    losses, _ = cross_entropy(scores, top, reduction="none", axis=axis)
    best = xp.max(scores, axis=axis, keepdims=True)
    return (scores - best) - xp.expand_dims(losses, axis=axis)
