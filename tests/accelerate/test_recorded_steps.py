"""Recorded minibatch steps: replayed, they are the steps that a fit takes one by one.

A tape stands for the CUDA graph (tests/taped.py), a cuBLAS on the host for the GPU's; with CuPy and
a GPU the last tests run the real ones.
"""

from __future__ import annotations

import dataclasses
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from estimator_cases import blobs
from python_kernel import PythonKernel
from taped import Blas, Taped, TapedNumpy, join, tape

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, _array_api, _cuda_graph
from xclf._cuda_graph import Products
from xclf.kernels import one_hot
from xclf.objectives import Network, Objective, data_loss
from xclf.optim import SGD, Adam, Momentum, RMSProp, in_place
from xclf.rows import MemoryBudget, Rows
from xclf.training import MinibatchPlan, Monitor, Problem, _recorded, fit_minibatch
from xclf.training._recorded import RecordedSteps, Recorder

X, Y = blobs(64, 6, 4)
SGD_RULE = SGD()
RULES = [SGD(), Momentum(), RMSProp(), Adam()]
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, 64)
WEIGHTS /= WEIGHTS.mean()
# Products that add up in another order, carried through some forty steps.
SAME = 1e-11


class TapedGraph:
    def __init__(self, work, needed=0):
        made = Products(Blas(), 1, np.empty(8, np.uint8), lambda array: array.ctypes.data)
        xp, made.xp = made.xp, TapedNumpy(made.xp)
        with _array_api.in_place_of(xp, made.namespace()), pytest.MonkeyPatch.context() as patch:
            patch.setattr(_cuda_graph, "_join", join)
            work()
            work()
            with tape() as self.held:
                work()
        self.launches = 0

    def launch(self):
        self.launches += 1
        for again in self.held:
            again()


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are recorded from here on, on tapes."""
    made = []

    def record(work, needed):
        assert needed > 0
        made.append(TapedGraph(work))
        return made[-1]

    monkeypatch.setattr(_recorded, "record", record)
    # NumPy's own copies are no longer taped.
    monkeypatch.setattr(
        _recorded, "_copied", lambda value: value.copy() if hasattr(value, "shape") else value
    )
    monkeypatch.setattr(_recorded, "recordable", lambda rows: isinstance(rows.x, Taped))
    monkeypatch.setattr(_recorded, "WORTH", 4)
    monkeypatch.setattr(_recorded, "_gave_up", [])
    return made


def put(values):
    return np.array(values).view(Taped)


def problem(widths, loss="softmax", weights=None, heads=None, scaled=False, margin=1.0, taped=True):
    own = put if taped else np.array
    place = {"shift": own(X.mean(axis=0)), "scale": own(X.std(axis=0))} if scaled else {}
    labels = own(one_hot(np, Y, 4))
    kinds = None if heads is None or weights is None else own(np.arange(heads) % len(weights))
    weights = None if weights is None else own(weights)
    reg = 1e-3 if heads is None else own(np.logspace(-4, -1, heads))
    objective = Objective(Network(widths, **place), data_loss(loss, margin), reg)
    return Problem(objective, Rows(own(X), labels, weights, np.dtype(np.float64), kinds))


def start(widths, heads):
    size = Network(widths).size
    return 0.3 * np.random.default_rng(2).normal(size=(heads, size))


def fitted(given, theta, rule, rate=0.05, schedule="constant", batch_size=10, epochs=7, **options):
    plan = MinibatchPlan(rule, rate, batch_size, epochs, schedule, 0.0, None)
    monitor = Monitor((), "epoch", epochs)
    return fit_minibatch(given, theta, plan, np.random.default_rng(3), monitor, **options)


def assert_same(got, want):
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one.theta, other.theta, rtol=SAME, atol=SAME)
        assert len(one.state) == len(other.state)
        for part, whole in zip(one.state, other.state, strict=True):
            np.testing.assert_allclose(part, whole, rtol=SAME, atol=SAME)
        assert one.n_iter == other.n_iter
        assert one.reason == other.reason


@pytest.fixture(params=[False, True], ids=["formula", "kernel"])
def updates(request, monkeypatch):
    """Steps that end with the rule's formula, or with its kernel, read as Python."""
    if request.param:
        kernels = SimpleNamespace(ElementwiseKernel=PythonKernel)
        monkeypatch.setattr(in_place, "loaded", {"cupy": kernels}.get)
        monkeypatch.setattr(_recorded, "can_update_in_place", lambda rule, theta: True)
    in_place._kernel.cache_clear()
    yield
    in_place._kernel.cache_clear()


# 64 rows in batches of 10: every epoch ends with a short batch, which is no replay.
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("widths", [(6, 4), (6, 5, 4)], ids=["linear", "net"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential"])
def test_a_fit_is_the_same(graphs, updates, rule, widths, schedule):
    theta = start(widths, 1)
    want = fitted(problem(widths, taped=False), theta, rule, schedule=schedule)
    got = fitted(problem(widths), put(theta), rule, schedule=schedule)
    assert_same(got, want)
    assert [graph.launches for graph in graphs] == [6 * 7 + 1]  # and one to be checked


@pytest.mark.parametrize("loss", ["softmax", "hinge"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weighted"])
def test_every_kind_of_step_can_be_recorded(graphs, updates, loss, scaled, weights):
    options = {"loss": loss, "scaled": scaled, "weights": weights}
    theta = start((6, 5, 4), 1)
    want = fitted(problem((6, 5, 4), taped=False, **options), theta, Momentum())
    got = fitted(problem((6, 5, 4), **options), put(theta), Momentum())
    assert_same(got, want)
    assert len(graphs) == 1


@pytest.mark.parametrize("widths", [(6, 4), (6, 5, 4)], ids=["linear", "net"])
@pytest.mark.parametrize("loss", ["softmax", "hinge"])
@pytest.mark.parametrize("rule", [Momentum(), Adam()], ids=lambda rule: type(rule).__name__)
def test_heads(graphs, updates, widths, loss, rule):
    found = []
    for own in (np.array, put):
        taped = own is put
        margin = own([1.0, 0.5, 2.0]) if loss == "hinge" else 1.0
        kind = Momentum(own([[0.9], [0.5], [0.0]])) if isinstance(rule, Momentum) else rule
        weights = np.stack([WEIGHTS, np.ones(64)])
        given = problem(widths, loss, weights, 3, margin=margin, taped=taped)
        rate = own([[0.05], [0.02], [0.01]])
        found.append(fitted(given, own(start(widths, 3)), kind, rate, "cosine"))
    assert_same(found[1], found[0])
    assert len(graphs) == 1


def test_heads_that_leave_are_recorded_anew(graphs):
    """One head's rate is far too large: it diverges, and the others go on without it."""
    found = []
    for own in (np.array, put):
        given = problem((6, 4), "hinge", heads=3, taped=own is put)
        rate = own([[0.01], [1e200], [0.02]])
        with np.errstate(all="ignore"):
            found.append(fitted(given, own(start((6, 4), 3)), SGD(), rate))
    assert_same(found[1], found[0])
    assert found[1][1].n_iter == 1
    assert [result.n_iter for result in found[1]] == [7, 1, 7]
    assert len(graphs) in (1, 2)  # a first step that overflows cannot be checked


def test_a_state_is_gone_on_with(graphs):
    """A second fit takes up the first one's state, its count of steps included."""
    found = []
    for own in (np.array, put):
        given = problem((6, 4), taped=own is put)
        (first,) = fitted(given, own(start((6, 4), 1)), Adam(), epochs=3)
        state = tuple(own(part) if hasattr(part, "shape") else part for part in first.state)
        theta = own(first.theta)[None, :]
        found.append(fitted(given, theta, Adam(), epochs=3, state=state))
    assert_same(found[1], found[0])
    assert found[1][0].state[2] == 2 * 3 * 7


def test_what_comes_out_is_not_written_to_later(graphs):
    given = problem((6, 4))
    theta = put(start((6, 4), 1))[0]
    steps = RecordedSteps(given.objective, Adam(), given.rows, theta, Adam().init(theta), 10)
    batch = [(np.arange(10), 0.1)]
    first, state = steps.run(theta, Adam().init(theta), batch)
    held = [np.array(first), *(np.array(part) for part in state)]
    second, _ = steps.run(first, state, batch)
    assert not np.array_equal(second, first)
    for now, before in zip([first, *state], held, strict=True):
        np.testing.assert_array_equal(now, before)


def test_a_recording_is_for_one_objective_rule_and_size(graphs):
    given, other = problem((6, 4)), problem((6, 4), "hinge")
    theta, first = put(start((6, 4), 1))[0], (np.arange(10), 0.1)
    recorder = Recorder(100)

    def recorded(one, rule=SGD_RULE, batch=first):
        return recorder.steps_of(one.objective, rule, one.rows, theta, (), batch)

    steps = recorded(given)
    assert steps is not None
    assert recorded(given) is steps
    assert recorded(other) is not steps
    steps = recorded(given)
    assert recorded(given, batch=(np.arange(5), 0.1)).index.shape == (5,)
    assert recorded(given, SGD()) is not steps
    assert len(graphs) == 5


# --- when it is done, and when not -----------------------------------------------------------


def test_few_steps_are_not_recorded(graphs, monkeypatch):
    monkeypatch.setattr(_recorded, "WORTH", 50)
    fitted(problem((6, 4)), put(start((6, 4), 1)), SGD(), epochs=8)  # 48 whole batches
    assert not graphs
    fitted(problem((6, 4)), put(start((6, 4), 1)), SGD(), epochs=9)
    assert graphs


def test_host_rows_are_not_recorded():
    assert not _recorded.recordable(problem((6, 4), taped=False).rows)


def test_a_batch_of_all_rows(graphs):
    theta = start((6, 4), 1)
    want = fitted(problem((6, 4), taped=False), theta, SGD(), batch_size=100, epochs=9)
    recorder = Recorder(100)
    given = problem((6, 4))
    plan = MinibatchPlan(SGD(), 0.05, 100, 9, "constant", 0.0, None)
    now, state = put(theta)[0], ()
    rng = np.random.default_rng(3)
    from xclf.training.minibatch import run_epoch

    for epoch in range(9):
        order = rng.permutation(64)
        now, state = run_epoch(
            given.objective, given.rows, plan, now, state, order, epoch, recorder
        )
    np.testing.assert_allclose(now, want[0].theta, rtol=SAME, atol=SAME)
    assert [graph.launches for graph in graphs] == [10]


def broken(monkeypatch, graphs, record):
    monkeypatch.setattr(_recorded, "record", record)
    with pytest.warns(RuntimeWarning, match="cannot be recorded as a CUDA graph") as told:
        got = fitted(problem((6, 4)), put(start((6, 4), 1)), Momentum())
    assert len(told) == 1
    assert_same(got, fitted(problem((6, 4), taped=False), start((6, 4), 1), Momentum()))
    with warnings.catch_warnings():  # said once; the next fit does not try again
        warnings.simplefilter("error")
        fitted(problem((6, 4)), put(start((6, 4), 1)), Momentum())
    return str(told[0].message)


def test_what_cannot_be_recorded_is_done_step_by_step(graphs, monkeypatch):
    def record(work, needed):
        raise NotImplementedError("no graphs here\nsecond line")

    said = broken(monkeypatch, graphs, record)
    assert "(NotImplementedError: no graphs here)" in said
    assert _recorded.why_not() == "NotImplementedError: no graphs here"


def test_no_memory_is_no_reason_to_give_up(graphs, monkeypatch):
    calls = []

    def record(work, needed):
        calls.append(needed)
        raise MemoryError("a graph needs more")

    monkeypatch.setattr(_recorded, "record", record)
    for count in (1, 2):  # once a fit; the next tries again; nothing is said
        got = fitted(problem((6, 4)), put(start((6, 4), 1)), Momentum())
        assert len(calls) == count
        assert _recorded.why_not() is None
    assert_same(got, fitted(problem((6, 4), taped=False), start((6, 4), 1), Momentum()))


def test_a_bound_on_memory_is_one_on_graphs():
    rows = problem((6, 4)).rows
    assert not _recorded.recordable(dataclasses.replace(rows, budget=MemoryBudget(1 << 20)))


def test_a_graph_that_does_something_else_is_not_used(graphs, monkeypatch):
    class Wrong(TapedGraph):
        def launch(self):
            super().launch()
            super().launch()

    assert "off by" in broken(monkeypatch, graphs, Wrong)


def test_a_graph_that_does_nothing_is_not_used(graphs, monkeypatch):
    class Idle(TapedGraph):
        def launch(self):
            pass

    assert "off by 1 of its length" in broken(monkeypatch, graphs, Idle)


# --- on a GPU --------------------------------------------------------------------------------

MODELS = [
    SoftmaxClassifier(solver="momentum"),
    SVMClassifier(solver="sgd", learning_rate=0.01),
    TwoLayerClassifier(16, solver="adam"),
    TwoLayerClassifier(16, solver="rmsprop", loss="hinge", learning_rate=1e-3),
]


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_recorded_fits_on_a_device(backend, model, dtype, monkeypatch):
    """With CuPy, steps are recorded, and the fit is that of plain steps."""
    if "cupy" not in str(backend):
        pytest.skip("CUDA graphs are CuPy's")
    x, y = blobs(600, 20, 5)
    x = backend.asarray(x.astype(dtype))
    model.set_params(batch_size=50, max_iter=8, random_state=0, lr_schedule="cosine")
    found = {}
    for worth in (50, 10**9):
        monkeypatch.setattr(_recorded, "WORTH", worth)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            found[worth] = backend.to_host(model.fit(x, y).decision_function(x))
            again = backend.to_host(model.fit(x, y).decision_function(x))
        np.testing.assert_array_equal(again, found[worth])
    assert _recorded.why_not() is None
    # A kink or a sign of Adam's may fall the other way in float32, where sums end in other bits.
    close = {"float32": 1e-3, "float64": 1e-9}[dtype.name]
    scale = np.abs(found[50]).max()
    assert np.abs(found[50] - found[10**9]).max() <= close * scale
