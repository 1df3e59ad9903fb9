"""The smoothed hinge: against its definition as a maximum, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    assert_close_max_norm,
    assert_same_kind,
    dyadic,
    hinge_rows,
    parity_data,
    proximal_rows,
    proximal_value,
)
from pairwise import pairwise

from xclf.kernels import hinge, proximal_hinge

N, C = 7, 5
NAMES = ("losses", "gradients", "slack", "multipliers")


def _dyadic_case(dtype, seed=0):
    """Multiples of 1/32: with smoothing a power of two, float32 arithmetic is exact."""
    rng = np.random.default_rng(seed)
    scores, labels = dyadic(rng, (N, C), dtype) / 4, rng.integers(C, size=N)
    return scores, labels, np.abs(dyadic(rng, (N, C), dtype)) / 4


@pairwise(smoothing=[0.25, 1.0, 8.0], margin=[0.5, 1.0], form=["integers", "mask"])
def test_exact_against_the_oracle(backend, smoothing, margin, form, dtype):
    scores, labels, anchor = _dyadic_case(dtype)
    want = proximal_rows(scores, labels, anchor, smoothing, margin)
    if form == "mask":
        labels = np.arange(C) == labels[:, None]
    arrays = [backend.asarray(a) for a in (scores, labels, anchor)]
    got = proximal_hinge(*arrays, smoothing, margin=margin)
    for name, a, b in zip(NAMES, got, want, strict=True):
        assert_same_kind(a, arrays[0])
        np.testing.assert_array_equal(backend.to_host(a), b, name)
    for array, value in zip(arrays, (scores, labels, anchor), strict=True):
        np.testing.assert_array_equal(backend.to_host(array), value)
    at = set(np.unique(want[3]))
    assert {0.0, 1.0} < at or smoothing < 1  # both bounds, and multipliers between


def test_row_weights(backend, dtype):
    scores, labels, anchor = _dyadic_case(dtype)
    weights = np.array([1, 0.5, 2, 0, 4, 0.25, 1], dtype=dtype)
    losses, gradients, slack, multipliers = proximal_rows(scores, labels, anchor, 0.5)
    want = (weights * losses, weights[:, None] * gradients, weights * slack, multipliers)
    arrays = [backend.asarray(a) for a in (scores, labels, anchor)]
    got = proximal_hinge(*arrays, 0.5, weights=backend.asarray(weights))
    for name, a, b in zip(NAMES, got, want, strict=True):
        np.testing.assert_array_equal(backend.to_host(a), b, name)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 0, 1)])
def test_heads_with_their_own_smoothing_and_margin(backend, order, dtype):
    """(K, N, C), (K, C, N) and (C, K, N): each head is the single fit, exactly."""
    cases = [_dyadic_case(dtype, seed) for seed in range(3)]
    scores, labels, anchor = (np.stack(parts) for parts in zip(*cases, strict=True))
    smoothing = np.array([0.25, 1.0, 8.0], dtype=dtype)
    margin = np.array([1.0, 0.5, 2.0], dtype=dtype)
    weights = np.array([1, 0.5, 2, 0, 4, 0.25, 1], dtype=dtype)
    got = proximal_hinge(
        backend.asarray(np.transpose(scores, order)),
        backend.asarray(labels),
        backend.asarray(np.transpose(anchor, order)),
        backend.asarray(smoothing),
        margin=backend.asarray(margin),
        weights=backend.asarray(weights),
        axis=order.index(2),
    )
    losses, gradients, slack, multipliers = (backend.to_host(a) for a in got)
    back = np.argsort(order)
    for k in range(3):
        want = proximal_rows(scores[k], labels[k], anchor[k], smoothing[k], margin[k])
        np.testing.assert_array_equal(losses[k], weights * want[0])
        np.testing.assert_array_equal(np.transpose(gradients, back)[k], weights[:, None] * want[1])
        np.testing.assert_array_equal(slack[k], weights * want[2])
        np.testing.assert_array_equal(np.transpose(multipliers, back)[k], want[3])


@pytest.mark.parametrize("smoothing", [0.3, 2.0])
def test_the_maximum_over_a_grid_of_multipliers(smoothing):
    """phi is the maximum of a m - smoothing/2 (a - a0)^2: brute force over 2001 values of a."""
    scores, labels = parity_data(N, C, np.float64)
    anchor = np.random.default_rng(1).uniform(size=(N, C))
    losses, _, _, multipliers = proximal_hinge(scores, labels, anchor, smoothing)
    grid = np.linspace(0.0, 1.0, 2001)
    for i, y in enumerate(labels):
        total = 0.0
        for j in set(range(C)) - {int(y)}:
            m = scores[i, j] - scores[i, y] + 1.0
            values = proximal_value(m, anchor[i, j], smoothing, grid)
            total += np.max(values)
            assert abs(grid[np.argmax(values)] - multipliers[i, j]) <= 0.5 / 2000 + 1e-12
        # The grid misses each maximiser by at most 1/4000: smoothing/2 times its square each.
        assert total <= losses[i] + 1e-12
        assert losses[i] <= total + C * smoothing / 2 / 4000**2 + 1e-12
        assert multipliers[i, y] == 0.0


@pytest.mark.parametrize("anchored", [0.0, 1.0, 0.3])
def test_without_smoothing_it_is_the_hinge(anchored):
    scores, labels = parity_data(N, C, np.float64)
    want_losses, want_gradients = hinge_rows(scores, labels)
    anchor = np.full((N, C), anchored)
    for smoothing in (1e-3, 1e-6, 1e-9):
        losses, gradients, slack, _ = proximal_hinge(scores, labels, anchor, smoothing)
        # a is at its bound once |m| >= smoothing, and phi is off by at most smoothing/2 a class.
        np.testing.assert_array_equal(gradients, want_gradients)
        assert np.all(np.abs(losses - want_losses) <= C * smoothing / 2 + 1e-13)
        assert not np.any(slack)


def test_it_never_exceeds_the_hinge_and_slack_is_what_the_multipliers_miss(backend, dtype):
    scores, labels, anchor = _dyadic_case(dtype)
    arrays = [backend.asarray(a) for a in (scores, labels)]
    plain = backend.to_host(hinge(*arrays, reduction="none")[0])
    for smoothing in (0.25, 4.0, 64.0):
        results = proximal_hinge(*arrays, backend.asarray(anchor), smoothing)
        losses, _, slack, a = (backend.to_host(r) for r in results)
        assert np.all(slack >= 0)
        assert np.all(losses <= plain)
        assert np.all((a >= 0) & (a <= 1))
        m = scores - np.take_along_axis(scores, labels[:, None], axis=1) + 1
        np.testing.assert_array_equal(slack, plain - np.sum(a * m, axis=1))
    assert np.any(slack > 0)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, np.nan])
def test_the_anchor_of_the_true_class_is_ignored(backend, value, dtype):
    scores, labels, anchor = _dyadic_case(dtype)
    want = proximal_rows(scores, labels, anchor, 0.5)
    anchor[np.arange(N), labels] = value
    arrays = [backend.asarray(a) for a in (scores, labels, anchor)]
    for name, a, b in zip(NAMES, proximal_hinge(*arrays, 0.5), want, strict=True):
        np.testing.assert_array_equal(backend.to_host(a), b, name)


def test_with_anchor_zero_it_is_the_huber_form(dtype):
    """m^2 / (2 smoothing) for 0 <= m <= smoothing, m - smoothing/2 beyond."""
    m = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 5.0], dtype=dtype)
    scores = np.stack([np.zeros(6, dtype=dtype), m - 1], axis=1)
    labels = np.zeros(6, dtype=np.int64)
    losses, _, _, a = proximal_hinge(scores, labels, np.zeros_like(scores), 2.0)
    np.testing.assert_array_equal(losses, [0, 0, 0.0625, 0.25, 1.0, 4.0])
    np.testing.assert_array_equal(a[:, 1], [0, 0, 0.25, 0.5, 1, 1])


def test_gradients_sum_to_zero(backend, dtype):
    scores, labels = parity_data(N, C, dtype)
    anchor = np.random.default_rng(2).uniform(size=(N, C)).astype(dtype)
    arrays = [backend.asarray(a) for a in (scores, labels, anchor)]
    gradients = backend.to_host(proximal_hinge(*arrays, 3.0)[1])
    bound = {"float32": 1e-6, "float64": 1e-15}[dtype.name]
    assert_close_max_norm(1 + gradients.sum(axis=1), np.ones(N), bound * np.abs(gradients).max())
