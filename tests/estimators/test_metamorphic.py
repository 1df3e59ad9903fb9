"""What must not change, or must change in a known way, whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest

from xclf.kernels import cross_entropy, hinge, one_hot, proximal_hinge

hypothesis = pytest.importorskip("hypothesis")
given = hypothesis.given
st = hypothesis.strategies

settings = hypothesis.settings(max_examples=30)
kernels = pytest.mark.parametrize("kernel", [hinge, cross_entropy], ids=lambda k: k.__name__)

# Scores are multiples of 1/8: hinge margins are exact, so that reordering a row cannot move an
# entry across a kink. What is left is the order of sums of positive numbers: a few units of
# rounding in float64, C + N < 20 of them.
EXACT = {"rtol": 40 * 2.0**-53, "atol": 1e-300}
GRADIENTS = {"rtol": 0, "atol": 40 * 2.0**-53}


@st.composite
def rows(draw, max_rows=8, max_classes=7):
    """(scores (N, C), labels (N,)): N and C from 1 up, scores in [-40, 40]."""
    n, c = draw(st.integers(1, max_rows)), draw(st.integers(1, max_classes))
    eighths = st.integers(-320, 320)
    scores = [[draw(eighths) for _ in range(c)] for _ in range(n)]
    labels = [draw(st.integers(0, c - 1)) for _ in range(n)]
    return np.array(scores) / 8, np.array(labels)


def _loss(result):
    return np.asarray(result[0])


@kernels
@given(data=rows(), seed=st.integers(0, 99))
@settings
def test_permuted_rows(kernel, data, seed):
    scores, labels = data
    order = np.random.default_rng(seed).permutation(len(labels))
    loss, gradient = kernel(scores, labels)
    moved_loss, moved_gradient = kernel(scores[order], labels[order])
    np.testing.assert_allclose(moved_loss, loss, **EXACT)
    np.testing.assert_allclose(moved_gradient, gradient[order], **GRADIENTS)


@kernels
@given(data=rows(), seed=st.integers(0, 99))
@settings
def test_relabelled_classes(kernel, data, seed):
    scores, labels = data
    order = np.random.default_rng(seed).permutation(scores.shape[1])
    new_names = np.argsort(order)
    loss, gradient = kernel(scores, labels)
    renamed_loss, renamed_gradient = kernel(scores[:, order], new_names[labels])
    np.testing.assert_allclose(renamed_loss, loss, **EXACT)
    np.testing.assert_allclose(renamed_gradient, gradient[:, order], **GRADIENTS)


@kernels
@given(data=rows(), shift=st.integers(-4000, 4000))
@settings
def test_a_constant_added_to_a_row_changes_nothing(kernel, data, shift):
    scores, labels = data
    shifts = (shift + np.arange(len(labels)))[:, None] / 8  # another one for each row, all exact
    for got, want in zip(kernel(scores + shifts, labels), kernel(scores, labels), strict=True):
        np.testing.assert_array_equal(got, want)


@kernels
@given(data=rows(), seed=st.integers(0, 99))
@settings
def test_integer_weights_are_repeated_rows(kernel, data, seed):
    scores, labels = data
    counts = np.random.default_rng(seed).integers(0, 4, size=len(labels))
    counts[0] += 1
    repeated = np.repeat(scores, counts, axis=0), np.repeat(labels, counts)
    for reduction in ("mean", "sum"):
        loss, gradient = kernel(scores, labels, weights=counts.astype(float), reduction=reduction)
        want_loss, parts = kernel(*repeated, reduction=reduction)
        np.testing.assert_allclose(loss, want_loss, **EXACT)
        ends = np.cumsum(counts)
        want = [parts[end - count : end].sum(axis=0) for end, count in zip(ends, counts)]  # noqa: B905
        np.testing.assert_allclose(gradient, want, rtol=0, atol=1e-13)


@kernels
@given(data=rows(), factor=st.sampled_from([0.25, 2.0, 1024.0]))
@settings
def test_the_scale_of_weights_does_not_change_a_mean(kernel, data, factor):
    scores, labels = data
    weights = np.arange(1.0, 1 + len(labels))
    for got, want in zip(
        kernel(scores, labels, weights=factor * weights),
        kernel(scores, labels, weights=weights),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)  # powers of two are exact


@kernels
@given(heads=st.lists(rows(max_rows=4, max_classes=4), min_size=1, max_size=4))
@settings
def test_heads_are_single_heads(kernel, heads):
    n, c = (min(scores.shape[i] for scores, _ in heads) for i in (0, 1))
    scores = np.stack([scores[:n, :c] for scores, _ in heads], axis=1)  # (N, K, C)
    labels = np.stack([labels[:n] % c for _, labels in heads])
    loss, gradient = kernel(np.ascontiguousarray(scores.transpose(2, 1, 0)), labels, axis=0)
    for k in range(len(heads)):
        want_loss, want_gradient = kernel(np.ascontiguousarray(scores[:, k].T), labels[k], axis=0)
        np.testing.assert_allclose(loss[k], want_loss, **EXACT)
        np.testing.assert_allclose(gradient[:, k], want_gradient, **GRADIENTS)


@kernels
@given(data=rows())
@settings
def test_gradients_of_a_row_sum_to_zero(kernel, data):
    scores, labels = data
    for reduction in ("mean", "none"):
        _, gradient = kernel(scores, labels, reduction=reduction)
        np.testing.assert_allclose(gradient.sum(axis=1), 0.0, atol=1e-14)


@given(data=rows(), smoothing=st.sampled_from([0.25, 1.0, 16.0]))
@settings
def test_gradients_of_a_row_sum_to_zero_when_smoothed(data, smoothing):
    scores, labels = data
    anchor = (np.arange(scores.size).reshape(scores.shape) % 9) / 8
    losses, gradient, slack, _ = proximal_hinge(scores, labels, anchor, smoothing)
    np.testing.assert_array_equal(gradient.sum(axis=1), 0.0)
    assert np.all(slack >= 0)
    assert np.all(losses <= _loss(hinge(scores, labels, reduction="none")))


@kernels
@given(data=rows())
@settings
def test_losses_are_not_negative_and_a_step_down_the_gradient_lowers_them(kernel, data):
    scores, labels = data
    loss, gradient = kernel(scores, labels, reduction="none")
    assert np.all(loss >= 0)
    after = _loss(kernel(scores - 1e-3 * gradient, labels, reduction="none"))
    assert np.all(after <= loss * (1 + 1e-14) + 1e-300)


@kernels
@given(data=rows())
@settings
def test_a_mask_is_the_labels(kernel, data):
    scores, labels = data
    mask = np.arange(scores.shape[1]) == labels[:, None]
    for got, want in zip(kernel(scores, mask), kernel(scores, labels), strict=True):
        np.testing.assert_array_equal(got, want)
    first = one_hot(np, labels, scores.shape[1])
    np.testing.assert_array_equal(first, mask.T)


@given(data=rows(), factor=st.sampled_from([0.5, 2.0, 8.0]))
@settings
def test_hinge_scales_with_scores_and_margin(data, factor):
    """The loss is homogeneous of degree 1 in (scores, margin), its gradient of degree 0."""
    scores, labels = data
    loss, gradient = hinge(scores, labels, margin=1.0)
    scaled_loss, scaled_gradient = hinge(factor * scores, labels, margin=factor)
    np.testing.assert_array_equal(scaled_loss, factor * loss)
    np.testing.assert_array_equal(scaled_gradient, gradient)


@given(data=rows())
@settings
def test_two_classes_are_the_binary_losses(data):
    """log(1 + exp(-d)) and max(0, 1 - d), d the lead of the true class."""
    scores, labels = data
    scores = np.concatenate([scores, scores], axis=1)[:, :2]
    labels = labels % 2
    d = scores[np.arange(len(labels)), labels] - scores[np.arange(len(labels)), 1 - labels]
    got = _loss(cross_entropy(scores, labels, reduction="none"))
    np.testing.assert_allclose(got, np.logaddexp(0.0, -d), rtol=1e-14)
    got = _loss(hinge(scores, labels, reduction="none"))
    np.testing.assert_array_equal(got, np.maximum(0.0, 1.0 - d))
