"""The certified gap of the hinge: against the dual written out, and against a general solver."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on
from helpers import hinge_rows, proximal_rows

from xclf.objectives import Network
from xclf.rows import PerRow
from xclf.training._certificate import Certificate
from xclf.training._smoothed_hinge import SmoothedHinge

X, Y = blobs(20, 4, 3)
N, D, C = 20, 4, 3
REG, MARGIN, SMOOTHING = 0.05, 1.5, 0.7
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2.0, size=N)


def _case(bias, backend=Backend.NUMPY, *, reg=REG, seed=0, y=Y, weights=WEIGHTS, **place):
    """Somewhere: random parameters and random multipliers of one head."""
    rng = np.random.default_rng(seed)
    network = Network((D, C), bias=bias, **place)
    problem = problem_on(backend, network, X, y, loss="hinge", reg=reg, weights=weights)
    anchor = rng.uniform(size=(1, C, N))
    anchor[0, y, np.arange(N)] = 0.0
    theta = rng.normal(size=(1, network.size))
    margin, smoothing = np.array([MARGIN]), np.array([SMOOTHING])
    beside = PerRow([backend.asarray(anchor)])
    case = Certificate(problem, backend.asarray(theta), margin, smoothing, beside, np.arange(1))
    return case, theta[0], anchor[0].T


def _scores(network, theta, x=X):
    ((w, b),) = network.layers(theta)
    return x @ w.T + (0.0 if b is None else b[:, 0]), w


def _dual(a, y=Y, weights=WEIGHTS, x=X, reg=REG):
    """(dual objective, imbalance (C,)) of multipliers (N, C), written out."""
    share = a * (weights / weights.sum())[:, None]
    push = share.copy()
    push[np.arange(len(y)), y] -= share.sum(axis=1)
    best = -push.T @ x / (2 * reg)  # min over W of reg |W|^2 + sum push . scores
    return MARGIN * share.sum() - reg * np.sum(best**2), push.sum(axis=0)


def _primal(network, theta, y=Y, weights=WEIGHTS, x=X, reg=REG):
    scores, w = _scores(network, theta, x)
    return weights @ hinge_rows(scores, y, MARGIN)[0] / weights.sum() + reg * np.sum(w**2)


@pytest.mark.parametrize("seed", range(3))
def test_without_biases_the_gap_is_primal_minus_dual(backend, seed):
    """Weak duality: the optimum lies between them, so the gap bounds the distance to it."""
    case, theta, anchor = _case(False, backend, seed=seed)
    network = case.problem.objective.network
    a = proximal_rows(_scores(network, theta)[0], Y, anchor, SMOOTHING, MARGIN)[3]
    (value,), (gap,) = case.bound()
    want = _primal(network, theta)
    assert value == pytest.approx(want, rel=1e-13)
    # At most P itself, which random multipliers do not always beat.
    assert gap == pytest.approx(min(want - _dual(a)[0], want), rel=1e-10)
    assert gap > want - _dual(a)[0] or gap == value


def _near(bias=True, seed=0, **options):
    """A case whose parameters nearly fit its multipliers, as at the end of an inner solve."""
    case, theta, anchor = _case(bias, seed=seed, **options)
    rows = case.problem.rows
    inner = SmoothedHinge.at_zero(case.problem, np.array([MARGIN]), np.array([SMOOTHING]))
    inner.anchor[...] = case.multipliers.anchor[...]
    theta = theta[None, :]
    for _ in range(300):  # plain descent on the smoothed objective
        theta = theta - 0.05 * inner.value_and_grad(theta)[1]
    anchor = inner.anchor
    case = Certificate(case.problem, theta, inner.margin, inner.smoothing, anchor, np.arange(1))
    assert len(rows) == N
    return case, theta[0], anchor[0, ...].T


@pytest.mark.parametrize("seed", range(3))
def test_with_biases_the_multipliers_are_repaired_first(seed):
    """Multipliers that do not balance prove nothing; repaired ones do, and cost little."""
    case, theta, anchor = _near(seed=seed)
    network = case.problem.objective.network
    a = proximal_rows(_scores(network, theta)[0], Y, anchor, SMOOTHING, MARGIN)[3]
    _, imbalance = _dual(a)
    assert np.max(np.abs(imbalance)) > 1e-6
    repaired = _apply(case, a)
    balanced, rest = _dual(repaired)
    assert np.all((repaired >= 0) & (repaired <= 1))
    assert np.all(repaired[np.arange(N), Y] == 0)
    assert np.max(np.abs(rest)) < 1e-14
    (value,), (gap,) = case.bound()
    assert gap == pytest.approx(value - balanced, rel=1e-9)
    assert value > gap >= value - balanced


def _apply(case, a, y=Y):
    """The repair of a certificate, in plain loops over rows."""
    inner, outer = (part[0] for part in case._repair())
    out = a.copy()
    for i, c in enumerate(y):
        for j in range(a.shape[1]):
            b = out[i, j] + inner[j, c] * min(out[i, j], 1 - out[i, j])
            out[i, j] = b * (1 + outer[j, c]) if outer[j, c] < 0 else b + outer[j, c] * (1 - b)
    return out


def test_shift_and_scale_are_those_of_the_model():
    shift, scale = X.mean(axis=0), np.array([1.0, 10.0, 0.1, 3.0])
    case, theta, _ = _near(shift=shift, scale=scale)
    x = (X - shift) / scale
    a = case.multipliers(case.problem.rows.chunk(slice(0, N)))[2][0].T
    dual, rest = _dual(_apply(case, a), x=x)
    (value,), (gap,) = case.bound()
    assert value == pytest.approx(_primal(case.problem.objective.network, theta, x=x), rel=1e-13)
    assert np.max(np.abs(rest)) < 1e-14
    assert gap == pytest.approx(value - dual, rel=1e-9)


def test_classes_without_weight_take_no_flow():
    weights = np.where(Y == 1, 0.0, WEIGHTS)
    case, _, _ = _case(True, weights=weights)
    a = case.multipliers(case.problem.rows.chunk(slice(0, N)))[2][0].T
    repaired = _apply(case, a)
    assert np.any(a[:, 1] > 0)
    assert not repaired[:, 1].any()
    dual, rest = _dual(repaired, weights=weights)
    (value,), (gap,) = case.bound()
    assert np.max(np.abs(rest)) < 1e-14
    assert gap == pytest.approx(min(value - dual, value), rel=1e-9)


def test_without_penalty_the_objective_is_its_own_bound():
    case, _, _ = _case(True, reg=0.0)
    (value,), (gap,) = case.bound()
    assert gap == value > 0


def test_values_that_are_not_finite_prove_nothing():
    case, theta, _ = _case(True)
    anchor, nothing = case.multipliers.anchor, np.full((1, len(theta)), np.nan)
    case = Certificate(case.problem, nothing, case.margin, np.ones(1), anchor, np.arange(1))
    with np.errstate(all="ignore"):
        assert case.bound()[1][0] == np.inf


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("absent", [False, True])
def test_the_terms_of_rounding_in_float32(bias, absent):
    """The bound in plain formulas, of sums whose own gap is 0: rounding stands alone."""
    network = Network((D, C), bias=bias)
    problem = problem_on(Backend.NUMPY, network, X, Y, loss="hinge", reg=REG, dtype=np.float32)
    theta, beside = np.zeros((1, network.size), np.float32), PerRow([np.zeros((1, C, N))])
    margin, smoothing = np.array([MARGIN]), np.array([SMOOTHING])
    case = Certificate(problem, theta, margin, smoothing, beside, np.arange(1))
    shares = np.array([0.5, 0.3, 0.2]) if not absent else np.array([0.6, 0.0, 0.4])
    case.weight = N * shares[None, :]
    rng = np.random.default_rng(5)
    value, mass, squares, active, lengths = rng.uniform(0.5, 2.0, size=5)
    penalty, norm = rng.uniform(0.1, 1.0, size=2)
    flow, b = rng.normal(size=(2, C)) * [[1e-9], [1.0]]
    sums = N * np.array([value, 0.0, mass, squares, active, lengths])
    numbers = np.concatenate([sums, [penalty, 0.0, norm], flow, b])
    objective, gap = case._assemble(numbers[: 9 + 2 * C * bias, None])

    unit = float(np.finfo(np.float32).eps) / 2
    inner, outer = (unit * (4 * np.sqrt(size) + 16) for size in (D, N))
    primal = value + penalty
    # Scores are off by a product each, sums by another; X^T G by both, and W by those of W.
    want = 2 * inner * (2 * np.sqrt(norm) * lengths + MARGIN * active) + (inner + outer) * primal
    off = 2 * (inner + outer) * (mass * np.sqrt(squares) + 2 * REG * np.sqrt(norm))
    want += off**2 / (4 * REG)
    if bias:
        there = shares > 0
        least = shares[there].min()
        apart = primal / least + np.sqrt(2 * primal / REG / least) * np.sqrt(squares)
        apart += b[there].max() - b[there].min()
        want += 0.5 * apart * (np.abs(flow).sum() + 2 * outer * mass)
        want += 4 * inner * np.abs(b).max() * active
    assert objective[0] == pytest.approx(primal, rel=1e-12)
    assert gap[0] == pytest.approx(want, rel=1e-12)
