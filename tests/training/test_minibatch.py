"""Minibatch fits: the formula step by step, seeds, what ends a fit, what it leaves behind."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on
from helpers import assert_close_max_norm, run_epoch, softmax_rows, squared_hinge_rows
from pairwise import pairwise

from xclf.objectives import Network
from xclf.optim import SGD, Adam, Momentum, Nesterov, RMSProp, rate_factor
from xclf.training import (
    MinibatchPlan,
    Monitor,
    accuracy,
    empty_history,
    fit_minibatch,
    plain_steps,
    subset,
)

module = sys.modules["xclf.training.minibatch"]

X, Y = blobs(50, 5, 3)
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, size=50)
WEIGHTS /= WEIGHTS.mean()
NUMPY = Backend.NUMPY
RULES = (SGD(), Momentum(), Nesterov(), RMSProp(), Adam())
rules = pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)


def _plan(rule=None, **changes):
    settings = {"rate": 0.05, "batch_size": 10, "epochs": 4, "schedule": "constant"}
    settings |= {"tol": 0.0, "patience": None} | changes
    return MinibatchPlan(rule=rule or Momentum(), **settings)


def _theta(network, backend=NUMPY):
    return backend.asarray(np.random.default_rng(2).normal(size=network.size) * 0.3)


def _fit(plan, backend=NUMPY, widths=(5, 3), seed=0, callbacks=(), rng=None, **options):
    network = Network(widths)
    given = {name: options.pop(name) for name in ("weights", "loss") if name in options}
    problem = problem_on(backend, network, X, Y, **given)
    monitor = Monitor(callbacks, "epoch", plan.epochs)
    rng = np.random.default_rng(seed) if rng is None else rng
    start = options.pop("theta", None)
    start = _theta(network, backend) if start is None else start
    (result,) = fit_minibatch(problem, start[None, :], plan, rng, monitor, **options)
    return result, monitor


def _plain_momentum(w, b, batches, rate, reg, weights, momentum=0.9):
    """20 lines of NumPy: softmax regression by momentum on given batches."""
    vw, vb = 0.0, 0.0
    for index in batches:
        x, y = X[index], Y[index]
        share = softmax_rows(x @ w.T + b)
        share[np.arange(len(y)), y] -= 1.0
        share *= weights[index, None] / len(y)
        vw = momentum * vw - rate * (share.T @ x + 2 * reg * w)
        vb = momentum * vb - rate * share.sum(axis=0)
        w, b = w + vw, b + vb
    return np.concatenate([w.ravel(), b])


@pytest.mark.parametrize("weights", [np.ones(50), WEIGHTS], ids=["equal", "weighted"])
def test_four_epochs_are_the_plain_loop(backend, weights):
    """20 steps in float64, rows drawn without replacement from the documented generator."""
    result, _ = _fit(_plan(), backend, weights=weights)
    rng, batches = np.random.default_rng(0), []
    for _ in range(4):
        batches += list(rng.permutation(50).reshape(5, 10))
    start = _theta(Network((5, 3)))
    want = _plain_momentum(start[:15].reshape(3, 5), start[15:], batches, 0.05, 1e-2, weights)
    assert_close_max_norm(backend.to_host(result.theta), want, 1e-11)


@pytest.mark.parametrize("weights", [np.ones(50), WEIGHTS], ids=["equal", "weighted"])
def test_the_squared_hinge_by_nesterov_is_the_plain_loop(backend, weights):
    result, _ = _fit(_plan(Nesterov(), rate=0.01), backend, loss="squared_hinge", weights=weights)
    rng, vw, vb = np.random.default_rng(0), 0.0, 0.0
    start = _theta(Network((5, 3)))
    w, b = start[:15].reshape(3, 5), start[15:]
    for _ in range(4):
        for index in rng.permutation(50).reshape(5, 10):
            x, y = X[index], Y[index]
            push = squared_hinge_rows(x @ w.T + b, y)[1] * weights[index, None] / 10
            gw, gb = push.T @ x + 2e-2 * w, push.sum(axis=0)
            vw, vb = 0.9 * vw - 0.01 * gw, 0.9 * vb - 0.01 * gb
            w, b = w + 0.9 * vw - 0.01 * gw, b + 0.9 * vb - 0.01 * gb
    want = np.concatenate([w.ravel(), b])
    assert_close_max_norm(backend.to_host(result.theta), want, 1e-11)


@pairwise(rule=RULES, widths=[(5, 3), (5, 6, 3)], schedule=["constant", "cosine", "exponential"])
def test_traces_of_twenty_steps_are_those_of_numpy(backend, rule, widths, schedule):
    plan = _plan(rule, schedule=schedule)
    got, there = _fit(plan, backend, widths, weights=WEIGHTS)
    want, here = _fit(plan, NUMPY, widths, weights=WEIGHTS)
    assert_close_max_norm(backend.to_host(got.theta), want.theta, 1e-11)
    np.testing.assert_allclose(there.history["loss"], here.history["loss"], rtol=1e-11)
    assert got.objective == pytest.approx(want.objective, rel=1e-11)


@rules
def test_the_same_seed_repeats_bit_for_bit(backend, rule):
    first, one = _fit(_plan(rule), backend, (5, 6, 3), seed=7)
    second, two = _fit(_plan(rule), backend, (5, 6, 3), seed=7)
    np.testing.assert_array_equal(backend.to_host(first.theta), backend.to_host(second.theta))
    assert one.history["loss"] == two.history["loss"]
    other, _ = _fit(_plan(rule), backend, (5, 6, 3), seed=8)
    assert not np.array_equal(backend.to_host(first.theta), backend.to_host(other.theta))


@pytest.mark.parametrize("size", [1, 7, 10, 50])
def test_an_epoch_sees_every_row_once(size, monkeypatch):
    problem = problem_on(NUMPY, Network((5, 3)), X, Y)
    seen = []
    take = type(problem.rows).take
    monkeypatch.setattr(
        type(problem.rows), "take", lambda self, index: seen.append(index) or take(self, index)
    )
    order = np.random.default_rng(0).permutation(50)
    theta = _theta(Network((5, 3)))
    run_epoch(problem.objective, problem.rows, _plan(batch_size=size), theta, (theta,), order, 0)
    np.testing.assert_array_equal(np.concatenate(seen), order)
    assert [len(part) for part in seen] == [min(size, 50 - k) for k in range(0, 50, size)]


def test_schedules_scale_the_rate(monkeypatch):
    rates = []

    class Spy:
        def init(self, theta):
            return ()

        def step(self, theta, gradient, state, rate):
            rates.append(rate)
            return theta, state

    _fit(_plan(Spy(), epochs=2, schedule="cosine"))
    want = [0.05 * (1 + math.cos(math.pi * t / 10)) / 2 for t in range(10)]
    np.testing.assert_allclose(rates, want, rtol=1e-15)
    rates.clear()
    _fit(_plan(Spy(), epochs=2, schedule="exponential"))
    np.testing.assert_allclose(rates, [0.05] * 5 + [0.05 * 0.95] * 5, rtol=1e-15)


@rules
def test_going_on_with_the_state_is_one_longer_run(rule):
    whole, _ = _fit(_plan(rule))
    rng = np.random.default_rng(0)
    theta, state = _theta(Network((5, 3))), None
    for _ in range(4):
        part, _ = _fit(_plan(rule, epochs=1), rng=rng, theta=theta, state=state)
        theta, state = part.theta, part.state
    np.testing.assert_array_equal(theta, whole.theta)


# --- what is measured ------------------------------------------------------------------------


def test_history_is_the_objective_after_every_epoch():
    result, monitor = _fit(_plan())
    assert {key: len(v) for key, v in monitor.history.items()} == dict.fromkeys(empty_history(), 4)
    assert result.n_iter == 4
    problem = problem_on(NUMPY, Network((5, 3)), X, Y)
    assert result.objective == monitor.history["loss"][-1] == float(problem.value(result.theta))
    assert all(math.isnan(v) for v in monitor.history["val_loss"] + monitor.history["val_accuracy"])
    assert monitor.history["seconds"] == sorted(monitor.history["seconds"])
    assert not result.converged
    assert "4 epochs" in result.reason


def test_many_rows_are_watched_on_a_sample():
    """2048 rows, or a twentieth of them, the same ones in every epoch."""
    x, y = blobs(3000, 5, 3)
    problem = problem_on(NUMPY, Network((5, 3)), x, y)
    seen = []
    value = type(problem).value

    class Spy(type(problem)):
        def value(self, theta):
            seen.append(self.rows)
            return value(self, theta)

    monitor = Monitor((), "epoch", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xclf.training.minibatch.Problem", Spy)
        fit_minibatch(
            problem,
            _theta(Network((5, 3)))[None, :],
            _plan(epochs=2),
            np.random.default_rng(0),
            monitor,
        )
    assert [len(rows) for rows in seen] == [2048, 2048]
    assert seen[0] is seen[1]


def test_subset_takes_all_parts(backend):
    rows = problem_on(backend, Network((5, 3)), X, Y, weights=WEIGHTS).rows
    part = subset(rows, np.array([4, 40]))
    assert len(part) == 2
    np.testing.assert_array_equal(backend.to_host(part.x), X[[4, 40]])
    np.testing.assert_array_equal(backend.to_host(part.weights), WEIGHTS[[4, 40]])
    assert backend.to_host(part.labels).argmax(axis=0).tolist() == Y[[4, 40]].tolist()
    plain = problem_on(backend, Network((5, 3)), X, Y).rows
    assert subset(plain, np.array([0])).weights is None


@pytest.mark.parametrize("integers", [False, True])
def test_accuracy_counts_the_right_rows(backend, integers):
    problem = problem_on(backend, Network((5, 3)), X, Y)
    rows = problem.rows
    if integers:
        rows = type(rows)(rows.x, backend.asarray(Y), None, rows.dtype)
    theta = _theta(Network((5, 3)))
    got = accuracy(problem.objective, rows, backend.asarray(theta))
    want = np.mean(np.argmax(X @ theta[:15].reshape(3, 5).T + theta[15:], axis=1) == Y)
    assert got == want


# --- what ends a fit -------------------------------------------------------------------------


def test_a_plateau_ends_the_fit():
    result, monitor = _fit(_plan(SGD(), epochs=500, patience=3, tol=1e-3))
    loss = monitor.history["loss"]
    assert result.converged
    assert result.reason == "converged"
    assert result.n_iter == len(loss) < 500
    gains = [1 - b / a for a, b in itertools.pairwise(loss)]
    assert max(gains[-3:]) <= 1e-3  # three epochs without a thousandth each
    assert all(max(gains[k : k + 3]) > 1e-3 for k in range(len(gains) - 3))


@pytest.mark.parametrize("relative", [False, True])
def test_a_plateau_is_epochs_without_the_least_improvement(relative):
    """`tol`, or that share of the best figure, better than the best so far; NaN is no better."""
    nothing = np.zeros((2, 1))
    size = np.array([1.0, 4.0]) if relative else np.ones(2)
    plateau = module._Plateau(np.full(2, np.inf), np.zeros(2, int), nothing)
    parts = [(1.0, 0), (0.95, 1), (np.nan, 2), (0.87, 3), (0.75, 0), (0.74, 1), (0.8, 2)]
    best = np.inf
    for figure, stale in parts:
        plateau.update(size * figure, nothing + figure, 0.1, relative)
        best = min(best, figure) if np.isfinite(figure) else best
        np.testing.assert_array_equal(plateau.stale, stale)
        np.testing.assert_allclose(plateau.best, size * best)
        np.testing.assert_allclose(plateau.theta, best)


def test_no_patience_no_stop():
    result, _ = _fit(_plan(SGD(), epochs=30, patience=None, tol=1e9))
    assert result.n_iter == 30
    assert not result.converged


def test_validation_keeps_the_best_parameters():
    """A rate that oscillates: the last epoch is not the best one."""
    rows = problem_on(NUMPY, Network((5, 3)), X, Y).rows
    held = np.arange(0, 50, 4)
    train = np.setdiff1d(np.arange(50), held)
    kept = []

    def watch(event):
        kept.append(event.val_accuracy)

    result, monitor = _fit(
        _plan(SGD(), rate=2.0, epochs=12),
        train=train, validation=subset(rows, held), callbacks=[watch],
    )  # fmt: skip
    got = monitor.history["val_accuracy"]
    assert kept == got
    assert got[-1] < max(got)
    problem = problem_on(NUMPY, Network((5, 3)), X, Y)
    assert accuracy(problem.objective, subset(rows, held), result.theta) == max(got)
    assert all(math.isfinite(v) for v in monitor.history["val_loss"])


def test_validation_loss_has_no_penalty():
    rows = problem_on(NUMPY, Network((5, 3)), X, Y).rows
    held = np.arange(10)
    result, monitor = _fit(_plan(epochs=1), validation=subset(rows, held))
    problem = problem_on(NUMPY, Network((5, 3)), X[held], Y[held], reg=0.0)
    assert monitor.history["val_loss"] == [pytest.approx(float(problem.value(result.theta)))]


def test_held_out_rows_are_never_trained_on(monkeypatch):
    problem = problem_on(NUMPY, Network((5, 3)), X, Y)
    seen = []
    take = type(problem.rows).take
    monkeypatch.setattr(
        type(problem.rows), "take", lambda self, index: seen.append(index) or take(self, index)
    )
    held, train = np.arange(10), np.arange(10, 50)
    _fit(_plan(epochs=2), train=train, validation=subset(problem.rows, held))
    assert sorted(np.concatenate(seen).tolist()) == sorted([*range(10, 50)] * 2)


def test_a_callback_ends_the_fit_and_all_hear_the_last_event():
    heard = []
    result, _ = _fit(
        _plan(epochs=50), callbacks=[lambda e: e.step == 3, heard.append, lambda e: None]
    )
    assert result.n_iter == 3
    assert result.reason == "a callback stopped the fit"
    assert not result.converged
    assert [e.step for e in heard] == [1, 2, 3]
    assert {e.unit for e in heard} == {"epoch"}
    assert {e.total for e in heard} == {50}
    assert {e.val_accuracy for e in heard} == {None}
    assert [e.heads for e in heard] == [1, 1, 1]
    assert all(0 <= a.elapsed <= b.elapsed for a, b in itertools.pairwise(heard))


def _interrupt_at(step):
    def callback(event):
        if event.step == step:
            raise KeyboardInterrupt

    return callback


def test_ctrl_c_keeps_the_best_so_far():
    result, monitor = _fit(_plan(SGD(), rate=3.0, epochs=50), callbacks=[_interrupt_at(5)])
    assert result.interrupted
    assert not result.converged
    loss = monitor.history["loss"]
    assert result.objective == min(loss)
    assert len(loss) == 5


def test_a_rate_that_is_too_large_ends_the_fit():
    with np.errstate(all="ignore"):
        result, monitor = _fit(_plan(SGD(), rate=1e200, epochs=9))
    assert "not finite" in result.reason
    assert not result.converged
    assert result.n_iter < 9
    assert all(math.isfinite(v) for v in monitor.history["loss"])


@rules
@pytest.mark.parametrize("reg", [0.1, np.array([0.1, 0.3])])
def test_an_epoch_on_numpy_is_its_steps_bit_for_bit(rule, reg):
    """In place as it is: what comes in is as it was."""
    heads = np.ndim(reg) and len(reg)
    problem = problem_on(NUMPY, Network((5, 4, 3)), X, Y, reg=reg)
    theta = np.random.default_rng(2).normal(size=(*(heads,) * bool(heads), 5 * 4 + 4 + 4 * 3 + 3))
    plan, state = _plan(rule=rule, schedule="cosine"), rule.init(theta)
    before = [theta.copy(), *(np.array(part) for part in state)]
    order = np.random.default_rng(3).permutation(50)
    got, after = run_epoch(problem.objective, problem.rows, plan, theta, state, order, 1)
    for part, was in zip([theta, *state], before, strict=True):
        np.testing.assert_array_equal(part, was)
    want, held = theta, state
    for step in range(5):
        rate = plan.rate * rate_factor("cosine", 5 + step, 5, plan.epochs)
        batch = order[10 * step : 10 * step + 10]
        want, held = plain_steps(problem.objective, rule, problem.rows, want, held, [(batch, rate)])
    for part, whole in zip([got, *after], [want, *held], strict=True):
        np.testing.assert_array_equal(part, whole)


def test_a_figure_that_is_no_better_keeps_the_earlier_parameters():
    """Stale by epochs that gain no more than tol; NaN is no gain, and equal figures are none."""
    plateau = module._Plateau(np.full(2, np.inf), np.zeros(2, int), np.zeros((2, 1)))
    figures = [(3.0, 2.0), (3.0, 1.99), (np.nan, 1.0), (2.0, 1.0)]
    for epoch, pair in enumerate(figures, start=1):
        plateau.update(np.array(pair), np.full((2, 1), float(epoch)), 0.1, False)
    assert plateau.best.tolist() == [2.0, 1.0]
    assert plateau.theta.ravel().tolist() == [4.0, 3.0]
    assert plateau.stale.tolist() == [0, 1]
    plateau.update(np.array([1.9, 0.85]), np.full((2, 1), 5.0), 0.1, True)
    assert plateau.stale.tolist() == [1, 0]  # by a tenth of 2, and of 1
