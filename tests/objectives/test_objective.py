"""Objectives over a chunk of rows: values, gradients, curvature, the smoothed hinge."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    ORACLES,
    assert_close_max_norm,
    assert_relative,
    l2_value,
    numerical_gradient,
    reduce,
    softmax_rows,
    squared_hinge_rows,
)

from xclf.objectives import LOSSES, Network, Objective, loss_named
from xclf.rows import Rows
from xclf.training import Problem

N, D, H, C = 9, 4, 5, 3
LINEAR, NET = (D, C), (D, H, C)
SHIFT, SCALE = np.array([0.5, -1.0, 2.0, 0.0]), np.array([2.0, 0.5, 1.5, 1.0])

widths_ = pytest.mark.parametrize("widths", [LINEAR, NET], ids=["linear", "net"])
losses_ = pytest.mark.parametrize("loss", list(LOSSES))
ROWS = {name: rows for name, (_, rows) in ORACLES.items()}
bias_ = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
weights_ = pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])

# Differences of order h^2 = 1e-10 of third derivatives near 1, and rounding 1e-16 / h = 1e-11 of
# values near 10: 1e-8 relative to the largest entry leaves room for both.
DIFFERENCES = 1e-8


def _data(seed=0, n=N):
    rng = np.random.default_rng(seed)
    labels = rng.integers(C, size=n)
    labels[:C] = np.arange(C)
    return rng.normal(size=(n, D)), labels, rng.uniform(0.2, 2.0, size=n)


def _theta(network, heads=(), seed=1):
    return np.random.default_rng(seed).normal(size=(*heads, network.size))


def _mask(labels, n_classes=C):
    return np.arange(n_classes)[:, None] == labels


def _rows(backend, x, labels, weights=None, dtype="float64"):
    return Rows(
        backend.asarray(x),
        backend.asarray(labels),
        None if weights is None else backend.asarray(weights, dtype),
        backend.dtype(dtype),
    )


def _numpy_rows(x, labels, weights=None):
    return Rows(x, labels, weights, np.dtype("float64"))


def _oracle(network, loss, theta, x, labels, weights, reg):
    """The objective of one head from rows of scores, in plain loops."""
    if network.scale is not None:
        x = (x - (network.shift if network.bias else 0.0)) / network.scale
    out, penalty = x, 0.0
    for place, (w, b) in enumerate(network.layers(theta)):
        out = (np.maximum(out, 0) if place else out) @ w.T + (0.0 if b is None else b[:, 0])
        penalty += l2_value(w, reg)
    return reduce(*ROWS[loss](out, labels), "mean", weights)[0] + penalty


@widths_
@losses_
@bias_
@weights_
@pytest.mark.parametrize("standardised", [False, True], ids=["raw", "standardised"])
def test_value_against_loops_and_gradient_against_differences(
    widths, loss, bias, weighted, standardised
):
    place = {"shift": SHIFT if bias else None, "scale": SCALE} if standardised else {}
    network = Network(widths, bias=bias, **place)
    x, labels, weights = _data()
    weights = weights if weighted else None
    problem = Problem(
        Objective(network, loss_named(loss), 0.1), _numpy_rows(x, _mask(labels), weights)
    )
    theta = _theta(network)
    value, gradient = problem.value_and_grad(theta)
    want = _oracle(network, loss, theta, x, labels, weights, 0.1)
    # A few dozen roundings of positive terms: sums of N C terms, D + H products each.
    assert_relative(value, want, 1e-13, "objective")
    assert_relative(problem.value(theta), want, 1e-13, "objective without gradient")
    numeric = numerical_gradient(
        lambda t: _oracle(network, loss, t, x, labels, weights, 0.1), theta
    )
    assert_close_max_norm(gradient, numeric, DIFFERENCES)


@widths_
@losses_
@weights_
def test_heads_are_single_heads(backend, widths, loss, weighted):
    """K parameter vectors with their own reg and row weights: each is the single problem."""
    network, k = Network(widths), 3
    x, labels, _ = _data()
    theta = _theta(network, (k,))
    regs = np.array([0.0, 0.1, 2.0])
    weights = np.random.default_rng(5).uniform(0.1, 2.0, size=(k, N)) if weighted else None
    rows = _rows(backend, x, _mask(labels), weights)
    problem = Problem(Objective(network, loss_named(loss), backend.asarray(regs)), rows)
    value, gradient = (backend.to_host(a) for a in problem.value_and_grad(backend.asarray(theta)))
    assert value.shape == (k,)
    for head in range(k):
        own = None if weights is None else weights[head]
        single = Problem(
            Objective(network, loss_named(loss), float(regs[head])),
            _numpy_rows(x, _mask(labels), own),
        )
        want_value, want_gradient = single.value_and_grad(theta[head])
        assert_relative(value[head], want_value, 1e-13, "objective")
        assert_close_max_norm(gradient[head], want_gradient, 1e-13)


@widths_
@losses_
def test_the_gradient_of_a_batch_of_all_rows_is_the_gradient(backend, widths, loss):
    network = Network(widths)
    x, labels, weights = _data()
    weights = weights / weights.mean()
    theta = backend.asarray(_theta(network))
    for own in (None, weights):
        problem = Problem(
            Objective(network, loss_named(loss), 0.1), _rows(backend, x, _mask(labels), own)
        )
        _, want = problem.value_and_grad(theta)
        batch = problem.rows.take(backend.asarray(np.arange(N)))
        got = problem.objective.batch_gradient(theta, batch)
        assert_close_max_norm(backend.to_host(got), backend.to_host(want), 1e-13)


@pytest.mark.parametrize("widths", [LINEAR, NET])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_gradients_average_to_the_gradient(widths, bias):
    """Row weights of mean 1, divided by the batch size: an unbiased estimate, standardised too."""
    network = Network(widths, bias=bias, shift=SHIFT if bias else None, scale=SCALE)
    x, labels, weights = _data(n=12)
    weights = weights / weights.mean()
    theta = _theta(network)
    problem = Problem(
        Objective(network, loss_named("softmax"), 0.1), _numpy_rows(x, _mask(labels), weights)
    )
    order = np.random.default_rng(0).permutation(12).reshape(4, 3)
    gradients = [problem.objective.batch_gradient(theta, problem.rows.take(part)) for part in order]
    assert_close_max_norm(np.mean(gradients, axis=0), problem.value_and_grad(theta)[1], 1e-13)


@bias_
def test_more_hidden_layers(bias):
    """Each of another width."""
    network = Network((D, 5, 6, 7, C), bias=bias)
    x, labels, _ = _data()
    problem = Problem(Objective(network, loss_named("softmax"), 0.1), _numpy_rows(x, _mask(labels)))
    theta = _theta(network)
    value, gradient = problem.value_and_grad(theta)
    assert_relative(value, _oracle(network, "softmax", theta, x, labels, None, 0.1), 1e-13, "value")
    want = numerical_gradient(lambda at: float(problem.value_and_grad(at)[0]), theta)
    assert_close_max_norm(gradient, want, DIFFERENCES)


def test_batch_gradients_of_heads_are_single_ones():
    network = Network(NET)
    x, labels, weights = _data()
    theta, regs = _theta(network, (3,)), np.array([0.0, 0.1, 2.0])
    rows = _numpy_rows(x, _mask(labels), np.stack([weights, weights**2, np.ones(N)]))
    objective = Objective(network, loss_named("hinge"), regs)
    got = objective.batch_gradient(theta, rows.take(np.array([2, 5, 7])))
    for head in range(3):
        single = _numpy_rows(x, _mask(labels), rows.weights[head])
        own = Objective(network, loss_named("hinge"), float(regs[head]))
        want = own.batch_gradient(theta[head], single.take(np.array([2, 5, 7])))
        assert_close_max_norm(got[head], want, 1e-13)


@losses_
def test_integer_labels_are_their_mask(backend, loss):
    """Past 64 classes rows keep integers; the objective does not care."""
    network = Network((D, 70))
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(N, D)), rng.integers(70, size=N)
    theta = backend.asarray(rng.normal(size=network.size))
    objective = Objective(network, loss_named(loss), 0.1)
    pairs = []
    for form in (labels, _mask(labels, 70)):
        problem = Problem(objective, _rows(backend, x, form))
        value, gradient = problem.value_and_grad(theta)
        pairs.append((backend.to_host(value), backend.to_host(gradient)))
        if loss != "hinge":
            pairs[-1] += (backend.to_host(problem.curvature(theta)),)
    for got, want in zip(*pairs, strict=True):
        assert_close_max_norm(np.atleast_1d(got), np.atleast_1d(want), 1e-14)


@weights_
@pytest.mark.parametrize("k", [None, 2])
def test_curvature_is_the_sum_over_rows(backend, weighted, k):
    """sum_i w_i (diag(p_i) - p_i p_i^T), row by row."""
    network = Network(LINEAR)
    x, labels, weights = _data()
    weights = weights if weighted else None
    theta = _theta(network, () if k is None else (k,))
    rows = _rows(backend, x, _mask(labels), weights)
    objective = Objective(network, loss_named("softmax"), 0.1)
    problem = Problem(objective, rows)
    total = backend.to_host(objective.curvature_sum(backend.asarray(theta), rows))
    mean = backend.to_host(problem.curvature(backend.asarray(theta)))
    w = np.ones(N) if weights is None else weights
    for head in np.ndindex(theta.shape[:-1]):
        ((wmat, b),) = network.layers(theta[head])
        want = np.zeros((C, C))
        for p, wi in zip(softmax_rows(x @ wmat.T + b[:, 0]), w, strict=True):
            want += wi * (np.diag(p) - np.outer(p, p))
        assert_close_max_norm(total[head], want, 1e-14 * N)
        assert_close_max_norm(mean[head], want / w.sum(), 1e-14 * N)


@weights_
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "integers"])
def test_curvature_is_the_hessian_in_the_scores(backend, weighted, k, mask):
    """Of every loss that has one, whose gradient is differentiated entry by entry: the squared
    hinge's is linear between its kinks, so differences are exact but for rounding."""
    network = Network(LINEAR)
    x, labels, weights = _data()
    weights = weights if weighted else None
    heads = () if k is None else (k,)
    theta = _theta(network, heads)
    margins = np.array([0.5, 2.0])[: k or 0] if k else 1.5
    rows = _rows(backend, x, _mask(labels) if mask else labels, weights)
    margin = backend.asarray(margins) if k else margins
    objective = Objective(network, loss_named("squared_hinge", margin=margin), 0.0)
    total = backend.to_host(objective.curvature_sum(backend.asarray(theta), rows))
    w = np.ones(N) if weights is None else weights
    assert total.shape == (*heads, C, C)
    for head in np.ndindex(heads):
        ((wmat, b),) = network.layers(theta[head])
        scores, h = x @ wmat.T + b[:, 0], 1e-6
        own = float(np.broadcast_to(margins, heads)[head])
        want = np.zeros((C, C))
        for j in range(C):
            up, down = scores.copy(), scores.copy()
            up[:, j] += h
            down[:, j] -= h
            pair = [squared_hinge_rows(s, labels, own)[1] for s in (up, down)]
            want[:, j] = w @ ((pair[0] - pair[1]) / (2 * h))
        assert_close_max_norm(total[head], want, DIFFERENCES)
        assert np.linalg.eigvalsh(total[head]).min() >= -1e-12


def test_the_hinge_has_no_curvature():
    rows = _numpy_rows(*_data()[:2])
    objective = Objective(Network(LINEAR), loss_named("hinge"), 0.0)
    assert objective.curvature_sum(_theta(objective.network), rows) is None
    with pytest.raises(AssertionError, match="hinge has no curvature"):
        Problem(objective, rows).curvature(_theta(objective.network))


@losses_
def test_a_margin_per_head(backend, loss):
    """Heads that differ in margin and reg are single heads with theirs."""
    network, margins, regs = Network(LINEAR), np.array([0.25, 1.0, 3.0]), np.array([0.0, 0.1, 2.0])
    x, labels, _ = _data()
    theta = _theta(network, (3,))
    own = loss_named(loss, margin=backend.asarray(margins))
    problem = Problem(
        Objective(network, own, backend.asarray(regs)), _rows(backend, x, _mask(labels))
    )
    value, gradient = (backend.to_host(a) for a in problem.value_and_grad(backend.asarray(theta)))
    for k in range(3):
        single = loss_named(loss, margin=float(margins[k]))
        single = Problem(Objective(network, single, float(regs[k])), _numpy_rows(x, _mask(labels)))
        want_value, want_gradient = single.value_and_grad(theta[k])
        assert_relative(value[k], want_value, 1e-13, "objective")
        assert_close_max_norm(gradient[k], want_gradient, 1e-13)


def test_sums_of_float32_losses_run_in_float64(backend):
    """4096 losses of 1 + 2^-20 in float32: their float64 sum is exact, a float32 one is not."""
    network = Network((1, 2), bias=False)
    loss = loss_named("hinge", margin=1.0 + 2.0**-20)
    rows = _rows(
        backend, np.zeros((4096, 1), "float32"), np.zeros(4096, int), None, dtype="float32"
    )
    theta = backend.asarray(np.zeros(2), "float32")
    sums = Objective(network, loss, 0.0).sums_at(theta, theta.dtype)
    value, _ = sums.finish(sums(rows.chunk(slice(0, 4096))))
    assert value.dtype == backend.dtype("float64")
    assert float(backend.to_host(value)) == 4096 * (1.0 + 2.0**-20)
