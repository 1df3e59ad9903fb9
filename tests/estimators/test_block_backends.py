"""Collections whose blocks are arrays of another library: as CuPy's on a cluster of GPUs."""

from __future__ import annotations

import dask_cases
import numpy as np
import pytest
from dask_cases import within_gaps
from estimator_cases import blobs
from sklearn.base import clone

from xclf import SoftmaxClassifier, SVMClassifier, SweepCV, TwoLayerClassifier, _array_api

dask_cases.need("dask.array")
import dask.array as da  # noqa: E402

N, D, C = 240, 5, 3
X, Y = blobs(N, D, C)
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2.0, N)


@pytest.fixture(autouse=True)
def in_blocks(monkeypatch, every_problem_is_large):
    dask_cases.small_groups(monkeypatch)
    monkeypatch.setattr("xclf.estimators._fitting.GATHERED", 0)


def lazy(backend, x=X):
    """Blocks of the backend. Dask itself knows no meta of most of these libraries."""
    parts = da.from_array(x, chunks=(70, D))
    return parts.map_blocks(backend.asarray, dtype=x.dtype, meta=x[:0])


@pytest.mark.parametrize(
    "model",
    [
        SoftmaxClassifier(reg=1e-1, class_weight="balanced"),
        SoftmaxClassifier(reg=1e-1, standardize=True),
        SVMClassifier(reg=1e-1, tol=1e-2),
    ],
    ids=["softmax", "standardized", "hinge"],
)
def test_a_fit_is_that_of_rows_in_memory(backend, model):
    """Parameters are on the host; predictions are lazy arrays of the library of the blocks."""
    array = lazy(backend)
    there = clone(model).fit(array, Y, WEIGHTS)
    within_gaps(there, clone(model).fit(X, Y, WEIGHTS))
    assert isinstance(there.coef_, np.ndarray)
    for method in ("predict", "decision_function"):
        own, want = (
            getattr(there, method)(array).blocks[0].compute(),
            getattr(there, method)(X[:70]),
        )
        assert _array_api.same_device(own, backend.asarray(X[:1]))
        # Sums of five products in float64, of size 10 at most.
        np.testing.assert_allclose(backend.to_host(own), want, rtol=0, atol=1e-13)


@pytest.mark.filterwarnings("ignore:.*max_iter")
def test_searches_nets_and_minibatches(backend):
    array, net = lazy(backend), TwoLayerClassifier(hidden=4, random_state=0, tol=0.0)
    search = SweepCV(SoftmaxClassifier(), {"reg": [1e-2, 1.0]}, cv=3)
    there, here = clone(search).fit(array, Y), clone(search).fit(X, Y)
    scores = [own.cv_results_["mean_test_score"] for own in (there, here)]
    np.testing.assert_array_equal(*scores)
    full = net.set_params(solver="lbfgs", max_iter=3)
    assert clone(full).fit(array, Y).objective_ == pytest.approx(clone(full).fit(X, Y).objective_)
    few = net.set_params(solver="adam", max_iter=2, batch_size=32)
    blocks = da.from_array(X, chunks=(70, D))
    got, want = clone(few).fit(array, Y), clone(few).fit(blocks, Y)
    assert got.objective_ == pytest.approx(want.objective_, rel=1e-6)


def test_values_that_are_not_finite_are_named(backend):
    x = X.copy()
    x[200, 3] = np.nan
    with pytest.raises(ValueError, match="X contains NaN at row 200, column 3"):
        SoftmaxClassifier().fit(lazy(backend, x), Y)
