"""The rules as one kernel each, against the rules: their formulas are C, and Python too."""

from __future__ import annotations

from types import SimpleNamespace

import cuda_on_cpu
import numpy as np
import pytest
from python_kernel import PythonKernel

from xclf.optim import (
    SGD,
    Adam,
    Momentum,
    RMSProp,
    can_update_in_place,
    can_update_on_host,
    in_place,
    update_in_place,
    update_on_host,
)

RULES = [SGD(), Momentum(0.8), RMSProp(0.95, 1e-6), Adam(0.8, 0.95, 1e-6)]
rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
rng = np.random.default_rng(0)


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy of NumPy arrays, as far as updates see it."""
    made = SimpleNamespace(ElementwiseKernel=PythonKernel)
    monkeypatch.setattr(in_place, "loaded", {"cupy": made}.get)
    in_place._kernel.cache_clear()
    yield made
    in_place._kernel.cache_clear()


def case(rule, dtype, heads=None):
    shape = (40,) if heads is None else (heads, 40)
    theta, gradient = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    state = tuple(
        np.abs(rng.normal(size=shape)).astype(dtype) if hasattr(part, "shape") else 3
        for part in rule.init(theta)
    )
    penalty = np.where(np.arange(40) % 7, 0.02, 0.0).astype(dtype) * np.ones(shape, dtype)
    rate = 0.1 if heads is None else rng.uniform(0.01, 0.1, (heads, 1)).astype(dtype)
    return theta, gradient, penalty, state, rate


def assert_update(rule, dtype, heads=None):
    theta, gradient, penalty, state, rate = case(rule, dtype, heads)
    numbers = rule.numbers(state, rate)
    want, after = rule.update(theta, gradient + penalty * theta, state, numbers)
    own = [theta.copy(), *(np.copy(part) for part in state if hasattr(part, "shape"))]
    held = tuple(own[1:]) + tuple(part for part in state if not hasattr(part, "shape"))
    arrays = [np.asarray(number, dtype) for number in numbers]
    update_in_place(rule, own[0], gradient, penalty, held, arrays)
    # A dozen roundings of numbers of size 1, at worst of a small difference of them.
    bound = 20 * np.finfo(dtype).eps
    for got, whole in zip(own, [want, *after], strict=False):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, whole, rtol=bound, atol=4 * bound)


@rules
@pytest.mark.parametrize("heads", [None, 3])
def test_statements_are_the_rule(cupy, rule, dtype, heads):
    if heads and isinstance(rule, Momentum):
        rule = Momentum(np.array([[0.9], [0.5], [0.0]], dtype))
    assert_update(rule, dtype, heads)


@rules
def test_statements_are_c(cupy, rule, dtype):
    if cuda_on_cpu.COMPILER is None:
        pytest.skip("g++ is not here")
    cupy.ElementwiseKernel = cuda_on_cpu.ElementwiseKernel
    assert_update(rule, dtype)


@rules
@pytest.mark.parametrize("heads", [None, 3])
def test_on_the_host_bit_for_bit(rule, dtype, heads):
    if heads and isinstance(rule, Momentum):
        rule = Momentum(np.array([[0.9], [0.5], [0.0]], dtype))
    theta, gradient, _, state, rate = case(rule, dtype, heads)
    want, after = rule.step(theta, gradient, state, rate)
    own = np.array(theta)
    held = tuple(np.array(part) if hasattr(part, "shape") else part for part in state)
    done = update_on_host(rule, own, gradient.copy(), held, rule.numbers(state, rate))
    for got, whole in zip((own, *done), (want, *after), strict=True):
        np.testing.assert_array_equal(got, whole)
    for part, now in zip(held, done, strict=True):
        assert part is now or not hasattr(part, "shape")


def test_where_it_can_be_done(monkeypatch):
    assert not can_update_in_place(SGD(), np.ones(3))
    monkeypatch.setattr(in_place, "library", lambda xp: "cupy")
    assert all(can_update_in_place(rule, np.ones(3)) for rule in RULES)

    class Own(SGD):
        """What a subclass does is its own."""

    assert not can_update_in_place(Own(), np.ones(3))
    assert all(map(can_update_on_host, RULES))
    assert not can_update_on_host(Own())


@rules
def test_on_a_device(backend, rule, dtype):
    if "cupy" not in str(backend):
        pytest.skip("the kernels are CuPy's")
    theta, gradient, penalty, state, rate = case(rule, dtype, 3)
    numbers = [backend.asarray(np.asarray(n, dtype)) for n in rule.numbers(state, rate)]
    want, after = rule.update(theta, gradient + penalty * theta, state, rule.numbers(state, rate))
    put = backend.asarray
    own = [put(theta), *(put(part) for part in state if hasattr(part, "shape"))]
    held = tuple(own[1:])
    update_in_place(rule, own[0], put(gradient), put(penalty), held, numbers)
    bound = 20 * np.finfo(dtype).eps
    for got, whole in zip(own, [want, *after], strict=False):
        np.testing.assert_allclose(backend.to_host(got), whole, rtol=bound, atol=4 * bound)
