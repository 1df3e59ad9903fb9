"""One head of a small hinge problem: where it starts, its estimate of the gap, what callbacks hear.

Every bound is a few dozen roundings of sums of some hundred terms.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from backends import Backend
from estimator_cases import problem_on

from xclf import SVMClassifier
from xclf.objectives import Network
from xclf.training import STOPPED, Monitor, hinge
from xclf.training._hinge_newton import Gap
from xclf.training.hinge import ROUNDING, SmallHinge, fit_hinge

RNG = np.random.default_rng(0)
SCALE = np.array([1e-2, 1.0, 30.0, 5.0])
X, Y = RNG.normal(size=(40, 4)) * SCALE, np.arange(40) % 3
NETWORK = Network((4, 3), shift=X.mean(axis=0), scale=SCALE)


def problem(reg=1e-2):
    return problem_on(Backend.NUMPY, NETWORK, X, Y, loss="hinge", reg=reg)


def head(theta):
    return SmallHinge(problem(), theta, np.float64, 1e-6, None)


def test_a_head_starts_from_the_weights_that_it_is_given():
    """But for what all classes share, which no margin sees."""
    theta = RNG.normal(size=NETWORK.size)
    begun, raw = head(theta), NETWORK.raw(NETWORK.layers(theta))[0]
    w, b = begun._stored(begun.newton.v, begun.newton.b)
    np.testing.assert_allclose(w, raw.w - raw.w.mean(axis=0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(b, raw.b[:, 0] - raw.b.mean(), rtol=1e-11, atol=1e-12)


def test_the_estimated_gap_is_one_at_any_multipliers():
    """It bounds what is above the optimum, flows that do not balance included: each unit of them
    costs as much as a bias can move, the largest margin there is."""
    best = SVMClassifier(reg=1e-2, standardize=False, tol=1e-9).fit(X / SCALE, Y).objective_
    for seed in range(20):
        rng = np.random.default_rng(seed)
        newton = head(rng.normal(size=NETWORK.size)).newton
        gap, share = newton.gap(), newton.basis.share
        assert gap.value - best <= gap.total * (1.0 + 1e-9)
        m, a = newton.m, newton.a
        far = max(abs(entry) for row in m for entry in row) + 1.0
        out = sum(share[i] * a[i, j] for i in range(len(m)) for j in range(3) if j != Y[i])
        flows = np.zeros(3)
        for i in range(len(m)):
            for j in range(3):
                if j != Y[i]:
                    flows[j] += share[i] * a[i, j]
                    flows[Y[i]] -= share[i] * a[i, j]
        assert out >= 0.0
        pull = float(np.sum(newton.gv**2)) / (4.0 * 1e-2)
        want = pull + 0.5 * float(np.abs(flows).sum()) * far
        assert gap.residual == pytest.approx(want, rel=1e-9)


def fitted(*callbacks, count=3):
    monitor = Monitor(callbacks, "iteration", 1000)
    start = np.zeros((count, NETWORK.size))
    reg = np.geomspace(1e-1, 1e-3, count)
    return fit_hinge(problem(reg), start, tol=1e-6, max_iter=1000, monitor=monitor)


def test_callbacks_hear_how_many_heads_are_not_done():
    heard = []
    fitted(lambda event: heard.append(event.heads))
    assert sorted(set(heard)) == [1, 2, 3]
    assert heard == sorted(heard, reverse=True)


def test_heads_after_one_that_is_stopped_take_no_step():
    heard = []

    def stop(event):
        heard.append(event.step)
        return len(heard) == 2

    results = fitted(stop)
    assert len(heard) == 2
    assert len(results) == 3
    assert not any(result.converged for result in results)


def test_a_class_without_weight_is_beyond_every_margin():
    """Of columns of unequal scale too: its rows of the objective are 0, at the stored numbers."""
    weights = np.where(Y == 2, 0.0, 1.0)
    for standardize in (False, True):
        x = X + 3.0 * SCALE * (Y == 1)[:, None]
        model = SVMClassifier(reg=1e-3, standardize=standardize).fit(x, Y, sample_weight=weights)
        scores = model.decision_function(x[Y < 2])
        own = scores[np.arange(len(scores)), Y[Y < 2]]
        assert model.converged_
        assert (scores[:, 2] - own + 1.0 <= 0.0).all()


@pytest.mark.parametrize("reg", [1e-1, 1e-3, 1e-5])
def test_a_proof_is_the_gap_and_its_rounding(reg):
    """The gap of the multipliers in extended precision, plus a few hundred roundings of float64:
    of the objective, and of gradients over 4 reg."""
    network = Network((4, 3), bias=False, scale=SCALE)
    at = problem_on(Backend.NUMPY, network, X, Y, loss="hinge", reg=reg)
    begun = SmallHinge(at, np.zeros(network.size), np.float64, 1e-6, None)
    begun.run(1e-6, 1000, Monitor((), "iteration", 1000), 0, 1)
    w, b = begun._stored(begun.newton.v, begun.newton.b)
    proof = begun._proof(w, b)
    wide = np.longdouble
    u, v, a = (X / SCALE).astype(wide), (w * SCALE).astype(wide), begun.newton.a.astype(wide)
    scores = u @ v.T
    m = scores - scores[np.arange(40), Y][:, None] + 1
    g = a / 40
    m[np.arange(40), Y] = 0
    g[np.arange(40), Y] = -g.sum(axis=1)
    value = np.maximum(m, 0).sum() / 40 + reg * (v * v).sum()
    residual = g.T @ u + 2 * reg * v
    gap = (np.maximum(m, 0) - a * m).sum() / 40 + (residual**2).sum() / (4 * reg)
    assert proof.value == pytest.approx(float(value), rel=1e-13)
    assert float(gap) <= proof.gap <= float(gap) * (1 + 1e-6) + 1e-12 * float(value)


def test_what_is_proven_has_converged_unless_it_was_stopped():
    begun = head(np.zeros(NETWORK.size))
    begun.run(1e-6, 1000, Monitor((), "iteration", 1000), 0, 1)
    assert begun.proven()
    ends = {reason: begun.result(reason).converged for reason in
            ("converged", "reached max_iter=1", ROUNDING, STOPPED, "interrupted")}  # fmt: skip
    assert list(ends.values()) == [True, True, True, False, False]
    fresh = head(np.zeros(NETWORK.size))
    assert not fresh.result("reached max_iter=0").converged


def test_what_unbalanced_flows_cost():
    """Half of their size times how far apart biases may be, class by class; and what the optimum's
    weights may differ by, of which the root of the gap is the bound: x <= far sqrt(x) + rest."""
    begun = head(RNG.normal(size=NETWORK.size))
    v, b, gap, push, value = RNG.normal(size=(3, 4)), np.array([0.5, 1.5, -2.0]), 0.1, 0.02, 3.0
    means, weight = np.zeros((3, 4)), np.zeros(3)
    for row, c, share in zip(begun.u, Y, begun.share, strict=True):
        means[c] += share * row
        weight[c] += share
    means /= weight[:, None]
    lead = max(begun.loss.lead_bound(value / weight[c]) for c in range(3))
    moved = max(abs((v[j] - v[c]) @ means[c]) for c in range(3) for j in range(3))
    apart = float(lead) + 3.5 + moved
    far = push * np.sqrt(2.0 / 1e-2) * max(np.linalg.norm(row) for row in means)
    got = begun._with_biases(gap, push, value, v, b)
    # The least x with x - far sqrt(x) = gap + push apart.
    assert got - far * np.sqrt(got) == pytest.approx(gap + push * apart, rel=1e-10)
    assert begun._with_biases(gap, 0.0, value, v, b) == pytest.approx(gap, rel=1e-12)


@pytest.mark.parametrize("cancels", [False, True])
def test_a_residual_that_is_rounding_is_computed_with_more_digits(cancels):
    """Of columns far from zero, where features less their mean have lost digits, and of a million
    times the size that terms of the penalty have: the refined ones are right to a rounding of the
    result and those of extended precision, and say so; others stay."""
    x, scale = X + np.array([0.0, 1e6, 0.0, 0.0]), 1e-6 * SCALE
    at = problem_on(Backend.NUMPY, Network((4, 3), scale=scale), x, Y, loss="hinge", reg=1e-2)
    begun = SmallHinge(at, np.zeros(15), np.float64, 1e-6, None)
    a, centre = np.where(begun.basis.mask, 0.0, RNG.uniform(size=(40, 3))), begun.centre
    begun.newton.a = a
    v = RNG.normal(size=(3, 4))
    if cancels:
        v = -begun.basis.gathered(a / 40).T @ begun.u / (2.0 * 1e-2)
    residual, rounding = np.full((3, 4), 7.0), np.full((3, 4), 8.0)
    begun._refine(np.asarray([1, 2]), residual, rounding, v)
    extended = 60 * float(np.finfo(np.longdouble).eps)
    for c, d in itertools.product(range(3), (1, 2)):
        exact, size = Fraction(2) * Fraction(1e-2) * Fraction(v[c, d]), Fraction(0)
        for i in range(40):
            entry = Fraction(a[i, c]) if Y[i] != c else -sum(map(Fraction, a[i]))
            place = (Fraction(x[i, d]) - Fraction(float(centre[d]))) / Fraction(scale[d])
            exact += entry * place / 40
            size += abs(entry * place) / 40
        error = abs(Fraction(float(residual[c, d])) - exact)
        assert error <= Fraction(float(rounding[c, d]))
        assert rounding[c, d] <= 2.0**-52 * abs(residual[c, d]) + extended * float(size)
    assert (residual[:, [0, 3]] == 7.0).all()
    assert (rounding[:, [0, 3]] == 8.0).all()


def test_what_is_small(monkeypatch):
    """Up to the limits, which count rows, entries of X, and these times classes."""
    assert hinge.is_small(problem())
    for name, most in (("MOST_ROWS", 40), ("MOST_FEATURES", 160), ("MOST_PRODUCTS", 480)):
        for limit, small in ((most, True), (most - 1, False)):
            with monkeypatch.context() as patched:
                patched.setattr(hinge, name, limit)
                assert hinge.is_small(problem()) == small
    assert not hinge.is_small(problem(reg=0.0))


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_unlike_columns_are_solved_with_any_number_of_rows(monkeypatch, loss, dtype):
    """Units of 1e-3 to 1e9: the other method stood still there after thousands of passes."""
    monkeypatch.setattr(hinge, "MOST_ROWS", 100)
    z = RNG.normal(size=(150, 4))
    y = (z @ RNG.normal(size=(4, 3)) + RNG.normal(size=(150, 3))).argmax(axis=1)
    x = (z * [20.0, 2e4, 5e8, 1e-3] + [50.0, 5e4, 1e9, 1e-3]).astype(dtype)
    model = SVMClassifier(loss=loss, reg=1e-3).fit(x, y)
    assert model.converged_
    assert model.n_iter_ < 150


@pytest.mark.parametrize("bias", [True, False])
def test_which_columns_are_unlike(monkeypatch, bias):
    """Those whose ranges in the network's coordinates are far apart; constant ones do not count,
    and the equations of a step must be few."""
    monkeypatch.setattr(hinge, "MOST_ROWS", 10)
    for last, scale, unlike in (
        (2e-6, None, False),
        (0.5e-6, None, True),
        (0.5e-6, [1.0, 1.0, 1.0, 1e-6], False),
        (0.0, None, False),
    ):
        x = RNG.uniform(size=(40, 4))
        x[:2] = [[0.0], [1.0]]
        x[:, 3] *= last
        own = Network((4, 3), bias=bias, scale=None if scale is None else np.asarray(scale))
        some = problem_on(Backend.NUMPY, own, x, np.arange(40) % 3, reg=np.asarray([1e-2]))
        assert hinge.is_small(some) == unlike
        with monkeypatch.context() as patched:
            patched.setattr(hinge, "MOST_EQUATIONS", 3 * 5 - 1)
            assert not hinge.is_small(some)


def test_the_lowest_objective_is_what_callbacks_hear():
    """The first method's steps may raise it for a while."""
    heard = []
    monitor = Monitor((lambda event: heard.append(event.objective),), "iteration", 1000)
    begun = head(RNG.normal(size=NETWORK.size))
    values, real = [], begun.newton.gap

    def gap():
        values.append(real().value)
        return real()

    begun.newton.gap = gap
    begun.run(1e-6, 1000, monitor, 0, 1)
    assert len(heard) == begun.steps
    assert all(now >= later for now, later in itertools.pairwise(heard))
    assert begun.lowest[0] == min(values)


@pytest.mark.parametrize("reg", [1e-3, 1e3])
def test_the_rounding_of_a_residual(monkeypatch, reg):
    """Of sums of n terms, of D for a margin, and of the penalty: the bounds of both, twice. Errors,
    against exact arithmetic, are below it."""
    seen = []
    monkeypatch.setattr(SmallHinge, "_refine", lambda self, *at: seen.append(at))
    begun = SmallHinge(problem(reg), np.zeros(NETWORK.size), np.float64, 1e-6, None)
    begun.newton.a = np.where(begun.basis.mask, 0.0, RNG.uniform(size=(40, 3)))
    begun._proof(RNG.normal(size=(3, 4)) / SCALE, np.zeros(3))
    ((_, residual, rounding, v),) = seen
    g = begun.basis.gathered(begun.newton.a / 40)
    inner, outer = (2.0**-53 * (4.0 * length**0.5 + 16.0) for length in (4, 40))
    want = 2.0 * (inner + outer) * (np.abs(g).T @ np.abs(begun.u)) + 4.0 * reg * inner * np.abs(v)
    np.testing.assert_allclose(rounding, want, rtol=1e-12)
    for c, d in itertools.product(range(3), range(4)):
        terms = zip(map(Fraction, g[:, c]), map(Fraction, begun.u[:, d]), strict=True)
        exact = 2 * Fraction(reg) * Fraction(v[c, d]) + sum(a * b for a, b in terms)
        assert abs(Fraction(residual[c, d]) - exact) <= Fraction(rounding[c, d])


def test_a_gap_that_stays_ends_a_fit(monkeypatch):
    """Relative to the objective, here 4, it is 1e-3 after each of so many moves: more than is to
    blame for rounding at once."""
    begun = head(np.zeros(NETWORK.size))
    newton = begun.newton
    monkeypatch.setattr(newton, "gap", lambda: Gap(4.0, 4e-3, 0.0, 0.0))
    monkeypatch.setattr(newton, "advance", lambda gap, tol: setattr(newton, "moves", begun.steps))
    reason = begun.run(1e-6, 100, Monitor((), "iteration", 100), 0, 1)
    assert reason == ROUNDING
    assert 5 < begun.steps < 50


def test_a_goal_that_proves_nothing_is_lowered(monkeypatch):
    """A hundredfold, as long as it is more than rounding."""
    for enough in (1, 2, 3, 9):
        begun, goals = head(np.zeros(NETWORK.size)), []
        monkeypatch.setattr(begun.newton, "gap", lambda: Gap(1.0, 0.0, 0.0, 0.0))
        monkeypatch.setattr(begun.newton, "advance", lambda gap, tol: None)
        monkeypatch.setattr(begun, "_prove", lambda v, b, goal, goals=goals: goals.append(goal))
        monkeypatch.setattr(begun, "proven", lambda goals=goals, n=enough: len(goals) >= n)
        reason = begun.run(1e-6, 100, Monitor((), "iteration", 100), 0, 1)
        assert reason == ("converged" if enough < 9 else ROUNDING)
        np.testing.assert_allclose(goals, [1e-10, 1e-12, 1e-14][: min(enough, 3)], rtol=1e-12)


def test_the_bias_of_an_absent_class_is_not_far_beyond_every_margin():
    """It has to be stored beside the others, in float32 with their digits: a margin more than it
    takes, and a thousandth of the scores, for their rounding."""
    labels = np.where(Y == 2, 0, Y)
    for offset in (0.0, 1e3):
        at = problem_on(Backend.NUMPY, Network((4, 3)), X + offset, labels, loss="hinge", reg=1e-2)
        begun = SmallHinge(at, np.zeros(15), np.float64, 1e-6, None)
        w, b = begun._stored(0.1 * RNG.normal(size=(2, 4)), np.array([0.3, -0.2]))
        scores = (X + offset) @ w.T + b
        least = scores[np.arange(40), labels].min()
        below = least - scores[:, 2]
        assert np.ptp(below) <= 1e-12 * (1.0 + abs(b[2]))
        assert (below >= 1.0).all()
        assert (below <= 2.0 + 2e-3 * (1.0 + abs(least))).all()
