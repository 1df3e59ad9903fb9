"""Class flows are made to balance: on random flows, on graphs in pieces, where it must give up."""

from __future__ import annotations

import numpy as np
from pairwise import pairwise

from xclf.training._flow_repair import balance, imbalance


def rows_of(seed, n_classes=4, n=60, kind="mixed", weighted=True):
    """(a (N, C), labels, weights): multipliers in the box, 0 at the true class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n)
    a = {
        "mixed": lambda: rng.choice([0.0, 1.0, rng.uniform()], size=(n, n_classes)),
        "inside": lambda: rng.uniform(0.2, 0.8, size=(n, n_classes)),
        "bounds": lambda: rng.choice([0.0, 1.0], size=(n, n_classes)),
        "zero": lambda: np.zeros((n, n_classes)),
        "one": lambda: np.ones((n, n_classes)),
    }[kind]()
    a[np.arange(n), labels] = 0.0
    weights = rng.uniform(0.5, 2.0, size=n) if weighted else np.ones(n)
    return a, labels, weights / weights.sum()


def sums(values, labels, weights):
    """F[j, c]: the weighted sum of values[i, j] over rows i of class c, in plain loops."""
    out = np.zeros((values.shape[1], values.shape[1]))
    for i, c in enumerate(labels):
        out[:, c] += weights[i] * values[i]
    return out


def repaired(a, labels, weights):
    c = a.shape[1]
    inside = np.minimum(a, 1 - a)
    inside[np.arange(len(a)), labels] = 0.0
    mass = np.bincount(labels, weights, minlength=c)
    inner, outer = balance(sums(a, labels, weights), sums(inside, labels, weights), mass)
    assert np.all(np.abs(inner) <= 1)
    assert np.all(np.abs(outer) <= 1)
    out = a.copy()
    for i, k in enumerate(labels):
        b = out[i] + inner[:, k] * np.minimum(out[i], 1 - out[i])
        out[i] = np.where(outer[:, k] < 0, b * (1 + outer[:, k]), b + outer[:, k] * (1 - b))
    return out, inner, outer


def check(a, labels, weights):
    out, inner, outer = repaired(a, labels, weights)
    assert np.all((out >= 0) & (out <= 1))
    assert not out[np.arange(len(a)), labels].any()
    rest = imbalance(sums(out, labels, weights))
    assert np.max(np.abs(rest)) < 1e-13
    return out, inner, outer


@pairwise(
    weighted=[True, False],
    kind=["mixed", "inside", "bounds", "zero", "one"],
    seed=range(5),
    n_classes=[2, 4, 9],
)
def test_any_multipliers_can_be_repaired(kind, weighted, seed, n_classes):
    check(*rows_of(seed, n_classes, kind=kind, weighted=weighted))


def test_what_balances_is_left_alone():
    a = np.full((6, 3), 0.5)
    labels = np.repeat(np.arange(3), 2)
    a[np.arange(6), labels] = 0.0
    out, inner, outer = check(a, labels, np.full(6, 1 / 6))
    np.testing.assert_array_equal(out, a)
    assert not inner.any()
    assert not outer.any()


def test_those_within_the_box_pay_for_a_small_imbalance():
    """Pairs at a bound are far from the kink: moving their multipliers would cost the most."""
    a, labels, weights = rows_of(0, kind="mixed")
    a, _, _ = check(a, labels, weights)
    a = np.clip(a + 1e-4 * np.random.default_rng(1).normal(size=a.shape) * (a * (1 - a) > 0), 0, 1)
    a[np.arange(len(a)), labels] = 0.0
    out, _, outer = check(a, labels, weights)
    bound = (a == 0) | (a == 1)
    np.testing.assert_allclose(out[bound], a[bound], rtol=0, atol=1e-12)
    assert np.max(np.abs(outer)) < 1e-10
    assert np.max(np.abs(out - a)) < 1e-2


def test_the_least_weight_of_flow_is_lost():
    """A cycle 0 -> 1 -> 2 -> 0 is a circulation, though no pair of classes balances."""
    labels = np.repeat(np.arange(3), 2)
    a = np.zeros((6, 3))
    a[np.arange(6), (labels + 1) % 3] = 1.0
    out, _, _ = check(a, labels, np.full(6, 1 / 6))
    np.testing.assert_array_equal(out, a)


def test_pieces_that_do_not_meet_are_balanced_each_alone():
    """Classes 0, 1 and 2, 3: flows between the two pieces are at their bounds."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(4), 10)
    a = np.zeros((40, 4))
    for pair in ((0, 1), (2, 3)):
        for c, j in (pair, pair[::-1]):
            a[labels == c, j] = rng.uniform(0.3, 0.7, size=10)
    out, inner, outer = check(a, labels, np.full(40, 1 / 40))
    np.testing.assert_array_equal(out == 0, a == 0)
    assert np.abs(inner).max() < 1
    assert np.abs(outer).max() < 1e-12


def test_nothing_flows_into_a_class_without_weight():
    a, labels, weights = rows_of(1, kind="inside")
    weights = np.where(labels == 2, 0.0, weights)
    out, _, _ = check(a, labels, weights / weights.sum())
    assert not out[:, 2].any()


def test_one_class_alone():
    out, _, _ = check(np.array([[0.0, 0.7], [0.0, 1.0]]), np.array([0, 0]), np.full(2, 0.5))
    assert not out.any()


def test_values_that_are_not_finite_do_not_hang():
    flow = np.full((3, 3), np.nan)
    balance(flow, flow, np.ones(3))


def test_weights_may_have_any_sum():
    """Powers of two round nothing: the repair is the same, bit by bit."""
    for seed in range(8):
        a, labels, weights = rows_of(seed)
        inside = np.minimum(a, 1 - a)
        flows = [sums(part, labels, weights) for part in (a, inside)]
        parts = (*flows, np.bincount(labels, weights, minlength=4))
        want = balance(*parts)
        for power in (-30, 30):
            got = balance(*(np.ldexp(part, power) for part in parts))
            np.testing.assert_array_equal(got.inner, want.inner)
            np.testing.assert_array_equal(got.outer, want.outer)
