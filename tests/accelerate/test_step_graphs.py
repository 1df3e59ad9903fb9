"""Recorded minibatch steps: replayed, they are the steps that a fit takes one by one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from device_accelerators import host
from estimator_cases import blobs
from pairwise import pairwise

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, accelerators
from xclf._array_api import device, namespace
from xclf.accelerate import Request, select
from xclf.accelerate.cuda import STEP_GRAPHS, step_graphs
from xclf.accelerate.cuda.graphs import Graph
from xclf.accelerate.cuda.step_graphs import GraphSteps, RecordedStep, deviation
from xclf.accelerate.cuda.update_kernels import FormulaUpdate, KernelUpdate
from xclf.kernels import one_hot
from xclf.objectives import LOSSES, Network, Objective, Softmax, loss_named
from xclf.optim import SGD, Adam, Momentum, Nesterov, RMSProp
from xclf.rows import Rows, Streamed
from xclf.training import MinibatchPlan, Monitor, Problem, fit_minibatch

X, Y = blobs(64, 6, 4)
RULES = [SGD(), Momentum(), Nesterov(), RMSProp(), Adam()]
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, 64)
WEIGHTS /= WEIGHTS.mean()
# Products that add up in another order, carried through some forty steps.
SAME = 1e-11

rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
updates = pytest.mark.parametrize("kind", [FormulaUpdate, KernelUpdate])


@pytest.fixture
def launches(cupy, monkeypatch):
    """The graphs that have been launched, one entry a launch."""
    seen, launch = [], Graph.launch
    monkeypatch.setattr(Graph, "launch", lambda graph: seen.append(id(graph)) or launch(graph))
    return seen


def problem(put, widths, loss="softmax", weights=None, heads=None, scaled=False, margin=1.0):
    around = {"shift": put(X.mean(axis=0)), "scale": put(X.std(axis=0))} if scaled else {}
    labels = put(one_hot(np, Y, 4))
    kinds = None if heads is None or weights is None else put(np.arange(heads) % len(weights))
    weights = None if weights is None else put(weights)
    reg = 1e-3 if heads is None else put(np.logspace(-4, -1, heads))
    objective = Objective(Network(widths, **around), loss_named(loss, margin=margin), reg)
    return Problem(objective, Rows(put(X), labels, weights, np.dtype(np.float64), kinds))


def start(widths, heads=1):
    size = Network(widths).size
    return 0.3 * np.random.default_rng(2).normal(size=(heads, size))


def fitted(given, theta, rule, rate=0.05, schedule="constant", batch_size=10, epochs=7, **options):
    plan = MinibatchPlan(rule, rate, batch_size, epochs, schedule, 0.0, None)
    monitor = Monitor((), "epoch", epochs)
    return fit_minibatch(given, theta, plan, np.random.default_rng(3), monitor, **options)


def values(part):
    return host(part) if hasattr(part, "get") else np.asarray(part)


def assert_same(got, want):
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(values(one.theta), other.theta, rtol=SAME, atol=SAME)
        for part, whole in zip(one.state, other.state, strict=True):
            np.testing.assert_allclose(values(part), whole, rtol=SAME, atol=SAME)
        assert (one.n_iter, one.reason) == (other.n_iter, other.reason)


# 64 rows in batches of 10: every epoch ends with a short batch, which is no replay.
@pairwise(
    kind=[FormulaUpdate, KernelUpdate],
    rule=RULES,
    widths=[(6, 4), (6, 5, 4)],
    schedule=["constant", "cosine"],
)
def test_a_fit_is_the_same(cupy, launches, kind, rule, widths, schedule):
    theta = start(widths)
    want = fitted(problem(np.array, widths), theta, rule, schedule=schedule)
    given = problem(cupy.asarray, widths)
    got = fitted(given, cupy.asarray(theta), rule, schedule=schedule, steps=GraphSteps(kind))
    assert_same(got, want)
    assert len(launches) == 6 * 7 + 2  # and two that are checked
    assert len(set(launches)) == 1
    assert STEP_GRAPHS.failure is None


@pairwise(loss=[*LOSSES], scaled=[False, True], weights=[None, WEIGHTS], others=["off", "all"])
def test_every_kind_of_step_can_be_recorded(cupy, launches, loss, scaled, weights, others):
    """With the other accelerators and without: graphs hold whatever is on."""
    options = {"loss": loss, "scaled": scaled, "weights": weights}
    theta = start((6, 5, 4))
    want = fitted(problem(np.array, (6, 5, 4), **options), theta, Momentum(), 0.01)
    given = problem(cupy.asarray, (6, 5, 4), **options)
    network = given.objective.network
    accelerators("cuda_step_graphs" if others == "off" else "all")
    chosen = select(
        Request(given.rows.x, X.dtype, network, given.objective.loss, 64, Momentum(), 50)
    )
    network = Network(network.widths, True, network.shift, network.scale, chosen.operations)
    given = Problem(Objective(network, given.objective.loss, 1e-3), given.rows)
    got = fitted(given, cupy.asarray(theta), Momentum(), 0.01, steps=chosen.steps)
    assert_same(got, want)
    assert len(launches) == 6 * 7 + 2


@updates
@pytest.mark.parametrize("widths", [(6, 4), (6, 5, 4)], ids=["linear", "net"])
@pytest.mark.parametrize("loss", ["softmax", "hinge"])
@pytest.mark.parametrize("rule", [Momentum(), Adam()], ids=lambda rule: type(rule).__name__)
def test_heads(cupy, launches, kind, widths, loss, rule):
    found = []
    for put in (np.array, cupy.asarray):
        margin = put(np.array([1.0, 0.5, 2.0])) if loss == "hinge" else 1.0
        momentum = Momentum(put(np.array([[0.9], [0.5], [0.0]])))
        own = momentum if isinstance(rule, Momentum) else rule
        weights = np.stack([WEIGHTS, np.ones(64)])
        given = problem(put, widths, loss, weights, 3, margin=margin)
        rate, theta = put(np.array([[0.05], [0.02], [0.01]])), put(start(widths, 3))
        steps = None if put is np.array else GraphSteps(kind)
        found.append(fitted(given, theta, own, rate, "cosine", steps=steps))
    assert_same(found[1], found[0])
    assert len(set(launches)) == 1


def test_heads_that_leave_are_recorded_anew(cupy, launches):
    """One head's rate is far too large: it diverges, and the others go on without it."""
    found = []
    for put in (np.array, cupy.asarray):
        given = problem(put, (6, 4), "hinge", heads=3)
        rate, theta = put(np.array([[0.01], [1e200], [0.02]])), put(start((6, 4), 3))
        steps = None if put is np.array else GraphSteps(FormulaUpdate)
        with np.errstate(all="ignore"):
            found.append(fitted(given, theta, SGD(), rate, steps=steps))
    assert_same(found[1], found[0])
    assert [result.n_iter for result in found[1]] == [7, 1, 7]
    assert len(launches) == 2 + 2 + 6 * 6  # a first step that overflows cannot be checked
    assert STEP_GRAPHS.failure is None


def test_a_state_is_continued(cupy, launches):
    """A second fit takes up the first one's state, its count of steps included."""
    found = []
    for put in (np.array, cupy.asarray):
        steps = [None if put is np.array else GraphSteps(KernelUpdate) for _ in range(2)]
        given = problem(put, (6, 4))
        (first,) = fitted(given, put(start((6, 4))), Adam(), epochs=3, steps=steps[0])
        theta = first.theta[None, :]
        found.append(fitted(given, theta, Adam(), epochs=3, state=first.state, steps=steps[1]))
    assert_same(found[1], found[0])
    assert found[1][0].state[2] == 2 * 3 * 7


def recorded(cupy, kind=FormulaUpdate, rule=None, widths=(6, 4)):
    """(step, theta, state, batch) of a small fit."""
    rule, given = rule or Adam(), problem(cupy.asarray, widths)
    theta = cupy.asarray(start(widths)[0])
    state, batch = rule.init(theta), (cupy.asarray(np.arange(10)), 0.1)
    update = kind(given.objective, rule, theta)
    return RecordedStep(update, given.rows, theta, state, batch), theta, state, batch


@updates
def test_results_are_not_written_to_later(cupy, kind):
    step, theta, state, batch = recorded(cupy, kind)
    before = host(theta)
    first, state = step.run(theta, state, [batch])
    held = [values(part) for part in (first, *state)]
    second, _ = step.run(first, state, [batch])
    assert not np.array_equal(host(second), host(first))
    for now, then in zip((first, *state), held, strict=True):
        np.testing.assert_array_equal(values(now), then)
    np.testing.assert_array_equal(host(theta), before)


def test_a_batch_of_all_rows(cupy, launches):
    theta = start((6, 4))
    options = {"batch_size": 64, "epochs": 9}
    want = fitted(problem(np.array, (6, 4)), theta, SGD(), **options)
    given = problem(cupy.asarray, (6, 4))
    steps = GraphSteps(FormulaUpdate)
    got = fitted(given, cupy.asarray(theta), SGD(), steps=steps, **options)
    assert_same(got, want)
    assert len(launches) == 9 + 2


# --- the check -------------------------------------------------------------------------------


@rules
@updates
def test_a_recording_agrees_with_the_formulas(cupy, kind, rule):
    step, *given = recorded(cupy, kind, rule, (6, 5, 4))
    assert deviation(step, *given) < 1e-12


def stale(step, what):
    """Let a step go on with its first index, or rate, as a graph would that has recorded it."""
    write = step._write

    def once(state, index, rate, first=[]):  # noqa: B006 (what is kept from call to call)
        first[:] = first or [index, rate]
        write(state, first[0] if what == "index" else index, first[1] if what == "rate" else rate)

    step._write = once


@pytest.mark.parametrize("what", ["index", "rate", "theta", "state", "launch"])
@pytest.mark.parametrize("rule", [SGD(), Momentum(), Adam()], ids=lambda rule: type(rule).__name__)
def test_the_check_sees_what_was_recorded_once_and_for_all(cupy, monkeypatch, what, rule):
    """A second step with another batch, rate and theta: the first alone would agree."""
    step, *given = recorded(cupy, FormulaUpdate, rule)
    if what in ("index", "rate"):
        stale(step, what)
    launch, calls = Graph.launch, []

    def changed(graph):
        calls.append(graph)
        before = [values(part) for part in (step.theta, *step.state)]
        if what == "launch" and len(calls) == 2:
            return
        if what == "theta" and len(calls) == 2:
            step.theta[...] = given[0]
        launch(graph)
        if what == "state" and len(calls) == 1:
            for own, part in zip(step.state, before[1:], strict=True):
                if hasattr(own, "shape"):
                    own[...] = cupy.asarray(part)

    monkeypatch.setattr(Graph, "launch", changed)
    off = deviation(step, *given)
    if what == "state" and not step.state:
        assert off < 1e-12
    else:
        assert off > step_graphs.AGREES


# --- when it is done, and when not -----------------------------------------------------------


def test_which_fits_it_takes_part_in(cupy):
    def steps(x, rule=SGD(), count=50, bounded=False):  # noqa: B008
        request = Request(x, X.dtype, Network((6, 4)), Softmax(), 64, rule, count, bounded)
        return select(request).steps

    x = cupy.asarray(X)
    accelerators("cuda_step_graphs")
    assert steps(x).kind is FormulaUpdate
    assert steps(x, count=49) is None  # takes longer than it saves
    assert steps(x, rule=None) is None
    assert steps(x, bounded=True) is None  # a graph keeps its memory
    assert steps(Streamed(X, namespace(x), device(x))) is None
    assert steps(X) is None
    accelerators(["cuda_step_graphs", "cuda_update_kernels"])
    assert steps(x).kind is KernelUpdate
    accelerators("default")
    assert steps(x) is None


def broken(cupy, monkeypatch, change):
    """The warning of a fit whose recording fails; its result is that of plain steps."""
    with monkeypatch.context() as patch:
        change(patch)
        given, theta = problem(cupy.asarray, (6, 4)), cupy.asarray(start((6, 4)))
        steps = GraphSteps(FormulaUpdate)
        with pytest.warns(RuntimeWarning, match="cuda_step_graphs is off") as warned:
            got = fitted(given, theta, Momentum(), steps=steps)
        assert len(warned) == 1
        want = fitted(problem(np.array, (6, 4)), start((6, 4)), Momentum())
        assert_same(got, want)
        with warnings.catch_warnings():  # said once; a fit that goes on does not try again
            warnings.simplefilter("error")
            fitted(given, theta, Momentum(), steps=steps)
            fitted(given, theta, Momentum(), steps=GraphSteps(FormulaUpdate))
    return str(warned[0].message)


def test_what_cannot_be_recorded_is_done_step_by_step(cupy, monkeypatch):
    def record(work, needed):
        raise NotImplementedError("no graphs here\nsecond line")

    said = broken(cupy, monkeypatch, lambda patch: patch.setattr(step_graphs, "record", record))
    assert "(NotImplementedError: no graphs here)" in said
    assert STEP_GRAPHS.failure == "NotImplementedError: no graphs here"


def test_no_memory_is_no_reason_to_give_up(cupy, monkeypatch):
    calls = []

    def record(work, needed):
        calls.append(needed)
        raise MemoryError("a graph needs more")

    monkeypatch.setattr(step_graphs, "record", record)
    for count in (1, 2):  # once a fit; the next tries again; nothing is said
        given, theta = problem(cupy.asarray, (6, 4)), cupy.asarray(start((6, 4)))
        got = fitted(given, theta, Momentum(), steps=GraphSteps(FormulaUpdate))
        assert len(calls) == count
        assert STEP_GRAPHS.failure is None
    assert_same(got, fitted(problem(np.array, (6, 4)), start((6, 4)), Momentum()))


@pytest.mark.parametrize("launches", [0, 2])
def test_a_graph_that_does_something_else_is_not_used(cupy, monkeypatch, launches):
    launch = Graph.launch

    def other(graph):
        for _ in range(launches):
            launch(graph)

    said = broken(cupy, monkeypatch, lambda patch: patch.setattr(Graph, "launch", other))
    assert "replayed steps are off by" in said


# --- fits ------------------------------------------------------------------------------------

MODELS = [
    SoftmaxClassifier(solver="momentum"),
    SVMClassifier(solver="sgd", learning_rate=0.01),
    TwoLayerClassifier(16, solver="adam"),
    TwoLayerClassifier(16, solver="rmsprop", loss="hinge", learning_rate=1e-3),
]


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_fits_are_recorded(cupy, launches, model, dtype):
    """With all accelerators, a fit is that of the formulas."""
    x, y = blobs(600, 20, 5)
    x = cupy.asarray(x.astype(dtype))
    model.set_params(batch_size=50, max_iter=5, random_state=0, lr_schedule="cosine")
    found = {}
    for choice in ("off", "all"):
        accelerators(choice)
        launches.clear()
        found[choice] = host(model.fit(x, y).decision_function(x))
        again = host(model.fit(x, y).decision_function(x))
        np.testing.assert_array_equal(again, found[choice])
        assert len(launches) == (0 if choice == "off" else 2 * (5 * 12 + 2))
    assert STEP_GRAPHS.failure is None
    # A kink or a sign of Adam's may fall the other way in float32, where sums end in other bits.
    close = {"float32": 1e-3, "float64": 1e-9}[dtype.name]
    scale = np.abs(found["off"]).max()
    assert np.abs(found["all"] - found["off"]).max() <= close * scale
