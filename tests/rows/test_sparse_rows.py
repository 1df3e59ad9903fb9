"""Sparse rows in the loop over rows: the sums are those of the same rows, dense."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from helpers import gamma

from xclf._sparse import SparseMatrix, by_feature
from xclf.objectives import Network, Objective, loss_named
from xclf.rows import Rows, fingerprint, map_rows, sum_over_rows
from xclf.rows import _sums as sums_module
from xclf.training.problem import Problem, column_moments, covariance

RNG = np.random.default_rng(0)
N, D, C = 90, 17, 3
SPARSE = scipy.sparse.random_array((N, D), density=0.2, rng=RNG, format="csr")
X = SPARSE.toarray()
Y = RNG.integers(C, size=N)
WEIGHTS = RNG.uniform(0.0, 2.0, N)
MASK = np.arange(C)[:, None] == Y


def rows_of(x, weights=None, dtype=np.float64):
    return Rows(x, MASK, weights, np.dtype(dtype))


@pytest.fixture(params=[(1000, 50), (30, 7)], ids=["one block", "blocks of chunks"])
def small(request, monkeypatch):
    """Blocks of rows, and chunks, so small that there are several."""
    block, chunk = request.param
    monkeypatch.setattr(sums_module, "BLOCK", block)
    monkeypatch.setattr("xclf.rows._rows._chunk_rows", lambda *_: chunk)


@pytest.mark.parametrize("copy", [True, False], ids=["by columns", "no copy"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weights"])
@pytest.mark.parametrize("heads", [1, 4])
def test_loss_and_gradient(monkeypatch, small, copy, weights, heads):
    monkeypatch.setattr(sums_module, "keeps_columns", lambda *_: copy)
    theta = RNG.normal(size=(heads, C * (D + 1)))
    found = []
    for x, sparse in ((X, False), (SparseMatrix(SPARSE), True)):
        network = Network((D, C), sparse=sparse)
        problem = Problem(Objective(network, loss_named("softmax"), 1e-2), rows_of(x, weights))
        found.append(problem.value_and_grad(theta))
    # Sums of N terms, each of a score of D products and a few roundings; entries are below 2.
    bound = gamma(N + D + 20, np.float64) * 10.0
    for dense, sparse in zip(*found, strict=True):
        assert sparse.shape == dense.shape
        assert np.max(np.abs(dense - sparse)) <= bound


def test_moments_and_covariance(small):
    rows = rows_of(SparseMatrix(SPARSE), WEIGHTS)
    share = WEIGHTS / WEIGHTS.sum()
    mean = share @ X
    far = X - mean
    found = (*column_moments(rows), covariance(rows, mean))
    for got, wanted in zip(found, (mean, share @ far**2, (far.T * share) @ far), strict=True):
        assert np.max(np.abs(got - wanted)) <= gamma(4 * N, np.float64) * 4.0


def test_a_column_of_one_value_has_no_spread():
    x = np.c_[np.full(N, 1e6), X]
    _, variance = column_moments(rows_of(SparseMatrix(scipy.sparse.csr_array(x))))
    assert variance[0] <= (1e6 * gamma(N, np.float64)) ** 2


def test_float32_adds_up_in_float64():
    """A column of ones times a tenth: one after the other in float32, this is off by 2e-4."""
    tall = scipy.sparse.csr_array(np.ones((40000, 1), dtype=np.float32))
    rows = Rows(SparseMatrix(tall), np.zeros(40000, dtype=int), None, np.dtype("float32"))

    def pull(chunk):
        return (chunk.x.pull(np.full((1, len(chunk.x)), 0.1, dtype=np.float32)),)

    (found,) = sum_over_rows(pull, rows)
    assert abs(found[0, 0] / (40000 * float(np.float32(0.1))) - 1) <= gamma(40000, np.float64)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_bits_from_any_number_of_threads(monkeypatch, threads):
    monkeypatch.setattr("xclf.rows._threads.blas_width", lambda: threads)
    monkeypatch.setattr("xclf.rows._rows._chunk_rows", lambda *_: 7)
    network = Network((D, C), sparse=True)
    problem = Problem(
        Objective(network, loss_named("softmax"), 1e-2), rows_of(SparseMatrix(SPARSE))
    )
    theta = np.random.default_rng(3).normal(size=(2, C * (D + 1)))
    first = test_the_same_bits_from_any_number_of_threads.__dict__.setdefault(
        "first", problem.value_and_grad(theta)
    )
    assert all(map(np.array_equal, first, problem.value_and_grad(theta)))


def test_maps_keep_the_order_of_rows(small):
    x = SparseMatrix(SPARSE)
    w = RNG.normal(size=(2, D))
    found = map_rows(lambda part: part.scores(w).T, x, np.dtype("float64"), 2)
    assert np.max(np.abs(found - X @ w.T)) <= gamma(D, np.float64) * 10.0


def test_rows_are_picked_as_arrays_are():
    x, index = SparseMatrix(SPARSE), np.array([5, 2, 2, 80])
    assert np.array_equal(x[3:9, :].dense(), X[3:9])
    assert np.array_equal(x[::4, :].dense(), X[::4])
    assert np.array_equal(x[9:3, :].dense(), X[9:3])
    assert np.array_equal(x.take(index).dense(), X[index])
    rows = rows_of(x)
    assert np.array_equal(rows.take(index).x.dense(), X[index])
    assert np.array_equal(rows.only(index).x.dense(), X[index])
    assert np.array_equal(rows.every(7).x.dense(), X[::7])
    with pytest.raises(IndexError, match="all their columns"):
        x[:, 2:3]


def test_a_minibatch_is_multiplied_at_once():
    """Gathered rows wait for no others."""
    x, g = SparseMatrix(SPARSE).take(np.arange(0, N, 3)), RNG.normal(size=(2, C, N // 3))
    assert np.max(np.abs(x.pull(g) - g @ X[::3])) <= gamma(N, np.float64) * 50.0


def test_weights_by_feature_are_the_same_weights():
    w = RNG.normal(size=(2, 3, 9001))
    assert np.array_equal(by_feature(w), w)
    assert by_feature(w).reshape(6, 9001).T.flags.c_contiguous
    assert by_feature([1.0]) == [1.0]


def test_fingerprints_tell_entries_and_places_apart():
    other = SPARSE.copy()
    other.indices[0], other.indices[1] = other.indices[1], other.indices[0]
    kinds = [SPARSE, SPARSE * 2.0, other, SPARSE[:, : D - 1]]
    prints = {fingerprint(SparseMatrix(kind.tocsr())) for kind in kinds}
    assert len(prints) == len(kinds)
    assert fingerprint(SparseMatrix(SPARSE.copy())) in prints
