"""Curvature pairs as matrices against the two-loop recursion, head by head."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from backends import Backend

from xclf.optim import Memory, memory_size
from xclf.optim import memory as memory_module

K, P = 3, 20


def _two_loops(pairs, grad, scale):
    """H g of one head; Nocedal & Wright (2006), algorithm 7.4."""
    q, shares = grad.copy(), []
    for s, y in reversed(pairs):
        shares.append((s @ q) / (s @ y))
        q -= shares[-1] * y
    r = scale * q
    for (s, y), share in zip(pairs, reversed(shares), strict=True):
        r += (share - (y @ r) / (s @ y)) * s
    return r


def _filled(backend, size, steps, seed=0, sit_out=0.2):
    """A memory after some steps, and the last `size` pairs of each head (None: sat out)."""
    rng = np.random.default_rng(seed)
    hessian = np.geomspace(1.0, 1e3, P)
    memory = Memory(size)
    scale = rng.uniform(0.5, 2.0, size=(K, 1))
    memory.scale = backend.asarray(scale)
    kept = [[] for _ in range(K)]
    for _ in range(steps):
        s = rng.normal(size=(K, P))
        y = s * hessian + 0.01 * rng.normal(size=(K, P))
        good = rng.random(K) >= sit_out
        got = memory.add(backend.asarray(s), backend.asarray(y), backend.asarray(good))
        want = np.where(good, np.sum(s * y, axis=-1), 0.0)
        np.testing.assert_allclose(backend.to_host(got), want, rtol=1e-12)
        for k in range(K):
            kept[k] = [*kept[k], (s[k], y[k]) if good[k] else None][-size:]
    return memory, [[pair for pair in pairs if pair is not None] for pairs in kept], scale


@pytest.mark.parametrize(("size", "steps"), [(1, 1), (1, 5), (5, 3), (5, 5), (5, 23), (30, 30)])
@pytest.mark.parametrize("large", [1, 1 << 20], ids=["one by one", "stacked"])
def test_the_direction_is_that_of_two_loops(backend, size, steps, large, monkeypatch):
    monkeypatch.setattr(memory_module, "_LARGE", large)  # where CuPy multiplies head by head
    memory, pairs, scale = _filled(backend, size, steps)
    assert len(memory) == min(size, steps)
    grad = np.random.default_rng(9).normal(size=(K, P))
    factor = backend.asarray(np.linspace(1.0, 0.1, P))
    got = backend.to_host(memory.direction(backend.asarray(grad), lambda v: v * factor))
    for k in range(K):
        want = _two_loops(pairs[k], grad[k], scale[k, 0] * np.linspace(1.0, 0.1, P))
        # Condition 1e3, and as much again from pairs that are nearly dependent: 1e-16 * 1e6.
        np.testing.assert_allclose(got[k], want, atol=1e-10 * np.abs(want).max())


def test_heads_that_leave_and_heads_that_forget(backend):
    memory, pairs, scale = _filled(backend, 5, 12)
    grad = np.random.default_rng(9).normal(size=(K, P))
    memory.keep(np.array([2, 0]))
    got = backend.to_host(memory.direction(backend.asarray(grad[[2, 0]]), lambda v: v))
    for row, k in enumerate((2, 0)):
        want = _two_loops(pairs[k], grad[k], scale[k, 0])
        np.testing.assert_allclose(got[row], want, atol=1e-10 * np.abs(want).max())
    memory.forget(backend.asarray(np.array([True, False])))
    again = backend.to_host(memory.direction(backend.asarray(grad[[2, 0]]), lambda v: v))
    np.testing.assert_allclose(again[0], got[0], rtol=1e-12)
    np.testing.assert_allclose(again[1], scale[0, 0] * grad[0], rtol=1e-12)
    # Pairs that come afterwards count again.
    s, y = np.ones((2, P)), 2.0 * np.ones((2, P))
    memory.add(backend.asarray(s), backend.asarray(y), backend.asarray(np.array([True, True])))
    last = backend.to_host(memory.direction(backend.asarray(grad[[2, 0]]), lambda v: v))
    want = _two_loops([(s[1], y[1])], grad[0], scale[0, 0])
    np.testing.assert_allclose(last[1], want, rtol=1e-10)


def test_pairs_without_curvature_are_not_kept(backend):
    memory = Memory(4)
    memory.scale = backend.asarray(np.ones((3, 1)))
    s = backend.asarray(np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    y = backend.asarray(np.array([[-1.0, 0.0], [np.inf, 0.0], [0.0, 1.0]]))
    size = memory.add(s, y, backend.asarray(np.array([True, False, True])))
    np.testing.assert_array_equal(backend.to_host(size), [0.0, 0.0, 0.0])
    grad = backend.asarray(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    got = backend.to_host(memory.direction(grad, lambda v: v))
    np.testing.assert_array_equal(got, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def test_float32_pairs_steer_float64_vectors():
    wide, pairs, scale = _filled(Backend.NUMPY, 5, 9, sit_out=0.0)
    narrow = Memory(5, np.dtype("float32"))
    narrow.scale = scale
    for step in range(5):
        s, y = (np.stack([pairs[k][step][part] for k in range(K)]) for part in (0, 1))
        narrow.add(s, y, np.ones(K, bool))
    grad = np.random.default_rng(9).normal(size=(K, P))
    got, want = (memory.direction(grad, lambda v: v) for memory in (narrow, wide))
    assert got.dtype == np.float64
    # Rounding 6e-8 times the condition of 1e3 and of the pairs.
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize(
    ("heads", "budget", "want"), [(1, 10**9, 50), (1, 80_000, 10), (10, 80_000, 5), (1, 0, 5)]
)
def test_pairs_fit_into_the_budget(heads, budget, want):
    assert memory_size(heads, 500, 8, budget, 50) == want


def test_products_of_many_bytes_are_made_head_by_head(monkeypatch):
    """From `_LARGE` bytes of a head on: some libraries copy stacks of what is not contiguous."""
    made = []
    xp = SimpleNamespace(float64=np.float64, stack=np.stack)
    xp.matmul = lambda a, b: made.append(a.ndim) or np.matmul(a, b)
    monkeypatch.setattr(memory_module, "namespace", lambda array: xp)
    a, b = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    for large, ndim in ((128, [2, 2, 2]), (129, [3])):
        monkeypatch.setattr(memory_module, "_LARGE", large)
        np.testing.assert_allclose(memory_module._products(a, b), a @ b, rtol=1e-14)
        assert made == ndim
        made.clear()
    memory_module._products(a[:1], b[:1])
    assert made == [3]


def test_pairs_that_a_head_sits_out_are_zeros():
    """Whatever came for them: so they are in a checkpoint, and nothing can come of them."""
    kept = Memory(3)
    s, y = np.random.default_rng(0).uniform(1.0, 2.0, size=(2, 2, 4))
    size = kept.add(np.where([[True], [False]], s, np.nan), y, np.asarray([True, False]))
    np.testing.assert_allclose(size, [s[0] @ y[0], 0.0], rtol=1e-14)
    for got, want in zip(kept.state()["pairs"], (s, y), strict=True):
        np.testing.assert_array_equal(got[0, 0], want[0])
        np.testing.assert_array_equal(got[1, 0], np.zeros(4))
