"""log_softmax: the logarithm of every probability, to rounding, also next to 0."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from helpers import assert_relative, assert_same_kind, loss_bound, softmax_rows

from xclf.kernels import log_softmax


def _exact(scores):
    """log(exp(s_j) / sum_k exp(s_k)) with 600 digits."""
    out = np.zeros(scores.shape)
    with mpmath.workdps(600):
        for i, row in enumerate(scores.tolist()):
            e = [mpmath.exp(mpmath.mpf(s)) for s in row]
            total = mpmath.fsum(e)
            out[i] = [float(mpmath.log(value / total)) for value in e]
    return out


SCORES = [
    [0.0, 40.0, -1.0, 0.0],
    [1e4, -1e4, 0.0, 9999.0],
    [3.0, 3.0, 3.0, 3.0],
    [0.0, 1.0, 2.0, 80.0],
    [-7.0, 2.0, -5.0, 2.0],
]


@pytest.mark.parametrize("axis", [-1, 1, 0, -2])
def test_every_entry_is_right(backend, axis, dtype):
    scores = np.array(SCORES, dtype=dtype)  # whole numbers: their differences are exact
    turned = scores if axis in (-1, 1) else np.ascontiguousarray(scores.T)
    array = backend.asarray(turned)
    got = log_softmax(array, axis=axis)
    assert_same_kind(got, array)
    host = backend.to_host(got)
    want = _exact(scores)
    host = host if axis in (-1, 1) else host.T
    # Two negative numbers are added: no cancellation, so the bound of the loss holds for each.
    assert_relative(host, want, loss_bound(dtype, 4, 0), "log p", dtype)
    np.testing.assert_array_equal(backend.to_host(array), turned)


@pytest.mark.parametrize("n_classes", [1, 2, 10, 1000])
def test_its_exponential_is_the_softmax(backend, n_classes, dtype):
    scores = np.random.default_rng(n_classes).normal(size=(4, n_classes)).astype(dtype)
    got = backend.to_host(log_softmax(backend.asarray(scores)))
    want = np.log(softmax_rows(scores))
    bound = loss_bound(dtype, n_classes, 10) + 1e-12  # the oracle's own logarithm near 0
    assert_relative(got, want, bound, "log p", dtype)


def test_heads(backend, dtype):
    scores = np.random.default_rng(1).normal(size=(4, 3, 5)).astype(dtype)  # (C, K, N)
    got = backend.to_host(log_softmax(backend.asarray(scores), axis=0))
    for k in range(3):
        want = np.log(softmax_rows(scores[:, k].T)).T
        assert_relative(got[:, k], want, loss_bound(dtype, 4, 10), "log p", dtype)
