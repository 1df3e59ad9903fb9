"""Which of its ways a Newton step of the hinge is computed by, and how its smoothing shrinks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from xclf.training import _hinge_basis, _hinge_newton
from xclf.training._hinge_basis import Basis
from xclf.training._hinge_newton import Gap, HingeNewton

N, D, C, REG = 40, 4, 3, 1e-2
RNG = np.random.default_rng(0)
U = RNG.normal(size=(N, D))
LABELS, SHARE = np.arange(N) % C, np.full(N, 1.0 / N)
WAYS = ("_solve", "_solve_scaled", "_solve_orthogonal", "_conjugate_gradients", "_solve_stiff")


def newton_of(most_pairs=2000, squared=False):
    basis = Basis.of(U, LABELS, SHARE, C, True)
    zero = np.zeros((C, D)), np.zeros(C)
    return HingeNewton(basis, REG, 1.0, *zero, squared=squared, most_pairs=most_pairs)


def between(newton, count):
    """So many pairs between their bounds, the others at one."""
    newton.wanted = np.where(newton.basis.mask, 0.0, 2.0)
    i, j = np.nonzero(~newton.basis.mask)
    newton.wanted[i[:count], j[:count]] = 0.5


@pytest.fixture
def ways(monkeypatch):
    """Those that steps were computed by, in their order."""
    taken = []
    for name in WAYS:
        real = getattr(HingeNewton, name)

        def watched(self, *args, name=name, real=real):
            taken.append(name)
            return real(self, *args)

        monkeypatch.setattr(HingeNewton, name, watched)
    return taken


@pytest.mark.parametrize("spent", [0.0, 4e5])
def test_equations_are_solved_where_that_is_less_work(ways, spent):
    """A factor of p pairs takes p^3 / 3 multiply-adds, and gathering its p^2 entries the time of 50
    each; a hundred rounds of conjugate gradients four products of C r with the rows and the
    classes, or as many as were spent without a factor."""
    allowed = max(100 * 4 * C * D * (N + C), spent)
    counts = range(1, N * (C - 1) + 1)
    most = max(p for p in counts if p**3 / 3 + 50 * p**2 <= allowed)
    assert 40 < most < 2 * N
    for count, name in ((most, "_solve"), (most + 1, "_solve_orthogonal"), (5, "_solve")):
        newton = newton_of()
        newton.spent = spent
        between(newton, count)
        newton._step(1e-3)
        assert ways.pop() == name


def test_equations_are_factorised_once(monkeypatch):
    """While the same pairs are between their bounds, at the same smoothing: then they cost nothing
    more, however many they are."""
    made, real = [], _hinge_newton.PairEquations
    monkeypatch.setattr(_hinge_newton, "PairEquations", lambda *a: made.append(a) or real(*a))
    newton = newton_of()
    between(newton, 20)
    first = newton._step(1e-3)
    again = newton._step(1e-3)
    assert len(made) == 1
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    newton.mu *= 0.5
    newton._step(1e-3)
    assert len(made) == 2
    between(newton, 21)
    newton._step(1e-3)
    assert len(made) == 3


@pytest.mark.parametrize("condition, stiff", [(0.9e8, False), (1.1e8, True), (1.9e8, True)])
def test_equations_of_a_bad_condition_are_solved_with_more_care(ways, condition, stiff):
    """Those of pairs are t t^T / (2 reg) beside mu: of unit weights and the largest mean square,
    their condition is that over 2 reg mu."""
    newton = newton_of()
    newton.mu = float(np.max(newton.basis.spectrum)) / (2.0 * REG * condition)
    between(newton, 5)
    newton._step(1e-3)
    assert ("_solve_stiff" in ways) == stiff


def test_smoothing_shrinks_more_the_less_a_move_gains():
    """Not at all where the slack is next to gone, by ten or more where most of it stays."""
    factors = []
    for left in (0.05, 0.5, 0.8, 0.94, 1.5):
        newton = newton_of()
        newton.last, before = 1.0, newton.mu
        newton._move(Gap(1.0, left, 0.0, 0.0))
        factors.append(newton.mu / before)
    assert factors[0] == 1.0
    assert factors[1] > factors[2] == factors[3] > factors[4] > 0.0
    assert factors[2] <= 0.1 + 1e-15


def test_biases_have_next_to_no_curvature_of_their_own():
    """Nothing that float64 sees beside what the lightest pair has, share / mu. Rows that weigh next
    to nothing do not count."""
    light = np.where(np.arange(N) == 7, 0.0, 1.0 / (N - 1))
    zero = np.zeros((C, D)), np.zeros(C)
    for share, least in ((SHARE, 1.0 / N), (np.maximum(light, 1e-12), 1e-8 / (N - 1))):
        newton = HingeNewton(Basis.of(U, LABELS, share, C, True), REG, 1.0, *zero)
        assert newton.rho * newton.mu == pytest.approx(1e-16 * least, rel=1e-9)


@pytest.mark.parametrize("ratio, light", [(0.5e-3, True), (2e-3, False), (5e-2, False)])
def test_rows_that_weigh_little_are_not_from_the_decomposition(monkeypatch, ratio, light):
    """Of the roots of weights a thousandth of the largest: beside the others their digits are lost
    there. One whose rows are twice as long shows which are which."""
    rows = RNG.normal(size=(401, D))
    root = np.append(np.ones(400), ratio)
    share, real = root**2 / np.sum(root**2), _hinge_basis._svd

    def twice(a):
        left, size, axes = real(a)
        return 2.0 * left, size, axes

    monkeypatch.setattr(_hinge_basis, "_svd", twice)
    basis = Basis.of(rows, np.arange(401) % C, share, C, True)
    times = np.linalg.norm(basis.t, axis=1) / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(times[:400], 2.0, rtol=1e-10)
    assert times[400] == pytest.approx(1.0 if light else 2.0, rel=1e-8)


def test_columns_of_zeros_do_not_count_as_small(monkeypatch):
    """Jacobi's method takes longer; it is for columns that differ by orders of magnitude."""
    taken, real = [], scipy.linalg.lapack.dgejsv
    monkeypatch.setattr(
        scipy.linalg.lapack, "dgejsv", lambda *a, **k: taken.append(1) or real(*a, **k)
    )
    for scale, jacobi in (([1.0, 1.0, 1.0, 0.0], False), ([1.0, 1.0, 1.0, 1e-7], True)):
        a = U * scale
        left, size, axes = _hinge_basis._svd(a)
        np.testing.assert_allclose(left * size @ axes.T, a, rtol=0, atol=1e-14 * N)
        assert bool(taken) == jacobi


@pytest.mark.parametrize("pairs", [20, N, N + 1])
@pytest.mark.parametrize("few, time_for_qr", [(True, True), (True, False), (False, False)])
def test_stiff_equations_have_a_way_of_their_own(ways, monkeypatch, pairs, few, time_for_qr):
    """By QR where there is time; else those of pairs, if these are no more than rows, or than there
    are directions: more depend on each other but for the penalty. Then the Hessian's, if they are
    few."""
    newton = newton_of()
    monkeypatch.setattr(HingeNewton, "_has_time_for_qr", lambda self, count: time_for_qr)
    newton._most_equations = 256 if few else 1
    between(newton, pairs)
    free = newton.wanted == 0.5
    newton._solve_stiff(free, pairs)
    if time_for_qr:
        want = "_solve_orthogonal"
    elif pairs <= N:
        want = "_solve"
    else:
        want = "_solve_scaled" if few else "_conjugate_gradients"
    assert ways[-1] == want
    assert ways.count("_solve") == (want == "_solve")


def test_stiff_pairs_of_independent_rows_are_solved_for(ways):
    """Each row's C - 1 pairs, where no row depends on others: of squared hinges of separable rows
    all are between their bounds, and conjugate gradients would take hundreds of rounds."""
    wide = RNG.normal(size=(N, 2 * N))
    basis = Basis.of(wide, LABELS, SHARE, C, False)
    newton = HingeNewton(basis, 1e-9, 1.0, np.zeros((C, N)), np.zeros(C), squared=True)
    newton._most_equations, newton._orthogonal = 1, False
    between(newton, N * (C - 1))
    free = newton.wanted == 0.5
    dv, db = newton._solve_stiff(free, N * (C - 1))
    assert ways[-1] == "_solve"
    # Equations of condition |t|^2 / (reg mu / share), of which the smoothing is a billionth.
    assert left_of(newton, free, dv, db) <= 1e-6 * np.abs(newton.gv).max()


def test_biases_of_classes_that_no_pair_links_meet_the_flow():
    """With their own curvature alone, as far as it takes: such steps were 0 once, and fits of tiny
    columns stood still. What rounding leaves of a flow of 0 moves nothing."""
    newton = newton_of()
    between(newton, 0)
    newton.wanted[np.ix_(LABELS == 0, [2])] = 0.5
    newton._clip()
    _, db = newton._solve(newton.wanted == 0.5)
    alone, linked = db[1], db[[0, 2]]
    assert alone == pytest.approx(-newton.gb[1] / newton.rho, rel=1e-9)
    np.testing.assert_allclose(linked.mean(), -newton.gb[[0, 2]].mean() / newton.rho, rtol=1e-9)
    newton.gb -= newton.gb.mean()
    between(newton, 2 * N)
    newton.factor = None
    assert np.abs(newton._solve(newton.wanted == 0.5)[1]).max() < 1e6


@pytest.mark.parametrize("most, switched", [(C * (D + 1), True), (C * (D + 1) - 1, False)])
def test_qr_takes_over_where_an_inner_solve_stands_still(monkeypatch, most, switched):
    """Where its equations are not too many; one that has met its goal goes on as it was."""
    monkeypatch.setattr(_hinge_newton, "FEW_EQUATIONS", 0)
    monkeypatch.setattr(_hinge_newton, "_MOST_BY_QR", most)
    for residual, still in ((1e-20, False), (1.0, switched)):
        newton = newton_of()
        newton.inner = _hinge_newton._INNER
        newton.advance(Gap(1.0, 0.1, residual, 0.1), 1e-6)
        assert newton._orthogonal == still


def test_equations_are_no_more_than_there_is_memory_for():
    """Half as many as pairs, of which they take two matrices; so few that these are nothing are
    solved in any case."""
    for pairs, most in ((10, 256), (512, 256), (1000, 500), (4000, 2000), (100_000, 2000)):
        assert newton_of(pairs)._most_equations == most


def left_of(newton, free, dv, db):
    """What a step leaves of the gradient, by weights and by biases: with the Hessian, the sum over
    pairs of share / mu e e^T, and the penalties."""
    left, flow = newton.gv + 2.0 * newton.reg * dv, newton.gb + newton.rho * db
    for i, j in np.argwhere(free):
        t = newton.basis.t[i]
        moved = t @ (dv[j] - dv[LABELS[i]]) + db[j] - db[LABELS[i]]
        for k, sign in ((j, 1.0), (LABELS[i], -1.0)):
            left[k] += sign * SHARE[i] / newton.mu * moved * t
            flow[k] += sign * SHARE[i] / newton.mu * moved
    return max(np.abs(left).max(), np.abs(flow).max() if newton.basis.bias else 0.0)


@pytest.mark.parametrize("way", ["_solve", "_solve_scaled", "_solve_orthogonal"])
@pytest.mark.parametrize("reg, bound", [(1e-2, 1e-12), (1e-9, 1e-6)])
@pytest.mark.parametrize("bias", [True, False])
def test_each_way_solves_the_equations(way, reg, bound, bias):
    """With a curvature of the biases that is seen too. Equations of pairs, of condition 1e2 / reg,
    lose as many digits; QR none, and hardly more the scaled ones."""
    basis = Basis.of(U, LABELS, SHARE, C, bias)
    rng = np.random.default_rng(1)
    v, b = 0.3 * rng.normal(size=(C, D)), 0.3 * rng.normal(size=C) * bias
    newton = HingeNewton(basis, reg, 1.0, v, b)
    newton.mu = 2.0
    newton._place()
    newton.rho, newton.centre = 0.05, np.zeros(C)
    newton.gb = newton.flow + newton.rho * b
    free = (newton.wanted > 0.0) & (newton.wanted < 1.0) & ~basis.mask
    assert free.sum() > D * C
    dv, db = getattr(newton, way)(free)
    size = max(np.abs(newton.gv).max(), np.abs(newton.gb).max())
    bound = bound if way == "_solve" else 1e-12
    assert left_of(newton, free, dv, db) <= bound * size
    assert bias or not db.any()


def test_what_is_rounding_of_a_gradient_is_no_step():
    """Where its terms cancel, as at an optimum: a step from what is left of them would be as long
    as the penalty is small."""
    newton = newton_of()
    between(newton, 2 * N)
    free = newton.wanted == 0.5
    newton.gv = 1e-18 * RNG.normal(size=(C, D))
    newton.gb = np.zeros(C)
    dv, db = newton._solve_orthogonal(free)
    assert not dv.any()
    assert not db.any()


@pytest.mark.parametrize("larger", [1.0, 8.0])
def test_the_squared_hinge_ends_where_steps_gain_nothing(larger):
    """Once its smoothing is its own: with a larger one another problem was minimised."""
    for idle in (0, _hinge_newton._IDLE):
        newton = newton_of(squared=True)
        newton.mu, newton.last, newton.idle = _hinge_newton._OWN * larger, 1.0, idle
        newton._move(Gap(1.0, 0.5, 0.0, 0.0))
        assert newton.ended == (larger == 1.0 and idle > 0)
        assert newton.mu == _hinge_newton._OWN
    hinge = newton_of()
    hinge.mu, hinge.idle = _hinge_newton._OWN, _hinge_newton._IDLE
    hinge._move(Gap(1.0, 0.5, 0.0, 0.0))
    assert not hinge.ended
