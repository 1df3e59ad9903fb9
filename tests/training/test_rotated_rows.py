"""Rows in the eigenbasis of their features: the same scores, and moments that are diagonal."""

from __future__ import annotations

import numpy as np
from backends import Backend
from estimator_cases import problem_on
from pairwise import pairwise

from xclf.objectives import Network
from xclf.training._rotated_rows import rotated_rows

RNG = np.random.default_rng(0)


@pairwise(shape=[(30, 4), (5, 9)], bias=[True, False], scaled=[True, False], weighted=[True, False])
def test_scores_and_moments(shape, bias, scaled, weighted):
    """Sums of some dozens of terms of a few units: 1e-12 is a thousand roundings."""
    n, d = shape
    x = RNG.normal(size=shape) * RNG.uniform(0.3, 3.0, d) + 2.0
    place = {"shift": x.mean(axis=0)} if bias else {}
    place |= {"scale": RNG.uniform(0.3, 3.0, d)} if scaled else {}
    network = Network((d, 3), bias=bias, **place)
    weights = RNG.uniform(0.5, 2.0, n) if weighted else None
    rotated = rotated_rows(problem_on(Backend.NUMPY, network, x, np.arange(n) % 3, weights=weights))

    z = rotated.z
    v = RNG.normal(size=(2, 3, z.shape[1]))
    theta = rotated.outside(v)
    assert theta.shape == (2, network.size)
    scores = network.forward(theta, x)[0]
    np.testing.assert_allclose(scores, v @ z.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(rotated.inside(theta), v, rtol=0, atol=1e-12)

    share = np.ones(n) / n if weights is None else weights / weights.sum()
    moments = (z * share[:, None]).T @ z
    if bias:  # a column of ones, from which the others are apart
        np.testing.assert_array_equal(z[:, -1], 1.0)
        assert rotated.spectrum[-1] == 1.0
    np.testing.assert_allclose(moments, np.diag(rotated.spectrum), rtol=0, atol=1e-12)
    assert z.shape[1] == min(n, d) + bias
