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
    search = _interrupted(MOMENTUM, GRID, 1)  # of three folds none but the first has a model
    assert not hasattr(search, "cv_results_")
    assert not hasattr(search, "best_estimator_")


def test_ctrl_c_during_the_refit():
    whole = _search(MOMENTUM, GRID).fit(X, Y)
    search = _interrupted(MOMENTUM, GRID, 3 * 4 + 2)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], whole.cv_results_["mean_test_score"]
    )
    assert search.best_params_ == whole.best_params_
    assert search.best_estimator_.n_iter_ == 2 < whole.best_estimator_.n_iter_


@pytest.mark.parametrize("number", [6, 20, 30])
def test_ctrl_c_with_several_tasks(number, tmp_path):
    """A fit has ended once all its tasks have: here tasks of 3 and 2 classes, in turn."""
    tasks = np.stack([Y, Y % 2], axis=1)
    options = {"cv": KFold(3)}
    whole = _search(MOMENTUM, GRID, **options).fit(X, tasks)
    kept = RaiseAt(number), Checkpoint(tmp_path / "c", every=0)
    search = _search(MOMENTUM, GRID, *kept, **options)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, tasks)
    # 3 folds of 4 epochs for one task, and again for the other; then the refit.
    assert hasattr(search, "best_estimator_") is (number > 20)
    if number > 20:
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
