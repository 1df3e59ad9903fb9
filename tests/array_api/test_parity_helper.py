"""Test the test: a kernel that is wrong must not pass the parity helper."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    assert_close_max_norm,
    assert_loss_parity,
    assert_relative,
    assert_within,
    cross_entropy_rows,
    exact_cross_entropy,
    hinge_rows,
    loss_bound,
    numerical_gradient,
    product_bound,
    reduce,
)

from xclf import _array_api
from xclf.kernels import affine, cross_entropy, hinge

RNG = np.random.default_rng(11)
SCORES = RNG.normal(size=(6, 4))
LABELS = np.array([0, 3, 1, 2, 2, 0])


def _times(factor_loss, factor_gradient):
    def kernel(scores, labels):
        loss, dscores = cross_entropy(scores, labels)
        return loss * factor_loss, dscores * factor_gradient

    return kernel


def _naive(scores, labels):
    """Right on paper: exp overflows, and 1 + tiny loses the tiny."""
    xp = _array_api.namespace(scores)
    e = xp.exp(scores)
    p = e / xp.sum(e, axis=-1, keepdims=True)
    picked = xp.take_along_axis(p, labels[:, None], axis=-1)
    rows = scores.shape[0]
    classes = xp.arange(scores.shape[1], device=_array_api.device(scores))[None, :]
    true = xp.astype(classes == labels[:, None], scores.dtype)
    return xp.sum(-xp.log(picked)) / rows, (p - true) / rows


def _promoting(scores, labels):
    loss, dscores = cross_entropy(scores, labels)
    xp = _array_api.namespace(scores)
    return loss, xp.astype(dscores, xp.float64)


def _crossing(scores, labels):
    loss, dscores = cross_entropy(scores, labels)
    return _array_api.to_host(loss), dscores


def _writing(scores, labels):
    loss, dscores = cross_entropy(scores, labels)
    scores[0, 0] = 7.0
    return loss, dscores


def _crammer_singer(scores, labels):
    """The max form: another loss under the same name."""
    xp = _array_api.namespace(scores)
    _, dscores = hinge(scores, labels)
    picked = xp.take_along_axis(scores, labels[:, None], axis=-1)
    return xp.mean(xp.max(scores - picked + 1.0, axis=-1)), dscores


def _check(backend, kernel, scores=SCORES, labels=LABELS, rows=cross_entropy_rows):
    expected = reduce(*rows(scores, labels))
    assert_loss_parity(backend, kernel, (scores, labels), expected, loss_bound(scores.dtype, 4, 8))


def test_the_right_kernels_pass(backend):
    _check(backend, cross_entropy)
    _check(backend, cross_entropy, SCORES.astype(np.float32))
    _check(backend, hinge, rows=hinge_rows)


@pytest.mark.parametrize(
    "kernel", [_times(1 + 1e-12, 1.0), _times(1.0, 1 + 1e-12), _times(1.0, -1.0)]
)
def test_a_wrong_factor_fails(backend, kernel):
    with pytest.raises(AssertionError):
        _check(backend, kernel)


def test_a_wrong_float32_factor_fails(backend):
    with pytest.raises(AssertionError):
        _check(backend, _times(1 + 2e-6, 1.0), SCORES.astype(np.float32))


def test_another_loss_fails(backend):
    with pytest.raises(AssertionError, match="loss"):
        _check(backend, _crammer_singer, rows=hinge_rows)


def test_promotion_fails(backend):
    with pytest.raises(AssertionError, match="dtype"):
        _check(backend, _promoting, SCORES.astype(np.float32))


def test_a_result_on_the_host_fails(backend):
    if backend.value.startswith("numpy"):
        pytest.skip("NumPy lives on the host")
    with pytest.raises((AssertionError, TypeError)):
        _check(backend, _crossing)


def test_writing_to_an_input_fails(backend):
    with pytest.raises((AssertionError, ValueError)):
        _check(backend, _writing)


def test_the_textbook_form_fails_where_it_cancels(backend):
    _check(backend, _naive)  # moderate scores do not show it
    scores = SCORES + 40.0 * (np.arange(4) == LABELS[:, None])
    expected = reduce(*exact_cross_entropy(scores, LABELS))
    bound = loss_bound(scores.dtype, 4, 50)
    assert_loss_parity(backend, cross_entropy, (scores, LABELS), expected, bound)
    with pytest.raises(AssertionError):
        assert_loss_parity(backend, _naive, (scores, LABELS), expected, bound)


def test_the_product_bound_sees_half_precision():
    x, w = RNG.normal(size=(5, 128)), RNG.normal(size=(128, 3))
    x32, w32 = x.astype(np.float32), w.astype(np.float32)
    exact, bound = x32.astype(float) @ w32.astype(float), product_bound(x32, w32, np.float32)
    assert_within(affine(x32, w32, None), exact, bound)
    # TF32 keeps 10 bits of fraction, as float16 does.
    rounded = x.astype(np.float16).astype(np.float32) @ w.astype(np.float16).astype(np.float32)
    with pytest.raises(AssertionError):
        assert_within(rounded, exact, bound)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_fail_every_assertion(bad):
    for check in (assert_close_max_norm, assert_within, assert_relative):
        check([1.0, 2.0], [1.0, 2.0], 0.0)
        with pytest.raises(AssertionError):
            check([1.0, bad], [1.0, 2.0], 1e-3)
        with pytest.raises(AssertionError, match="shape"):
            check([1.0], [1.0, 2.0], 1e-3)


def test_the_two_cross_entropy_oracles_agree():
    for got, want in zip(
        cross_entropy_rows(SCORES, LABELS), exact_cross_entropy(SCORES, LABELS), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)


def test_the_numerical_gradient_finds_a_known_one():
    gradient = numerical_gradient(lambda x: float(np.sum(x**3)), np.array([[1.0, -2.0]]))
    np.testing.assert_allclose(gradient, [[3.0, 12.0]], rtol=1e-8)
