"""One head and K heads, classes first or last: the same numbers wherever the axes are."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from helpers import (
    GRADIENT_BOUND,
    KERNELS,
    ROWS,
    assert_close_max_norm,
    assert_loss_parity,
    assert_relative,
    assert_same_kind,
    loss_bound,
    parity_data,
    reduce,
)
from pairwise import pairwise

from xclf.kernels import cross_entropy, hinge, log_softmax, proximal_hinge, squared_hinge

K, N, C = 3, 5, 4
MARGINS = (1.0, 0.5, 2.0)
REDUCTIONS = ("mean", "sum", "none")
# From the axes (K, N, C): their new order, and the class axis counted either way.
LAYOUTS = {"KNC": ((0, 1, 2), (-1, 2)), "KCN": ((0, 2, 1), (-2, 1)), "CKN": ((2, 0, 1), (0, -3))}
layouts = pytest.mark.parametrize("layout", LAYOUTS)
kernels = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__)
BOUND = {name: loss_bound(name, C, 300, N) for name in ("float32", "float64")}
"""300: hinge margins of 1e-2 beside differences of 3, and softmax differences up to 30."""


@functools.cache
def _heads(dtype, margins=(1.0,) * K):
    """(scores (K, N, C), labels (K, N), weights (K, N)), away from each head's kinks."""
    pairs = [parity_data(N, C, dtype, margin, seed=k) for k, margin in enumerate(margins)]
    weights = np.random.default_rng(6).uniform(0.5, 2.0, size=(K, N)).astype(dtype)
    return np.stack([s for s, _ in pairs]), np.stack([y for _, y in pairs]), weights


def _expected(kernel, scores, labels, reduction, weights=None, margins=(1.0,) * K):
    """Loss and gradient per head, from one oracle call each."""
    pairs = []
    for k in range(K):
        w = None if weights is None else np.broadcast_to(weights, (K, N))[k]
        rows = ROWS[kernel](scores[k], np.broadcast_to(labels, (K, N))[k], margins[k])
        pairs.append(reduce(*rows, reduction, w))
    return np.array([loss for loss, _ in pairs]), np.stack([gradient for _, gradient in pairs])


def _check(backend, kernel, layout, scores, labels, expected, **options):
    """Run in `layout`, for either way of counting the class axis."""
    order, class_axes = LAYOUTS[layout]
    array = backend.asarray(np.transpose(scores, order))
    for axis in class_axes:
        loss, dscores = kernel(array, backend.asarray(labels), axis=axis, **options)
        assert_same_kind(loss, array)
        assert_same_kind(dscores, array)
        bound = BOUND[scores.dtype.name]
        assert_relative(backend.to_host(loss), expected[0], bound, "loss", scores.dtype)
        got = np.transpose(backend.to_host(dscores), np.argsort(order))
        assert_close_max_norm(got, expected[1], GRADIENT_BOUND[scores.dtype.name])


@kernels
@pytest.mark.parametrize("axis", [0, -2])
def test_classes_first(backend, kernel, axis, dtype):
    scores, labels = parity_data(N, C, dtype)
    weights = backend.asarray(_heads(dtype)[2][0])
    rows = ROWS[kernel](scores, labels, 1.0)
    mask = np.ascontiguousarray((np.arange(C) == labels[:, None]).T)
    for form in (labels, mask):
        for reduction in REDUCTIONS:
            loss, gradients = reduce(*rows, reduction, backend.to_host(weights))
            assert_loss_parity(
                backend,
                kernel,
                (np.ascontiguousarray(scores.T), form),
                (loss, gradients.T),
                BOUND[dtype.name],
                axis=axis,
                reduction=reduction,
                weights=weights,
            )


@pairwise(
    kernel=KERNELS, layout=[*LAYOUTS], reduction=REDUCTIONS, weights_of=["nobody", "rows", "heads"]
)
def test_labels_and_weights_per_head(backend, kernel, layout, reduction, weights_of, dtype):
    scores, labels, weights = _heads(dtype)
    w = {"nobody": None, "rows": weights[0], "heads": weights}[weights_of]
    expected = _expected(kernel, scores, labels, reduction, w)
    mask = np.transpose(np.arange(C) == labels[:, :, None], LAYOUTS[layout][0])
    options = {"reduction": reduction, "weights": None if w is None else backend.asarray(w)}
    for form in (labels, labels.astype(np.int32), mask):
        _check(backend, kernel, layout, scores, form, expected, **options)


@kernels
@layouts
def test_labels_shared_by_the_heads(backend, kernel, layout, dtype):
    scores, labels, _ = _heads(dtype)
    labels = labels[:1].repeat(K, axis=0)
    m = scores - np.take_along_axis(scores, labels[:, :, None], axis=2) + 1.0
    scores = scores + (np.abs(m) < 1e-2).astype(dtype)  # other labels, other kinks
    expected = _expected(kernel, scores, labels, "mean")
    mask = np.transpose(np.arange(C) == labels[:1, :, None], LAYOUTS[layout][0])
    shared = {"KNC": (mask, mask[0]), "KCN": (mask, mask[0]), "CKN": (mask,)}[layout]
    for form in (labels[0], labels[0].astype(np.int32), *shared):
        _check(backend, kernel, layout, scores, form, expected)


@pairwise(kernel=[hinge, squared_hinge], layout=[*LAYOUTS], reduction=REDUCTIONS)
def test_a_margin_per_head(backend, kernel, layout, reduction, dtype):
    scores, labels, weights = _heads(dtype, MARGINS)
    expected = _expected(kernel, scores, labels, reduction, weights, MARGINS)
    options = {
        "margin": backend.asarray(np.array(MARGINS, dtype=dtype)),
        "weights": backend.asarray(weights),
        "reduction": reduction,
    }
    _check(backend, kernel, layout, scores, labels, expected, **options)


@kernels
def test_heads_may_have_two_axes(backend, kernel, dtype):
    """(2, 3, C, N), as a sweep over margins and folds would lay them out."""
    rng = np.random.default_rng(7)
    scores = rng.normal(size=(2, 3, C, N)).astype(dtype)
    labels, weights = rng.integers(C, size=(2, 3, N)), rng.uniform(0.5, 2, size=(2, 3, N))
    weights = weights.astype(dtype)
    margins = np.array([[0.5, 1.0, 2.0], [4.0, 8.0, 0.25]], dtype=dtype)
    options = {"margin": backend.asarray(margins)} if kernel is not cross_entropy else {}
    loss, dscores = kernel(
        backend.asarray(scores),
        backend.asarray(labels),
        axis=-2,
        weights=backend.asarray(weights),
        **options,
    )
    assert loss.shape == (2, 3)
    for j, k in np.ndindex(2, 3):
        rows = ROWS[kernel](scores[j, k].T, labels[j, k], float(margins[j, k]))
        want, gradient = reduce(*rows, "mean", weights[j, k])
        assert_relative(backend.to_host(loss)[j, k], want, BOUND[dtype.name])
        got = backend.to_host(dscores)[j, k].T
        assert_close_max_norm(got, gradient, GRADIENT_BOUND[dtype.name])


def test_the_last_axis_is_the_default(backend, dtype):
    """With more than two axes the last is not the second."""
    scores, labels, weights = _heads(dtype)
    s, y, w = (backend.asarray(a) for a in (scores, labels, weights))
    anchor = backend.asarray(np.full(scores.shape, 0.5, dtype=dtype))
    for default, explicit in (
        (hinge(s, y, weights=w), hinge(s, y, weights=w, axis=-1)),
        (squared_hinge(s, y, weights=w), squared_hinge(s, y, weights=w, axis=-1)),
        (cross_entropy(s, y, weights=w), cross_entropy(s, y, weights=w, axis=-1)),
        (proximal_hinge(s, y, anchor, 0.5), proximal_hinge(s, y, anchor, 0.5, axis=-1)),
        ((log_softmax(s),), (log_softmax(s, axis=-1),)),
    ):
        for a, b in zip(default, explicit, strict=True):
            np.testing.assert_array_equal(backend.to_host(a), backend.to_host(b))


@kernels
@layouts
def test_a_single_head_keeps_its_axis(backend, kernel, layout, dtype):
    scores, labels, _ = _heads(dtype)
    order, class_axes = LAYOUTS[layout]
    array = backend.asarray(np.transpose(scores[:1], order))
    loss, dscores = kernel(array, backend.asarray(labels[0]), axis=class_axes[0])
    assert loss.shape == (1,)
    assert dscores.shape == array.shape
    flat, _ = kernel(backend.asarray(scores[0]), backend.asarray(labels[0]))
    assert flat.shape == ()
    assert_relative(backend.to_host(loss)[0], backend.to_host(flat), BOUND[dtype.name])
