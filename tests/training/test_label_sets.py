"""Heads with labels of their own are the single fits to those labels."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs
from helpers import assert_close_max_norm
from pairwise import pairwise

from xclf.accelerate import select
from xclf.kernels import one_hot
from xclf.objectives import LOSSES, Network, Objective, loss_named
from xclf.optim import SOLVERS
from xclf.rows import Rows
from xclf.training import FitSpec, MinibatchPlan, Monitor, Problem, accuracy, fit, hinge
from xclf.training.preconditioner import sample

N, D, C = 90, 5, 3
X, FIRST = blobs(N, D, C)
RNG = np.random.default_rng(2)
# Three label sets: classes that can be told apart, some of them exchanged, and no relation to X.
SETS = np.stack([FIRST, np.where(RNG.uniform(size=N) < 0.2, 0, FIRST), RNG.integers(0, C, N)])
TASKS = np.array([0, 1, 2, 1])
REGS = np.array([1e-2, 1e-2, 1e-3, 1e-1])
FOLDS = RNG.uniform(0.5, 1.5, size=(2, N)) * (np.arange(N) % 3 != [[0], [1]])
OF_HEAD = np.array([0, 1, 1, 0])
NETWORKS = {"linear": Network((D, C)), "no bias": Network((D, C), bias=False)}
NETWORKS["net"] = Network((D, 4, C))
MINIBATCH = [name for name, solver in SOLVERS.items() if not solver.full_batch]


def _together(backend, network, loss, weights=None, dtype="float64", x=X, sets=SETS):
    put = backend.asarray
    w = None if weights is None else put(FOLDS, dtype)
    of_head = None if weights is None else put(OF_HEAD)
    rows = Rows(
        put(x, dtype), put(sets), w, backend.dtype(dtype), heads=of_head, tasks=put(TASKS)
    )  # fmt: skip
    return Problem(Objective(network, loss_named(loss), put(REGS)), rows)


def _alone(network, loss, k, weights=None, x=X, sets=SETS):
    w = None if weights is None else FOLDS[OF_HEAD[k]]
    rows = Rows(x, one_hot(np, sets[TASKS[k]], C), w, x.dtype)
    return Problem(Objective(network, loss_named(loss), float(REGS[k])), rows)


def _starts(network):
    scale = 0.5 if len(network.widths) > 2 else 0.0
    return scale * np.random.default_rng(4).normal(size=(len(TASKS), network.size))


def _fit(problem, theta, solver="lbfgs", backend=Backend.NUMPY, max_iter=2000):
    rule, plan = SOLVERS[solver], None
    if not rule.full_batch:
        options = {"schedule": "constant", "tol": 0.0, "patience": None}
        plan = MinibatchPlan(rule.make_rule(), 0.01, batch_size=16, epochs=3, **options)
    objective = problem.objective
    spec = FitSpec(
        len(theta), objective.network, objective.loss, objective.reg, problem.rows, rule,
        1e-8, max_iter, plan,
    )  # fmt: skip
    monitor = Monitor((), "step", max_iter)
    return fit(spec, lambda: backend.asarray(theta), monitor, np.random.default_rng(0))


@functools.cache
def _single_fit(kind, loss, k, solver, weights):
    network = NETWORKS[kind]
    (result,) = _fit(_alone(network, loss, k, weights), _starts(network)[k : k + 1], solver)
    return result


@pairwise(loss=[*LOSSES], kind=[*NETWORKS], weights=[None, "folds"])
def test_passes_see_the_labels_of_each_head(backend, loss, kind, weights):
    network = NETWORKS[kind]
    problem = _together(backend, network, loss, weights)
    theta = np.random.default_rng(1).normal(size=(len(TASKS), network.size))
    value, grad = problem.value_and_grad(backend.asarray(theta))
    shares = accuracy(problem.objective, problem.rows, backend.asarray(theta))
    for k in range(len(TASKS)):
        alone = _alone(network, loss, k, weights)
        want, slope = alone.value_and_grad(theta[k])
        # Sums of N terms in float64.
        assert backend.to_host(value)[k] == pytest.approx(want, rel=1e-13)
        assert_close_max_norm(backend.to_host(grad)[k], slope, 1e-13)
        assert shares[k] == accuracy(alone.objective, alone.rows, theta[k])[0]
        if LOSSES[loss].curved:
            curvature = backend.to_host(problem.curvature(backend.asarray(theta)))[k]
            assert_close_max_norm(curvature, alone.curvature(theta[k]), 1e-13)


@pairwise(loss=[*LOSSES], kind=["linear", "no bias"], weights=[None, "folds"], small=[True, False])
def test_full_batch_fits_end_where_single_fits_end(
    backend, monkeypatch, loss, kind, weights, small
):
    if not small:  # by L-BFGS, and by the augmented Lagrangian
        monkeypatch.setattr(hinge, "MOST_ROWS", 0)
    network = NETWORKS[kind]
    problem = _together(backend, network, loss, weights)
    results = _fit(problem, _starts(network), backend=backend)
    for k, got in enumerate(results):
        want = _single_fit(kind, loss, k, "lbfgs", weights)
        assert want.converged
        assert got.converged
        # The promise of each, and each within its own certificate of the other.
        assert got.objective == pytest.approx(want.objective, rel=1e-6)
        assert got.objective - got.dual_gap <= want.objective * (1 + 1e-12)
        assert want.objective - want.dual_gap <= got.objective * (1 + 1e-12)


@pytest.mark.parametrize("loss", [*LOSSES])
def test_the_steps_of_nets_are_those_of_single_fits(backend, loss):
    network, steps = NETWORKS["net"], 4
    problem = _together(backend, network, loss)
    results = _fit(problem, _starts(network), backend=backend, max_iter=steps)
    for k, got in enumerate(results):
        alone = _alone(network, loss, k)
        (want,) = _fit(alone, _starts(network)[k : k + 1], max_iter=steps)
        # Rounding of products in float64, carried through few steps: not convex, with kinks.
        assert got.n_iter == want.n_iter == steps
        assert got.objective == pytest.approx(want.objective, rel=1e-9)


@pairwise(loss=[*LOSSES], kind=["linear", "net"], solver=MINIBATCH, weights=[None, "folds"])
def test_minibatch_fits_are_single_fits(backend, loss, kind, solver, weights):
    network = NETWORKS[kind]
    problem = _together(backend, network, loss, weights)
    results = _fit(problem, _starts(network), solver, backend)
    for k, got in enumerate(results):
        want = _single_fit(kind, loss, k, solver, weights)
        # Rounding of products in float64, carried through 18 steps.
        assert_close_max_norm(backend.to_host(got.theta), want.theta, 1e-10)
        assert got.objective == pytest.approx(want.objective, rel=1e-10)


def test_labels_are_shared_by_the_heads_of_a_task():
    """Heads that leave take the map with them, and no labels."""
    rows = _together(Backend.NUMPY, NETWORKS["linear"], "softmax").rows
    kept = rows.take_heads(np.array([3, 1, 2]))
    assert kept.labels is rows.labels
    np.testing.assert_array_equal(kept.tasks, [1, 1, 2])
    for chunk in kept.chunks(40):
        np.testing.assert_array_equal(chunk.labels, SETS[[1, 1, 2]][:, chunk.where])
    np.testing.assert_array_equal(kept.take(np.array([5, 2])).labels, SETS[[1, 1, 2]][:, [5, 2]])
    np.testing.assert_array_equal(kept.every(7).labels, SETS[:, ::7])


def test_samples_are_fair_to_every_label_set():
    """Of one set the rows of a class come every second one: every fourth row would miss them."""
    n = 400
    sets = np.stack([np.arange(n) // 7 % C, np.arange(n) % 2])
    x = np.random.default_rng(0).normal(size=(n, D))
    assert len(sample(Rows(x, sets[0], None, np.float64), 100)) == 100
    some = sample(Rows(x, sets, None, np.float64, tasks=np.array([0, 1])), 100)
    assert 100 < len(some) < n
    for number, classes in ((0, C), (1, 2)):
        counts = np.bincount(some.labels[number], minlength=classes)
        assert (counts >= 0.5 * len(some) / classes).all()


def test_accelerators_may_refuse_label_sets():
    problem = _together(Backend.NUMPY, NETWORKS["linear"], "softmax")
    objective = problem.objective
    spec = FitSpec(
        4, objective.network, objective.loss, objective.reg, problem.rows, SOLVERS["lbfgs"],
        1e-8, 10,
    )  # fmt: skip
    assert spec.request().label_sets
    assert select(spec.request()).steps is None


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("small", [True, False])
def test_a_task_whose_rows_with_weight_are_of_one_class(monkeypatch, loss, small):
    """Biases alone meet all its margins; the other tasks do not notice."""
    if not small:
        monkeypatch.setattr(hinge, "MOST_ROWS", 0)
    network, weights = NETWORKS["linear"], (SETS[0] == 1).astype(np.float64)
    rows = Rows(X, SETS, weights, X.dtype, tasks=TASKS)
    objective = Objective(network, loss_named(loss), REGS)
    results = _fit(Problem(objective, rows), _starts(network))
    for k, got in enumerate(results):
        alone = Rows(X, one_hot(np, SETS[TASKS[k]], C), weights, X.dtype)
        problem = Problem(Objective(network, loss_named(loss), float(REGS[k])), alone)
        (want,) = _fit(problem, _starts(network)[k : k + 1])
        assert got.converged == want.converged
        assert got.objective == pytest.approx(want.objective, rel=1e-6, abs=1e-12)
