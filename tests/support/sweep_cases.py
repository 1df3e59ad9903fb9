"""What the tests of sweeps share: small searches, and the comparison with scikit-learn's own."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from estimator_cases import blobs
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from xclf import SoftmaxClassifier, SVMClassifier, SweepCV, TwoLayerClassifier

X, Y = blobs(90, 5, 3)
NAMES = np.array(["ash", "birch", "cedar"])[Y]

SOFTMAX = SoftmaxClassifier()
SVM = SVMClassifier(reg=1e-1)
MOMENTUM = SoftmaxClassifier(solver="momentum", batch_size=16, max_iter=4, random_state=0)
NET = TwoLayerClassifier(hidden=6, batch_size=16, max_iter=4, random_state=0, learning_rate=0.02)


def both(estimator: Any, grid: Any, x: Any = X, y: Any = Y, fit: Any = None, **options: Any) -> Any:
    """(SweepCV, GridSearchCV) of the same search, fitted."""
    options = {"cv": 3} | options
    found = []
    for kind in (SweepCV, GridSearchCV):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(kind(clone(estimator), grid, **options).fit(x, y, **(fit or {})))
    return found


def assert_same_search(sweep: Any, grid: Any, score_error: float = 0.0) -> None:
    """The same attributes and table; scores within `score_error`, times left out."""
    assert {name for name in vars(grid) if name.endswith("_") and name[0] != "_"} == {
        name for name in vars(sweep) if name.endswith("_") and name[0] != "_"
    }
    got, want = sweep.cv_results_, grid.cv_results_
    assert list(got) == list(want)
    assert got["params"] == want["params"]
    for key in want:
        if key.startswith("param_"):
            assert isinstance(got[key], np.ma.MaskedArray)
            assert got[key].dtype == want[key].dtype
            np.testing.assert_array_equal(got[key].mask, want[key].mask)
            assert got[key].tolist() == want[key].tolist()
        elif key.startswith("rank_") and score_error:
            continue  # ties may break
        elif ("_score" in key and "time" not in key) or key.startswith(("split", "mean_test")):
            np.testing.assert_allclose(got[key], want[key], rtol=0, atol=score_error, err_msg=key)
        elif key.endswith("_time"):
            assert got[key].shape == want[key].shape
            assert (got[key] >= 0.0).all()
    assert sweep.n_splits_ == grid.n_splits_
    assert sweep.multimetric_ == grid.multimetric_
    if hasattr(grid, "best_index_"):
        assert type(sweep.best_index_) is type(grid.best_index_)
        assert sweep.best_params_ == got["params"][sweep.best_index_]
        if not (score_error and tied(grid, sweep.best_index_, 2.0 * score_error)):
            assert sweep.best_index_ == grid.best_index_


def tied(grid: Any, index: int, error: float) -> bool:
    """Whether GridSearchCV's own scores leave it open if candidate `index` or its winner is best.

    Candidates that are the same fit, such as class weights None and "balanced" where the classes
    are balanced, differ in their last bits, and in which way is for the BLAS of the machine.
    """
    if callable(grid.refit):
        return False
    name = grid.refit if isinstance(grid.refit, str) else "score"
    means = grid.cv_results_[f"mean_test_{name}"]
    return bool(abs(means[index] - means[grid.best_index_]) <= error)
