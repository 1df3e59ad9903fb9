"""Searches whose labels and folds stay on a cluster: those over rows in memory."""

from __future__ import annotations

import re
from pathlib import Path

import dask_cases
import numpy as np
import pytest
from estimator_cases import blobs
from kill_cases import Heard, RaiseAt
from pairwise import named
from rich.console import Console
from sklearn.base import clone
from sklearn.metrics import make_scorer
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, StratifiedKFold, check_cv

import xclf
from xclf import SoftmaxClassifier, SVMClassifier, SweepCV
from xclf.rows._blocks import plain
from xclf.sweep import _search

dask_cases.need("dask.array", "distributed")
import dask.array as da  # noqa: E402

X, Y = blobs(300, 6, 3)
NAMES = np.array(["b", "c", "a"])[Y]
GRID = {"reg": [1e-1, 1.0]}
BALANCED = SoftmaxClassifier(class_weight="balanced")


pytestmark = pytest.mark.usefixtures("in_blocks")


def lazy():
    return da.from_array(X, chunks=(70, 4)), da.from_array(NAMES, chunks=50)


TWO = ["accuracy", "f1_macro"]
CASES = {
    "cv": (BALANCED, 3, None, True),
    "list": (SoftmaxClassifier(standardize=True), KFold(4), TWO, "f1_macro"),
    "dict": (SVMClassifier(tol=1e-2), StratifiedKFold(2), {"right": "accuracy"}, "right"),
}


@named(("model", "cv", "scoring", "refit"), CASES, "dict")
def test_a_search_is_that_over_rows_in_memory(shared, model, cv, scoring, refit, monkeypatch):
    """Optima agree to the solver's tolerance, and no row of this data is that near to a border:
    what is counted is the same, and so are the scores."""
    search = SweepCV(clone(model), GRID, cv=cv, scoring=scoring, refit=refit)
    search.set_params(return_train_score=scoring is not None)
    here = clone(search).fit(X, NAMES)
    score = here.score(X, NAMES)
    monkeypatch.setattr(_search, "computed", None)  # labels cannot come to this process
    there = clone(search).fit(*lazy())
    names = [name for name in here.cv_results_ if "_score" in name and "time" not in name]
    for name in names:
        np.testing.assert_array_equal(there.cv_results_[name], here.cv_results_[name])
    assert there.best_params_ == here.best_params_
    assert there.n_splits_ == here.n_splits_
    np.testing.assert_array_equal(there.classes_, here.classes_)
    assert str(there.scorer_) == str(here.scorer_)
    dask_cases.within_gaps(there.best_estimator_, here.best_estimator_)
    if scoring is None:
        assert there.score(*lazy()) == score


SPLITS = {
    "shuffled": (StratifiedKFold(3, shuffle=True, random_state=0), {}, True),
    "groups": (GroupKFold(3), {"groups": np.arange(300) // 7}, True),
    "listed": (
        [(np.arange(100, 300), np.arange(100)), (np.arange(100), np.arange(100, 300))],
        {},
        1,
    ),
    "some rows": (
        [(np.arange(100, 299), np.arange(100)), (np.arange(100), np.arange(100, 300))],
        {},
        0,
    ),
    "twice": ([(np.arange(100, 300), np.arange(100))] * 2, {}, False),
    "drawn": (ShuffleSplit(3, random_state=0), {}, False),
    "weights": (
        GroupKFold(3),
        {"groups": np.arange(300) // 7, "sample_weight": np.arange(300.0)},
        True,
    ),
}


@named(("cv", "params", "whole"), SPLITS, "shuffled", "some rows", "weights")
def test_splits_that_hold_out_each_row_once_become_folds(shared, cv, params, whole, monkeypatch):
    """Those that are made here; the labels are then those beside the rows."""
    trained = []
    monkeypatch.setattr(SweepCV, "_fit_splits", lambda self, ledger, *_: trained.append(ledger))
    SweepCV(SoftmaxClassifier(), GRID, cv=cv).fit(*lazy(), **params)
    (ledger,) = trained
    assert (ledger.beside is not None) == bool(whole)
    want = list(check_cv(cv).split(X, Y, params.get("groups")))
    assert len(ledger.splits) == len(want)
    if whole:
        numbers = np.concatenate(list(ledger.X.engine.collect(plain, None, parts(ledger))))
        for k, (_, test) in enumerate(want):
            np.testing.assert_array_equal(np.flatnonzero(numbers == k), np.sort(test))


def parts(ledger):
    return [(part,) for part in ledger.beside.folds.column.parts]


def test_a_shuffled_search_is_that_over_rows_in_memory(shared):
    search = SweepCV(SoftmaxClassifier(), GRID, cv=SPLITS["shuffled"][0])
    there, here = clone(search).fit(*lazy()), clone(search).fit(X, NAMES)
    scores = [own.cv_results_["mean_test_score"] for own in (there, here)]
    np.testing.assert_array_equal(*scores)


def test_progress_shows_the_best_accuracy(shared, monkeypatch):
    monkeypatch.setattr(_search, "computed", None)
    search = SweepCV(SoftmaxClassifier(tol=1e-2), GRID, cv=2)
    search._console = Console(record=True, width=200)
    search.fit(*lazy())
    assert f"best accuracy {search.best_score_:.4f}" in search._console.export_text()


def shares(truth, guess, sample_weight=None):
    return float(np.mean(truth == guess))


WEIGHTS = np.random.default_rng(1).uniform(0.0, 2.0, 300)
COLUMNS = np.stack([Y == 0, X[:, 0] > 0], axis=1).astype(np.int64)
LONE = np.where(np.arange(300) < 60, "only here", NAMES)
OTHERS = {
    "shuffled": (NAMES, {"cv": KFold(3, shuffle=True, random_state=4)}, None),
    "shuffled, stratified": (NAMES, {"cv": SPLITS["shuffled"][0], "scoring": "f1_macro"}, None),
    "probabilities": (NAMES, {"scoring": ["neg_log_loss", "roc_auc_ovr", "accuracy"]}, None),
    "weights": (NAMES, {"scoring": ["neg_log_loss", "f1_macro"]}, WEIGHTS),
    "weights, accuracy": (NAMES, {}, WEIGHTS),
    "own function": (NAMES, {"scoring": make_scorer(shares)}, None),
    "own scorer": (NAMES, {"scoring": lambda model, x, y: model.score(x, y)}, None),
    "columns": (COLUMNS, {}, None),
    "columns, weights": (COLUMNS, {"scoring": ["accuracy", "f1_macro"]}, WEIGHTS),
    "columns, own": (COLUMNS, {"scoring": lambda model, x, y: model.score(x, y)}, None),
    "lone class": (LONE, {"cv": KFold(5)}, None),
}


@named(("y", "options", "weights"), OTHERS, "shuffled", "columns, weights", "lone class")
def test_all_searches_of_splitters_of_one_seed(shared, y, options, weights, monkeypatch):
    """Counts are the same; probabilities of two optima within the tolerance differ by less than
    1e-6."""
    search = SweepCV(clone(BALANCED), GRID, cv=3, refit=False, return_train_score=True)
    search.set_params(**options)
    here = clone(search).fit(X, y, sample_weight=weights)
    monkeypatch.setattr(_search, "computed", None)  # labels cannot come to this process
    by = None if weights is None else da.from_array(weights, chunks=70)
    lazy_y = da.from_array(y, chunks=(50, *y.shape[1:]))
    there = clone(search).fit(lazy()[0], lazy_y, sample_weight=by)
    names = [name for name in here.cv_results_ if "_score" in name and "time" not in name]
    for name in names:
        np.testing.assert_allclose(there.cv_results_[name], here.cv_results_[name], rtol=1e-6)


@pytest.mark.long
def test_labels_of_arrays_and_minibatches(shared):
    """The former go to their rows; of the latter a fold is what a fit to its rows is."""
    x, y = lazy()
    one = SweepCV(SoftmaxClassifier(), GRID, cv=3).fit(x, NAMES)
    other = SweepCV(SoftmaxClassifier(), GRID, cv=3).fit(x, y)
    np.testing.assert_array_equal(
        one.cv_results_["mean_test_score"], other.cv_results_["mean_test_score"]
    )
    model = SoftmaxClassifier(solver="adam", max_iter=12, learning_rate=0.1, random_state=0)
    search = SweepCV(model, {"reg": [1e-3, 1.0]}, cv=3).fit(x, y)
    assert search.best_params_ == {"reg": 1e-3}
    assert search.best_score_ > 0.9


@pytest.mark.filterwarnings("ignore")
def test_ctrl_c_before_the_last_fold(shared):
    """Folds follow each other, as each has a mean and scale: what counts is what counts in
    memory, and so is the note."""
    model, rows = SoftmaxClassifier(standardize=True), {"there": lazy(), "here": (X, NAMES)}
    found = {}
    for name, own in rows.items():
        heard = Heard()
        whole = SweepCV(clone(model).set_params(callbacks=[heard]), GRID, cv=3).fit(*own)
        starts = [k for k, step in enumerate(heard.steps) if step == 1]
        stop = starts[1] + 2 if name == "there" else int(0.45 * len(heard.steps))
        search = SweepCV(clone(model).set_params(callbacks=[RaiseAt(stop)]), GRID, cv=3)
        with pytest.raises(KeyboardInterrupt) as caught:
            search.fit(*own)
        scores = [search.cv_results_[f"split{k}_test_score"] for k in range(3)]
        np.testing.assert_array_equal(scores[0], whole.cv_results_["split0_test_score"])
        assert search.best_score_ == max(scores[0])
        assert search.predict(own[0]).shape == NAMES.shape
        found[name] = *scores, search.best_params_, search.n_splits_, caught.value.__notes__
    assert "over 1 of 3 folds" in found["there"][-1][0]
    for there, here in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(there, here)


def test_ctrl_c_before_a_fit_has_ended(shared):
    """All fits are under way together: they count with their best parameters so far."""
    search = SweepCV(SoftmaxClassifier(callbacks=[RaiseAt(4)]), GRID, cv=3)
    with pytest.raises(KeyboardInterrupt):
        search.fit(*lazy())
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.n_iter_ == 4
    assert search.predict(lazy()[0]).shape == NAMES.shape


@pytest.mark.parametrize(
    "options",
    [
        {"cv": KFold(3, shuffle=True)},
        {"cv": [(np.arange(100), np.arange(100, 300))]},
        {"cv": 101},
    ],
    ids=["shuffled without a seed", "listed", "rare"],
)
def test_some_splitters_take_labels_to_this_process(shared, options, monkeypatch):
    search = SweepCV(SoftmaxClassifier(), GRID).set_params(**options)

    def stop(y):
        raise InterruptedError

    monkeypatch.setattr(_search, "computed", stop)
    with pytest.raises(InterruptedError):
        search.fit(*lazy())


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*max_iter")
def test_the_memory_of_this_process_does_not_grow_with_the_rows(shared, monkeypatch):
    """A number of each would be 8 bytes a row, and this is a third of it, as for fits."""
    monkeypatch.setattr("xclf.rows._block_rows.GATHERED", 1 << 14)
    model = clone(BALANCED).set_params(max_iter=1, tol=1.0)
    search = SweepCV(model, {"reg": [1.0]}, cv=2, scoring="f1_macro")

    def fit(x, y, weights):
        monkeypatch.setattr("xclf.rows._blocks._GROUP", x.nbytes // 4)
        clone(search).fit(x, y[:, 0])

    page = (Path(xclf.__file__).parent / "guide" / "cluster.md").read_text(encoding="utf-8")
    (said,) = map(int, re.findall(r"made here, at up to (\d+)\s+bytes a row", page))
    monkeypatch.setattr("xclf.rows._block_shares.GATHERED", 0)
    for seed, most in ((None, said), (0, 0)):
        search.set_params(cv=StratifiedKFold(5, shuffle=True, random_state=seed))
        assert dask_cases.bytes_per_row(fit, (20_000, 40_000, 140_000)) < most + 2.5
    search.set_params(cv=2)
    assert dask_cases.bytes_per_row(fit, (20_000, 40_000, 240_000)) < 2.5
