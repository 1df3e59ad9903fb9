"""The smoothed hinge summed over rows against plain loops, by the formula and in place."""

from __future__ import annotations

import sys
from itertools import count

import numpy as np
import pytest
from backends import Backend
from helpers import assert_close_max_norm, assert_relative, hinge_rows, proximal_rows

from xclf.accelerate.cpu import hinge_proximal_sums
from xclf.objectives import FORMULAS, Move, Network, Operations, ProximalSums
from xclf.rows import Rows, sum_over_rows

K, N, D, C = 3, 11, 4, 3
MARGIN, SMOOTHING = np.array([1.5, 1.0, 0.5]), np.array([0.25, 2.0, 1.0])
BEFORE = np.array([1.0, 0.5, 4.0])
IN_PLACE = Operations(proximal_sums=hinge_proximal_sums)
operations_ = pytest.mark.parametrize(
    "operations", [FORMULAS, IN_PLACE], ids=["formula", "in-place"]
)
weighting = pytest.mark.parametrize("weights", ["none", "rows", "heads"])

# Gradients, max-norm relative, and sums of losses: a few rounding errors of sums of N * C terms.
CLOSE = {"float64": 1e-13, "float32": 2e-6}


def _case(backend, weights="none", dtype="float64", *, mask=True, bias=True, **place):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(N, D)).astype(dtype), rng.integers(C, size=N)
    network = Network((D, C), bias=bias, **place)
    theta = rng.normal(size=(K, network.size)).astype(dtype)
    anchor = rng.choice([0.0, 0.25, 0.5, 1.0], size=(K, C, N)).astype(dtype)
    anchor[:, labels, np.arange(N)] = 0.0
    w = {"none": None, "rows": rng.uniform(0.5, 2, N), "heads": rng.uniform(0.5, 2, (K, N))}[
        weights
    ]
    shown = np.arange(C)[:, None] == labels if mask else labels
    rows = Rows(
        backend.asarray(x),
        backend.asarray(shown),
        None if w is None else backend.asarray(w, dtype),
        backend.dtype(dtype),
    )
    w = np.ones((K, N)) if w is None else np.broadcast_to(w, (K, N)).astype(dtype)
    return network, rows, theta, anchor, labels, w


def _step(backend, network, rows, theta, anchor, move=None):
    """(the sums as a function of chunks, their anchors)."""
    anchor = backend.asarray(anchor)
    if isinstance(anchor, np.ndarray):
        anchor.flags.writeable = True  # it is the fit's own memory, whatever the rows are
    elif network.operations is IN_PLACE:
        pytest.skip("for NumPy arrays")
    layers = network.prepared(backend.asarray(theta), rows.dtype)
    numbers = [backend.asarray(v, str(np.dtype(theta.dtype))) for v in (MARGIN, SMOOTHING)]
    return ProximalSums(network, layers, *numbers, anchor, move), anchor


def _sums(backend, network, rows, theta, anchor, move=None):
    """(host sums over chunks of four rows, the anchors after it)."""
    step, anchor = _step(backend, network, rows, theta, anchor, move)
    found = sum_over_rows(lambda chunk: step(chunk, chunk.where), rows, size=4)
    return [backend.to_host(part) for part in found], backend.to_host(anchor)


def _scores(network, theta, rows, x):
    ((w, b),) = network.layers(theta)
    return x @ w.T + (0.0 if b is None else b[:, 0])


@weighting
@operations_
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "integers"])
def test_sums_are_those_of_the_formula(backend, weights, dtype, mask, operations):
    network, rows, theta, anchor, labels, w = _case(
        backend, weights, dtype, mask=mask, operations=operations
    )
    x = backend.to_host(rows.x).astype(np.float64)
    (loss, slack, plain, dw, db), after = _sums(backend, network, rows, theta, anchor)
    np.testing.assert_array_equal(after, anchor)
    close = CLOSE[dtype]
    for k in range(K):
        scores = _scores(network, theta[k].astype(np.float64), rows, x)
        want = proximal_rows(scores, labels, anchor[k].T, SMOOTHING[k], MARGIN[k])
        assert_relative(loss[k], w[k] @ want[0], close)
        assert_relative(slack[k], w[k] @ want[2], close)
        assert_relative(plain[k], w[k] @ hinge_rows(scores, labels, MARGIN[k])[0], close)
        gradient = want[1] * w[k][:, None]
        assert_close_max_norm(dw[k], gradient.T @ x, close)
        assert_close_max_norm(db[k], gradient.sum(axis=0), close)


@pytest.mark.parametrize("relaxation", [1.0, 1.6])
@weighting
@operations_
def test_a_move_takes_some_heads_along(backend, weights, relaxation, operations):
    """Their anchors become anchor + relaxation (a - anchor), with the smoothing of before, and the
    sums are those at the new anchors."""
    network, rows, theta, anchor, labels, w = _case(backend, weights, operations=operations)
    x, heads = backend.to_host(rows.x), np.array([True, False, True])
    move = Move(backend.asarray(heads), backend.asarray(BEFORE), relaxation)
    (*got, curvature), after = _sums(backend, network, rows, theta, anchor, move)
    scores = [_scores(network, theta[k], rows, x) for k in range(K)]
    found = np.stack([
        proximal_rows(scores[k], labels, anchor[k].T, BEFORE[k], MARGIN[k])[3].T for k in range(K)
    ])  # fmt: skip
    want = anchor.copy()
    want[heads] += relaxation * (found - anchor)[heads]
    np.testing.assert_allclose(after, want, rtol=0, atol=1e-14)
    again, _ = _sums(backend, network, rows, theta, want)
    for one, other in zip(got, again, strict=True):
        assert_close_max_norm(one, other, 1e-13)
    for k in range(K):
        assert_close_max_norm(
            curvature[k], _curvature(found[k].T, labels, w[k], SMOOTHING[k]), 1e-13
        )


def _curvature(a, labels, weights, smoothing):
    assert np.any((a > 0) & (a < 1))
    want = np.zeros((C, C))
    for i, y in enumerate(labels):
        for j in set(range(C)) - {int(y)}:
            e = np.eye(C)[j] - np.eye(C)[y]
            share = 1.0 if 0 < a[i, j] < 1 else 1e-3
            want += weights[i] * share / smoothing * np.outer(e, e)
    return want


@operations_
def test_a_move_need_not_measure(backend, operations):
    network, rows, theta, anchor, _, _ = _case(backend, operations=operations)
    heads = backend.asarray(np.ones(K, dtype=bool))
    moves = [Move(heads, backend.asarray(BEFORE), 1.0, measure) for measure in (True, False)]
    (more, one), (less, other) = (
        _sums(backend, network, rows, theta, anchor, move) for move in moves
    )
    assert len(more) == len(less) + 1
    np.testing.assert_array_equal(one, other)


def test_a_net():
    rng = np.random.default_rng(2)
    network = Network((D, 5, C))
    _, rows, _, anchor, labels, _ = _case(Backend.NUMPY)
    theta = rng.normal(size=(K, network.size))
    (loss, *_, db), _ = _sums(Backend.NUMPY, network, rows, theta, anchor)
    for k in range(K):
        (w1, b1), (w2, b2) = network.layers(theta[k])
        scores = np.maximum(rows.x @ w1.T + b1[:, 0], 0) @ w2.T + b2[:, 0]
        want = proximal_rows(scores, labels, anchor[k].T, SMOOTHING[k], MARGIN[k])
        assert_relative(loss[k], want[0].sum(), 1e-13)
        assert_close_max_norm(db[k], want[1].sum(axis=0), 1e-13)


@operations_
def test_a_chunk_that_ends_early_may_be_done_again(backend, operations, monkeypatch):
    """For want of memory, at whatever point: its multipliers have not moved."""
    network, rows, theta, anchor, _, _ = _case(backend, operations=operations)
    heads = backend.asarray(np.array([True, False, True]))
    move = Move(heads, backend.asarray(BEFORE), 1.6)
    modules = (
        sys.modules["xclf.objectives._operations"],
        sys.modules[hinge_proximal_sums.__module__],
    )
    place, name = (
        modules[operations is IN_PLACE],
        ("sum_last", "_sum_classes")[operations is IN_PLACE],
    )
    plain, after, chunk = getattr(place, name), [], rows.chunk(slice(2, 9))
    for fails in (0, 1, 2, None):
        step, held = _step(backend, network, rows, theta, anchor, move)
        calls = count()

        def limited(values, calls=calls, fails=fails):
            if next(calls) == fails:
                raise MemoryError
            return plain(values)

        monkeypatch.setattr(place, name, limited)
        if fails is not None:
            with pytest.raises(MemoryError):
                step(chunk, chunk.where)
            np.testing.assert_array_equal(backend.to_host(held), anchor)
        step(chunk, chunk.where)
        after.append(backend.to_host(held))
    assert not np.array_equal(after[-1], anchor)
    for one in after:
        np.testing.assert_array_equal(one, after[-1])
