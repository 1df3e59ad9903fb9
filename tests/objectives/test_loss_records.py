"""The losses as records: what each must answer, and that every consumer takes every loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on
from helpers import ORACLES, parity_data

from xclf.objectives import (
    LOSSES,
    FullBatch,
    Hinge,
    Loss,
    Network,
    Softmax,
    SquaredHinge,
    loss_named,
    loss_parameters,
)
from xclf.optim import SOLVERS
from xclf.rows import Rows
from xclf.training import METHODS, FitSpec, MinibatchPlan, Monitor, fit

ANSWERS = ("name", "full_batch", "probabilistic", "attained", "curved")
losses = pytest.mark.parametrize("name", list(LOSSES))
rng = np.random.default_rng(0)


def _class(**answers: Any) -> type[Loss]:
    body = {
        "name": "own",
        "full_batch": FullBatch("lbfgs", 10, 1e-3, 1e-6),
        "probabilistic": False,
        "attained": True,
        "curved": True,
        "__call__": lambda self, scores, labels, **options: None,
        "error_cost": lambda self: 1.0,
        "lead_bound": lambda self, loss: loss,
        "rate_limit": lambda self, classes: 1.0,
        "curvature_sum": lambda self, scores, chunk: None,
    } | answers
    return type("Own", (Loss,), {key: value for key, value in body.items() if value is not None})


def test_every_loss_has_an_oracle_and_computes_its_kernel():
    assert set(ORACLES) == set(LOSSES)
    scores, labels = parity_data(6, 4, np.float64)
    for name, (kernel, _) in ORACLES.items():
        for one, other in zip(
            loss_named(name)(scores, labels), kernel(scores, labels), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_a_loss_that_answers_everything_can_be_made():
    assert _class()().name == "own"


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_missing_answer_is_an_error_when_the_class_is_made(answer):
    with pytest.raises(TypeError, match=f"the loss Own must say what its {answer} is"):
        _class(**{answer: None})


@pytest.mark.parametrize(
    "method", ["__call__", "error_cost", "lead_bound", "rate_limit", "curvature_sum"]
)
def test_a_missing_method_is_an_error(method):
    with pytest.raises(TypeError, match=method):
        _class(**{method: None})()


def test_losses_by_name():
    assert list(LOSSES) == ["softmax", "hinge", "squared_hinge"]
    assert loss_named("softmax", margin=3.0) == Softmax()
    assert loss_named("hinge", margin=3.0) == Hinge(3.0)
    assert loss_named("squared_hinge") == SquaredHinge(1.0)
    assert [loss_parameters(name) for name in LOSSES] == [(), ("margin",), ("margin",)]
    with pytest.raises(ValueError, match=r"loss must be one of .*, got 'squared'"):
        loss_named("squared")


@losses
def test_a_record_is_its_kernel(name):
    scores, labels = np.array([[1.0, 0.0]]), np.array([1])
    loss, _ = loss_named(name, margin=2.0)(scores, labels)
    want = {"softmax": math.log1p(math.e), "hinge": 3.0, "squared_hinge": 9.0}[name]
    assert float(loss) == pytest.approx(want, rel=1e-15)


@losses
def test_records_cannot_be_changed_and_name_a_method(name):
    loss = loss_named(name)
    assert type(loss).name == name
    assert loss.full_batch.method in METHODS
    assert 0 < loss.full_batch.tol64 <= loss.full_batch.tol32
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss.margin = 2.0


@losses
@pytest.mark.parametrize("margin", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_an_error_costs_at_least_what_the_record_says(name, margin, classes):
    """No row whose own class is not ahead costs less; one that ties with another costs that."""
    loss = loss_named(name, margin=margin)
    scores = rng.normal(size=(2000, classes))
    labels = rng.integers(classes, size=2000)
    costs, _ = loss(scores, labels, reduction="none")
    wrong = scores.argmax(axis=1) != labels
    assert costs[wrong].min() >= loss.error_cost()
    tie = np.full((1, classes), -100.0)
    tie[0, :2] = 0.0
    cost, _ = loss(tie, np.array([0]))
    assert float(cost) == pytest.approx(loss.error_cost(), rel=1e-12)


def _spec(name: str, solver: str, rows: Rows, network: Network) -> FitSpec:
    plan = None
    if not SOLVERS[solver].full_batch:
        rule = SOLVERS[solver].make_rule(momentum=np.array([[0.9], [0.5]]))
        plan = MinibatchPlan(rule, np.array([[0.02], [0.01]]), 10, 3, "constant", 0.0, None)
    return FitSpec(
        heads=2,
        network=network,
        loss=loss_named(name, margin=np.array([1.0, 0.5])),
        reg=np.array([0.1, 0.5]),
        rows=rows,
        solver=SOLVERS[solver],
        tol=1e-8,
        max_iter=40 if len(network.widths) > 2 else 500,
        plan=plan,
    )


@losses
@pytest.mark.parametrize("solver", list(SOLVERS))
@pytest.mark.parametrize("widths", [(5, 3), (5, 4, 3)], ids=["linear", "net"])
def test_the_engine_fits_every_loss_with_every_solver(name, solver, widths):
    """Two heads that differ in everything, each as good as the fit of it alone."""
    network = Network(widths)
    rows = problem_on(Backend.NUMPY, network, *blobs()).rows
    spec = _spec(name, solver, rows, network)
    start = 0.3 * np.random.default_rng(1).normal(size=(2, network.size))
    results = _fit(spec, start)
    assert len(results) == 2
    for k, got in enumerate(results):
        alone = dataclasses.replace(
            spec,
            heads=1,
            loss=loss_named(name, margin=(1.0, 0.5)[k]),
            reg=(0.1, 0.5)[k],
            plan=_alone(spec.plan, k),
        )
        (want,) = _fit(alone, start[k : k + 1])
        # Where the hinge of a net ends, kinks all around, depends on rounding.
        rough = widths != (5, 3) and (name, solver) == ("hinge", "lbfgs")
        assert got.objective == pytest.approx(want.objective, rel=1e-2 if rough else 1e-6)
        assert got.converged == want.converged
        if widths == (5, 3) and solver == "lbfgs":
            assert got.converged


def _alone(plan: Any, k: int) -> Any:
    if plan is None:
        return None
    rule = type(plan.rule)
    own = {key: float(value[k, 0]) for key, value in vars(plan.rule).items() if np.ndim(value)}
    return dataclasses.replace(plan, rate=float(plan.rate[k, 0]), rule=rule(**own))


def _fit(spec: FitSpec, start: np.ndarray) -> list[Any]:
    monitor = Monitor((), "epoch", 3 if spec.plan else spec.max_iter)
    return fit(spec, lambda: start, monitor, np.random.default_rng(0))
