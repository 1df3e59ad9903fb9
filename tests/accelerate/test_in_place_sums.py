"""The in-place sums on a CPU against the formulas that they speed up."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers import assert_close_max_norm
from pairwise import pairwise

from xclf.accelerate import Request, select
from xclf.accelerate.cpu import hinge_proximal_sums, softmax_in_place, softmax_row_sums
from xclf.kernels import cross_entropy, one_hot
from xclf.objectives import (
    FORMULAS,
    LOSSES,
    Move,
    Network,
    Objective,
    ProximalSums,
    RowSums,
    loss_named,
)
from xclf.optim import SGD
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


PLACES = ["raw", "standardised", "scaled, no biases", "no biases"]


def _network(place, features, classes):
    options = {"bias": "no biases" not in place}
    if place in ("standardised", "scaled, no biases"):
        options["scale"] = np.linspace(0.5, 2.0, features)
        options["shift"] = np.linspace(-1.0, 1.0, features) if options["bias"] else None
    return Network((features, classes), **options)


def _rows(n, features, classes, dtype, weights=None, mask=True):
    labels = RNG.integers(classes, size=n)
    x = RNG.normal(size=(n, features)).astype(dtype)
    return Rows(x, one_hot(np, labels, classes) if mask else labels, weights, np.dtype(dtype))


@pairwise(dtype=[np.float32, np.float64], heads=[(), (1,), (4,)], place=PLACES, mask=[True, False])
def test_softmax_sums_are_those_of_the_formula(heads, place, mask, dtype):
    network = _network(place, 6, 4)
    theta = RNG.normal(size=(*heads, network.size))
    weights = RNG.uniform(size=(*heads, 50)).astype(dtype)
    chunk = _rows(50, 6, 4, dtype, weights, mask).chunk(slice(0, 50))
    sums = Objective(network, loss_named("softmax"), 0.0).sums_at(theta, np.dtype(dtype))
    got, want = sums.finish(softmax_row_sums(sums, chunk)), sums.finish(sums(chunk))
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        # Products of the same operands; sums over 50 rows.
        assert_close_max_norm(np.atleast_1d(one), np.atleast_1d(other), 50 * np.finfo(dtype).eps)


@pairwise(
    dtype=[np.float32, np.float64],
    weights=["none", "rows", "heads"],
    classes=[3, 100],
    place=PLACES,
    relaxation=[None, 1.0, 1.6],
)
def test_hinge_sums_are_those_of_the_formula(weights, dtype, classes, place, relaxation):
    heads, n, network = 3, 50, _network(place, 4, classes)
    size = {"none": None, "rows": n, "heads": (heads, n)}[weights]
    w = None if size is None else RNG.uniform(size=size).astype(dtype)
    rows = _rows(n, 4, classes, dtype, w, mask=classes < 64)
    labels = rows.labels.argmax(axis=0) if rows.labels.ndim > 1 else rows.labels
    anchor = RNG.uniform(size=(heads, classes, n)).astype(dtype)
    anchor[:, labels, np.arange(n)] = 0.0
    margin, smoothing, before = RNG.uniform(0.25, 4.0, size=(3, heads)).astype(dtype)
    move = None
    if relaxation is not None:
        move = Move(np.array([True, False, True]), before, relaxation)
    theta = RNG.normal(size=(heads, network.size)).astype(dtype)
    layers = network.prepared(theta, rows.dtype)
    results, after = [], []
    for operation in (hinge_proximal_sums, FORMULAS.proximal_sums):
        after.append(anchor.copy())
        sums = ProximalSums(network, layers, margin, smoothing, after[-1], move)
        results.append(operation(sums, rows.chunk(slice(0, n)), slice(0, n)))
    # A few rounding errors of sums of n * C terms.
    close = {"float64": 1e-13, "float32": 2e-6}[np.dtype(dtype).name]
    assert_close_max_norm(after[0], after[1], close)
    for one, other in zip(*results, strict=True):
        assert one.shape == other.shape
        assert_close_max_norm(one, other, close)


@pytest.mark.parametrize("widths", [(3, 2), (3, 4, 2)], ids=["linear", "net"])
@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("rule", [None, SGD()], ids=["full-batch", "minibatch"])
def test_which_fits_they_take_part_in(backend, widths, loss, rule, switched_on):
    """Full-batch ones of linear models, on NumPy rows, of the losses that they are written for."""
    x = backend.asarray(np.zeros((8, 3)))
    request = Request(
        x=x, dtype=x.dtype, network=Network(widths), loss=loss_named(loss), n_rows=8, rule=rule
    )
    operations = select(request).operations
    takes_part = isinstance(x, np.ndarray) and len(widths) == 2 and rule is None
    assert (operations.row_sums is softmax_row_sums) == (takes_part and loss == "softmax")
    expected = takes_part and loss == "hinge"
    assert (operations.proximal_sums is hinge_proximal_sums) == expected


def test_a_loss_of_ones_own_is_computed_by_its_formula(switched_on):
    """A subclass of a known loss may compute anything."""

    class Own(type(loss_named("softmax"))):
        pass

    x = np.zeros((8, 3))
    network = Network((3, 2))
    chosen = select(Request(x=x, dtype=x.dtype, network=network, loss=Own(), n_rows=8))
    assert chosen.operations.row_sums is FORMULAS.row_sums


def test_sums_go_through_the_operations_of_the_network():
    """`RowSums` and `ProximalSums` call what the network holds."""
    seen = []
    operations = dataclasses.replace(
        FORMULAS,
        row_sums=lambda *args: seen.append(args) or "row sums",
        proximal_sums=lambda *args: seen.append(args) or "proximal sums",
    )
    network = Network((3, 2), operations=operations)
    rows = RowSums(network, loss_named("softmax"), [])
    proximal = ProximalSums(network, [], 1.0, 1.0, None)
    assert rows("chunk") == "row sums"
    assert proximal("chunk", slice(2)) == "proximal sums"
    assert seen == [(rows, "chunk"), (proximal, "chunk", slice(2))]
