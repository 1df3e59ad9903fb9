"""Bounds of rounding, against the bounds that hold in the worst case and against real sums."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

module = sys.modules["xclf.training._precision"]

UNIT = float(np.finfo(np.float32).eps) / 2


@pytest.mark.parametrize("length", [1, 2, 8, 17, 32])
def test_short_products_are_bounded_in_the_worst_case(length):
    """n u of n products added up, and two roundings more: no chance is needed for so few."""
    inner, outer = module.rounding_bounds(UNIT, length, 10**6)
    assert inner >= (length + 2) * UNIT
    assert outer > inner
    assert module.rounding_bounds(UNIT, 10**6, length) == (outer, inner)


@pytest.mark.parametrize("length", [100, 10_000, 1_000_000])
def test_long_sums_grow_with_the_root(length):
    """Between 4 deviations, of which a sum exceeds one in 16,000, and a worst case of n u."""
    inner, outer = module.rounding_bounds(UNIT, length, length)
    assert inner == outer
    assert 4.0 * math.sqrt(length) * UNIT < inner < 6.0 * math.sqrt(length) * UNIT
    values = np.random.default_rng(0).uniform(size=length).astype(np.float32)
    one_by_one = np.cumsum(values, dtype=np.float32)[-1]  # an order that adds one after the other
    assert abs(float(one_by_one) - math.fsum(values.tolist())) <= outer * math.fsum(values.tolist())
