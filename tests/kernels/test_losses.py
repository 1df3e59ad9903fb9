"""The losses against loops over their formulas, for every class count and reduction."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from helpers import (
    assert_loss_parity,
    assert_same_kind,
    cross_entropy_rows,
    hinge_bound,
    hinge_rows,
    loss_bound,
    parity_data,
    reduce,
    squared_hinge_bound,
    squared_hinge_rows,
)

from xclf.kernels import cross_entropy, hinge, squared_hinge

SHAPES = [(4, 1), (5, 2), (1, 2), (7, 10), (1, 10), (3, 1000), (2, 100_000)]
REDUCTIONS = ["mean", "sum", "none"]
SPREAD = 30.0  # parity_data: scores of standard deviation 3


@functools.cache
def _hinge_case(shape, dtype, margin=1.0):
    scores, labels = parity_data(*shape, dtype, margin)
    losses, gradients = hinge_rows(scores, labels, margin)
    return scores, labels, losses, gradients, hinge_bound(losses, gradients, dtype, margin)


@functools.cache
def _squared_hinge_case(shape, dtype, margin=1.0):
    scores, labels = parity_data(*shape, dtype, margin)
    losses, gradients = squared_hinge_rows(scores, labels, margin)
    return scores, labels, losses, gradients, squared_hinge_bound(losses, gradients, dtype, margin)


@functools.cache
def _cross_entropy_case(shape, dtype):
    scores, labels = parity_data(*shape, dtype)
    losses, gradients = cross_entropy_rows(scores, labels)
    return scores, labels, losses, gradients, loss_bound(dtype, shape[1], SPREAD, shape[0])


CASES = {hinge: _hinge_case, squared_hinge: _squared_hinge_case, cross_entropy: _cross_entropy_case}
kernels = pytest.mark.parametrize("kernel", list(CASES), ids=lambda k: k.__name__)
hinges = pytest.mark.parametrize("kernel", [hinge, squared_hinge], ids=lambda k: k.__name__)


@kernels
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_right_for_every_class_count_and_reduction(backend, kernel, shape, dtype):
    scores, labels, losses, gradients, bound = CASES[kernel](shape, dtype)
    for reduction in REDUCTIONS:
        expected = reduce(losses, gradients, reduction)
        assert_loss_parity(backend, kernel, (scores, labels), expected, bound, reduction=reduction)


@kernels
@pytest.mark.parametrize("shape", [(5, 2), (7, 10), (1, 10), (3, 1000)])
def test_row_weights(backend, kernel, shape, dtype):
    scores, labels, losses, gradients, bound = CASES[kernel](shape, dtype)
    weights = np.random.default_rng(3).uniform(0.5, 4.0, size=shape[0]).astype(dtype)
    for reduction in REDUCTIONS:
        assert_loss_parity(
            backend,
            kernel,
            (scores, labels),
            reduce(losses, gradients, reduction, weights),
            bound,
            reduction=reduction,
            weights=backend.asarray(weights),
        )


@kernels
def test_a_row_of_weight_zero_does_not_count(backend, kernel, dtype):
    scores, labels, losses, gradients, bound = CASES[kernel]((7, 10), dtype)
    weights = np.array([1, 0, 1, 0, 0, 2, 1], dtype=dtype)
    expected = reduce(losses, gradients, "mean", weights)
    options = {"weights": backend.asarray(weights)}
    assert_loss_parity(backend, kernel, (scores, labels), expected, bound, **options)
    assert not np.any(expected[1][weights == 0])


@hinges
@pytest.mark.parametrize("margin", [0.25, 1.0, 7.5])
def test_hinge_margin(backend, kernel, margin, dtype):
    scores, labels, losses, gradients, bound = CASES[kernel]((7, 10), dtype, margin)
    expected = reduce(losses, gradients)
    assert_loss_parity(backend, kernel, (scores, labels), expected, bound, margin=margin)


@hinges
def test_hinge_margin_as_an_array_without_axes(backend, kernel, dtype):
    scores, labels, losses, gradients, bound = CASES[kernel]((7, 10), dtype, 0.25)
    margin = backend.asarray(np.asarray(0.25, dtype=dtype))
    expected = reduce(losses, gradients)
    assert_loss_parity(backend, kernel, (scores, labels), expected, bound, margin=margin)


@kernels
@pytest.mark.parametrize("label_dtype", ["int8", "int32", "int64"])
def test_any_signed_integer_labels(backend, kernel, label_dtype, dtype):
    scores, labels, losses, gradients, bound = CASES[kernel]((7, 10), dtype)
    expected = reduce(losses, gradients)
    inputs = (scores, labels.astype(label_dtype))
    assert_loss_parity(backend, kernel, inputs, expected, bound)


@kernels
@pytest.mark.parametrize("shape", SHAPES[:-1], ids=lambda s: f"{s[0]}x{s[1]}")
def test_labels_as_a_mask(backend, kernel, shape, dtype):
    scores, labels, losses, gradients, bound = CASES[kernel](shape, dtype)
    mask = np.arange(shape[1]) == labels[:, None]
    assert_loss_parity(backend, kernel, (scores, mask), reduce(losses, gradients), bound)


@kernels
def test_mean_is_the_default(backend, kernel):
    scores, labels, *_ = CASES[kernel]((7, 10), np.dtype("float64"))
    arrays = backend.asarray(scores), backend.asarray(labels)
    for got, want in zip(kernel(*arrays), kernel(*arrays, reduction="mean"), strict=True):
        np.testing.assert_array_equal(backend.to_host(got), backend.to_host(want))


@kernels
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_without_the_loss_the_gradient_is_the_same(backend, kernel, reduction, dtype):
    scores, labels, *_ = CASES[kernel]((7, 10), dtype)
    arrays = backend.asarray(scores), backend.asarray(labels)
    _, want = kernel(*arrays, reduction=reduction)
    loss, got = kernel(*arrays, reduction=reduction, need_loss=False)
    assert loss is None
    assert_same_kind(got, arrays[0])
    np.testing.assert_array_equal(backend.to_host(got), backend.to_host(want))


@kernels
def test_a_single_class_has_no_loss(backend, kernel, dtype):
    scores = backend.asarray(np.array([[3.0], [-1e4]], dtype=dtype))
    loss, dscores = kernel(scores, backend.asarray(np.array([0, 0])))
    assert backend.to_host(loss) == 0.0
    assert not np.any(backend.to_host(dscores))


def _one_large_many_ones(n_classes):
    """float32 margins 2^25 and n_classes - 2 ones: a float32 sum drops the ones, or most."""
    scores = np.zeros((2, n_classes), dtype=np.float32)
    scores[:, 1] = 2.0**25 - 1.0
    return scores, np.zeros(2, dtype=np.int64), 2.0**25 + (n_classes - 2)


@pytest.mark.parametrize("n_classes", [65, 100, 1000])
@pytest.mark.parametrize("axis", [-1, 0])
def test_many_classes_are_summed_in_float64(backend, n_classes, axis):
    scores, labels, want = _one_large_many_ones(n_classes)
    arrays = backend.asarray(scores if axis == -1 else scores.T), backend.asarray(labels)
    loss, _ = hinge(*arrays, axis=axis)
    # One rounding of each row's sum: half of 4, the last place beyond 2^25. The mean is exact.
    assert abs(float(backend.to_host(loss)) - want) <= 2.0


def test_rows_are_summed_in_float64(backend):
    # 1e8 + 1 - 1e8 is 1 in float64 and 0 in float32; every row's own loss is 1.
    scores = backend.asarray(np.zeros((3, 2), dtype=np.float32))
    weights = backend.asarray(np.array([1e8, 1.0, -1e8], dtype=np.float32))
    loss, _ = hinge(scores, backend.asarray([0, 1, 0]), weights=weights, reduction="sum")
    assert float(backend.to_host(loss)) == 1.0


@kernels
def test_nan_is_not_hidden(backend, kernel):
    scores = backend.asarray(np.array([[0.0, np.nan], [1.0, 2.0]]))
    loss, _ = kernel(scores, backend.asarray([0, 1]))
    assert np.isnan(backend.to_host(loss))
