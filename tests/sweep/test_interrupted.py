"""Searches that are stopped: what Ctrl-C leaves, and going on from a checkpoint after a kill."""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np
import pytest
from kill_cases import FEW, Heard, KillAt, RaiseAt, bits, child, ended
from sklearn.base import clone
from sklearn.metrics import make_scorer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sweep_cases import MOMENTUM, NET, SOFTMAX, SVM, X, Y

from xclf import Checkpoint, CheckpointError, SoftmaxClassifier, SweepCV
from xclf.sweep import comparable

GRID = {"reg": [1e-4, 1e-2, 1.0]}
PIPE = make_pipeline(StandardScaler(), MOMENTUM)
PIPE_GRID = {"softmaxclassifier__reg": [1e-4, 1e-2]}


def _search(estimator, grid, *callbacks, **options):
    name = "softmaxclassifier__callbacks" if hasattr(estimator, "steps") else "callbacks"
    options = {"cv": StratifiedKFold(3)} | options
    return SweepCV(_with(estimator, **{name: list(callbacks) or None}), grid, **options)


def _with(estimator, **parameters):
    return clone(estimator).set_params(**parameters)


def _all(search):
    model = search.best_estimator_
    return (
        bits(model.steps[-1][1] if hasattr(model, "steps") else model),
        search.cv_results_["mean_test_score"].tolist(),
        search.best_params_,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator, grid, rows",
    [
        (SOFTMAX, GRID, (X, Y)),
        (SoftmaxClassifier(standardize=True), GRID, (X, Y)),
        (SVM, GRID, (X, Y)),
        (MOMENTUM, GRID, (X, Y)),
        (NET, {"reg": [1e-3, 1e-2], "hidden": [4, 6]}, (X, Y)),
        (PIPE, PIPE_GRID, (X, Y)),
    ],
    ids=["softmax", "standardized", "hinge", "momentum", "net", "pipeline"],
)
def test_a_killed_search_ends_where_it_would_have_ended(estimator, grid, rows, tmp_path):
    heard = Heard()
    whole = _search(estimator, grid, heard).fit(*rows)
    events = len(heard.steps)
    assert events > 8
    path = tmp_path / "c"
    for number in (2, events // 3, events // 3):
        kept = KillAt(number), Checkpoint(path, every=0)
        search = _search(estimator, grid, *kept)
        assert not ended(child(lambda search=search: search.fit(*rows)))
    heard.steps.clear()
    again = _search(estimator, grid, heard, Checkpoint(path)).fit(*rows)
    assert _all(again) == _all(whole)
    assert len(heard.steps) < events
    heard.steps.clear()
    assert _all(_search(estimator, grid, heard, Checkpoint(path)).fit(*rows)) == _all(whole)
    assert heard.steps == []


def test_kills_at_any_moment(tmp_path):
    """Also while a file is written."""
    whole = _search(SOFTMAX, GRID).fit(*FEW)
    r, path = random.Random(0), tmp_path / "c"
    kills = 0
    for _ in range(8):
        search = _search(SOFTMAX, GRID, Checkpoint(path, every=0))
        process = child(lambda search=search: search.fit(*FEW))
        time.sleep(r.uniform(0.0, 0.3))
        os.kill(process, signal.SIGKILL)
        kills += not ended(process)
    assert kills
    again = _search(SOFTMAX, GRID, Checkpoint(path, every=0)).fit(*FEW)
    assert _all(again) == _all(whole)
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    "change, says",
    [
        ({"grid": {"reg": [1e-4, 1e-2]}}, "grid differs|grid was"),
        ({"cv": StratifiedKFold(4)}, "folds differs"),
        ({"scoring": "f1_macro"}, "scoring was 'None', is \"'f1_macro'\""),
        ({"estimator": SoftmaxClassifier(tol=1e-3)}, "tol was None, is 0.001"),
        ({"x": X + 1.0}, "X differs"),
        ({"y": Y[::-1]}, "folds differs|y differs"),
    ],
)
def test_another_search_is_refused(change, says, tmp_path):
    path = tmp_path / "c"
    _search(SOFTMAX, GRID, Checkpoint(path)).fit(X, Y)
    x, y = change.pop("x", X), change.pop("y", Y)
    estimator, grid = change.pop("estimator", SOFTMAX), change.pop("grid", GRID)
    search = _search(estimator, grid, Checkpoint(path), **change)
    with pytest.raises(CheckpointError, match=says):
        search.fit(x, y)
    assert not hasattr(search, "cv_results_")


class StopsAtOnce(StandardScaler):
    """Ctrl-C before anything is trained."""

    def fit(self, X, y=None, sample_weight=None):
        raise KeyboardInterrupt


class StopAt(Heard):
    """A callback that stops every pass at its second event."""

    def __call__(self, event):
        super().__call__(event)
        return event.step == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", [SOFTMAX, MOMENTUM], ids=["softmax", "momentum"])
def test_a_pass_that_a_callback_stops_has_ended(estimator, tmp_path):
    grid = {"reg": [1e-4, 1e-2], "fit_intercept": [True, False]}
    stop = StopAt()
    whole = _search(estimator, grid, stop).fit(X, Y)
    events = len(stop.steps)
    for number in (4, events - 4):
        kept = StopAt(), RaiseAt(number), Checkpoint(tmp_path / "c", every=0)
        with pytest.raises(KeyboardInterrupt):
            _search(estimator, grid, *kept).fit(X, Y)
    stop = StopAt()
    again = _search(estimator, grid, stop, Checkpoint(tmp_path / "c")).fit(X, Y)
    assert _all(again) == _all(whole)
    assert len(stop.steps) < events


def _interrupted(estimator, grid, number, **options):
    search = _search(estimator, grid, RaiseAt(number), **options)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    return search


def test_ctrl_c_keeps_the_candidates_that_have_ended():
    """Fold by fold and batch size by batch size: 3 fits of 4 epochs for each pair of candidates."""
    grid = {"reg": [1e-3, 1e-1], "batch_size": [8, 16]}
    whole = _search(MOMENTUM, grid).fit(X, Y)
    search = _interrupted(MOMENTUM, grid, 12 + 5)
    scores = search.cv_results_["mean_test_score"]
    ended_ = [params["batch_size"] == 8 for params in search.cv_results_["params"]]
    np.testing.assert_array_equal(np.isfinite(scores), ended_)
    np.testing.assert_array_equal(scores[ended_], whole.cv_results_["mean_test_score"][ended_])
    best = int(np.nanargmax(scores))
    assert (search.best_index_, search.best_score_) == (best, scores[best])
    assert search.best_params_ == search.cv_results_["params"][best]
    model = search.best_estimator_
    assert {name: getattr(model, name) for name in grid} == search.best_params_
    train, _ = next(iter(StratifiedKFold(3).split(X, Y)))
    single = _with(model, callbacks=None).fit(X[train], Y[train])
    np.testing.assert_allclose(model.coef_, single.coef_, rtol=1e-10)
    assert search.score(X, Y) > 0.5
    assert search.predict(X[:5]).shape == (5,)


def test_ctrl_c_before_a_candidate_has_ended():
    """Those under way count then, with their best parameters so far."""
    search = _interrupted(SOFTMAX, GRID, 4)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert not search.best_estimator_.converged_
    assert search.best_estimator_.n_iter_ == 4


def test_ctrl_c_before_there_is_anything():
    steps = make_pipeline(StopsAtOnce(), MOMENTUM)
    search = _search(steps, {"softmaxclassifier__reg": [1e-4, 1e-2]})
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    assert not hasattr(search, "cv_results_")
    assert not hasattr(search, "best_estimator_")


@pytest.mark.parametrize("standardize, number", [(False, 1), (False, 6), (True, 9), (True, 30)])
def test_ctrl_c_before_the_last_fold(standardize, number):
    """Folds follow each other here: candidates are compared over those that are done."""
    grid, model = GRID, MOMENTUM
    if standardize:  # along a path
        model, grid = SoftmaxClassifier(standardize=True), {"reg": np.geomspace(1e-3, 1.0, 6)}
    heard = Heard()
    whole = _search(model, grid, heard).fit(X, Y)
    assert number < len(heard.steps) / 2
    search = _search(model, grid, RaiseAt(number))
    with pytest.raises(KeyboardInterrupt) as caught:
        search.fit(X, Y)
    folds = [search.cv_results_[f"split{k}_test_score"] for k in range(3)]
    counts = ~np.isnan(folds)
    kept = counts.any(axis=1).sum()
    assert 1 <= kept < 3
    assert f"over {kept} of 3 folds" in caught.value.__notes__[0]
    assert list(search.cv_results_) == list(whole.cv_results_)
    assert search.n_splits_ == 3
    # The same folds for every candidate, and the mean over these.
    assert (counts[:kept] == counts[0]).all()
    assert not counts[kept:].any()
    scores = search.cv_results_["mean_test_score"]
    np.testing.assert_allclose(scores, np.mean(folds[:kept], axis=0))
    assert search.best_score_ == np.nanmax(scores)
    if number in (6, 30):  # a fold has ended, and counts alone
        np.testing.assert_array_equal(folds[0], whole.cv_results_["split0_test_score"])
    assert search.predict(X).shape == Y.shape


def test_fits_that_count():
    """A candidate a line, a fold a column."""
    nothing = np.zeros((3, 2), dtype=bool)
    first = np.asarray([[1, 0], [1, 0], [1, 0]], dtype=bool)
    one = np.asarray([[1, 1], [1, 0], [0, 0]], dtype=bool)
    second = np.asarray([[0, 1], [1, 1], [1, 1]], dtype=bool)
    for final, trained, want in (
        (nothing, nothing, nothing),
        (first, ~nothing, first),
        (nothing, first, first),
        (one, ~nothing, [[1, 1], [0, 0], [0, 0]]),
        (one & first, ~nothing, one & first),
        (second & ~first, ~nothing, ~first),
    ):
        np.testing.assert_array_equal(comparable(final, trained), want)


def test_ctrl_c_during_the_refit():
    whole = _search(MOMENTUM, GRID).fit(X, Y)
    search = _interrupted(MOMENTUM, GRID, 3 * 4 + 2)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], whole.cv_results_["mean_test_score"]
    )
    assert search.best_params_ == whole.best_params_
    assert search.best_estimator_.n_iter_ == 2 < whole.best_estimator_.n_iter_


@pytest.mark.parametrize("number", [2, 6, 30])
def test_ctrl_c_with_several_tasks(number, tmp_path):
    """A fit has ended once all its tasks have: here tasks of 3 and 2 classes, in turn."""
    tasks = np.stack([Y, Y % 2], axis=1)
    options = {"cv": KFold(3)}
    whole = _search(MOMENTUM, GRID, **options).fit(X, tasks)
    kept = RaiseAt(number), Checkpoint(tmp_path / "c", every=0)
    search = _search(MOMENTUM, GRID, *kept, **options)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, tasks)
    # 4 epochs for each task, fold by fold; then the refit.
    assert hasattr(search, "best_estimator_") is (number > 4)
    if number > 4:
        assert search.predict(X).shape == tasks.shape
    again = _search(MOMENTUM, GRID, Checkpoint(tmp_path / "c"), **options).fit(X, tasks)
    for one, other in zip(
        again.best_estimator_.estimators_, whole.best_estimator_.estimators_, strict=True
    ):
        assert bits(one) == bits(other)


@pytest.mark.parametrize("refit", [False, "accuracy"])
def test_ctrl_c_with_several_scores_and_a_pipeline(refit):
    scoring = {"accuracy": "accuracy", "own": make_scorer(lambda y, p: np.mean(y == p) / 2)}
    search = _search(PIPE, PIPE_GRID, RaiseAt(10), scoring=scoring, refit=refit)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    scores = search.cv_results_["mean_test_accuracy"]
    np.testing.assert_allclose(search.cv_results_["mean_test_own"], scores / 2)
    assert np.isfinite(scores).all()
    assert hasattr(search, "best_estimator_") is bool(refit)
    if refit:
        assert search.predict(X).shape == Y.shape
