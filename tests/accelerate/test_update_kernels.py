"""The update rules as one CUDA kernel each, against the rules."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from device_accelerators import host
from estimator_cases import blobs

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, accelerators
from xclf.accelerate import Request, select
from xclf.accelerate.cuda import UPDATE_KERNELS, update_kernels
from xclf.accelerate.cuda.update_kernels import KernelUpdate, kernel_steps
from xclf.objectives import Network, Objective, Softmax
from xclf.optim import SGD, Adam, Momentum, Nesterov, RMSProp
from xclf.rows import Rows
from xclf.training import plain_steps

RULES = [SGD(), Momentum(0.8), Nesterov(0.8), RMSProp(0.95, 1e-6), Adam(0.8, 0.95, 1e-6)]
rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
rng = np.random.default_rng(0)


@pytest.fixture
def switched_on(cupy):
    accelerators("cuda_update_kernels")


@rules
@pytest.mark.parametrize("heads", [None, 3])
def test_an_update_is_the_rule(cupy, rule, dtype, heads):
    shape = (40,) if heads is None else (heads, 40)
    theta, gradient = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    mask = np.where(np.arange(40) % 7, 1, 0).astype(dtype)
    rate, penalty = 0.1, 0.02
    put_rule = rule
    if heads:
        rate, penalty = (rng.uniform(0.01, 0.1, (heads, 1)).astype(dtype) for _ in range(2))
        if isinstance(rule, Momentum):
            momentum = np.array([[0.9], [0.5], [0.0]], dtype)
            rule, put_rule = type(rule)(momentum), type(rule)(cupy.asarray(momentum))
    state = tuple(
        np.abs(rng.normal(size=shape)).astype(dtype) if hasattr(part, "shape") else 3
        for part in rule.init(theta)
    )
    want, after = rule.update(
        theta, gradient + penalty * mask * theta, state, rule.numbers(state, rate)
    )

    def put(value):
        return cupy.asarray(value) if hasattr(value, "shape") else value

    objective = SimpleNamespace(
        penalty_mask=lambda theta: put(mask),
        penalty_rate=put(penalty),
        batch_gradient=lambda theta, chunk, penalty: put(gradient),
    )
    own, held = put(theta), tuple(map(put, state))
    numbers = rule.numbers(state, rate)
    for given in (numbers, [np.asarray(number, dtype) for number in numbers]):
        own[...] = put(theta)
        for part, before in zip(held, state, strict=True):
            if hasattr(part, "shape"):
                part[...] = put(before)
        KernelUpdate(objective, put_rule, own)(own, held, None, tuple(map(put, given)))
        # A dozen roundings of numbers of a few units.
        bound = 20 * np.finfo(dtype).eps
        for got, whole in zip((own, *held), (want, *after), strict=True):
            if hasattr(got, "shape"):
                assert got.dtype == dtype
                np.testing.assert_allclose(host(got), whole, rtol=bound, atol=4 * bound)
    assert UPDATE_KERNELS.failure is None


def problem(cupy, widths=(6, 4)):
    """(objective, rows, theta) of a small fit."""
    x, y = blobs(64, 6, 4)
    network = Network(widths)
    rows = Rows(cupy.asarray(x), cupy.asarray(y), None, np.dtype(np.float64))
    theta = cupy.asarray(0.3 * np.random.default_rng(2).normal(size=network.size))
    return Objective(network, Softmax(), 1e-2), rows, theta


def batches_of(cupy, size=10, count=6):
    order = np.random.default_rng(3).permutation(64)
    return [(cupy.asarray(order[size * k : size * (k + 1)]), 0.1 / (1 + k)) for k in range(count)]


@rules
@pytest.mark.parametrize("widths", [(6, 4), (6, 5, 4)], ids=["linear", "net"])
def test_steps_are_the_plain_steps(cupy, rule, widths):
    objective, rows, theta = problem(cupy, widths)
    given = host(theta)
    arguments = (objective, rule, rows, theta, rule.init(theta), batches_of(cupy))
    want, state = plain_steps(*arguments)
    got, own = kernel_steps(*arguments)
    # A few dozen roundings a step.
    np.testing.assert_allclose(host(got), host(want), rtol=1e-12, atol=1e-13)
    for part, whole in zip(own, state, strict=True):
        if hasattr(part, "shape"):
            np.testing.assert_allclose(host(part), host(whole), rtol=1e-12, atol=1e-13)
        else:
            assert part == whole
    np.testing.assert_array_equal(host(theta), given)


def test_which_fits_they_take_part_in(cupy, switched_on):
    class Own(SGD):
        """What a subclass does is its own."""

    def steps(x, rule):
        return select(Request(x, x.dtype, Network((4, 3)), Softmax(), 5, rule)).steps

    x = np.ones((5, 4))
    for rule in RULES:
        assert steps(cupy.asarray(x), rule) is kernel_steps
        assert steps(x, rule) is None
    assert steps(cupy.asarray(x), Own()) is None
    assert steps(cupy.asarray(x), None) is None


MODELS = [
    SoftmaxClassifier(solver="nesterov"),
    SVMClassifier(solver="sgd", learning_rate=0.01, standardize=True),
    TwoLayerClassifier(16, solver="adam"),
    TwoLayerClassifier(16, solver="rmsprop", loss="squared_hinge", learning_rate=1e-3),
]


@pytest.mark.parametrize("model", MODELS, ids=repr)
@pytest.mark.parametrize("memory", [None, "1 MiB"], ids=["resident", "bounded"])
def test_fits_are_the_same(cupy, switched_on, model, memory):
    x, y = blobs(200, 20, 5)
    model.set_params(batch_size=50, max_iter=4, random_state=0, lr_schedule="cosine")
    want = model.fit(x, y).decision_function(x)
    got = (
        model.set_params(max_memory=memory)
        .fit(cupy.asarray(x), y)
        .decision_function(cupy.asarray(x))
    )
    np.testing.assert_allclose(host(got), want, rtol=1e-9, atol=1e-9 * np.abs(want).max())


def test_the_formula_goes_on_where_a_kernel_fails(pretended, monkeypatch):
    def broken(*given):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(pretended, "ElementwiseKernel", broken)
    update_kernels._kernel.cache_clear()
    objective, rows, theta = problem(pretended)
    arguments = (objective, Adam(), rows, theta, Adam().init(theta), batches_of(pretended))
    with pytest.warns(RuntimeWarning, match="cuda_update_kernels is off") as warned:
        got, _ = kernel_steps(*arguments)
    assert len(warned) == 1
    np.testing.assert_array_equal(host(got), host(plain_steps(*arguments)[0]))
