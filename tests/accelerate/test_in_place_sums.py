"""The in-place sums on a CPU against the formulas that they speed up."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import GRADIENT_BOUND, assert_close_max_norm

from xclf.kernels import cross_entropy, one_hot
from xclf.objectives import Network, Objective, RowSums, data_loss
from xclf.objectives._host import HostSoftmaxSums, softmax_in_place, true_index
from xclf.rows import Rows

RNG = np.random.default_rng(0)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def _scores(heads, classes, rows, dtype, spread=3.0):
    return (spread * RNG.normal(size=(heads, classes, rows))).astype(dtype)


@dtypes
@pytest.mark.parametrize("shape", [(1, 2, 1), (1, 10, 33), (5, 3, 40), (2, 64, 9), (3, 200, 17)])
@pytest.mark.parametrize("weights", [None, "rows", "heads"])
def test_the_loss_in_place_is_the_kernel(shape, weights, dtype):
    scores, labels = _scores(*shape, dtype), RNG.integers(shape[1], size=shape[2])
    size = {None: None, "rows": shape[2:], "heads": (shape[0], shape[2])}[weights]
    w = None if size is None else RNG.uniform(size=size).astype(dtype)
    want, gradient = cross_entropy(scores, labels, weights=w, reduction="none", axis=-2)
    got = softmax_in_place(scores, labels, w)
    assert got.dtype == scores.dtype == dtype
    # The same operations in another order: sums of C terms, each within C / 2 roundings.
    eps = shape[1] * np.finfo(dtype).eps
    np.testing.assert_allclose(got, want, rtol=eps, atol=eps * np.abs(want).max())
    np.testing.assert_allclose(scores, gradient, rtol=4 * eps, atol=1e-38)


@dtypes
def test_extremes_in_place(dtype):
    """Huge, equal and hopeless scores: finite, and small losses exact, as the kernel's."""
    columns = [[40.0, 0, 0], [-40.0, 0, 0], [0.0, 0, 0], [1e4, -1e4, 0], [-1e4, 1e4, 0]]
    scores = np.asarray(columns, dtype=dtype).T[None].copy()
    labels = np.zeros(5, dtype=int)
    want, gradient = cross_entropy(scores, labels, reduction="none", axis=-2)
    got = softmax_in_place(scores, labels, None)
    eps = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(got, want, rtol=eps)
    np.testing.assert_allclose(scores, gradient, rtol=eps)
    assert got[0, 0] == pytest.approx(2 * np.exp(-40.0), rel=1e-6)


@dtypes
@pytest.mark.parametrize("heads", [(), (1,), (4,)])
@pytest.mark.parametrize("place", ["raw", "standardised", "scaled, no biases", "no biases"])
@pytest.mark.parametrize("mask", [True, False])
def test_the_sums_are_those_of_any_backend(heads, place, mask, dtype):
    rows, features, classes = 50, 6, 4
    options = {"bias": "no biases" not in place}
    if place in ("standardised", "scaled, no biases"):
        options["scale"] = np.linspace(0.5, 2.0, features)
        options["shift"] = np.linspace(-1.0, 1.0, features) if options["bias"] else None
    network = Network((features, classes), **options)
    objective = Objective(network, data_loss("softmax"), 0.0)
    theta = RNG.normal(size=(*heads, network.size))
    labels = RNG.integers(classes, size=rows)
    labels = one_hot(np, labels, classes) if mask else labels
    weights = RNG.uniform(size=(*heads, rows)).astype(dtype)
    x = RNG.normal(size=(rows, features)).astype(dtype)
    chunk = Rows(x, labels, weights, np.dtype(dtype)).chunk(slice(0, rows))
    fast = objective.sums_at(theta, np.dtype(dtype))
    assert isinstance(fast, HostSoftmaxSums)
    plain = RowSums(fast.network, fast.loss, fast.layers)
    for got, want in zip(fast.finish(fast(chunk)), plain.finish(plain(chunk)), strict=True):
        assert got.shape == want.shape
        # Products of the same operands; sums over 50 rows.
        assert_close_max_norm(np.atleast_1d(got), np.atleast_1d(want), 50 * np.finfo(dtype).eps)


def test_the_slow_way_is_for_nets_hinges_and_devices(backend):
    theta = backend.asarray(np.zeros(8))
    linear, net = Network((3, 2)), Network((1, 2, 1))
    host = isinstance(theta, np.ndarray)
    made = Objective(linear, data_loss("softmax"), 0.0).sums_at(theta, theta.dtype)
    assert isinstance(made, HostSoftmaxSums) == host
    made = Objective(linear, data_loss("hinge"), 0.0).sums_at(theta, theta.dtype)
    assert not isinstance(made, HostSoftmaxSums)
    made = Objective(net, data_loss("softmax"), 0.0).sums_at(theta[:7], theta.dtype)
    assert not isinstance(made, HostSoftmaxSums)


def test_true_index():
    labels = np.array([2, 0, 1])
    np.testing.assert_array_equal(true_index(labels), labels)
    np.testing.assert_array_equal(true_index(one_hot(np, labels, 3)), labels)


@pytest.mark.parametrize("heads", [None, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_minibatch_gradients_are_those_of_the_formula(heads, weighted, scaled, dtype):
    """With `total` they are computed in place, as for one of several threads."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 6)).astype(dtype), rng.integers(0, 4, 20)
    place = {}
    if scaled:
        place = {"shift": x.mean(axis=0), "scale": x.std(axis=0)}
    shape = () if heads is None else (heads,)
    reg = 1e-2 if heads is None else np.logspace(-3, -1, heads).astype(dtype)
    objective = Objective(Network((6, 4), **place), data_loss("softmax"), reg)
    theta = rng.normal(size=(*shape, objective.network.size)).astype(dtype)
    weights = rng.uniform(0.5, 1.5, (*shape, 20)).astype(dtype) if weighted else None
    rows = Rows(x, one_hot(np, y, 4), weights, dtype).chunk(slice(0, 20))
    want, got = (
        objective.batch_gradient(theta, rows),
        objective.batch_gradient(theta, rows, total=20),
    )
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert_close_max_norm(got, want, 10 * GRADIENT_BOUND[np.dtype(dtype).name])
    data = objective.batch_gradient(theta, rows, total=20, penalty=False)
    assert not np.allclose(data, got)
    changed = np.array(theta) + 0.1
    assert not np.allclose(objective.batch_gradient(changed, rows, total=20), got)
