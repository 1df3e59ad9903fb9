"""How some of K heads are taken out of whatever holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import assert_same_kind

from xclf._heads import is_per_head, per_head, take_heads
from xclf.objectives import Hinge, Network, Objective, Softmax, SquaredHinge
from xclf.optim import SGD, Adam, Memory, Nesterov, SpectralPreconditioner
from xclf.rows import Rows
from xclf.training import MinibatchPlan, Problem

KEPT = np.array([2, 0])


@dataclass(frozen=True)
class _State:
    margin: Any
    names: tuple[str, ...]
    nested: Any = None


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (4, 2, 3)])
def test_arrays_give_entries_of_their_first_axis(backend, shape, dtype):
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    array = backend.asarray(values)
    got = take_heads(array, KEPT)
    assert_same_kind(got, array)
    np.testing.assert_array_equal(backend.to_host(got), values[KEPT])


@pytest.mark.parametrize("value", [1.5, 3, True, None, "hinge", np.float32(2.0), np.asarray(2.0)])
def test_what_all_heads_share_stays(value):
    assert take_heads(value, KEPT) is value


def test_an_array_without_axes_stays(backend):
    shared = backend.asarray(np.asarray(2.0))
    assert take_heads(shared, KEPT) is shared


def test_no_head_and_repeated_heads():
    values = np.arange(4.0)
    assert take_heads(values, np.array([], dtype=int)).shape == (0,)
    np.testing.assert_array_equal(take_heads(values, np.array([1, 1, 3])), [1, 1, 3])


def test_containers_are_taken_part_by_part():
    values = np.arange(4.0)
    assert take_heads((), KEPT) == ()
    got = take_heads((values, 3, [values, None]), KEPT)
    assert type(got) is tuple
    assert type(got[2]) is list
    np.testing.assert_array_equal(got[0], [2, 0])
    np.testing.assert_array_equal(got[2][0], [2, 0])
    assert (got[1], got[2][1]) == (3, None)


def test_dataclasses_are_taken_field_by_field():
    values = np.arange(4.0)
    got = take_heads(_State(values, ("a", "b"), _State(values[:, None], ())), KEPT)
    np.testing.assert_array_equal(got.margin, [2, 0])
    assert got.names == ("a", "b")
    np.testing.assert_array_equal(got.nested.margin, [[2], [0]])
    assert take_heads(_State, KEPT) is _State  # the class itself is a value as any other


def test_named_tuples():
    class Pair(NamedTuple):
        first: Any
        second: Any

    got = take_heads(Pair(np.arange(4.0), 1), KEPT)
    assert isinstance(got, Pair)
    np.testing.assert_array_equal(got.first, [2, 0])


def test_an_object_may_answer_for_itself():
    class Own:
        def take_heads(self, kept):
            return ("own", kept)

    assert take_heads((Own(),), KEPT) == (("own", KEPT),)


@pytest.mark.parametrize("loss", [Hinge, SquaredHinge])
def test_losses(loss):
    assert take_heads(loss(np.arange(4.0)), KEPT) == loss(pytest.approx(np.array([2.0, 0.0])))
    assert take_heads(loss(0.5), KEPT) == loss(0.5)
    assert take_heads(Softmax(), KEPT) == Softmax()


def test_rules_and_plans():
    rate, momentum = np.arange(4.0)[:, None], 0.1 * np.arange(4.0)[:, None]
    plan = MinibatchPlan(Nesterov(momentum), rate, 8, 2, "constant", 0.0, None)
    got = take_heads(plan, KEPT)
    np.testing.assert_array_equal(got.rate, rate[KEPT])
    np.testing.assert_array_equal(got.rule.momentum, momentum[KEPT])
    assert type(got.rule) is Nesterov
    assert (got.batch_size, got.schedule, got.patience) == (8, "constant", None)
    assert take_heads(SGD(), KEPT) == SGD()
    assert take_heads(Adam(), KEPT) == Adam()


@pytest.mark.parametrize("own_weights", [False, True])
def test_problems(backend, own_weights):
    """The problem of the heads that stay has their values and gradients."""
    rng, network = np.random.default_rng(0), Network((3, 2))
    labels = rng.integers(2, size=7)
    weights = backend.asarray(rng.uniform(0.5, 2.0, size=(4, 7))) if own_weights else None
    rows = Rows(
        backend.asarray(rng.normal(size=(7, 3))), backend.asarray(labels), weights,
        backend.dtype("float64"),
    )  # fmt: skip
    margin, reg = backend.asarray(np.arange(1.0, 5.0)), backend.asarray(np.linspace(0.1, 1.0, 4))
    problem = Problem(Objective(network, Hinge(margin), reg), rows)
    theta = rng.normal(size=(4, network.size))
    whole = [backend.to_host(a) for a in problem.value_and_grad(backend.asarray(theta))]
    part = take_heads(problem, KEPT)
    some = part.value_and_grad(backend.asarray(theta[KEPT]))
    for got, want in zip(some, whole, strict=True):
        np.testing.assert_allclose(backend.to_host(got), want[KEPT], rtol=1e-14)


def test_memory_and_preconditioner_of_l_bfgs(backend):
    """What they give for the heads that stay is what they gave."""
    rng = np.random.default_rng(0)
    put = backend.asarray
    memory = Memory(3)
    memory.scale = put(np.ones((4, 1)))
    for _ in range(4):
        s = rng.normal(size=(4, 8))
        memory.add(put(s), put(s * np.linspace(1, 2, 8)), put(np.ones(4, dtype=bool)))
    grad = rng.normal(size=(4, 8))
    want = backend.to_host(memory.direction(put(grad), lambda v: v))
    memory.keep(KEPT)
    got = memory.direction(put(grad[KEPT]), lambda v: v)
    np.testing.assert_allclose(backend.to_host(got), want[KEPT], rtol=1e-13)
    curvature = rng.normal(size=(4, 2, 2))
    curvature = curvature @ np.swapaxes(curvature, 1, 2)
    basis = put(np.eye(3))
    precondition = SpectralPreconditioner(
        basis, put(np.arange(1.0, 4.0)), put(np.ones(3)), put(curvature),
        put(np.linspace(0.1, 1.0, 4)), True,
    )  # fmt: skip
    want = backend.to_host(precondition(put(grad)))
    precondition.keep(KEPT)
    got = precondition(put(grad[KEPT]))
    np.testing.assert_allclose(backend.to_host(got), want[KEPT], rtol=1e-12)


def test_numbers_per_head(backend):
    like = backend.asarray(np.zeros(2, dtype=np.float32))
    assert per_head([0.5, 0.5, 0.5], like, like.dtype) == 0.5
    own = per_head([0.5, 1.0], like, like.dtype)
    assert_same_kind(own, like)
    np.testing.assert_array_equal(backend.to_host(own), [0.5, 1.0])
    assert is_per_head(own)
    assert not any(is_per_head(value) for value in (1.0, None, np.asarray(1.0), np.float64(1)))
