"""The line search: it ends at a step that satisfies both Wolfe conditions, or says it cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xclf.optim import Accepted, Trial, wolfe_search

DECREASE, CURVATURE = 1e-4, 0.9  # Nocedal & Wright (2006), section 3.1: written again, not read


def _search(f, df, first=1.0, noise=0.0):
    """(accepted, steps tried) of a search on f along the line."""
    tried = []
    search = wolfe_search(Trial(f(0.0), df(0.0)), first, noise)
    try:
        step = next(search)
        while True:
            tried.append(step)
            step = search.send(Trial(f(step), df(step)))
    except StopIteration as end:
        return end.value, tried


def _assert_wolfe(f, df, accepted, noise=0.0):
    t = accepted.step
    assert f(t) <= f(0.0) + DECREASE * t * df(0.0) + noise
    assert abs(df(t)) <= CURVATURE * abs(df(0.0))


FUNCTIONS = {
    "quadratic": (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1)),
    "steep": (lambda t: 1e6 * (t - 3) ** 2, lambda t: 2e6 * (t - 3)),
    "quartic": (lambda t: (t - 2) ** 4, lambda t: 4 * (t - 2) ** 3),
    "far away": (lambda t: math.exp(-t) + 1e-3 * t, lambda t: -math.exp(-t) + 1e-3),
    "waves": (
        lambda t: -t + math.sin(5 * t) ** 2 + t * t,
        lambda t: -1 + 5 * math.sin(10 * t) + 2 * t,
    ),
}


@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 7.0, 1e4])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_accepted_step_satisfies_both_conditions(name, first):
    f, df = FUNCTIONS[name]
    accepted, tried = _search(f, df, first)
    assert accepted.ok
    assert accepted.step == tried[-1]  # the caller holds the gradient of the last step tried
    assert len(tried) <= 25
    _assert_wolfe(f, df, accepted)


def test_a_good_first_step_is_taken():
    accepted, tried = _search(*FUNCTIONS["quadratic"], first=0.9)
    assert accepted == Accepted(0.9, True)
    assert tried == [0.9]


def test_the_minimiser_of_a_quadratic_is_found_from_too_long_a_step():
    """The cubic through two points of a quadratic is that quadratic."""
    _, tried = _search(*FUNCTIONS["quadratic"], first=5.0)
    assert tried == [5.0, pytest.approx(1.0)]


def test_a_step_that_is_too_short_is_lengthened():
    accepted, tried = _search(*FUNCTIONS["quadratic"], first=1e-4)
    assert accepted.ok
    assert tried[1] == 4e-4


@pytest.mark.parametrize("value", [math.inf, math.nan, -math.inf])
@pytest.mark.parametrize("derivative", [1.0, math.nan])
def test_a_value_that_is_not_finite_is_too_long_a_step(value, derivative):
    """-inf too: nothing can be learned from an overflow."""

    def f(t):
        return (t - 0.01) ** 2 if t < 0.02 else value

    def df(t):
        return 2 * (t - 0.01) if t < 0.02 else derivative

    accepted, tried = _search(f, df, 8.0)
    assert accepted.ok
    _assert_wolfe(f, df, accepted)
    assert tried[:2] == [8.0, pytest.approx(0.8)]


def test_a_derivative_that_is_not_finite_is_too_long_a_step():
    accepted, _ = _search(lambda t: -t, lambda t: math.nan if t > 0 else -1.0)
    assert not accepted.ok


@pytest.mark.parametrize("derivative", [0.0, 1.0, math.nan, math.inf])
def test_no_search_without_descent(derivative):
    with pytest.raises(StopIteration) as end:
        next(wolfe_search(Trial(1.0, derivative), 1.0))
    assert end.value.value == Accepted(0.0, False)


def test_values_near_the_largest_float_are_bisected():
    """The cubic's coefficients overflow: halving the bracket still finds the bottom."""
    accepted, tried = _search(lambda t: 1e200 * (t - 1) ** 2, lambda t: 2e200 * (t - 1), first=5.0)
    assert tried[:2] == [5.0, 2.5]
    assert accepted.ok


def test_a_line_without_bottom_gives_up():
    accepted, tried = _search(lambda t: -t, lambda t: -1.0)
    assert not accepted.ok
    assert len(tried) == 25


def test_a_kink_may_end_the_search_without_a_step():
    """|f'| never falls below 0.9 |f'(0)| at this kink: the bracket shrinks, and the search says so.

    f = |t - 1| has derivatives -1 and 1 only.
    """
    accepted, tried = _search(lambda t: abs(t - 1), lambda t: -1.0 if t < 1 else 1.0, first=3.0)
    assert not accepted.ok
    assert len(tried) <= 25


def test_a_bracket_of_neighbouring_floats_ends_the_search():
    """The values rise at the smallest step there is."""
    tiny = np.nextafter(0.0, 1.0)
    accepted, tried = _search(lambda t: t, lambda t: -1.0 if t == 0 else 1.0, first=3 * tiny)
    assert not accepted.ok
    assert len(tried) < 25


def test_noise_lets_the_derivatives_decide():
    """At an optimum of 1e8 a decrease of 1e-9 is lost in rounding, but the derivative is not."""

    def f(t):
        return 1e8 + 1e-9 * (t - 1) ** 2 + (1e-8 if t > 0 else 0.0)  # rounding's whim

    def df(t):
        return 2e-9 * (t - 1)

    assert not _search(f, df)[0].ok
    accepted, tried = _search(f, df, noise=1e8 * 2.0**-52)
    assert accepted == Accepted(1.0, True)
    assert tried == [1.0]


def test_noise_does_not_excuse_a_rise_beyond_it():
    f, df = FUNCTIONS["quadratic"]
    accepted, tried = _search(f, df, first=2.0 + 1e-3, noise=1e-4)
    assert len(tried) > 1  # f(2.001) - f(0) is 4e-3 above the line
    _assert_wolfe(f, df, accepted, 1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_random_quartics(seed):
    """f = a t^4 + b t^3 + c t^2 - d t, d > 0, a > 0: bounded below, and descending at 0."""
    rng = np.random.default_rng(seed)
    a, b, c, d = rng.uniform(0.01, 2), rng.normal(), rng.normal(), 10.0 ** rng.uniform(-3, 3)
    poly = np.polynomial.Polynomial([0.0, -d, c, b, a])
    accepted, _ = _search(poly, poly.deriv(), 10.0 ** rng.uniform(-3, 3))
    assert accepted.ok
    _assert_wolfe(poly, poly.deriv(), accepted)
