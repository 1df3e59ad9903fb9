"""Minibatch fits of several heads: each is the single fit it stands for, whatever the others do."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from backends import Backend
from counting import NAMESPACE, counted, counting
from estimator_cases import blobs
from helpers import assert_close_max_norm, run_epoch
from pairwise import pairwise

from xclf.kernels import one_hot
from xclf.objectives import LOSSES, Network, Objective, loss_named
from xclf.optim import SGD, Adam, Momentum, Nesterov, RMSProp
from xclf.rows import Rows, _threads
from xclf.training import (
    MinibatchPlan,
    Monitor,
    Problem,
    fit_minibatch,
    minibatch,
    plain_steps,
    subset,
)

X, Y = blobs(60, 5, 3)
NUMPY = Backend.NUMPY
RULES = (SGD(), Momentum(), Nesterov(), RMSProp(), Adam())
REGS = np.array([1e-4, 1e-2, 0.1, 1e-3])
RATES = np.array([0.05, 0.02, 0.01, 0.1])
MARGINS = np.array([1.0, 0.5, 2.0, 1.5])
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, size=(2, 60))
WEIGHTS /= WEIGHTS.mean(axis=1, keepdims=True)
# Rounding of products in float64, carried through 24 steps that amplify it little.
SAME = 1e-11


def _plan(rule, rate, **changes):
    settings = {"batch_size": 10, "epochs": 4, "schedule": "cosine", "tol": 1e-4, "patience": None}
    return MinibatchPlan(rule=rule, rate=rate, **(settings | changes))


def _problem(network, loss, reg, margin=1.0, weights=None, heads=None, backend=NUMPY):
    labels = one_hot(backend.xp, backend.asarray(Y), 3)
    dtype = backend.dtype(np.float64)
    rows = Rows(backend.asarray(X), labels, weights, dtype, heads)
    return Problem(Objective(network, loss_named(loss, margin=margin), reg), rows)


def _start(network, k):
    return 0.3 * np.random.default_rng(k).normal(size=network.size)


def _together(
    backend, rule, network, loss="softmax", weights=None, rates=RATES, heads=4, **options
):
    """One fit of all heads."""
    put = backend.asarray
    if isinstance(rule, Momentum):
        rule = type(rule)(put(np.array([[0.9], [0.5], [0.0], [0.8]])[:heads]))
    margin = 1.0 if loss == "softmax" else put(MARGINS[:heads])
    lines = None if weights is None else put(np.arange(heads) % 2)
    weights = None if weights is None else put(weights)
    problem = _problem(network, loss, put(REGS[:heads]), margin, weights, lines, backend)
    theta = put(np.stack([_start(network, k) for k in range(heads)]))
    changes = options.pop("plan", {})
    plan = _plan(rule, put(rates[:heads, None]), **changes)
    monitor = Monitor(options.pop("callbacks", ()), "epoch", plan.epochs)
    rng = np.random.default_rng(5)
    return fit_minibatch(problem, theta, plan, rng, monitor, **options), monitor


def _alone(rule, network, k, loss="softmax", weights=None, rates=RATES, **options):
    """The single fit that head k stands for."""
    if isinstance(rule, Momentum):
        rule = type(rule)([0.9, 0.5, 0.0, 0.8][k])
    row = None if weights is None else weights[k % 2]
    problem = _problem(network, loss, float(REGS[k]), float(MARGINS[k]), row)
    plan = _plan(rule, float(rates[k]), **options.pop("plan", {}))
    rng, monitor = np.random.default_rng(5), Monitor((), "epoch", plan.epochs)
    theta = _start(network, k)[None, :]
    (result,) = fit_minibatch(problem, theta, plan, rng, monitor, **options)
    return result, monitor


@pairwise(rule=RULES, loss=[*LOSSES], widths=[(5, 3), (5, 6, 3)], weights=[None, WEIGHTS])
def test_heads_are_single_fits(backend, rule, loss, widths, weights):
    network = Network(widths)
    rates = RATES / 5 if loss == "squared_hinge" else RATES  # its gradient grows with the scores
    results, _ = _together(backend, rule, network, loss, weights, rates)
    assert len(results) == 4
    for k, got in enumerate(results):
        want, _ = _alone(rule, network, k, loss, weights, rates)
        assert_close_max_norm(backend.to_host(got.theta), want.theta, SAME)
        assert got.objective == pytest.approx(want.objective, rel=SAME)
        assert (got.n_iter, got.converged, got.reason) == (4, False, want.reason)


def test_standardised_heads_are_single_fits():
    network = Network((5, 3), shift=X.mean(axis=0), scale=X.std(axis=0))
    results, _ = _together(NUMPY, Momentum(), network)
    for k, got in enumerate(results):
        assert_close_max_norm(got.theta, _alone(Momentum(), network, k)[0].theta, SAME)


def test_some_rows_are_the_fit_to_those_alone():
    """`train` draws the batches, and the sample that is watched, of a fit to those rows."""
    network, train = Network((5, 3)), np.flatnonzero(np.arange(60) % 4)
    results, _ = _together(NUMPY, Momentum(), network, train=train)
    for k in range(4):
        whole = _problem(network, "softmax", float(REGS[k]))
        part = Problem(whole.objective, subset(whole.rows, train))
        rule = Momentum([0.9, 0.5, 0.0, 0.8][k])
        (want,) = fit_minibatch(
            part,
            _start(network, k)[None, :],
            _plan(rule, float(RATES[k])),
            np.random.default_rng(5),
            Monitor((), "epoch", 4),
        )
        assert_close_max_norm(results[k].theta, want.theta, SAME)


# Far beyond what is stable, for one head of four: its parameters overflow.
WILD = np.array([0.05, 1e200, 0.01, 0.1])


@pairwise(rule=[SGD(), Momentum()], loss=["softmax", "hinge"], weights=[None, WEIGHTS])
def test_a_head_that_diverges_ends_alone(backend, rule, loss, weights):
    network = Network((5, 3))
    results, monitor = _together(backend, rule, network, loss, weights, WILD)
    assert "not finite" in results[1].reason
    assert not results[1].converged
    # It overflowed in its first epoch: the best parameters are those it started from.
    np.testing.assert_array_equal(backend.to_host(results[1].theta), _start(network, 1))
    assert math.isfinite(results[1].objective)
    for k in (0, 2, 3):
        want, _ = _alone(rule, network, k, loss, weights, WILD)
        assert_close_max_norm(backend.to_host(results[k].theta), want.theta, SAME)
        assert results[k].n_iter == 4
    assert all(math.isfinite(value) for value in monitor.history["loss"])


def test_all_heads_may_diverge():
    results, monitor = _together(NUMPY, SGD(), Network((5, 3)), rates=np.full(4, 1e200))
    assert all("not finite" in result.reason for result in results)
    assert monitor.history["loss"] == []


PLATEAU = {"epochs": 60, "patience": 2, "tol": 1e-2, "schedule": "constant"}


def test_every_head_has_its_own_plateau():
    """Heads that end leave; those that go on do not notice."""
    network, heard = Network((5, 3)), []
    results, _ = _together(NUMPY, SGD(), network, plan=PLATEAU, callbacks=[heard.append])
    epochs = []
    for k, got in enumerate(results):
        want, _ = _alone(SGD(), network, k, plan=PLATEAU)
        assert (got.n_iter, got.converged, got.reason) == (want.n_iter, True, "converged")
        assert_close_max_norm(got.theta, want.theta, SAME)
        epochs.append(got.n_iter)
    assert len(set(epochs)) > 2
    assert [event.heads for event in heard] == [
        sum(n >= step for n in epochs) for step in range(1, max(epochs) + 1)
    ]


def test_every_head_keeps_the_best_of_its_epochs():
    network, held = Network((5, 3)), np.arange(0, 60, 4)
    train = np.setdiff1d(np.arange(60), held)
    rates = np.array([2.0, 0.5, 1.0, 0.01])
    options = {"train": train, "plan": {"epochs": 12, "patience": 3, "tol": 0.0}, "rates": rates}
    validation = subset(_problem(network, "softmax", 0.0).rows, held)
    results, monitor = _together(NUMPY, SGD(), network, validation=validation, **options)
    best = []
    for k, got in enumerate(results):
        want, alone = _alone(SGD(), network, k, validation=validation, **options)
        assert got.n_iter == want.n_iter
        assert_close_max_norm(got.theta, want.theta, SAME)
        best.append(alone.history["val_accuracy"])
    first = [max(curve[0] for curve in best)]
    assert monitor.history["val_accuracy"][:1] == first


def test_the_monitor_hears_of_the_best_head():
    network = Network((5, 3))
    _, monitor = _together(NUMPY, SGD(), network)
    curves = [_alone(SGD(), network, k)[1].history["loss"] for k in range(4)]
    np.testing.assert_allclose(monitor.history["loss"], np.min(curves, axis=0), rtol=1e-11)


def test_a_callback_ends_all_heads():
    results, _ = _together(NUMPY, SGD(), Network((5, 3)), callbacks=[lambda e: e.step == 2])
    assert [result.n_iter for result in results] == [2] * 4
    assert {result.reason for result in results} == {"a callback stopped the fit"}


def test_ctrl_c_keeps_the_best_of_every_head():
    def interrupt(event):
        if event.step == 3:
            raise KeyboardInterrupt

    rates = np.array([3.0, 0.05, 2.0, 0.1])
    results, _ = _together(NUMPY, SGD(), Network((5, 3)), rates=rates, callbacks=[interrupt])
    for k, got in enumerate(results):
        curve = _alone(SGD(), Network((5, 3)), k, rates=rates)[1].history["loss"]
        assert got.interrupted
        assert got.objective == pytest.approx(min(curve[:3]), rel=1e-11)


@pairwise(rule=RULES, weights=[None, WEIGHTS], threads=[2, 3, 9])
def test_shares_of_the_heads_for_threads_change_nothing(monkeypatch, rule, weights, threads):
    network, seen = Network((5, 3)), []
    whole, one = _together(NUMPY, rule, network, "hinge", weights, WILD)
    monkeypatch.setattr(minibatch, "_COLUMNS", 1)
    monkeypatch.setattr(minibatch, "blas_width", lambda: threads)
    monkeypatch.setattr(_threads, "blas_width", lambda: threads)

    def watched(*args):
        seen.append((threading.get_ident(), int(args[3].shape[0])))
        return plain_steps(*args)

    shared, two = _together(NUMPY, rule, network, "hinge", weights, WILD, steps=watched)
    assert sum(size for _, size in seen[: min(threads, 4)]) == 4  # the first epoch's shares
    assert threading.get_ident() not in {thread for thread, _ in seen}
    assert one.history["loss"] == pytest.approx(two.history["loss"], rel=SAME)
    for a, b in zip(whole, shared, strict=True):
        assert_close_max_norm(b.theta, a.theta, SAME)
        assert (a.n_iter, a.reason) == (b.n_iter, b.reason)


@pytest.mark.parametrize("widths", [(5, 3), (5, 6, 3)], ids=["linear", "net"])
@pytest.mark.parametrize("weighted", [False, True])
def test_more_heads_make_no_more_array_calls(widths, weighted):
    counts, reads = [], []
    for heads in (2, 4, 24):
        network = Network(widths)
        weights = counted(np.ones((2, 60))) if weighted else None
        lines = counted(np.arange(heads) % 2) if weighted else None
        rows = Rows(
            counted(X), one_hot(NAMESPACE, counted(Y), 3), weights, NAMESPACE.float64, lines
        )
        objective = Objective(network, loss_named("softmax"), counted(np.full(heads, 1e-3)))
        plan = _plan(Momentum(), counted(np.full((heads, 1), 0.1)))
        theta = counted(np.ones((heads, network.size)))
        state = plan.rule.init(theta)
        with counting() as tally:
            run_epoch(objective, rows, plan, theta, state, np.arange(60), 0)
        counts.append(tally.operations)
        reads.append(tally.reads)
    assert counts[0] == counts[1] == counts[2]
    assert reads == [0, 0, 0]
    # 10 reshapes between heads and one product at most, on top of the single fit's promise.
    assert counts[0] <= 6 * ((50 if len(widths) > 2 else 30) + 12 + 5 * weighted) + 2
