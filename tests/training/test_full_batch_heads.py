"""K heads at once are K single fits: their own reg, weights, steps and ends."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs

from xclf.kernels import one_hot
from xclf.objectives import Network, Objective, loss_named
from xclf.optim import LBFGS
from xclf.rows import Rows
from xclf.training import Monitor, Problem
from xclf.training.full_batch import fit_lbfgs

N, D, C = 90, 5, 3
X, Y = blobs(N, D, C)
REGS = np.array([1e-1, 1e-4, 1e-2, 1e-6])
FOLDS = np.random.default_rng(3).uniform(size=(2, N)) * (np.arange(N) % 3 != [[0], [1]])
OF_HEAD = np.array([0, 1, 1, 0])


def _problem(backend, heads=None, weights="folds", widths=(D, C)):
    """The heads in `heads` together, or one alone where it is a number."""
    labels = backend.asarray(one_hot(np, Y, C))
    one = isinstance(heads, int)
    reg = float(REGS[heads]) if one else backend.asarray(REGS[heads], "float64")
    kept, of_head = None, None
    if weights is not None:
        kept = backend.asarray(FOLDS[OF_HEAD[heads]] if one else FOLDS, "float64")
        of_head = None if one else backend.asarray(OF_HEAD[heads])
    rows = Rows(backend.asarray(X), labels, kept, backend.dtype("float64"), of_head)
    return Problem(Objective(Network(widths), loss_named("softmax"), reg), rows)


def _fit(problem, theta, callbacks=(), **options):
    monitor = Monitor(callbacks, "iteration", 500)
    options = {"tol": 1e-9, "max_iter": 500} | options
    return fit_lbfgs(problem, theta, monitor=monitor, **options), monitor


@functools.cache
def _alone(k, weights):
    network = Network((D, C))
    (result,), _ = _fit(_problem(Backend.NUMPY, k, weights), np.zeros((1, network.size)))
    return result


@pytest.mark.parametrize("weights", [None, "folds"])
def test_heads_end_where_single_fits_end(backend, weights):
    heads = np.arange(4)
    network = Network((D, C))
    together, monitor = _fit(
        _problem(backend, heads, weights), backend.asarray(np.zeros((4, network.size)))
    )
    assert all(result.converged for result in together)
    for k in range(4):
        alone = _alone(k, weights)
        assert together[k].objective == pytest.approx(alone.objective, rel=1e-9)
        # A gradient of 1e-9 over a curvature of at least 2e-6.
        np.testing.assert_allclose(backend.to_host(together[k].theta), alone.theta, atol=1e-3)
        # The class curvature is measured again for all heads at once, whichever step each is at.
        assert abs(together[k].n_iter - alone.n_iter) <= 0.2 * alone.n_iter
    assert len({result.n_iter for result in together}) > 1  # each has its own end
    assert len(monitor.history["loss"]) <= 1.2 * max(result.n_iter for result in together)


def test_callbacks_hear_of_the_heads_that_are_left():
    heads = []
    _fit(
        _problem(Backend.NUMPY, np.arange(4)), np.zeros((4, (D + 1) * C)),
        [lambda event: heads.append(event.heads)],
    )  # fmt: skip
    assert heads[0] == 4
    assert heads[-1] < 4
    assert heads == sorted(heads, reverse=True)


def test_a_callback_ends_all_heads():
    results, _ = _fit(
        _problem(Backend.NUMPY, np.arange(4)), np.zeros((4, (D + 1) * C)),
        [lambda event: event.step >= 3],
    )  # fmt: skip
    assert {result.reason for result in results} == {"a callback stopped the fit"}
    assert {result.n_iter for result in results} == {3}


def test_max_iter_counts_for_every_head():
    results, _ = _fit(_problem(Backend.NUMPY, np.arange(4)), np.zeros((4, (D + 1) * C)), max_iter=4)
    assert [result.n_iter for result in results] == [4] * 4
    assert {result.reason for result in results} == {"reached max_iter=4"}
    assert not any(result.converged for result in results)


def test_ctrl_c_keeps_every_head():
    def press(event):
        if event.step == 5:
            raise KeyboardInterrupt

    start = np.zeros((4, (D + 1) * C))
    results, _ = _fit(_problem(Backend.NUMPY, np.arange(4)), start, [press])
    assert all(result.interrupted for result in results)
    assert all(np.any(result.theta != 0.0) for result in results)


def test_a_warm_head_ends_at_once_and_leaves_the_others_alone():
    problem = _problem(Backend.NUMPY, np.arange(4))
    first, _ = _fit(problem, np.zeros((4, (D + 1) * C)), tol=1e-11)
    start = np.zeros((4, (D + 1) * C))
    start[1] = first[1].theta
    again, _ = _fit(problem, start)
    assert again[1].n_iter <= 2
    for k in (0, 2, 3):
        assert again[k].objective == pytest.approx(first[k].objective, rel=1e-9)


def test_nets_too():
    size = Network((D, 4, C)).size
    start = np.random.default_rng(0).normal(size=(2, size)) * 0.5
    together, _ = _fit(_problem(Backend.NUMPY, np.array([0, 2]), None, (D, 4, C)), start)
    for row, k in enumerate((0, 2)):
        (alone,), _ = _fit(_problem(Backend.NUMPY, k, None, (D, 4, C)), start[row : row + 1])
        # Nets end at kinks: not at the same digit, but at the same minimum.
        assert together[row].objective == pytest.approx(alone.objective, rel=1e-3)


def _quadratics(centres):
    """Heads with minimum 1 at `centres` (K, P), condition 100."""
    hessian = np.geomspace(1.0, 100.0, centres.shape[1])

    def value_and_grad(theta):
        off = theta - centres
        return 1.0 + 0.5 * np.sum(hessian * off * off, axis=-1), hessian * off

    return value_and_grad


def test_heads_that_leave_do_not_disturb_the_rest():
    centres = np.random.default_rng(0).normal(size=(3, 8))
    whole = LBFGS(_quadratics(centres), np.zeros((3, 8)))
    part = LBFGS(_quadratics(centres), np.zeros((3, 8)))
    for step in range(12):
        if step == 4:
            part.value_and_grad = _quadratics(centres[[2, 0]])
            part.keep(np.array([2, 0]))
        a, b = whole.advance(), part.advance()
        if step >= 4:
            np.testing.assert_allclose(b.theta, a.theta[[2, 0]], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(b.value, a.value[[2, 0]], rtol=1e-12)


def test_a_head_whose_objective_changes_starts_again_where_it_stands():
    centres = np.random.default_rng(0).normal(size=(2, 8))
    run = LBFGS(_quadratics(centres), np.zeros((2, 8)))
    for _ in range(6):
        run.advance()
    moved = centres.copy()
    moved[1] += 0.01
    before = run.at
    run.value_and_grad = _quadratics(moved)
    run.restart(np.array([False, True]))
    at = run.advance()
    np.testing.assert_array_equal(at.theta[1], before.theta[1])
    value, grad = _quadratics(moved)(before.theta)
    assert at.value[1] == value[1]
    np.testing.assert_array_equal(at.grad[1], grad[1])
    assert not at.moved[1]
    assert at.decrement[1] == np.inf
    assert at.moved[0]  # the other goes on
    for _ in range(25):
        at = run.advance()
    np.testing.assert_allclose(at.theta, moved, atol=1e-6)
