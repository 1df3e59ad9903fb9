"""The least memory of a fit, item by item, from the sizes of what is alive at once."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse

from xclf._sparse import SparseMatrix
from xclf.objectives import Network
from xclf.rows import Rows
from xclf.training import FitShape, Problem, memory_budget
from xclf.training.lbfgs_fit import pairs_for

module = sys.modules["xclf.training.memory"]

N, D, C = 1000, 20, 5
P = C * (D + 1)
#: A row of a chunk with its features and six arrays of its scores, of one head.
ROW = D + 6 * C


@pytest.fixture(params=[1, 3])
def workers(request, monkeypatch):
    monkeypatch.setattr(module, "blas_width", lambda: request.param)
    return request.param


def _shape(dtype=np.float32, n=N, widths=(D, C), **options):
    x = np.zeros((n, widths[0]), dtype=dtype)
    return FitShape(Network(widths), x, np.dtype(dtype), **options)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_full_batch(workers, dtype, heads):
    size = np.dtype(dtype).itemsize
    rows = N * (32 + C)  # labels on their way to indices, and as a mask
    vectors = heads * P * (8 * 12 + 2 * 5 * size)  # in float64; five pairs, in the dtype of X
    sums = heads * P * (2 * workers + 1) * (0 if workers == 1 else 8 + size)
    chunks = workers * 64 * size * (D + 6 * heads * C)
    assert _shape(dtype).needed(heads) == rows + vectors + sums + chunks
    # A chunk has no more rows than X.
    few = 10 * (32 + C) + vectors + sums + workers * 10 * size * (D + 6 * heads * C)
    assert _shape(dtype, n=10).needed(heads) == few


def test_masks_of_many_classes_are_indices():
    few, many = (_shape(widths=(D, c)).needed(0) for c in (64, 65))
    chunk = 64 * 4 * D * module.blas_width()
    assert few == N * (32 + 64) + chunk
    assert many == N * (32 + 8) + chunk


def test_weights_multipliers_and_certificates_add_theirs(workers):
    base = _shape().needed(2)
    weighted = _shape(weight_vectors=2).needed(2) - base
    assert weighted == 2 * N * (8 + 4)
    # A number for each class of each row in float32, and in float64 with the weights.
    kept = _shape(multipliers=True, weight_vectors=2).needed(2) - base - weighted
    assert kept == N * 2 * C * 4 + 8 * N * (2 * C + 2)
    wide = _shape(np.float64, multipliers=True).needed(2) - _shape(np.float64).needed(2)
    assert wide == 2 * 8 * N * 2 * C
    certified = _shape(widens=True).needed(1) - _shape().needed(1)
    assert certified == workers * 64 * (3 * 8 * D + 4 * ROW)


def test_moments_need_a_chunk_of_each_worker(workers):
    assert _shape().needed_before() == 0
    chunks = workers * 64 * 4 * (D + 6 * D)
    assert _shape(standardize=True).needed_before() == N * (32 + C) + chunks


@pytest.mark.parametrize(
    ("options", "copied"),
    [
        ({}, 0),  # all rows are watched as they are
        ({"held_out": 0.1}, 1000),  # 100 held out, 900 watched
        ({"drawn": 500}, 500),
        ({"drawn": 500, "held_out": 0.101}, 500),  # 51 held out, 449 watched
    ],
)
def test_minibatches(workers, options, copied):
    assert module.probe_rows(N) == N
    state = P * (8 + 12 * 4)
    rows = N * (32 + C) + copied * (D * 4 + C)
    for batch in (100, 500, 5000):
        # A batch, or a pass: rows widened and centred, six temporaries of scores in float64.
        most = max(min(batch, N) * 4 * ROW, workers * 64 * 8 * (2 * D + 6 * C))
        want = rows + state + most
        assert _shape(batch=batch, **options).needed(1) == want
    centred = _shape(batch=N, standardize=True).needed(1) - _shape(batch=N).needed(1)
    assert centred == N * D * 4


def test_minibatches_of_weighted_rows_watch_copies():
    weighted, plain = (_shape(batch=500, weight_vectors=k).needed(1) for k in (1, 0))
    assert weighted - plain == N * (8 + 4) + N * (D * 4 + C + 4)


def test_rows_of_another_dtype_are_gathered_before_they_are_converted():
    x = np.zeros((N, D), np.uint8)
    raw = FitShape(Network((D, C)), x, np.dtype("float32"), batch=500).needed(1)
    assert raw - _shape(batch=500).needed(1) == 500 * D


def test_heads_within_a_bound():
    shape = _shape()
    shared, each = shape.needed(0), shape.needed(1) - shape.needed(0)
    full = each + (50 - 5) * 2 * P * 4  # fifty pairs instead of the least five
    assert shape.heads_within(0) == 1
    assert shape.heads_within(shared + 7 * full) == 7
    assert shape.heads_within(shared + 7 * full - 1) == 6
    assert shape.heads_within(1 << 50) == (1 << 30) // (50 * 2 * P * 4)
    # Along a path of 5 levels the pairs of one are alive.
    assert shape.heads_within(1 << 50, 5) == 5 * (1 << 30) // (50 * 2 * P * 4)
    assert shape.heads_within(shared + 7 * full, 5) > 7
    drawn = _shape(batch=100)
    each = drawn.needed(1) - drawn.needed(0)
    assert drawn.heads_within(drawn.needed(0) + 7 * each) == 7


def test_the_budget_is_what_is_left():
    shape = _shape()
    needed = shape.needed(2)
    assert memory_budget(shape, needed + 1000 + 70, heads=2, taken=70).size == 1000
    free = 200_000_000 + N * D * 4 // 10
    assert memory_budget(shape, None, heads=2).size == free - needed
    assert memory_budget(shape, None, taken=10**9).size == 16 << 20
    assert memory_budget(shape, needed, heads=2).size == 0
    with pytest.raises(ValueError, match="cannot be kept"):
        memory_budget(shape, needed - 1, heads=2)
    with pytest.raises(ValueError, match="cannot be kept"):
        memory_budget(shape, needed, heads=2, taken=1)


@pytest.mark.parametrize("dtype, most", [("float32", 32), ("float64", 16)])
def test_curvature_pairs_take_a_gigabyte(dtype, most):
    """A pair of 2^22 numbers is 2^25 or 2^26 bytes; few rows add none."""
    rows = Rows(np.zeros((4, 2)), np.zeros(4, int), None, np.dtype(dtype))
    theta = np.broadcast_to(np.float64(0.0), (1, 1 << 22))
    assert pairs_for(Problem(None, rows), theta).size == most
    assert pairs_for(Problem(None, rows), theta[:, : 1 << 10]).size == 50


def test_a_fit_in_scores_has_vectors_of_them():
    """Of N rows' scores and a bias, twice: themselves, and their products with the rows."""
    x = scipy.sparse.random_array((20, 4000), density=0.01, rng=np.random.default_rng(0))
    rows = SparseMatrix(scipy.sparse.csr_array(x))
    shape = FitShape(Network((4000, 3)), rows, np.float64, widens=True)
    assert shape.in_scores
    assert shape._vector == 2 * (20 * 3 + 3)
    assert FitShape(Network((4000, 3)), rows, np.float64)._vector == 3 * 4001


def test_label_sets_are_counted():
    labels = np.zeros((4, 9), int)
    assert module.count_label_sets(labels, np.arange(4)) == 4
    assert module.count_label_sets(labels[0], None) == 1
    assert module.count_label_sets(labels, None) == 1  # a mask


def test_multipliers_are_of_the_classes():
    """A number for each class of each row in float32, and room for the same in float64."""
    shape = {"widths": (D, 7, C)}
    more = _shape(multipliers=True, **shape).needed(2) - _shape(**shape).needed(2)
    assert more == 2 * N * C * (4 + 8)
