"""The solvers as records."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from xclf.optim import SGD, SOLVERS, Adam, Momentum, Nesterov, RMSProp, Rule, Solver

RULES = {"sgd": SGD, "momentum": Momentum, "nesterov": Nesterov, "rmsprop": RMSProp, "adam": Adam}
minibatch = pytest.mark.parametrize("name", list(RULES))


def test_solvers_by_name():
    assert [name for name, solver in SOLVERS.items() if solver.full_batch] == ["lbfgs"]
    assert {name: solver.rule for name, solver in SOLVERS.items() if solver.rule} == RULES
    assert all(name == solver.name for name, solver in SOLVERS.items())


def test_every_rule_belongs_to_a_solver():
    """A rule that no record names could not be reached."""
    rules, waiting = set(), [Rule]
    while waiting:
        cls = waiting.pop()
        rules.update(cls.__subclasses__())
        waiting += cls.__subclasses__()
    assert set(RULES.values()) <= rules
    assert {rule for rule in rules if rule.__module__.startswith("xclf")} == set(RULES.values())


def test_minibatch_solvers_have_the_documented_rates():
    rates = {name: SOLVERS[name].learning_rate for name in RULES}
    linear, adaptive = dict.fromkeys(["sgd", "momentum", "nesterov"], 1e-2), ["rmsprop", "adam"]
    assert rates == linear | dict.fromkeys(adaptive, 1e-3)
    assert [name for name, solver in SOLVERS.items() if solver.scale_free] == adaptive


@minibatch
def test_rules_take_the_parameters_that_they_have(name):
    solver = SOLVERS[name]
    rule = solver.make_rule(momentum=0.25, hidden=3)
    assert type(rule) is RULES[name]
    assert getattr(rule, "momentum", None) == (0.25 if "momentum" in solver.parameters else None)
    names = {field.name for field in dataclasses.fields(rule)}
    assert set(solver.parameters) <= names


@minibatch
def test_a_parameter_may_be_one_for_each_head(name):
    """And then each head takes the step that it would take alone."""
    solver, momenta = SOLVERS[name], np.array([[0.9], [0.0]])
    rng = np.random.default_rng(0)
    theta, first, second = rng.normal(size=(3, 2, 4))
    rule = solver.make_rule(momentum=momenta)
    got, state = rule.step(theta, first, rule.init(theta), 0.1)
    got, _ = rule.step(got, second, state, 0.1)
    for k in range(2):
        one = solver.make_rule(momentum=float(momenta[k, 0]))
        want, state = one.step(theta[k], first[k], one.init(theta[k]), 0.1)
        want, _ = one.step(want, second[k], state, 0.1)
        np.testing.assert_array_equal(got[k], want)


def test_a_full_batch_solver_has_no_rule():
    with pytest.raises(AssertionError, match="lbfgs has no update rule"):
        SOLVERS["lbfgs"].make_rule(momentum=0.9)


def test_a_record_of_ones_own():
    assert Solver("own", SGD, 0.5).make_rule(momentum=0.9) == SGD()
