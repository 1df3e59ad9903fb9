"""K hinge fits at once are K single fits: own reg, margin, weights, rounds, and ends."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on

from xclf.objectives import Network, loss_named
from xclf.training import Monitor, Problem, augmented_lagrangian, fit_augmented_lagrangian

X, Y = blobs(60, 5, 3)
N, D, C = 60, 5, 3
REG = np.array([1e-1, 1e-2, 1e-3, 1e-4, 1e-2, 1e-3])
MARGIN = np.array([1.0, 1.0, 2.0, 0.5, 1.0, 3.0])
FOLDS = np.random.default_rng(0).uniform(size=(3, N))
WHICH = np.array([0, 1, 2, 0, 1, 1])
K = len(REG)


def _problem(backend, reg, weights=None, heads=None, *, bias=True, dtype="float64", x=X, **place):
    network = Network((D, C), bias=bias, **place)
    several = isinstance(reg, np.ndarray)
    problem = problem_on(
        backend, network, x, Y, loss="hinge", reg=backend.asarray(reg) if several else reg,
        weights=weights, dtype=dtype,
    )  # fmt: skip
    if heads is None:
        return problem
    return Problem(problem.objective, replace(problem.rows, heads=backend.asarray(heads)))


#: Two digits above the default: the rounds that follow are those before, with smaller residuals.
TOL = 1e-5


def _fit(backend, problem, margin, *, tol=TOL, max_iter=5000, callbacks=(), start=None):
    heads = len(margin)
    theta = np.zeros((heads, problem.objective.network.size)) if start is None else start
    monitor = Monitor(callbacks, "iteration", max_iter)
    margin = backend.asarray(margin)
    objective = replace(problem.objective, loss=loss_named("hinge", margin=margin))
    problem = replace(problem, objective=objective)
    return fit_augmented_lagrangian(
        problem, backend.asarray(theta), tol=tol, max_iter=max_iter, monitor=monitor
    )


@functools.cache
def _single_fit(k, weights):
    own = {"none": None, "shared": FOLDS[0]}.get(weights, FOLDS[WHICH[k]])
    (result,) = _fit(Backend.NUMPY, _problem(Backend.NUMPY, REG[k], own), MARGIN[k : k + 1])
    return result


def test_heads_are_single_fits(backend):
    _check_heads(backend, "folds")


@pytest.mark.parametrize("weights", ["none", "shared", "heads"])
def test_heads_with_other_weights_are_single_fits(weights):
    """None; one row for all heads, or one for each: (K, N) as folds are, without their map."""
    _check_heads(Backend.NUMPY, weights)


def _check_heads(backend, weights):
    """Each as near to its optimum as its certificate says, and to the single fit."""
    w, heads = {
        "none": (None, None),
        "shared": (FOLDS[0], None),
        "folds": (FOLDS, WHICH),
        "heads": (FOLDS[WHICH], None),
    }[weights]
    together = _fit(backend, _problem(backend, REG, w, heads), MARGIN)
    assert len(together) == K
    for k, got in enumerate(together):
        want = _single_fit(k, "folds" if weights == "heads" else weights)  # the same rows
        assert got.converged
        assert got.dual_gap <= TOL * got.objective
        assert got.objective == pytest.approx(want.objective, rel=2 * TOL)
        assert got.objective - got.dual_gap <= want.objective
        assert want.objective - want.dual_gap <= got.objective


def test_heads_end_at_their_own_time():
    """Easy ones first; how long each takes is what it takes alone, give or take rounding."""
    seen = []
    together = _fit(
        Backend.NUMPY, _problem(Backend.NUMPY, REG), MARGIN,
        callbacks=[lambda event: seen.append(event.heads)],
    )  # fmt: skip
    assert seen[0] == K
    assert seen[-1] < K
    assert np.all(np.diff(seen) <= 0)
    assert len({result.n_iter for result in together}) > 2
    for k, got in enumerate(together):
        assert 0.5 <= got.n_iter / _single_fit(k, "none").n_iter <= 2


def test_equal_heads_stay_equal():
    problem = _problem(Backend.NUMPY, np.full(3, 1e-2))
    one, *others = _fit(Backend.NUMPY, problem, np.ones(3))
    for other in others:
        # But for rounding: a product's columns may be summed in different orders.
        np.testing.assert_allclose(other.theta, one.theta, rtol=0, atol=1e-4)
        assert other.objective == pytest.approx(one.objective, rel=2 * TOL)


@pytest.mark.parametrize("bias", [True, False])
def test_heads_without_penalty_among_others(bias):
    """Separable, so that the one without penalty ends at 0, where all margins are met."""
    x = X + 20.0 * np.eye(3, 5)[Y]
    reg = np.array([1e-2, 0.0])
    penalised, free = _fit(
        Backend.NUMPY, _problem(Backend.NUMPY, reg, bias=bias, x=x), np.ones(2), tol=1e-6
    )
    assert penalised.converged
    assert free.converged
    assert free.objective < 1e-5
    assert free.dual_gap == free.objective
    assert penalised.dual_gap <= 1e-6 * penalised.objective


def test_float32_heads_that_need_it_go_on_in_float64(monkeypatch):
    # Rounding is soon blamed.
    monkeypatch.setattr(sys.modules["xclf.training.augmented_lagrangian"], "_PATIENCE", 3)
    x = X.astype("float32")
    reg = np.array([1e-1, 3e-2, 1e-2])
    problem = _problem(Backend.NUMPY, reg, FOLDS, np.arange(3), dtype="float32", x=x)
    together = _fit(Backend.NUMPY, problem, np.ones(3), tol=3e-8, start=np.zeros((3, 18)))
    for k, got in enumerate(together):
        weights = FOLDS[k].astype("float32").astype(float)
        wide = _problem(Backend.NUMPY, float(reg[k]), weights, x=x.astype(float))
        (want,) = _fit(Backend.NUMPY, wide, np.ones(1), tol=1e-9)
        assert got.objective == pytest.approx(want.objective, rel=1e-6)
        assert got.objective - got.dual_gap <= want.objective
        # What comes back is what a float32 model holds, to the last bit.
        np.testing.assert_array_equal(got.theta, got.theta.astype("float32"))


def test_float32_heads_that_converge_stay_there(monkeypatch):
    """Others, in float64, would take as long again."""
    wide = []
    fit = augmented_lagrangian._AugmentedLagrangianFit
    monkeypatch.setattr(fit, "widen", lambda self: wide.append(self))
    problem = _problem(Backend.NUMPY, np.array([1e-1, 1e-2]), dtype="float32")
    results = _fit(Backend.NUMPY, problem, np.ones(2), tol=1e-2)
    assert [result.converged for result in results] == [True, True]
    assert wide == []


def test_a_callback_stops_all_heads():
    problem = _problem(Backend.NUMPY, REG)
    results = _fit(
        Backend.NUMPY, problem, MARGIN, callbacks=[lambda event: event.step == 5], tol=1e-9
    )
    assert max(result.n_iter for result in results) == 5
    assert {result.reason for result in results} == {"a callback stopped the fit"}
    assert all(np.isfinite(result.dual_gap) for result in results)


def test_ctrl_c_leaves_the_best_so_far_of_all_heads():
    def interrupt(event):
        if event.step == 7:
            raise KeyboardInterrupt

    results = _fit(Backend.NUMPY, _problem(Backend.NUMPY, REG), MARGIN, callbacks=[interrupt])
    assert all(result.interrupted for result in results)
    assert all(0 < result.dual_gap <= result.objective for result in results)


def test_max_iter_is_per_head():
    results = _fit(Backend.NUMPY, _problem(Backend.NUMPY, REG), MARGIN, max_iter=12)
    for result in results:
        assert result.converged or result.n_iter == 12
    assert any("max_iter" in result.reason for result in results)


def test_nets_have_heads_too():
    rng = np.random.default_rng(0)
    network = Network((D, 4, C))
    start = 0.5 * rng.normal(size=(2, network.size))
    reg = np.array([1e-2, 1e-1])
    problem = problem_on(Backend.NUMPY, network, X, Y, loss="hinge", reg=reg)
    together = _fit(Backend.NUMPY, problem, np.ones(2), tol=1e-2, max_iter=40, start=start)
    for k, got in enumerate(together):
        single = problem_on(Backend.NUMPY, network, X, Y, loss="hinge", reg=float(reg[k]))
        (want,) = _fit(Backend.NUMPY, single, np.ones(1), tol=1e-2, max_iter=40,
                       start=start[k : k + 1])  # fmt: skip
        assert np.isnan(got.dual_gap)
        assert got.objective < float(single.value(start[k]))
        assert got.objective == pytest.approx(want.objective, rel=0.1)
