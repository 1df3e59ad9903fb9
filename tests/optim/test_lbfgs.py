"""L-BFGS: hard functions, K heads as K single runs, and one host copy per evaluation."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from counting import counted, counting

from xclf import _array_api
from xclf.optim import LBFGS, Memory

module = sys.modules["xclf.optim.lbfgs"]


def _rosenbrock(theta):
    """sum 100 (x_{2i} - x_{2i-1}^2)^2 + (1 - x_{2i-1})^2 per head: minimum 0 at (1, ..., 1)."""
    xp = _array_api.namespace(theta)
    a, b = theta[..., 0::2], theta[..., 1::2]
    value = xp.sum(100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2, axis=-1)
    da = -400.0 * a * (b - a * a) - 2.0 * (1.0 - a)
    grad = xp.stack([da, 200.0 * (b - a * a)], axis=-1)
    return value, xp.reshape(grad, theta.shape)


def _quadratics(seed, k, p=12, condition=1e4, like=None):
    """(value_and_grad, optimum (K, P), hessians): one strongly convex quadratic per head."""
    rng = np.random.default_rng(seed)
    hessians, centres = [], rng.normal(size=(k, p))
    for _ in range(k):
        q, _ = np.linalg.qr(rng.normal(size=(p, p)))
        hessians.append(q * np.geomspace(1, condition, p) @ q.T)
    h, c = np.stack(hessians), centres
    if like is not None:
        h, c = _array_api.from_host(h, like), _array_api.from_host(centres, like)

    def value_and_grad(theta):
        xp = _array_api.namespace(theta)
        off = theta - c
        grad = xp.matmul(h, off[..., None])[..., 0]
        return 1.0 + 0.5 * xp.sum(off * grad, axis=-1), grad

    return value_and_grad, centres, np.stack(hessians)


def _run(value_and_grad, theta, evaluations, **options):
    return list(itertools.islice(LBFGS(value_and_grad, theta, **options), evaluations))


def test_rosenbrock(backend):
    start = backend.asarray(np.array([[-1.2, 1.0, -1.2, 1.0]]))
    path = _run(_rosenbrock, start, 80)
    np.testing.assert_allclose(backend.to_host(path[-1].theta), np.ones((1, 4)), atol=1e-8)
    assert path[-1].value[0] < 1e-16
    np.testing.assert_array_equal(backend.to_host(start), [[-1.2, 1.0, -1.2, 1.0]])


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_strongly_convex_quadratics(seed, condition):
    f, centres, _ = _quadratics(seed, 1, condition=condition)
    path = _run(f, np.zeros((1, 12)), 250)
    # The value's own rounding is 1e-16: |theta - centre|^2 <= 2 * 1e-15 / smallest eigenvalue 1.
    assert path[-1].value[0] == pytest.approx(1.0, rel=1e-14)
    np.testing.assert_allclose(path[-1].theta, centres, atol=1e-6)


@pytest.mark.parametrize("constant", [1.0, -(2.0**16)])
def test_a_constant_in_the_objective_changes_no_step(constant):
    """Of an objective below all its derivatives, pairs are kept as of any other."""
    f, _, _ = _quadratics(0, 1, condition=1e2)

    def shifted(theta):
        value, grad = f(theta)
        return value + constant, grad

    paths = [_run(each, np.zeros((1, 12)), 15) for each in (f, shifted)]
    for at, other in zip(*paths, strict=True):
        # Values are rounded to 2^16 * 2^-53 = 7e-12, and steer the interpolated steps alone.
        np.testing.assert_allclose(other.theta, at.theta, atol=1e-8)
    assert paths[0][-1].grad_norm < 1e-2 * paths[0][0].grad_norm


def test_iterates_tell_the_truth(backend):
    f, _, _ = _quadratics(0, 3, like=backend.asarray(np.zeros(1)))
    path = _run(f, backend.asarray(np.zeros((3, 12))), 20)
    assert np.all(path[0].decrement == np.inf)
    assert not path[0].moved.any()
    for before, at in itertools.pairwise(path):
        value, grad = f(at.theta)
        np.testing.assert_array_equal(at.value, backend.to_host(value))
        np.testing.assert_array_equal(backend.to_host(at.grad), backend.to_host(grad))
        np.testing.assert_array_equal(at.grad_norm, np.abs(backend.to_host(grad)).max(axis=-1))
        old, new = backend.to_host(before.theta), backend.to_host(at.theta)
        for k in range(3):
            assert np.array_equal(old[k], new[k]) is not bool(at.moved[k])
            assert at.value[k] <= before.value[k]
        assert np.all(at.decrement[at.moved] > 0)


def test_the_decrement_is_the_distance_when_the_preconditioner_is_the_inverse():
    """g^T H^-1 g / 2 of a quadratic is f - f*: one step, and exactly so."""
    f, _, hessians = _quadratics(1, 2)
    start = np.zeros((2, 12))
    inverse = np.linalg.inv(hessians)
    path = _run(f, start, 2, precondition=lambda v: np.matmul(inverse, v[..., None])[..., 0])
    np.testing.assert_allclose(path[1].decrement, f(start)[0] - 1.0, rtol=1e-9)
    np.testing.assert_allclose(path[1].value, 1.0, rtol=1e-9)
    assert path[1].moved.all()


def _chatty(value_and_grad):
    def f(theta):
        value, grad = value_and_grad(theta)
        return value, grad, value * 2.0, grad[..., 0]

    return f


@pytest.mark.parametrize("evaluations", [2, 7, 30])
def test_heads_at_once_are_single_runs(evaluations):
    """Different conditions and starts: the heads reject and accept steps at different times."""
    k, p = 4, 12
    singles = [_quadratics(seed, 1, p, 10.0**seed) for seed in range(k)]

    def together(theta):
        parts = [f(theta[j : j + 1]) for j, (f, _, _) in enumerate(singles)]
        return tuple(np.concatenate(a) for a in zip(*parts, strict=True))

    start = np.random.default_rng(9).normal(size=(k, p)) * 10.0 ** np.arange(k)[:, None]
    path = _run(_chatty(together), start, evaluations)
    assert path[-1].extra.shape == (k, 2)
    for j, (f, _, _) in enumerate(singles):
        alone = _run(_chatty(f), start[j : j + 1], evaluations)
        for all_heads, one in zip(path, alone, strict=True):
            # Not bit for bit: NumPy sums rows of one and of four heads in another order.
            scale = max(1.0, float(np.abs(one.theta).max()))
            np.testing.assert_allclose(all_heads.theta[j], one.theta[0], atol=1e-6 * scale)
            np.testing.assert_allclose(all_heads.value[j], one.value[0], rtol=1e-6)
            assert all_heads.moved[j] == one.moved[0]
            np.testing.assert_allclose(all_heads.extra[j, 0], 2 * one.value[0], rtol=1e-6)


def test_rejected_steps_hold_one_head_back_and_not_the_others():
    """Head 1 is steep: its first steps are too long, while head 0 goes on."""
    curvature = np.array([[1.0], [1e6]])

    def f(theta):
        off = theta - 1.0
        return 0.5 * np.sum(curvature * off**2, axis=-1), curvature * off

    path = _run(f, np.full((2, 3), 3.0), 12, precondition=lambda v: v)
    moved = np.stack([at.moved for at in path[1:]])
    assert moved[0].tolist() == [True, False]
    assert np.all(path[-1].value < 1e-12)


def _with_a_wall(theta):
    """Head 0 is Rosenbrock's; head 1's value rises to infinity whatever its slope says."""
    value, grad = _rosenbrock(theta)
    value[1] = 5.0 if np.all(theta[1] == 3.0) else np.inf
    return value, grad


def test_a_head_that_stalls_stays_and_the_others_go_on():
    start = np.full((2, 2), 3.0)
    path = _run(_with_a_wall, start, 120)
    stalled = [bool(at.stalled[1]) for at in path]
    assert stalled == sorted(stalled)  # once and for all
    last = path[stalled.index(True) + 1 :]
    assert not any(at.moved[1] for at in path)
    assert len(last) > 20
    assert path[-1].value[0] < 1e-16
    np.testing.assert_array_equal(path[-1].theta[1], start[1])
    assert path[-1].value[1] == 5.0


def test_an_infinite_trial_of_one_head_leaves_no_trace():
    """Head 1 starts at a cliff: its first trial is infinite while head 0 moves."""

    def f(theta):
        off = theta - np.array([[1.0], [0.5]])
        over = np.any(theta < 0.0, axis=-1)[:, None] & np.array([[False], [True]])
        return (
            np.where(over[:, 0], np.inf, 1.0 + np.sum(off**2, axis=-1)),
            np.where(over, np.inf, 2 * off),
        )

    path = _run(f, np.array([[3.0, 2.0], [0.6, 3.0]]), 12, precondition=lambda v: 10.0 * v[:, :])
    assert [at.moved.tolist() for at in path[1:3]] != [[True, True]] * 2
    for at in path:
        assert np.isfinite(at.theta).all()
    np.testing.assert_allclose(path[-1].value, 1.0, rtol=1e-12)


def test_a_search_that_fails_goes_on_along_the_gradient():
    """A pair from another run points off the line where this objective is finite: it is dropped."""

    def f(theta):
        value = np.where(theta[:, 1] == 0.0, np.sum((theta - [4.0, 0.0]) ** 2, axis=-1), np.inf)
        return value, 2 * (theta - np.array([4.0, 0.0])) * np.array([1.0, 0.0])

    memory = Memory(5)
    _run(lambda t: (np.sum(t[:, :1] * t[:, 1:] + t**2, axis=-1), 2 * t + t[:, ::-1]),
         np.array([[1.0, 3.0]]), 3, memory=memory)  # fmt: skip
    path = _run(f, np.zeros((1, 2)), 80, memory=memory)
    assert path[1].value[0] == path[0].value[0]  # the first step leads nowhere
    assert path[-1].value[0] < 1e-12
    assert not path[5].stalled.any()


def test_an_optimum_at_the_start_stalls():
    """No descent: the search fails twice, and nothing moves."""
    f, centres, _ = _quadratics(0, 2)
    path = _run(f, centres.copy(), 5)
    assert path[-1].stalled.all()
    np.testing.assert_array_equal(path[-1].theta, centres)


def test_a_value_that_is_not_finite_is_stepped_back_from():
    """-log x + x: beyond 0 there is nothing."""

    def f(theta):
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sum(theta - np.log(theta), axis=-1), 1.0 - 1.0 / theta

    path = _run(f, np.array([[30.0, 0.1]]), 60)
    np.testing.assert_allclose(path[-1].theta, 1.0, atol=1e-7)
    assert all(np.isfinite(at.value).all() for at in path)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_memory_keeps_the_last_pairs_and_serves_the_next_run(size):
    f, _, _ = _quadratics(0, 1, condition=100.0)
    memory = Memory(size)
    path = _run(f, np.zeros((1, 12)), 30, memory=memory)
    moves = sum(int(at.moved[0]) for at in path)
    assert len(memory) == min(size, moves)
    scale = memory.scale
    again = _run(f, np.zeros((1, 12)), 2, memory=memory)
    assert scale is not None
    if size == 50:  # a full memory of this quadratic: the first step is almost Newton's
        assert again[1].value[0] - 1.0 < 1e-2 * (path[1].value[0] - 1.0)


def test_one_host_copy_per_evaluation(monkeypatch):
    """Four numbers per head and evaluation, in one array; nothing else is read."""
    sizes, evaluations = [], []

    def to_host(array):
        sizes.append(tuple(array.shape))
        return _array_api.to_host(array)

    f, _, _ = _quadratics(0, 3, like=counted(np.zeros(1)))

    def watched(theta):
        evaluations.append(1)
        return f(theta)

    monkeypatch.setattr(module, "to_host", to_host)
    with counting() as tally:
        _run(watched, counted(np.zeros((3, 12))), 15)
    assert len(evaluations) == 15
    assert sizes == [(2, 3)] + [(4, 3)] * 14
    assert tally.reads == 15, tally


def test_the_first_direction_has_length_of_a_good_guess():
    """Step 1 along -g / max(1, |g|): no first evaluation at astronomic parameters."""
    seen = []

    def f(theta):
        seen.append(theta.copy())
        return np.sum(1e8 * theta**2, axis=-1), 2e8 * theta

    _run(f, np.full((1, 2), 5.0), 2)
    assert np.abs(seen[1] - seen[0]).max() == pytest.approx(1.0)
