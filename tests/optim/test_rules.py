"""Update rules and schedules, against their formulas in plain NumPy, on every backend."""

from __future__ import annotations

import math

import numpy as np
import pytest
from counting import counted, counting
from helpers import assert_close_max_norm, assert_same_kind

from xclf.optim import (
    EPOCH_DECAY,
    SCHEDULES,
    SGD,
    Adam,
    Momentum,
    Nesterov,
    RMSProp,
    rate_factor,
)

STEPS, P = 6, 5
# One step is at most a dozen roundings relative to its largest entry; six of them add up.
BOUND = {"float64": 1e-14, "float32": 5e-6}


def _sgd(theta, gradients, rate):
    for g in gradients:
        theta = theta - rate * g
    return theta


def _momentum(theta, gradients, rate, momentum=0.9):
    v = 0.0
    for g in gradients:
        v = momentum * v - rate * g
        theta = theta + v
    return theta


def _nesterov(theta, gradients, rate, momentum=0.9):
    """In terms of the point behind: the gradient is that at point + momentum * v."""
    point, v = theta, 0.0
    for g in gradients:
        v = momentum * v - rate * g
        point = point + v
    return point + momentum * v


def _rmsprop(theta, gradients, rate, decay=0.99, epsilon=1e-8):
    c = 0.0
    for g in gradients:
        c = decay * c + (1 - decay) * g**2
        theta = theta - rate * g / (np.sqrt(c) + epsilon)
    return theta


def _adam(theta, gradients, rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta = theta - rate * m_hat / (np.sqrt(v_hat) + epsilon)
    return theta


RULES = [
    (SGD(), _sgd, {}),
    (Momentum(), _momentum, {}),
    (Momentum(0.5), _momentum, {"momentum": 0.5}),
    (Nesterov(), _nesterov, {}),
    (Nesterov(0.5), _nesterov, {"momentum": 0.5}),
    (RMSProp(), _rmsprop, {}),
    (RMSProp(0.9, 1e-2), _rmsprop, {"decay": 0.9, "epsilon": 1e-2}),
    (Adam(), _adam, {}),
    (Adam(0.5, 0.9, 1e-2), _adam, {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-2}),
]
rules = pytest.mark.parametrize(
    ("rule", "formula", "options"), RULES, ids=lambda v: getattr(v, "__name__", str(v)[:30])
)


def _run(rule, theta, gradients, rate):
    state = rule.init(theta)
    for gradient in gradients:
        theta, state = rule.step(theta, gradient, state, rate)
    return theta


def _data(dtype, shape=(P,)):
    rng = np.random.default_rng(0)
    return rng.normal(size=shape).astype(dtype), rng.normal(size=(STEPS, *shape)).astype(dtype)


@rules
def test_several_steps_are_the_formula(backend, rule, formula, options, dtype):
    theta, gradients = _data(dtype)
    start, parts = backend.asarray(theta), [backend.asarray(g) for g in gradients]
    got = _run(rule, start, parts, 0.1)
    want = formula(theta.astype(np.float64), gradients.astype(np.float64), 0.1, **options)
    assert_same_kind(got, start)
    assert_close_max_norm(backend.to_host(got), want, BOUND[dtype.name])
    np.testing.assert_array_equal(backend.to_host(start), theta, "theta was written to")
    for part, g in zip(parts, gradients, strict=True):
        np.testing.assert_array_equal(backend.to_host(part), g, "a gradient was written to")


@rules
def test_heads_have_their_own_rates(backend, rule, formula, options):
    theta, gradients = _data(np.float64, (3, P))
    rates = np.array([[0.01], [0.1], [1.0]])
    parts = [backend.asarray(g) for g in gradients]
    got = backend.to_host(_run(rule, backend.asarray(theta), parts, backend.asarray(rates)))
    for k in range(3):
        want = formula(theta[k], gradients[:, k], rates[k, 0], **options)
        assert_close_max_norm(got[k], want, BOUND["float64"])


def test_the_first_step_of_adam_is_the_rate():
    """Bias correction: m / sqrt(v) is +-1 after one step, whatever the size of the gradient."""
    theta, gradient = np.zeros(3), np.array([1e-3, -5.0, 1e4])
    got, state = Adam(epsilon=0.0).step(theta, gradient, Adam().init(theta), 0.1)
    np.testing.assert_allclose(got, [-0.1, 0.1, -0.1], rtol=1e-14)
    assert state[2] == 1


@pytest.mark.parametrize(
    ("rule", "most"), [(SGD(), 2), (Momentum(), 4), (RMSProp(), 9), (Adam(), 13)], ids=str
)
def test_a_step_is_a_handful_of_operations(rule, most):
    theta, gradient = counted(np.zeros(P)), counted(np.ones(P))
    state = rule.init(theta)
    for _ in range(2):
        with counting() as tally:
            theta, state = rule.step(theta, gradient, state, 0.1)
        assert tally.operations <= most, tally
        assert tally.reads == 0, tally


# --- schedules -------------------------------------------------------------------------------


def test_constant():
    assert [rate_factor("constant", t, 3, 2) for t in range(6)] == [1.0] * 6


def test_exponential_is_the_decay_of_every_epoch():
    want = [0.95**e for e in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
    assert [rate_factor("exponential", t, 3, 3) for t in range(9)] == want
    assert EPOCH_DECAY == 0.95


def test_cosine_falls_from_one_to_zero():
    got = [rate_factor("cosine", t, 4, 5) for t in range(21)]
    np.testing.assert_allclose(got, [(1 + math.cos(math.pi * t / 20)) / 2 for t in range(21)])
    assert got[0] == 1.0
    assert got[10] == pytest.approx(0.5)
    assert got[20] == 0.0
    assert rate_factor("cosine", 25, 4, 5) == 0.0  # past the end it stays there
    assert np.all(np.diff(got) < 0)


def test_an_unknown_schedule():
    assert SCHEDULES == ("constant", "cosine", "exponential")
    with pytest.raises(ValueError, match=r"lr_schedule must be one of .*, got 'linear'"):
        rate_factor("linear", 0, 1, 1)
