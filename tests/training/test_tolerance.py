"""When a full-batch fit of a smooth objective has met its tolerance, number by number."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from xclf.training._tolerance import IDLE, Tolerance, rounding

TOL, NOISE = 1e-4, 1e-8


def met(tolerance, idle=0, **given):
    """Of a head whose objective is 2, and 3 the gradient's norm at zero weights."""
    numbers = {"value": 2.0, "grad_norm": 0.9 * TOL * 3.0, "decrement": 0.9 * TOL * 2.0}
    numbers |= {"stalled": False} | given
    extra = numbers.pop("extra", [])
    at = SimpleNamespace(**{name: np.asarray([one]) for name, one in numbers.items()})
    at.extra = np.asarray(extra, dtype=float).reshape(1, -1)
    return bool(tolerance.met(at, np.asarray([3.0]), np.asarray([idle]))[0])


def test_both_the_gradient_and_the_estimate_are_to_be_small():
    tolerance = Tolerance(TOL, NOISE)
    assert met(tolerance)
    assert met(tolerance, value=-2.0)
    assert not met(tolerance, grad_norm=1.1 * TOL * 3.0)
    assert not met(tolerance, decrement=1.1 * TOL * 2.0)
    assert not met(tolerance, value=math.inf)
    assert met(tolerance, grad_norm=0.0, decrement=math.inf)


def test_a_bound_of_an_evaluation_is_to_be_small_too():
    """Where one is asked for: one that is not known is as good as any where it is not."""
    for bound, gap, want in (
        (1.9e-5, 1e-5, True),
        (2e-5, 1e-5, True),
        (2.1e-5, 1e-5, False),
        (math.inf, 1e-5, False),
        (math.inf, math.inf, True),
    ):
        assert met(Tolerance(TOL, NOISE, gap), extra=[bound, 7.0]) == want


def test_rounding_keeps_the_gradient_up():
    """Of a fit that has stopped falling, or stands still: the root of the rounding error, 1e-4, is
    what counts then."""
    tolerance, up = Tolerance(1e-6, NOISE), {"grad_norm": 0.9e-4 * 3.0}
    assert not met(tolerance, **up, decrement=1e-7)
    assert met(tolerance, IDLE, **up, decrement=1e-7)
    assert not met(tolerance, IDLE - 1, **up, decrement=1e-7)
    assert not met(tolerance, IDLE, **up, decrement=1e-5)
    assert not met(tolerance, IDLE, grad_norm=1.1e-4 * 3.0, decrement=1e-7)
    assert met(tolerance, **up, stalled=True, decrement=1.9 * NOISE)
    assert not met(tolerance, **up, stalled=True, decrement=2.1 * NOISE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_of_an_objective(dtype):
    """Of float32 rows their own, of float64 rows a few units of the sum."""
    want = {np.float32: 2.0**-23, np.float64: 2.0**-48}[dtype]
    assert rounding(np.dtype(dtype), np) == want


def test_rounding_of_products_in_tf32():
    """More than float32's own: operands have 11 bits. Less than an operand's, 2^-12: errors average
    out over a product. Float64 rows have none such."""
    assert 2.0**-23 < rounding(np.dtype("float32"), np, "tf32") < 2.0**-12
    assert rounding(np.dtype("float64"), np, "tf32") == 2.0**-48
