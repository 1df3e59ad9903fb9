"""Searches over labels of several columns: scikit-learn's, and a candidate for each task."""

from __future__ import annotations

import numpy as np
import pytest
from estimator_cases import blobs
from pairwise import mostly_long
from sklearn.datasets import make_multilabel_classification
from sklearn.model_selection import GridSearchCV

from xclf import SoftmaxClassifier, SVMClassifier, SweepCV
from xclf.estimators import join_tasks, stacked_scores

N = 60
X, FIRST = blobs(N, 5, 3)
RNG = np.random.default_rng(3)
NAMES = np.array(["ash", "birch", "cedar"])
# Two tasks of three classes, which train in one pass, and one of two.
NUMBERS = np.stack([FIRST, np.where(RNG.uniform(size=N) < 0.3, 0, FIRST), FIRST % 2], axis=1)
MIXED = np.stack([NAMES[FIRST].astype(object), FIRST], axis=1)
BITS = (FIRST[:, None] == np.arange(3)).astype(int)


@mostly_long(
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


def test_every_task_may_have_a_candidate_of_its_own():
    model, values = SoftmaxClassifier(reg=1.0), (1e-1, 1e-3)
    models = [SoftmaxClassifier(reg=reg).fit(X, NUMBERS) for reg in values]
    chosen = [1, 0, 1]
    own = [models[c].estimators_[k] for k, c in enumerate(chosen)]
    join_tasks(model, own)
    for k, c in enumerate(chosen):
        np.testing.assert_array_equal(model.predict(X)[:, k], models[c].predict(X)[:, k])
    scores = stacked_scores(own[:2], X)
    np.testing.assert_array_equal(scores[:, 1, :].argmax(axis=1), model.predict(X)[:, 1])
