"""Candidates, parts of the rows and tasks as heads: searches, and the fits of a probe."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend, why_missing
from estimator_cases import blobs, one_torch_thread  # noqa: F401
from pairwise import pairwise
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.model_selection import GridSearchCV

from xclf import SoftmaxClassifier, SVMClassifier, SweepCV
from xclf.estimators import fit_candidates, join_tasks, stacked_scores

N = 60
X, FIRST = blobs(N, 5, 3)
RNG = np.random.default_rng(3)
NAMES = np.array(["ash", "birch", "cedar"])
# Two tasks of three classes, which train in one pass, and one of two.
NUMBERS = np.stack([FIRST, np.where(RNG.uniform(size=N) < 0.3, 0, FIRST), FIRST % 2], axis=1)
MIXED = np.stack([NAMES[FIRST].astype(object), FIRST], axis=1)
BITS = (FIRST[:, None] == np.arange(3)).astype(int)
WEIGHTS = RNG.uniform(0.2, 2.0, size=N)


@pairwise(
    y=[NUMBERS, np.stack([NAMES[FIRST], NAMES[FIRST[::-1]]], axis=1), BITS],
    cls=[SoftmaxClassifier, SVMClassifier],
    solver=["lbfgs", "momentum"],
)
def test_a_search_is_scikit_learns(y, cls, solver):
    model = cls(solver=solver, random_state=0, class_weight="balanced")
    if solver != "lbfgs":
        model.set_params(max_iter=3, batch_size=16)
    grid = {"reg": [1e-1, 1e-3]}
    got = SweepCV(model, grid, cv=3).fit(X, y)
    want = GridSearchCV(model, grid, cv=3).fit(X, y)
    np.testing.assert_array_equal(
        got.cv_results_["mean_test_score"], want.cv_results_["mean_test_score"]
    )
    np.testing.assert_array_equal(got.predict(X), want.predict(X))
    assert got.best_params_ == want.best_params_


@pytest.mark.parametrize("scoring", ["f1_macro", "roc_auc", "average_precision"])
def test_scorers_of_indicators(scoring):
    x, y = make_multilabel_classification(n_samples=60, n_features=6, n_classes=3, random_state=0)
    model, grid = SoftmaxClassifier(standardize=True), {"reg": [1e-1, 1e-2]}
    got = SweepCV(model, grid, cv=3, scoring=scoring).fit(x, y)
    want = GridSearchCV(model, grid, cv=3, scoring=scoring).fit(x, y)
    # Ranks and decisions of models that agree to a millionth of their objectives.
    np.testing.assert_allclose(
        got.cv_results_["mean_test_score"], want.cv_results_["mean_test_score"], atol=1e-2
    )


def test_a_search_of_mixed_columns_names_the_way():
    with pytest.raises(ValueError, match=r"columns of strings beside .* y.astype\(str\)"):
        SweepCV(SoftmaxClassifier(), {"reg": [1e-2]}, cv=3).fit(X, MIXED)


@pairwise(
    where=[Backend.NUMPY, Backend.TORCH, Backend.STRICT],
    solver=["lbfgs", "momentum"],
    y=[NUMBERS, FIRST],
)
def test_candidates_and_parts_are_single_fits(where, solver, y):
    if why_missing(where):
        pytest.skip(why_missing(where))
    options = {"max_iter": 3, "batch_size": 8} if solver == "momentum" else {}
    model = SoftmaxClassifier(solver=solver, random_state=0, class_weight="balanced", **options)
    candidates = [{"reg": 1e-1}, {"reg": 1e-3, "class_weight": None}]
    draws = [np.concatenate([np.flatnonzero(k == FIRST)[:n] for k in range(3)]) for n in (3, 9)]
    x = where.asarray(X)
    models = fit_candidates(model, x, y, candidates, parts=draws, sample_weight=WEIGHTS)
    for rows, of_part in zip(draws, models, strict=True):
        for changes, got in zip(candidates, of_part, strict=True):
            want = clone(model).set_params(**changes)
            want.fit(where.asarray(X[rows]), y[rows], WEIGHTS[rows])
            np.testing.assert_allclose(got.objective_, want.objective_, rtol=1e-6)
            np.testing.assert_array_equal(
                where.to_host(got.predict(x)), where.to_host(want.predict(x))
            )
    assert not hasattr(model, "classes_")


def test_every_task_may_have_a_candidate_of_its_own():
    model, candidates = SoftmaxClassifier(), [{"reg": reg} for reg in (1e-1, 1e-3)]
    (models,) = fit_candidates(model, X, NUMBERS, candidates)
    chosen = [1, 0, 1]
    own = [models[c].estimators_[k] for k, c in enumerate(chosen)]
    join_tasks(model, own)
    for k, c in enumerate(chosen):
        np.testing.assert_array_equal(model.predict(X)[:, k], models[c].predict(X)[:, k])
    scores = stacked_scores(own[:2], X)
    np.testing.assert_array_equal(scores[:, 1, :].argmax(axis=1), model.predict(X)[:, 1])


def test_candidates_share_their_rows():
    with pytest.raises(ValueError, match="cannot set device"):
        fit_candidates(SoftmaxClassifier(), X, FIRST, [{"device": "cpu"}])
    with pytest.raises(ValueError, match="y, of a part of the rows, must hold at least two"):
        fit_candidates(SoftmaxClassifier(), X, FIRST, [{}], parts=[np.flatnonzero(FIRST == 1)])
