"""Where textbook forms fail: huge and tiny scores, sure predictions, kinks and ties."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    assert_relative,
    exact_cross_entropy,
    gamma,
    hinge_rows,
    loss_bound,
    reduce,
    squared_hinge_rows,
)

from xclf.kernels import cross_entropy, hinge, squared_hinge


def _run(backend, kernel, scores, labels, dtype, **options):
    arrays = backend.asarray(scores, dtype), backend.asarray(np.asarray(labels))
    return [backend.to_host(a) for a in kernel(*arrays, reduction="none", **options)]


def _check_cross_entropy(backend, scores, labels, dtype, spread=0.0):
    """Loss AND every single gradient entry, relative, down to the smallest normal number."""
    scores = np.asarray(scores, dtype=dtype)
    losses, gradients = _run(backend, cross_entropy, scores, labels, dtype)
    want_losses, want_gradients = exact_cross_entropy(scores, labels)
    bound = loss_bound(dtype, scores.shape[1], spread)
    assert_relative(losses, want_losses, bound, "loss", dtype)
    assert_relative(gradients, want_gradients, bound, "gradient", dtype)
    return losses


def test_huge_scores(backend, dtype):
    # Differences of whole numbers are exact: no spread in the bound.
    scores = [
        [1e4, -1e4, 0.0],
        [-1e4, 1e4, 0.0],
        [1e4, 1e4, 1e4 - 1],
        [-1e4, -1e4, -1e4 - 2],
        [0.0, -1e4, 1e4],
    ]
    _check_cross_entropy(backend, scores, [0, 0, 2, 2, 2], dtype)


@pytest.mark.parametrize("size", [1e-30, -1e-30])
def test_tiny_scores(backend, size, dtype):
    _check_cross_entropy(backend, np.diag([size] * 4), [0, 1, 0, 3], dtype)


@pytest.mark.parametrize("lead", [1, 5, 15, 16, 17, 20, 36, 37, 40, 60, 80])
def test_a_lead_leaves_a_small_loss_and_no_zero(backend, lead, dtype):
    scores = np.zeros((3, 3))
    scores[:, 1] = lead  # whole numbers again
    losses = _check_cross_entropy(backend, scores, [1, 0, 1], dtype)
    assert losses[0] > 0.0


def test_the_loss_at_a_lead_of_forty(backend):
    losses = _check_cross_entropy(backend, [[0.0, 40.0]], [1], np.dtype("float64"))
    assert f"{losses[0]:.0e}" == "4e-18"


@pytest.mark.parametrize("lead", [100, 300, 700])
def test_a_lead_of_several_hundred(backend, lead, dtype):
    # float64 holds exp(-700); float32 may round what is below 1e-38 to 0.
    losses = _check_cross_entropy(backend, [[lead, 0, 0], [0, lead, -lead]], [0, 0], dtype)
    assert np.dtype(dtype) != np.float64 or losses[0] > 0.0


@pytest.mark.parametrize("difference", [1e-12, 1e-7, 1e-3, 0.3, 0.69, 3.3, 21.7])
def test_a_small_lag_behind_the_best_class(backend, difference, dtype):
    scores = [[0.0, difference, -9.9], [0.0, difference, difference], [difference, 0.0, 0.1]]
    _check_cross_entropy(backend, scores, [0, 0, 2], dtype, spread=32.0)


def test_equal_scores(backend, dtype):
    for n_classes in (1, 2, 10, 1000):
        scores = np.full((2, n_classes), 3.0)
        losses = _check_cross_entropy(backend, scores, [0, n_classes - 1], dtype)
        assert_relative(losses, [np.log(n_classes)] * 2, gamma(20, dtype))


def test_hinge_of_huge_scores_is_exact(backend, dtype):
    scores = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, 1e4 - 1]], dtype=dtype)
    labels = [0, 0, 2]
    losses, gradients = _run(backend, hinge, scores, labels, dtype)
    want_losses, want_gradients = hinge_rows(scores, labels)
    np.testing.assert_array_equal(losses, want_losses)
    np.testing.assert_array_equal(gradients, want_gradients)


def test_hinge_takes_the_difference_before_the_margin(backend, dtype):
    # 2^23 and 2^52: the last place is 1, so a margin of 1/4 added to a score would be lost.
    large = 2.0 ** (23 if np.dtype(dtype) == np.float32 else 52)
    scores = np.array([[large, large, large + 1], [large, large - 1, large]], dtype=dtype)
    losses, gradients = _run(backend, hinge, scores, [0, 0], dtype, margin=0.25)
    np.testing.assert_array_equal(losses, [0.25 + 1.25, 0.25])
    np.testing.assert_array_equal(gradients, [[-2, 1, 1], [-1, 0, 1]])


def test_hinge_of_tiny_scores(backend, dtype):
    losses, gradients = _run(backend, hinge, np.diag([1e-30] * 3), [0, 1, 0], dtype)
    np.testing.assert_array_equal(losses, [2.0, 2.0, 2.0])
    np.testing.assert_array_equal(gradients, [[-2, 1, 1], [1, -2, 1], [-2, 1, 1]])


@pytest.mark.parametrize("margin", [1.0, 2.0])
def test_hinge_gradient_at_a_kink_is_zero(backend, margin, dtype):
    """Small whole numbers: about a quarter of the margins are 0 exactly."""
    rng = np.random.default_rng(8)
    scores, labels = rng.integers(-2, 3, size=(40, 6)), rng.integers(6, size=40)
    assert np.any(scores - scores[np.arange(40), labels][:, None] + margin == 0)
    losses, gradients = _run(backend, hinge, scores, labels, dtype, margin=margin)
    want_losses, want_gradients = hinge_rows(scores, labels, margin)
    np.testing.assert_array_equal(losses, want_losses)
    np.testing.assert_array_equal(gradients, want_gradients)
    total, _ = hinge(
        backend.asarray(scores, dtype), backend.asarray(labels), margin=margin, reduction="sum"
    )
    assert float(backend.to_host(total)) == reduce(want_losses, want_gradients, "sum")[0]


def test_hinge_of_equal_scores_is_the_margin_times_the_other_classes(backend, dtype):
    losses, gradients = _run(backend, hinge, np.full((2, 5), 7.0), [0, 4], dtype, margin=0.5)
    np.testing.assert_array_equal(losses, [2.0, 2.0])
    np.testing.assert_array_equal(gradients, [[-4, 1, 1, 1, 1], [1, 1, 1, 1, -4]])


def test_squared_hinge_of_whole_numbers_is_exact(backend, dtype):
    """Margins of 0 among them: the gradient there is 0."""
    rng = np.random.default_rng(8)
    scores, labels = rng.integers(-2, 3, size=(40, 6)), rng.integers(6, size=40)
    losses, gradients = _run(backend, squared_hinge, scores, labels, dtype, margin=2.0)
    want_losses, want_gradients = squared_hinge_rows(scores, labels, 2.0)
    np.testing.assert_array_equal(losses, want_losses)
    np.testing.assert_array_equal(gradients, want_gradients)


def test_squared_hinge_takes_the_difference_before_the_margin(backend, dtype):
    large = 2.0 ** (23 if np.dtype(dtype) == np.float32 else 52)
    scores = np.array([[large, large, large + 1], [large, large - 1, large]], dtype=dtype)
    losses, gradients = _run(backend, squared_hinge, scores, [0, 0], dtype, margin=0.25)
    np.testing.assert_array_equal(losses, [0.25**2 + 1.25**2, 0.25**2])
    np.testing.assert_array_equal(gradients, [[-3, 0.5, 2.5], [-0.5, 0, 0.5]])
