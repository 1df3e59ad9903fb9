"""The one engine: what a specification asks of accelerators, methods and rows."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on

from xclf.objectives import FORMULAS, LOSSES, Network, Softmax, loss_named
from xclf.optim import SGD, SOLVERS, Momentum
from xclf.rows import MemoryBudget
from xclf.training import METHODS, FitSpec, Method, MinibatchPlan, Monitor, engine, fit

X, Y = blobs(50, 5, 3)
NETWORK = Network((5, 3))


def _spec(plan=None, loss="softmax", heads=1, **changes):
    rows = problem_on(Backend.NUMPY, NETWORK, X, Y).rows
    solver = SOLVERS["lbfgs" if plan is None else "sgd"]
    spec = FitSpec(heads, NETWORK, loss_named(loss), 0.1, rows, solver, 1e-8, 100, plan)
    return replace(spec, **changes)


def _plan(**changes):
    settings = {"batch_size": 8, "epochs": 3, "schedule": "constant", "tol": 0.0, "patience": None}
    return MinibatchPlan(SGD(), 0.05, **(settings | changes))


def _fit(spec, theta=None, **options):
    theta = np.zeros((spec.heads, NETWORK.size)) if theta is None else theta
    monitor = Monitor((), "epoch", 100)
    return fit(spec, lambda: theta, monitor, np.random.default_rng(0), **options)


def test_accelerators_see_a_full_batch_fit():
    spec = _spec()
    request = spec.request()
    assert request.x is spec.rows.x
    assert (request.dtype, request.network, request.loss) == (np.float64, NETWORK, Softmax())
    assert (request.n_rows, request.rule, request.steps, request.bounded) == (50, None, 0, False)


def test_accelerators_see_a_minibatch_fit():
    train = np.arange(20)
    spec = _spec(_plan(epochs=4), train=train)
    assert (spec.request().rule, spec.request().steps) == (SGD(), 4 * (20 // 8))
    bounded = replace(spec, rows=replace(spec.rows, budget=MemoryBudget(1 << 20)))
    assert bounded.request().bounded


def test_a_fit_computes_with_the_selected_operations(monkeypatch):
    """Those of the selection, whatever the network had; and its steps."""
    calls = []

    def row_sums(sums, chunk):
        calls.append("sums")
        return FORMULAS.row_sums(sums, chunk)

    def steps(objective, rule, rows, theta, state, batches):
        calls.append(len(batches))
        return theta, state

    chosen = engine.select(_spec().request())._replace(
        operations=replace(FORMULAS, row_sums=row_sums), steps=steps
    )
    monkeypatch.setattr(engine, "select", lambda request: chosen)
    _fit(_spec())
    assert set(calls) == {"sums"}
    calls.clear()
    _fit(_spec(_plan()))
    assert calls == [7, 7, 7]


@pytest.mark.parametrize("loss", list(LOSSES))
def test_the_loss_names_the_method(monkeypatch, loss):
    seen = []

    def method(name):
        def run(problem, theta, *, tol, max_iter, monitor):
            seen.append((name, tol, max_iter, theta.shape))
            return ["result"]

        return Method(run, multipliers=False)

    for name in METHODS:
        monkeypatch.setitem(METHODS, name, method(name))
    assert _fit(_spec(loss=loss)) == ["result"]
    assert seen == [(LOSSES[loss].full_batch.method, 1e-8, 100, (1, NETWORK.size))]


@pytest.mark.parametrize("plan", [None, _plan()], ids=["full-batch", "minibatch"])
def test_nothing_holds_the_start(plan):
    """It may be as large as X."""
    alive = []

    class Start(np.ndarray):
        pass

    def start():
        theta = np.zeros((1, NETWORK.size)).view(Start)
        alive.append(weakref.ref(theta))
        return theta

    result = fit(_spec(plan), start, Monitor((), "epoch", 100), np.random.default_rng(0))
    assert len(result) == 1
    assert alive[0]() is None


def test_training_goes_on_from_a_state():
    """Six epochs are three and three more with the state and the generator of the first."""
    plan = replace(_plan(epochs=6), rule=Momentum(0.8))
    (whole,) = _fit(_spec(plan))
    rng, spec = np.random.default_rng(0), _spec(replace(plan, epochs=3))
    theta, state = np.zeros(NETWORK.size), None
    for _ in range(2):
        monitor = Monitor((), "epoch", 3)
        (part,) = fit(spec, lambda start=theta: start[None, :], monitor, rng, state=state)
        theta, state = part.theta, part.state
    np.testing.assert_array_equal(theta, whole.theta)


def test_the_largest_product_is_that_of_a_chunk_or_a_batch():
    spec = _spec()
    assert spec.largest_product == 50 * 15
    assert _spec(_plan()).largest_product == 8 * 15
    assert replace(spec, network=Network((5, 40, 3))).largest_product == 50 * 200


def test_the_largest_product_is_that_of_a_chunk_of_the_widest_layer(monkeypatch):
    monkeypatch.setattr("xclf.rows._rows._chunk_rows", lambda x, dtype, width, budget: 60 // width)
    for widths, want in (((5, 3), 20 * 15), ((5, 6, 3), 10 * 30), ((5, 3, 6), 10 * 18)):
        assert _spec(network=Network(widths)).largest_product == want
    assert _spec(_plan(batch_size=7)).largest_product == 7 * 15
    assert _spec(_plan(batch_size=7000)).largest_product == 50 * 15
