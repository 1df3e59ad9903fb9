"""Minibatch steps on NumPy arrays, in place: the bits of the update rules' formulas."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on

from xclf.accelerate import Request, select
from xclf.accelerate.cpu import UPDATES, in_place_steps
from xclf.objectives import LOSSES, Network, loss_named
from xclf.optim import SGD, SOLVERS, Adam, Momentum, Nesterov, RMSProp
from xclf.training import plain_steps

RULES = [SGD(), Momentum(0.8), Nesterov(0.8), RMSProp(0.95, 1e-6), Adam(0.8, 0.95, 1e-6)]
rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
heads_ = pytest.mark.parametrize("heads", [None, 3])
rng = np.random.default_rng(0)


def _for_heads(rule, dtype):
    """Momentum of its own for each of three heads."""
    if isinstance(rule, Momentum):
        return type(rule)(np.array([[0.9], [0.5], [0.0]], dtype))
    return rule


@rules
@heads_
def test_an_update_has_the_bits_of_the_rule(rule, dtype, heads):
    shape = (40,) if heads is None else (heads, 40)
    rule = rule if heads is None else _for_heads(rule, dtype)
    theta, gradient = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    state = tuple(
        np.abs(rng.normal(size=shape)).astype(dtype) if hasattr(part, "shape") else 3
        for part in rule.init(theta)
    )
    rate = 0.1 if heads is None else rng.uniform(0.01, 0.1, (heads, 1)).astype(dtype)
    want, after = rule.step(theta, gradient, state, rate)
    arrays = [part for part in state if hasattr(part, "shape")]
    UPDATES[type(rule)](rule, theta, gradient.copy(), *arrays, *rule.numbers(state, rate))
    np.testing.assert_array_equal(theta, want)
    for part, whole in zip(arrays, after, strict=False):
        np.testing.assert_array_equal(part, whole)


@rules
@heads_
@pytest.mark.parametrize("widths", [(5, 3), (5, 4, 3)], ids=["linear", "net"])
@pytest.mark.parametrize("loss", list(LOSSES))
def test_steps_have_the_bits_of_plain_steps(rule, heads, widths, loss, dtype):
    """And what came in is as it was."""
    x, y = blobs(50, 5, 3)
    network = Network(widths, shift=x.mean(axis=0).astype(dtype), scale=x.std(axis=0).astype(dtype))
    weights = None if heads is None else rng.uniform(0.5, 1.5, size=(heads, 50))
    reg = 0.1 if heads is None else np.array([0.0, 0.1, 0.3], dtype)
    problem = problem_on(
        Backend.NUMPY, network, x, y, loss=loss, reg=reg, weights=weights, dtype=dtype
    )
    rule = rule if heads is None else _for_heads(rule, dtype)
    shape = (network.size,) if heads is None else (heads, network.size)
    theta = rng.normal(size=shape).astype(dtype)
    state, order = rule.init(theta), rng.permutation(50)
    batches = [(order[k : k + 10], 0.05 / (1 + k)) for k in range(0, 50, 10)]
    before = [theta.copy(), *(np.array(part) for part in state)]
    want, after = plain_steps(problem.objective, rule, problem.rows, theta, state, batches)
    got, held = in_place_steps(problem.objective, rule, problem.rows, theta, state, batches)
    for part, was in zip([theta, *state], before, strict=True):
        np.testing.assert_array_equal(part, was)
    for part, whole in zip([got, *held], [want, *after], strict=True):
        np.testing.assert_array_equal(part, whole)


def _steps(x, rule):
    network = Network((3, 2))
    request = Request(
        x=x, dtype=x.dtype, network=network, loss=loss_named("softmax"), n_rows=8, rule=rule
    )
    return select(request).steps


@rules
def test_which_fits_they_take_part_in(backend, rule, switched_on):
    x = backend.asarray(np.zeros((8, 3)))
    expected = in_place_steps if isinstance(x, np.ndarray) else None
    assert _steps(x, rule) is expected
    assert _steps(x, None) is None

    class Own(type(rule)):
        """What a subclass does is its own."""

    assert _steps(x, Own()) is None


def test_every_rule_of_a_solver_has_an_update():
    assert set(UPDATES) == {solver.rule for solver in SOLVERS.values() if not solver.full_batch}
