"""The figure that stops the hinge's full-batch fit: against the dual written out."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from conftest import Backend
from estimator_cases import blobs, problem_on
from helpers import hinge_rows, proximal_rows

from xclf.objectives import Stack

_Solver = sys.modules["xclf.training.proximal"]._Solver
X, Y = blobs(20, 4, 3)
N, D, C = 20, 4, 3
REG, MARGIN = 0.05, 1.5
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2.0, size=N)


def _solver(bias, backend=Backend.NUMPY, reg=REG, seed=0):
    """A solver somewhere: at random parameters and random multipliers."""
    rng = np.random.default_rng(seed)
    stack = Stack((D, C), bias=bias)
    problem = problem_on(backend, stack, X, Y, loss="hinge", reg=reg, weights=WEIGHTS)
    solver = _Solver(problem, MARGIN, backend.asarray(np.zeros((1, stack.size))), 1e-6)
    solver.anchor = backend.asarray(rng.uniform(size=(1, C, N)))
    theta = rng.normal(size=(1, stack.size))
    value, grad, *extra = solver.value_and_grad(backend.asarray(theta))
    told = np.stack([backend.to_host(row) for row in extra])
    at = solver.at._replace(
        theta=theta, grad=backend.to_host(grad), value=backend.to_host(value), extra=told
    )
    return solver, at


def _by_hand(solver, at, backend=Backend.NUMPY):
    """(hinge objective, dual objective, multipliers) at the iterate's own multipliers."""
    stack = solver.problem.objective.stack
    ((w, b),) = stack.layers(at.theta[0])
    scores = X @ w.T + (0.0 if b is None else b[:, 0])
    anchor = backend.to_host(solver.anchor)[0].T
    a = proximal_rows(scores, Y, anchor, solver.smoothing, MARGIN)[3]
    share = a * (WEIGHTS / WEIGHTS.sum())[:, None]
    push = share.copy()
    push[np.arange(N), Y] -= share.sum(axis=1)
    primal = WEIGHTS @ hinge_rows(scores, Y, MARGIN)[0] / WEIGHTS.sum() + REG * np.sum(w**2)
    # min over W of reg |W|^2 + sum push . scores: at W = -push^T X / (2 reg).
    best = -push.T @ X / (2 * REG)
    dual = MARGIN * share.sum() - REG * np.sum(best**2)
    return primal, dual, push


@pytest.mark.parametrize("seed", range(3))
def test_without_biases_the_gap_is_primal_minus_dual(backend, seed):
    """Weak duality: the optimum lies between them, so the gap bounds the distance to it."""
    solver, at = _solver(False, backend, seed=seed)
    primal, dual, _ = _by_hand(solver, at, backend)
    assert sum(solver.gap(at)) == pytest.approx(primal - dual, rel=1e-10)
    assert dual < primal


def test_with_biases_their_imbalance_is_added():
    solver, at = _solver(True)
    _, _, push = _by_hand(solver, at)
    slack, residual = solver.gap(at)
    ((dw, db),) = solver.problem.objective.stack.layers(at.grad[0])
    np.testing.assert_allclose(db[:, 0], push.sum(axis=0), atol=1e-14)
    want = np.sum(dw**2) / (4 * REG) + MARGIN * np.abs(db).sum()
    assert residual == pytest.approx(want, rel=1e-12)
    assert slack > 0


def test_converged_compares_the_gap_with_the_objective():
    solver, at = _solver(True)
    gap, value = sum(solver.gap(at)), float(at.value[0])
    for factor, want in ((1.01, True), (0.99, False)):
        solver.tol = factor * gap / value
        assert solver.converged(at) is want
    assert not solver.converged(at._replace(value=np.array([np.inf])))


def test_without_penalty_the_gradient_decides():
    solver, at = _solver(True, reg=0.0)
    slack, residual = solver.gap(at)
    assert slack > 0
    still = at._replace(grad_norm=np.zeros(1))
    assert solver.gap(still)[1] == 0.0
    assert residual > 0.0
