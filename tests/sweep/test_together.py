"""What trains together in a sweep, on every backend, and within how much memory."""

from __future__ import annotations

import functools
import threading

import numpy as np
import pytest
import threadpoolctl
from backends import Backend
from estimator_cases import blobs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pairwise import mostly_long
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from sweep_cases import MOMENTUM, NET, SOFTMAX, SVM, X, Y, assert_same_search, both

from xclf import SoftmaxClassifier, SVMClassifier, SweepCV, TwoLayerClassifier, _array_api
from xclf.estimators import Targets, _together, heads_at_once, make_heads, place_rows
from xclf.objectives import LOSSES
from xclf.optim import SOLVERS
from xclf.rows import blas_width, in_threads, own_threads
from xclf.sweep import _scores

REGS = {"reg": [1e-4, 1e-2, 1.0]}
GRID = {"reg": [1e-3, 1e-1], "class_weight": [None, "balanced"]}
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, size=90)
ESTIMATORS = [SOFTMAX, SVM, MOMENTUM, NET]


@functools.cache
def _on_numpy(number, standardize=False, **options):
    """The search that is the same elsewhere."""
    model = clone(ESTIMATORS[number]).set_params(standardize=standardize)
    return SweepCV(model, GRID, **options).fit(X, Y)


@pytest.mark.parametrize(
    "estimator, scoring, where",
    [
        (SOFTMAX, None, "host"),
        (SOFTMAX, "f1_macro", "beside"),
        (SVM, "f1_macro", "beside"),
        (MOMENTUM, None, "host"),
        (NET, "f1_macro", "beside"),
    ],
)
def test_every_backend(backend, estimator, scoring, where):
    """Splitters and scorers get host labels and predictions, wherever X and y are."""
    options = {"scoring": scoring, "cv": 3, "return_train_score": True}
    want = _on_numpy(ESTIMATORS.index(estimator), **options)
    x, y = backend.asarray(X), Y if where == "host" else backend.asarray(Y)
    got = SweepCV(estimator, GRID, **options).fit(x, y)
    assert_same_search(got, want, 1e-12)
    predicted = got.predict(x)
    assert type(predicted) is type(x)
    np.testing.assert_array_equal(backend.to_host(predicted), want.predict(X))
    assert got.score(x, y) == want.score(X, Y)


def _spread(model, x, y):
    """A score that shows any difference of two models."""
    return float(np.abs(_array_api.to_host(model.decision_function(x))).mean())


MINIBATCH = {"solver": "nesterov", "batch_size": 16, "max_iter": 4, "random_state": 0}
PER_HEAD = {"momentum": [0.5, 0.9], "learning_rate": [0.01, 0.002], "reg": [1e-3, 1e-1]}
#: Grids of losses and solvers, and the numbers of heads in their passes over two folds.
LOSS_GRIDS = [
    (SVMClassifier(loss="squared_hinge"), {"margin": [0.5, 2.0], "reg": [1e-2, 1.0]}, [8]),
    (SVMClassifier(), {"loss": ["hinge", "squared_hinge"], "reg": [0.1, 1.0]}, [4, 4]),
    (SVMClassifier(loss="squared_hinge", **MINIBATCH), PER_HEAD | {"margin": [1.0, 2.0]}, [16] * 2),
    (SoftmaxClassifier(**MINIBATCH), PER_HEAD | {"solver": ["momentum", "nesterov"]}, [8] * 4),
    (TwoLayerClassifier(6, **MINIBATCH), PER_HEAD | {"loss": list(LOSSES)}, [8] * 6),
]


LOSS_SEARCH = {"cv": 2, "scoring": _spread, "refit": False}


@functools.cache
def _single_fits(number):
    estimator, grid, _ = LOSS_GRIDS[number]
    search = GridSearchCV(clone(estimator), grid, **LOSS_SEARCH).fit(X, Y)
    return search.cv_results_["mean_test_score"]


@pytest.mark.parametrize("number", range(len(LOSS_GRIDS)))
def test_heads_of_every_loss_and_solver_are_single_fits(backend, specs, number):
    """Parameters of the loss, and of the update rule, are per head; a loss is a pass."""
    estimator, grid, heads = LOSS_GRIDS[number]
    want = _single_fits(number)
    specs.clear()
    got = SweepCV(clone(estimator), grid, **LOSS_SEARCH).fit(backend.asarray(X), Y)
    assert [spec.heads for spec in specs] == heads
    rel = 1e-9 if specs[0].plan else 1e-3
    np.testing.assert_allclose(got.cv_results_["mean_test_score"], want, rtol=rel)


@pytest.mark.parametrize("estimator", [SOFTMAX, MOMENTUM], ids=["full", "minibatch"])
def test_sample_weights_on_every_backend(backend, estimator):
    weights = np.random.default_rng(0).uniform(0.0, 2.0, 90)
    want = SweepCV(estimator, GRID, cv=3).fit(X, Y, sample_weight=weights)
    got = SweepCV(estimator, GRID, cv=3).fit(
        backend.asarray(X), Y, sample_weight=backend.asarray(weights)
    )
    assert_same_search(got, want, 1e-12)


def test_scorers_of_ones_own_get_the_model_and_its_rows(backend):
    seen = []

    def scorer(model, x, y):
        seen.append((type(x), type(y)))
        return model.score(x, y)

    x = backend.asarray(X)
    sweep = SweepCV(SOFTMAX, REGS, cv=3, scoring=scorer).fit(x, Y)
    plain = SweepCV(SOFTMAX, REGS, cv=3).fit(x, Y)
    np.testing.assert_array_equal(
        sweep.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )
    assert set(seen) == {(type(x), np.ndarray)}
    assert sweep.score(x, Y) == plain.score(x, Y)


def test_rows_and_labels_in_two_places():
    strict = pytest.importorskip("array_api_strict")
    y, weights = (strict.asarray(v, device=strict.Device("device1")) for v in (Y, WEIGHTS))
    search = SweepCV(SOFTMAX, REGS, cv=3)
    with pytest.raises(ValueError, match="move y to where X is"):
        search.fit(X, y)
    with pytest.raises(ValueError, match="move sample_weight to where X is"):
        search.fit(X, Y, sample_weight=weights)
    with pytest.raises(ValueError, match="move y to where X is"):
        search.fit(X, Y).score(X, y)


def test_labels_and_weights_in_host_memory_of_another_library(backend):
    torch = pytest.importorskip("torch")
    x = backend.asarray(X)
    got, want = (SweepCV(SOFTMAX, REGS, cv=3) for _ in range(2))
    got.fit(x, torch.asarray(Y), sample_weight=torch.asarray(WEIGHTS))
    want.fit(x, Y, sample_weight=WEIGHTS)
    for key in ("mean_test_score", "std_test_score"):
        np.testing.assert_array_equal(got.cv_results_[key], want.cv_results_[key])
    assert got.score(x, torch.asarray(Y)) == want.score(x, Y)


# --- one pass --------------------------------------------------------------------------------


def passes(specs):
    """(solver, loss, heads) of every fit."""
    return [(spec.solver.name, spec.loss.name, spec.heads) for spec in specs]


FULL = {
    "reg": [1e-3, 1e-1],
    "class_weight": [None, "balanced", {0: 2.0, 1: 1.0, 2: 1.0}],
    "random_state": [0, 1],
}


def test_full_batch_candidates_and_folds_are_one_pass(specs):
    SweepCV(SOFTMAX, FULL, cv=4, refit=False).fit(X, Y)
    assert passes(specs) == [("lbfgs", "softmax", 2 * 3 * 2 * 4)]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # few iterations
def test_hinge_candidates_and_folds_are_one_pass(specs):
    svm = clone(SVM).set_params(max_iter=3)
    SweepCV(svm, FULL | {"margin": [0.5, 1.0]}, cv=3, refit=False).fit(X, Y)
    assert passes(specs) == [("lbfgs", "hinge", 2 * 3 * 2 * 2 * 3)]


def test_minibatch_candidates_are_one_pass_a_fold_and_seed(specs):
    grid = FULL | {"learning_rate": [0.1, 0.01], "momentum": [0.5, 0.9]}
    SweepCV(MOMENTUM, grid, cv=4, refit=False).fit(X, Y)
    assert passes(specs) == [("momentum", "softmax", 2 * 3 * 2 * 2)] * (4 * 2)


def test_other_parameters_make_groups(specs):
    grid = {"hidden": [3, 5], "solver": ["adam", "sgd"], "batch_size": [8, 16], "reg": [0.0, 0.1]}
    SweepCV(NET, grid, cv=2, refit=False).fit(X, Y)
    assert [spec.heads for spec in specs] == [2] * (2 * 2 * 2 * 2)


def test_folds_in_their_own_coordinates_are_groups(specs):
    grid = {"standardize": [True, False], "reg": [1e-3, 1e-1]}
    SweepCV(SOFTMAX, grid, cv=3, refit=False).fit(X, Y)
    assert sorted(spec.heads for spec in specs) == [2, 2, 2, 6]


@pytest.mark.parametrize("estimator", [SOFTMAX, MOMENTUM, NET], ids=repr)
def test_folds_are_standardised_by_their_own_rows(estimator):
    """Not by those that they are judged by, which lie elsewhere here."""
    x = X + 5.0 * np.arange(90)[:, None] // 30
    options = {"cv": KFold(3), "scoring": "neg_log_loss", "refit": False}
    model = clone(estimator).set_params(standardize=True)
    assert_same_search(*both(model, REGS, x, **options), 1e-6)


# --- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_fewer_heads_at_a_time_give_the_same(specs, monkeypatch, estimator):
    want = SweepCV(estimator, GRID, cv=3).fit(X, Y)
    specs.clear()
    monkeypatch.setattr(_together, "heads_at_once", lambda x, head, sets, levels, beside: 2)
    got = SweepCV(estimator, GRID, cv=3).fit(X, Y)
    folds = 3 * 4 // 2
    assert [spec.heads for spec in specs] == [2] * folds + [1]  # and the refit
    assert_same_search(got, want, 1e-12)


@pytest.mark.parametrize("train", [False, True])
def test_fewer_scores_at_a_time_give_the_same(monkeypatch, train):
    options = {"cv": 3, "scoring": "neg_log_loss", "return_train_score": train}
    want = SweepCV(SOFTMAX, GRID, **options).fit(X, Y)
    made = []
    original = _scores.stacked_scores
    monkeypatch.setattr(
        _scores, "stacked_scores", lambda models, x: made.append(len(models)) or original(models, x)
    )
    assert_same_search(SweepCV(SOFTMAX, GRID, **options).fit(X, Y), want, 1e-12)
    assert made == [4] * 3 * (1 + train)
    for budget, together in ((1, [1] * 12), (2 * 8 * 3 * 90 * (1 + 2 * train), [2] * 6)):
        del made[:]
        monkeypatch.setattr(_scores, "BUDGET", budget)
        assert_same_search(SweepCV(SOFTMAX, GRID, **options).fit(X, Y), want, 1e-12)
        assert made == [count for count in together for _ in range(1 + train)]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # few iterations
@pytest.mark.parametrize(
    "estimator",
    [pytest.param(SOFTMAX, marks=pytest.mark.long), SVM, MOMENTUM,
     pytest.param(NET, marks=pytest.mark.long)],
    ids=repr,
)  # fmt: skip
def test_max_memory_bounds_the_heads_of_a_pass(specs, estimator, monkeypatch):
    """Passes get smaller with it, down to one head, whose own bound is the estimator's."""
    # What is needed in any case grows with the cores; the sizes below are those of one.
    monkeypatch.setattr("xclf.training.memory.blas_width", lambda: 1)
    x, y = blobs(400, 60, 3)
    if isinstance(estimator, SVMClassifier):  # many passes, of which none needs more than the first
        estimator = clone(estimator).set_params(tol=1e-2, max_iter=20)
    grid = {"reg": [1e-3, 1e-2, 1e-1], "class_weight": [None, "balanced"]}
    want = SweepCV(estimator, grid, cv=2).fit(x, y)
    most = [max(spec.heads for spec in specs)]
    # Minibatch heads keep a dozen vectors, full-batch ones their curvature too.
    for size in ("280KB", "230KB") if estimator in (MOMENTUM, NET) else ("2MB", "1MB"):
        specs.clear()
        model = clone(estimator).set_params(max_memory=size)
        got = SweepCV(model, grid, cv=2).fit(x, y)
        most.append(max(spec.heads for spec in specs))
        assert got.best_params_ == want.best_params_
        np.testing.assert_allclose(
            got.cv_results_["mean_test_score"], want.cv_results_["mean_test_score"], atol=0.01
        )
    assert most[0] >= most[1] >= most[2]
    assert most[2] < most[0]
    with pytest.raises(ValueError, match=r"(?s)fits failed.*max_memory='1KB' cannot be kept"):
        SweepCV(clone(estimator).set_params(max_memory="1KB"), grid, cv=2).fit(x, y)


def test_the_number_of_heads_follows_from_their_size():
    def heads(estimator, n, d):
        model = clone(estimator)
        model.n_features_in_ = d
        rows = place_rows(model, np.zeros((n, d)))
        targets = Targets([(np.arange(3), np.arange(n) % 3)])
        return heads_at_once(rows, make_heads(model, rows, targets, None)[0])

    # Numbers of a head, by 8 bytes: 100 in curvature pairs, which have 1 GB in all; without them a
    # dozen vectors, and 13 numbers where the hinge has some for every row and class.
    size = 3 * (400 + 1) * 8
    assert heads(SOFTMAX, 10, 400) == (1 << 30) // (100 * size)
    assert 0.9 <= heads(MOMENTUM, 10, 400) * 13 * size / (2 << 30) <= 1.0
    rows = 2 * 100_000 * 3 * 8
    most = (2 << 30) // (112 * size + rows)
    assert most // 2 <= heads(SVM, 100_000, 400) <= most
    assert heads(SVM, 200_000, 400) < heads(SVM, 100_000, 400)
    assert heads(SOFTMAX, 1, 2_000_000) == 1


def test_folds_that_fill_a_product_go_one_after_the_other(specs, monkeypatch):
    """On their own rows, where there is memory for a copy, else with weights."""
    want = SweepCV(SOFTMAX, GRID, cv=3, scoring="neg_log_loss").fit(X, Y)
    monkeypatch.setattr(_together, "_FULL_WIDTH", 12)
    for copied, rows in ((True, 60), (False, 90)):
        name = "xclf.estimators._fitting._worth_a_copy"
        monkeypatch.setattr(name, lambda *_, copied=copied: copied)
        specs.clear()
        got = SweepCV(SOFTMAX, GRID, cv=3, scoring="neg_log_loss").fit(X, Y)
        assert_same_search(got, want, 1e-5)
        assert [(spec.heads, len(spec.rows)) for spec in specs] == [(4, rows)] * 3 + [(1, 90)]


# --- any grid --------------------------------------------------------------------------------

VALUES = {
    "reg": st.sampled_from([1e-3, 1e-2, 0.1, 1.0]),
    "class_weight": st.sampled_from([None, "balanced", {0: 3.0, 1: 1.0, 2: 0.5}]),
    "fit_intercept": st.booleans(),
    "standardize": st.booleans(),
    "random_state": st.integers(0, 2),
    "solver": st.sampled_from(["auto", *(name for name in SOLVERS if name != "lbfgs")]),
    "batch_size": st.sampled_from([None, 7, 30]),
    "learning_rate": st.sampled_from([0.1, 0.02, 0.003]),
    "lr_schedule": st.sampled_from([None, "cosine", "exponential"]),
    "early_stopping": st.booleans(),
    "max_iter": st.sampled_from([3, 5]),
}


@st.composite
def grids(draw):
    """Twelve candidates at most: what two parameters do to each other shows in few."""
    names = draw(st.sets(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3))
    most = {1: 3, 2: 3, 3: 2}[len(names)]
    return {n: draw(st.lists(VALUES[n], min_size=1, max_size=most, unique_by=repr)) for n in names}


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(
    estimator=st.sampled_from([SoftmaxClassifier, SVMClassifier, TwoLayerClassifier]),
    grid=grids(),
    weighted=st.booleans(),
    folds=st.integers(2, 3),
)
@pytest.mark.filterwarnings("ignore")
def test_any_grid(estimator, grid, weighted, folds):
    """Minibatch solvers, on grids drawn at random, against single fits."""
    model = estimator(solver="adam", random_state=1, max_iter=3, learning_rate=0.05)
    if estimator is TwoLayerClassifier:
        model.set_params(hidden=5)
        grid["solver"] = [s for s in grid.get("solver", ["adam"]) if s != "auto"] or ["sgd"]
    elif "auto" in grid.get("solver", []):
        grid["max_iter"], grid["reg"] = [1000], [0.1]
    weights = np.random.default_rng(folds).uniform(0.0, 2.0, 90) if weighted else None
    scoring = "neg_log_loss" if estimator is not SVMClassifier else None
    sweep, plain = both(
        model, grid, cv=folds, scoring=scoring, refit=False, fit={"sample_weight": weights}
    )
    assert_same_search(sweep, plain, 1e-4 if "auto" in grid.get("solver", []) else 1e-9)


# --- elsewhere -------------------------------------------------------------------------------


@mostly_long(estimator=ESTIMATORS, way=["moved", "streamed"], standardize=[False, True])
def test_rows_computed_on_a_device(monkeypatch, estimator, way, standardize):
    """The same search with `device`: array-api-strict's device1 stands for a GPU."""
    xp = Backend.STRICT.xp
    monkeypatch.setitem(_array_api.NAMED_DEVICES, "gpu", (xp, xp.Device("device1")))
    if way == "streamed":
        monkeypatch.setattr(_array_api, "free_memory", lambda xp, device: 1)
    model = clone(estimator).set_params(standardize=standardize)
    want = _on_numpy(ESTIMATORS.index(estimator), standardize, cv=3)
    got = SweepCV(clone(model).set_params(device="gpu"), GRID, cv=3).fit(X, Y)
    assert_same_search(got, want, 1e-12)
    np.testing.assert_array_equal(got.predict(X), want.predict(X))
    assert got.score(X, Y) == want.score(X, Y)


def test_own_threads_instead_of_those_of_blas():
    """Inside, BLAS has one thread and rows are shared among as many as it had; then all is back."""

    def widths():
        libraries = threadpoolctl.threadpool_info()
        return {lib["num_threads"] for lib in libraries if lib["user_api"] == "blas"}

    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        before = widths()
        with own_threads():
            assert widths() == {1}
            assert blas_width() == 3
            seen = list(in_threads(lambda _: threading.get_ident(), range(12)))
            assert threading.get_ident() not in seen
        assert widths() == before
        assert blas_width() == 3
    with threadpoolctl.threadpool_limits(1, user_api="blas"), own_threads():
        assert blas_width() == 1
        assert set(in_threads(lambda _: threading.get_ident(), range(3))) == {threading.get_ident()}


@pytest.mark.parametrize("solver", ["auto", "momentum"])
def test_class_weights_of_one_head_are_not_those_of_another(solver):
    """None is the first head's: rows without weights of their own are not the others'."""
    grid = {"class_weight": [None, "balanced", {0: 3.0, 1: 1.0, 2: 0.5}]}
    model = SoftmaxClassifier(
        solver=solver, random_state=1, max_iter=300 if solver == "auto" else 3
    )
    sweep, plain = both(model, grid, cv=2, scoring="neg_log_loss", refit=False)
    assert_same_search(sweep, plain, 1e-5 if solver == "auto" else 1e-9)
