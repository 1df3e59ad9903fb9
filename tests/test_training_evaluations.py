"""Recorded passes over the rows: replayed, they are the passes that they were recorded from.

A tape stands for the CUDA graph (tests/taped.py); with CuPy and a GPU the last tests run real ones.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from estimator_cases import blobs
from test_training_recorded import TapedGraph, put

from xclf import SoftmaxClassifier, TwoLayerClassifier
from xclf.kernels import one_hot
from xclf.objectives import Objective, Stack, _objective, data_loss
from xclf.rows import Rows, _rows
from xclf.training import Problem, _evaluations, _recorded
from xclf.training._evaluations import Evaluations

X, Y = blobs(40, 6, 4)
LINEAR, NET = (6, 4), (6, 5, 4)


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are recorded from here on, on tapes; taped rows pass for a device's."""
    made = []

    def record(work, needed):
        assert needed > 0
        made.append(TapedGraph(work))
        return made[-1]

    for module in (_rows, _objective):
        monkeypatch.setattr(module, "is_host", lambda value: False)
    monkeypatch.setattr(_evaluations, "record", record)
    monkeypatch.setattr(_evaluations, "recordable", lambda rows: True)
    monkeypatch.setattr(_evaluations, "AFTER", 2)
    monkeypatch.setattr(_recorded, "_gave_up", [])
    return made


def problem(widths, loss="softmax", heads=None, scaled=False, weighted=False, dtype=np.float64):
    place = {"shift": put(X.mean(axis=0)), "scale": put(X.std(axis=0))} if scaled else {}
    reg = 1e-3 if heads is None else put(np.logspace(-4, -1, heads))
    kinds = put(np.arange(heads) % 2) if weighted else None
    weights = put(np.random.default_rng(1).uniform(0.5, 1.5, (2, 40))) if weighted else None
    labels = put(one_hot(np, Y, 4))
    objective = Objective(Stack(widths, **place), data_loss(loss), reg)
    return Problem(objective, Rows(put(X.astype(dtype)), labels, weights, np.dtype(dtype), kinds))


def thetas(widths, heads, count=5):
    rng = np.random.default_rng(2)
    return [put(rng.normal(size=(heads, Stack(widths).size))) for _ in range(count)]


def assert_pass(got, want):
    for part, whole in zip(got, want, strict=True):
        assert part.shape == whole.shape
        np.testing.assert_allclose(part, whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("widths", [LINEAR, NET], ids=["linear", "net"])
@pytest.mark.parametrize("loss", ["softmax", "hinge"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_pass_is_the_same(graphs, widths, loss, scaled):
    given = problem(widths, loss, scaled=scaled)
    evaluate = Evaluations(given)
    found = [(theta, evaluate(theta)) for theta in thetas(widths, 1)]
    assert [graph.launches for graph in graphs] == [1 + 3]  # to be checked, and of the fit
    for theta, got in found:  # behind all of them: none was written to later
        assert_pass(got, given.value_and_grad(theta))


def test_an_optimum_is_no_false_alarm(graphs):
    """In float32 its gradient is rounding and nothing else, there and in the replay."""
    given = problem(LINEAR, dtype=np.float32)
    evaluate = Evaluations(given)
    theta = thetas(LINEAR, 1, 1)[0].astype(np.float32)
    for _ in range(600):
        theta = theta - 0.3 * given.value_and_grad(theta)[1].astype(np.float32)
    for _ in range(3):
        evaluate(put(np.asarray(theta)))
    assert len(graphs) == 1
    assert _recorded.why_not() is None


def test_heads_with_weights_of_their_own(graphs):
    given = problem(NET, heads=4, weighted=True)
    evaluate = Evaluations(given)
    for theta in thetas(NET, 4):
        assert_pass(evaluate(theta), given.value_and_grad(theta))
    kept = np.array([0, 3])
    fewer = Evaluations(given.keep(kept))
    for theta in thetas(NET, 2):
        assert_pass(fewer(theta), given.keep(kept).value_and_grad(theta))
    assert [graph.launches for graph in graphs] == [4, 4]


def test_another_number_of_heads_is_no_replay(graphs):
    given = problem(LINEAR)
    evaluate = Evaluations(given)
    for heads in (1, 1, 2, 1):
        (theta,) = thetas(LINEAR, heads, 1)
        assert_pass(evaluate(theta), given.value_and_grad(theta))
    assert [graph.launches for graph in graphs] == [2]


def test_long_passes_are_not_recorded(graphs, monkeypatch):
    monkeypatch.setattr(_evaluations, "_SHORT", 4.0 * 40 * 6 * 4 - 1)
    evaluate = Evaluations(problem(LINEAR))
    for theta in thetas(LINEAR, 1):
        evaluate(theta)
    assert not graphs


def test_host_rows_are_not_recorded(monkeypatch):
    monkeypatch.setattr(_evaluations, "record", None)
    evaluate = Evaluations(problem(LINEAR))
    for theta in thetas(LINEAR, 1, 30):
        evaluate(theta)


def _fails(work, needed):
    raise OSError("cuBLAS was not found")


class Idle(TapedGraph):
    def launch(self):
        pass


@pytest.mark.parametrize("record", [_fails, Idle], ids=["fails", "does nothing"])
def test_what_cannot_be_recorded_is_done_as_before(graphs, monkeypatch, record):
    monkeypatch.setattr(_evaluations, "record", record)
    given = problem(LINEAR)
    evaluate = Evaluations(given)
    first, second, *others = thetas(LINEAR, 1)
    evaluate(first)
    with pytest.warns(RuntimeWarning, match="passes over the rows cannot be recorded"):
        found = evaluate(second)
    assert_pass(found, given.value_and_grad(second))
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        for theta in others:
            assert_pass(evaluate(theta), given.value_and_grad(theta))
        evaluate = Evaluations(given)
        for theta in others:
            evaluate(theta)


@pytest.mark.parametrize(
    "model",
    [SoftmaxClassifier(reg=1e-3), TwoLayerClassifier(8, solver="lbfgs", random_state=0)],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_recorded_fits_on_a_device(backend, model, dtype, monkeypatch):
    """With CuPy, passes are recorded, and a fit ends where one of plain passes does."""
    if "cupy" not in str(backend):
        pytest.skip("CUDA graphs are CuPy's")
    x, y = blobs(600, 20, 5)
    x = backend.asarray(x.astype(dtype))
    found = {}
    for after in (_evaluations.AFTER, 10**9):
        monkeypatch.setattr(_evaluations, "AFTER", after)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            found[after] = model.set_params(max_iter=60).fit(x, y).objective_
            assert model.fit(x, y).objective_ == found[after]
    assert _recorded.why_not() is None
    one, other = found.values()
    linear = isinstance(model, SoftmaxClassifier)  # convex: both end at the optimum
    assert abs(one - other) <= (1e-6 if linear else 0.1) * other
