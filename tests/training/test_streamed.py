"""Minibatches of rows in host memory: the bits of resident rows, and nothing left behind."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
from backends import Backend, why_missing
from counting import NAMESPACE, counted, counting
from device_cases import gpus  # noqa: F401
from estimator_cases import CLASSES, blobs, small
from helpers import run_epoch
from pairwise import pairwise

from xclf import SoftmaxClassifier, _array_api
from xclf.kernels import one_hot
from xclf.objectives import Network, Objective, loss_named
from xclf.optim import SGD, Adam, Momentum, Nesterov, RMSProp
from xclf.rows import Rows, Streamed, _transfer
from xclf.training import MinibatchPlan, Monitor, Problem, fit_minibatch, minibatch

N, D, C = 50, 6, 3
X, Y = blobs(N, D, C)
X = np.round(X * 8)  # whole numbers: narrow dtypes hold them too
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, size=(2, N))
REGS, RATES = np.array([1e-4, 1e-2, 0.1]), np.array([[0.05], [0.02], [0.01]])
RULES = (SGD(), Momentum(), Nesterov(), RMSProp(), Adam())
rules = pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
nets = pytest.mark.parametrize("widths", [(D, C), (D, 5, C)], ids=["linear", "net"])


@pytest.fixture(params=[False, True], ids=["at once", "by threads"], autouse=True)
def copying(request, monkeypatch):
    """Rows are copied by the thread that asks, or by those of their own."""
    if request.param:
        monkeypatch.setattr(_transfer, "_BLOCK", 1)


def _streamed(backend, host):
    """Host rows, read-only as those of a memory map."""
    host = host.copy()
    host.flags.writeable = False
    return Streamed(host, backend.xp, backend.device)


def _two(backend, widths, *, dtype="float64", heads=None, loss="softmax"):
    """The problem of resident rows, and the same of streamed ones."""
    put, wide = backend.asarray, "float64" if dtype == "float64" else "float32"
    host = X.astype(dtype)
    there = host.astype(np.float32) if dtype == "float16" else host  # not all libraries have it
    labels = one_hot(backend.xp, put(Y), C)
    weights = None if heads is None else put(WEIGHTS.astype(wide))
    lines = None if heads is None else put(np.arange(heads) % 2)
    rows = Rows(put(there), labels, weights, backend.dtype(wide), lines)
    reg = 1e-2 if heads is None else put(REGS[:heads].astype(wide))
    objective = Objective(Network(widths), loss_named(loss), reg)
    streamed = replace(rows, x=_streamed(backend, host))
    return Problem(objective, rows), Problem(objective, streamed)


def _start(backend, network, heads=None, dtype="float64"):
    shape = (network.size,) if heads is None else (heads, network.size)
    return backend.asarray((0.3 * np.random.default_rng(2).normal(size=shape)).astype(dtype))


def _plan(rule, rate=0.05, **changes):
    settings = {"batch_size": 8, "epochs": 3, "schedule": "cosine", "tol": 0.0, "patience": None}
    return MinibatchPlan(rule, rate, **(settings | changes))


def _fit(problem, theta, plan, callbacks=(), **options):
    monitor = Monitor(callbacks, "epoch", plan.epochs)
    theta = theta[None, :] if theta.ndim == 1 else theta
    results = fit_minibatch(problem, theta, plan, np.random.default_rng(5), monitor, **options)
    return results, monitor


def _assert_same_bits(backend, got, want):
    (got, told), (want, known) = got, want
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(backend.to_host(one.theta), backend.to_host(other.theta))
        assert (one.n_iter, one.reason) == (other.n_iter, other.reason)
    for name in ("loss", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(told.history[name], known.history[name], rtol=1e-12)


# --- the same bits ---------------------------------------------------------------------------


@rules
@nets
def test_streamed_training_is_resident_training(backend, rule, widths):
    resident, streamed = _two(backend, widths)
    theta = _start(backend, resident.objective.network)
    fits = [_fit(problem, theta, _plan(rule)) for problem in (streamed, resident)]
    _assert_same_bits(backend, *fits)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_rows_that_widen_on_the_device(backend, dtype):
    resident, streamed = _two(backend, (D, C), dtype=dtype)
    theta = _start(backend, resident.objective.network, dtype="float32")
    fits = [_fit(problem, theta, _plan(Adam())) for problem in (streamed, resident)]
    _assert_same_bits(backend, *fits)


@pairwise(rule=RULES, widths=[(D, C), (D, 5, C)], loss=["softmax", "hinge"])
def test_heads_trained_together(backend, rule, widths, loss):
    """(K, P): each with its own penalty, rate and row weights."""
    resident, streamed = _two(backend, widths, heads=3, loss=loss)
    theta = _start(backend, resident.objective.network, heads=3)
    plan = _plan(rule, backend.asarray(RATES))
    fits = [_fit(problem, theta, plan) for problem in (streamed, resident)]
    assert len(fits[0][0]) == 3
    _assert_same_bits(backend, *fits)


def test_passes_between_epochs_use_the_same_channel(backend, monkeypatch):
    """The sample that is watched, held-out rows in chunks, and the objective in the end."""
    monkeypatch.setattr(minibatch, "_PROBE_ROWS", 9)
    monkeypatch.setattr("xclf.rows._rows._chunk_rows", lambda *_: 7)
    resident, streamed = _two(backend, (D, C))
    theta = _start(backend, resident.objective.network)
    train, held = np.arange(0, 38), np.arange(38, N)
    fits = []
    for problem in (streamed, resident):
        rows = problem.rows.only(held)
        fits.append(_fit(problem, theta, _plan(Momentum()), train=train, validation=rows))
    assert np.isfinite(fits[0][1].history["val_loss"]).all()
    _assert_same_bits(backend, *fits)


@pytest.mark.parametrize("size", [1, 7, 25, 50, 60])
def test_batches_are_what_take_gives(backend, size):
    """Of any size, the last one shorter; also of some of the rows."""
    problem = _two(backend, (D, C), heads=3)[1]
    for rows in (problem.rows, problem.rows.only(np.arange(N)[::-2].copy())):
        order = np.random.default_rng(0).permutation(len(rows))
        indices = [order[at : at + size] for at in range(0, len(order), size)]
        seen = 0
        for chunk, index in zip(rows.batches(indices), indices, strict=True):
            want = rows.take(rows.numbers(index))
            for name in ("x", "labels", "weights"):
                got, whole = (backend.to_host(getattr(part, name)) for part in (chunk, want))
                np.testing.assert_array_equal(got, whole)
            seen += len(index)
        assert seen == len(rows)
    assert list(rows.batches([])) == []


# --- what it costs ---------------------------------------------------------------------------


def test_an_epoch_sends_the_order_once_and_reads_nothing():
    labels = one_hot(NAMESPACE, counted(Y), C)
    rows = Rows(Streamed(X, NAMESPACE, "cpu"), labels, counted(np.ones(N)), NAMESPACE.float64)
    objective = Objective(Network((D, C)), loss_named("softmax"), 1e-2)
    theta = counted(np.zeros(objective.network.size))
    with counting() as tally:
        run_epoch(objective, rows, _plan(SGD()), theta, (), np.arange(N), 0)
    assert tally.reads == 0, tally
    assert tally.names["asarray"] == 1 + 7, tally  # the order, and 7 batches


def test_a_batch_is_gone_when_the_next_is_made(backend):
    """Twice the memory of the largest thing there is would be taken else."""
    resident, streamed = _two(backend, (D, C))
    alive: list[weakref.ref] = []
    picked = Rows._picked

    class Held:
        """A chunk that can be referred to weakly."""

        def __init__(self, chunk):
            self.chunk = chunk

        def __getattr__(self, name):
            return getattr(self.chunk, name)

    def watched(self, x, index):
        assert all(ref() is None for ref in alive)
        held = Held(picked(self, x, index))
        alive.append(weakref.ref(held))
        return held

    theta = _start(backend, resident.objective.network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rows, "_picked", watched)
        for problem in (resident, streamed):
            alive.clear()
            plan = _plan(SGD())
            run_epoch(problem.objective, problem.rows, plan, theta, (), np.arange(N), 0)
            assert len(alive) == 7


# --- giving up -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("step", [1, 4, 9])
def test_a_fit_that_was_given_up_leaves_the_rows_as_they_were(backend, error, step):
    """An error in the middle of an epoch; Ctrl-C keeps what the epochs before it made."""
    resident, streamed = _two(backend, (D, C))
    theta = _start(backend, resident.objective.network)
    steps = []

    class Stops(Momentum):
        def numbers(self, state, rate):
            steps.append(1)
            if len(steps) == step:
                raise error("stop")
            return super().numbers(state, rate)

    if error is KeyboardInterrupt:
        ((result,), _) = _fit(streamed, theta, _plan(Stops()))
        assert result.interrupted
    else:
        with pytest.raises(ValueError, match="stop"):
            _fit(streamed, theta, _plan(Stops()))
    fits = [_fit(problem, theta, _plan(Momentum())) for problem in (streamed, resident)]
    _assert_same_bits(backend, *fits)


@pytest.mark.usefixtures("gpus")
def test_a_callback_that_raises_or_stops(monkeypatch):
    monkeypatch.setattr(_array_api, "free_memory", lambda *_: 1)
    options = {"solver": "adam", "max_iter": 3, "batch_size": 8, "random_state": 0}

    def raises(event):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        SoftmaxClassifier(device="gpu", callbacks=[raises], **options).fit(X, Y)
    model = SoftmaxClassifier(device="gpu", callbacks=[lambda event: True], **options).fit(X, Y)
    assert model.n_iter_ == 1


# --- whole estimators ------------------------------------------------------------------------


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("place", ["gpu", "cuda"])
def test_estimators_stream_the_fit_that_they_make_of_resident_rows(
    cls, early_stopping, place, monkeypatch
):
    if place == "cuda" and why_missing(Backend.CUPY) is not None:
        pytest.skip(f"cupy: {why_missing(Backend.CUPY)}")
    options = {"solver": "adam", "max_iter": 4, "batch_size": 8, "random_state": 3}
    options |= {"early_stopping": early_stopping, "device": place}
    want = small(cls, **options).fit(X, Y)
    monkeypatch.setattr(_array_api, "free_memory", lambda *_: 1)
    got = small(cls, **options).fit(X, Y)
    for one, other in zip(got._layers(), want._layers(), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(_array_api.to_host(a), _array_api.to_host(b))
    assert got.history_["val_accuracy"] == want.history_["val_accuracy"]
