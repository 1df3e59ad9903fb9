"""Searches over the rows of Dask's collections: those over rows in memory."""

from __future__ import annotations

import re
from pathlib import Path

import dask_cases
import numpy as np
import pytest
import scipy.sparse
from estimator_cases import blobs
from sklearn.base import clone
from sklearn.model_selection import KFold, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xclf
from xclf import SoftmaxClassifier, SVMClassifier, SweepCV

dask_cases.need("dask.array")
import dask.array as da  # noqa: E402

N, D, C = 300, 6, 3
X, Y = blobs(N, D, C)
GRID = {"reg": [1e-2, 1.0]}


@pytest.fixture(autouse=True)
def in_blocks(monkeypatch, every_problem_is_large):
    dask_cases.small_groups(monkeypatch)
    # Folds are few rows too: they are to stay in their blocks.
    monkeypatch.setattr("xclf.estimators._fitting.GATHERED", 0)


@pytest.fixture
def lazy():
    return da.from_array(X, chunks=(70, 4))


@pytest.mark.parametrize(
    "model",
    [SoftmaxClassifier(), SoftmaxClassifier(standardize=True), SVMClassifier(tol=1e-4)],
    ids=["softmax", "standardized", "hinge"],
)
def test_a_search_is_that_over_rows_in_memory(lazy, model, specs):
    """Optima agree to the solver's tolerance, and no row of this data is that near to a border."""
    grid = {"reg": [1e-1, 1.0]} if isinstance(model, SVMClassifier) else GRID
    search = SweepCV(clone(model), grid, cv=3, return_train_score=True)
    there = clone(search).fit(lazy, da.from_array(Y, chunks=50))
    count = len(specs)
    here = clone(search).fit(X, Y)
    for name in ("mean_test_score", "mean_train_score"):
        np.testing.assert_array_equal(there.cv_results_[name], here.cv_results_[name])
    assert there.best_params_ == here.best_params_
    dask_cases.within_gaps(there.best_estimator_, here.best_estimator_)
    assert there.score(lazy, Y) == here.score(X, Y)
    np.testing.assert_array_equal(there.predict(lazy).compute(), here.predict(X))
    if not model.standardize:
        assert [spec.heads for spec in specs[:count]] == [3 * len(grid["reg"]), 1]


def test_sparse_blocks():
    """All heads of all folds in each pass over them."""
    x = np.where(np.random.default_rng(2).random(X.shape) < 0.5, X, 0.0)
    lazy = da.from_array(x, chunks=(70, D)).map_blocks(scipy.sparse.csr_array)
    search = SweepCV(SoftmaxClassifier(), GRID, cv=3)
    there, here = clone(search).fit(lazy, Y), clone(search).fit(scipy.sparse.csr_array(x), Y)
    scores = [own.cv_results_["mean_test_score"] for own in (there, here)]
    np.testing.assert_array_equal(*scores)
    np.testing.assert_array_equal(there.predict(lazy).compute(), here.predict(x))


@pytest.mark.parametrize("scoring", ["neg_log_loss", "roc_auc_ovr", lambda m, x, y: m.score(x, y)])
def test_scorers_that_need_more_than_predictions(lazy, scoring):
    """Probabilities of two optima within the tolerance differ by less than 1e-6."""
    search = SweepCV(SoftmaxClassifier(), GRID, cv=KFold(3, shuffle=True, random_state=0))
    search.set_params(scoring=scoring)
    there, here = clone(search).fit(lazy, Y), clone(search).fit(X, Y)
    scores = [own.cv_results_["mean_test_score"] for own in (there, here)]
    np.testing.assert_allclose(*scores, rtol=1e-6)


def test_several_columns_of_labels(lazy):
    y = np.stack([Y, Y % 2], axis=1)
    search = SweepCV(SoftmaxClassifier(), GRID, cv=3)
    there, here = clone(search).fit(lazy, y), clone(search).fit(X, y)
    scores = [own.cv_results_["mean_test_score"] for own in (there, here)]
    np.testing.assert_array_equal(*scores)


def test_first_steps_of_a_pipeline_are_refused(lazy):
    search = SweepCV(
        make_pipeline(StandardScaler(), SoftmaxClassifier()),
        {"softmaxclassifier__reg": [1e-2, 1e-1]},
        cv=2,
        error_score="raise",
    )
    with pytest.raises(TypeError, match="the first steps of a Pipeline take rows in memory"):
        search.fit(lazy, Y)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*max_iter")
def test_the_memory_of_this_process_is_what_the_guide_says(monkeypatch):
    """Two blocks of a quarter of the rows, 32 bytes each, are there at a time."""
    blocks = 16
    page = (Path(xclf.__file__).parent / "guide" / "cluster.md").read_text(encoding="utf-8")
    shared, each = map(
        int, re.findall(r"`SweepCV` of .* \| (\d+), and (\d+) for each fold", page)[0]
    )
    monkeypatch.setattr("xclf.rows._block_rows.GATHERED", 1 << 14)
    monkeypatch.setattr("xclf.rows._blocks._GROUP", 1 << 18)
    model, sizes = SoftmaxClassifier(max_iter=2, tol=1.0), (8_000, 20_000, 80_000)

    def search(x, y, weights):
        SweepCV(clone(model), GRID, cv=ShuffleSplit(3, random_state=0)).fit(x, y[:, 0])

    assert dask_cases.bytes_per_row(search, sizes) < shared + 3 * each + blocks
