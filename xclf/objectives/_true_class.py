"""Sums over pairs of classes, by each row's true class."""

from __future__ import annotations

from xclf._array_api import Array, device, namespace
from xclf.kernels import one_hot


def true_mask(labels: Array, n_classes: int) -> Array:
    """The boolean mask (C, n), or (K, C, n), of labels as the rows of a chunk have them."""
    xp = namespace(labels)
    return labels if xp.isdtype(labels.dtype, "bool") else one_hot(xp, labels, n_classes)


def true_index(labels: Array) -> Array:
    """Integers (n,), or (K, n), of labels as the rows of a chunk have them."""
    xp = namespace(labels)
    if not xp.isdtype(labels.dtype, "bool"):
        return labels
    return xp.argmax(xp.astype(labels, xp.uint8), axis=-2)


def class_flows(values: Array, labels: Array) -> Array:
    """(*heads, C, C): values (*heads, C, n) summed over the rows of each true class, which is the
    last axis.

    labels : as the rows of a chunk have them
    """
    xp = namespace(values)
    mask = xp.astype(true_mask(labels, values.shape[-2]), values.dtype)
    return xp.matmul(values, xp.matrix_transpose(mask))


def pair_laplacian(active: Array, mask: Array, weights: Array | None) -> Array:
    """sum_i w_i sum_{j != y} active_ij (e_j - e_y)(e_j - e_y)^T, (*heads, C, C): the Laplacian of
    the graph whose edges are pairs of a class and the true class.

    active : (*heads, C, n), the weight of each pair; entries at the true class are ignored
    mask : True at the true class, (C, n) or (K, C, n);  weights : (n,), (K, n) or None
    """
    xp = namespace(active)
    active = xp.where(mask, 0.0, active)
    if weights is not None:
        active = active * weights[..., None, :]
    flow = class_flows(active, mask)
    flow = flow + xp.matrix_transpose(flow)
    eye = xp.eye(active.shape[-2], dtype=active.dtype, device=device(active))
    return xp.sum(flow, axis=-1)[..., None] * eye - flow
