"""Heads that differ by their penalty alone: one after another, each from where the last point."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from backends import Backend
from estimator_cases import blobs, problem_on
from kill_cases import RaiseAt
from pairwise import mostly_long

from xclf import Checkpoint, SoftmaxClassifier, SVMClassifier, SweepCV
from xclf.objectives import Network, loss_named
from xclf.sweep import Fit, Fold, fit_together
from xclf.training import Monitor, _penalty_path, full_batch, lbfgs_fit, trees_of
from xclf.training._penalty_path import levels_of
from xclf.training._stages import STOPPED

X, Y = blobs(120, 6, 3)
REG = np.geomspace(1e-5, 1e-1, 8)
WIDE = scipy.sparse.random_array((120, 400), density=0.1, rng=np.random.default_rng(0)).tocsr()


def problem(reg, loss="softmax", x=X, **rows):
    made = problem_on(Backend.NUMPY, Network((6, 3)), x, Y, loss=loss, reg=np.asarray(reg))
    return replace(made, rows=replace(made.rows, **rows))


def numbers(found):
    return [level.tolist() for level in found]


def test_the_strongest_penalty_comes_first():
    zero = np.zeros((4, 21))
    assert numbers(levels_of(problem([1e-3, 1e-1, 1e-2, 4e-2]), zero)) == [[1], [3], [2], [0]]


def test_heads_of_other_weights_or_another_margin_have_a_path_of_their_own():
    weights = np.random.default_rng(0).uniform(size=(2, 120))
    folds = problem([1, 2, 3, 1, 2, 3, 4], weights=weights, heads=np.array([0, 0, 0, 1, 1, 1, 1]))
    assert numbers(levels_of(folds, np.zeros((7, 21)))) == [[6, 2], [5, 1], [4, 0], [3]]
    margins = problem([1, 2, 3, 1, 2, 3], "squared_hinge")
    margin = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    loss = loss_named("squared_hinge", margin=margin)
    margins = replace(margins, objective=replace(margins.objective, loss=loss))
    assert numbers(levels_of(margins, np.zeros((6, 21)))) == [[2, 5], [1, 4], [0, 3]]


@pytest.mark.parametrize(
    "reg, start",
    [
        ([1e-1, 1e-2], 0.0),  # two values
        ([1.0, 1e-2, 1e-4], 0.0),  # far apart
        ([1e-1, 1e-1 / 2, 0.0], 0.0),  # no penalty
        ([1e-1, 1e-1 / 2, 1e-1 / 4], 1.0),  # starts that are given
    ],
)
def test_what_is_no_path(reg, start):
    assert levels_of(problem(reg), np.full((len(reg), 21), start)) == []


def watched_levels(monkeypatch):
    """A list of the heads in each level of every path to come."""
    seen = []

    def watched(problem, theta):
        levels = levels_of(problem, theta)
        if len(theta) > 1:
            seen.append([len(level) for level in levels])
        return levels

    monkeypatch.setattr(_penalty_path, "levels_of", watched)
    return seen


def fitted(estimator, x=X):
    """Models of all penalties, as heads of one fit."""
    rows = np.arange(len(Y))
    fits = [Fit(0, replace_reg(estimator, reg)) for reg in REG]
    fit_together(x, fits, [Fold(rows, rows, Y)])
    assert all(fit.error is None for fit in fits)
    return [fit.template for fit in fits]


def replace_reg(estimator, reg):
    return type(estimator)(**{**estimator.get_params(), "reg": reg})


PATHS = [
    (SoftmaxClassifier(), X),
    (SoftmaxClassifier(fit_intercept=False, standardize=True), X * 100.0 + 3.0),
    (SVMClassifier(loss="squared_hinge"), X),
    (SoftmaxClassifier(), WIDE),
    (SoftmaxClassifier(fit_intercept=False), WIDE),
]


@mostly_long(newton=[True, False], dtype=["float32", "float64"], case=PATHS)
def test_a_path_ends_where_single_fits_do(case, dtype, newton, monkeypatch):
    """By each method: Newton's, L-BFGS, and L-BFGS in the space of the scores."""
    if not newton:
        monkeypatch.setattr("xclf.training.newton_cg.MOST_ROWS", 0)
        monkeypatch.setattr("xclf.training.hinge.MOST_ROWS", 0)
    estimator, x = case[0], case[1].astype(dtype)
    paths = watched_levels(monkeypatch)
    models = fitted(estimator, x)
    small_hinge = newton and isinstance(estimator, SVMClassifier)  # head by head, from one basis
    assert paths == ([] if small_hinge else [[1] * len(REG)])
    assert all(model.converged_ for model in models)
    for model in models[::3]:
        single = replace_reg(estimator, model.reg).fit(x, Y)
        # Each is within 1e-4 of the one optimum: tol, at most.
        assert model.objective_ == pytest.approx(single.objective_, rel=2e-4)


def test_bounds_level_by_level_are_those_of_all_together(monkeypatch):
    """Where parameters take much memory: the same steps, and bounds that are good enough."""
    together = fitted(SoftmaxClassifier(), WIDE)
    monkeypatch.setattr(_penalty_path, "_TOGETHER", 0)
    for one, other in zip(together, fitted(SoftmaxClassifier(), WIDE), strict=True):
        assert other.converged_
        assert other.n_iter_ == one.n_iter_
        assert other.objective_ == pytest.approx(one.objective_, rel=1e-9)
        assert other.dual_gap_ <= 1e-6 * other.objective_


@pytest.mark.parametrize("newton", [True, False])
def test_it_takes_fewer_steps(newton, monkeypatch):
    """Six tenths at most, of no more values than these."""
    if not newton:
        monkeypatch.setattr("xclf.training.newton_cg.MOST_ROWS", 0)
    along = sum(model.n_iter_ for model in fitted(SoftmaxClassifier(tol=1e-3)))
    monkeypatch.setattr(_penalty_path, "levels_of", lambda problem, theta: [])
    at_once = sum(model.n_iter_ for model in fitted(SoftmaxClassifier(tol=1e-3)))
    assert along < 0.6 * at_once


def run(monitor):
    theta, kept = np.zeros((len(REG), 21)), monitor.checkpoint
    with nullcontext() if kept is None else kept.stage("fit"):
        return full_batch.fit_certified(
            problem(REG), theta, tol=1e-6, max_iter=500, monitor=monitor
        )


@pytest.mark.parametrize("soon", [True, False])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, None])
def test_heads_that_have_not_begun_stand_where_their_line_does(stop, soon, monkeypatch):
    """Those that have ended are done, whether Ctrl-C or a callback ends the rest."""
    monkeypatch.setattr(_penalty_path, "_TOGETHER", 0 if soon else 1 << 30)
    events = []

    def watch(event):
        events.append(event)
        if event.heads <= 5:
            if stop is not None:
                raise stop
            return True
        return False

    results = run(Monitor([watch], "iteration", 500))
    begun = max(k for k in range(len(REG)) if results[k].converged is False)
    assert [one.converged for one in results] == [k > begun for k in range(len(REG))]
    assert events[0].heads == len(REG)
    for number, one in enumerate(results[: begun + 1]):
        assert one.interrupted is (stop is not None)
        value, _ = problem(REG[number]).value_and_grad(one.theta)
        if stop is None or not np.isnan(one.objective):  # a pass would keep the user waiting
            assert one.objective == pytest.approx(float(value), rel=1e-9)


@pytest.mark.parametrize("reason", ["interrupted", STOPPED])
def test_proofs_that_end_early_end_the_path(reason, monkeypatch):
    """Ctrl-C or a callback while a level is proven: no later level begins."""
    monkeypatch.setattr(_penalty_path, "_TOGETHER", 0)
    levels, real = [], full_batch.settle

    def settle(problem, results, **options):
        levels.append(len(results))
        if len(levels) != 2:
            return real(problem, results, **options)
        if reason == "interrupted":
            raise KeyboardInterrupt
        return [replace(one, converged=False, reason=STOPPED) for one in results]

    monkeypatch.setattr(full_batch, "settle", settle)
    steps = []
    results = run(Monitor([lambda event: steps.append(event.heads)], "iteration", 500))
    assert min(steps) == len(REG) - 1  # the second level was the last to be fitted
    assert [one.converged for one in results] == [False] * (len(REG) - 1) + [True]
    assert {one.reason for one in results[:-1]} == {reason}


def test_a_lone_head_beside_a_path():
    weights = np.random.default_rng(0).uniform(size=(2, 120))
    some = problem([1, 2, 3, 1], weights=weights, heads=np.array([0, 0, 0, 1]))
    assert numbers(levels_of(some, np.zeros((4, 21)))) == [[2, 3], [1], [0]]


@pytest.mark.parametrize("newton", [True, False])
def test_a_broken_path_goes_on_to_the_same_bits(newton, tmp_path, monkeypatch):
    monkeypatch.setattr("xclf._atomic_write._flush", lambda part: None)  # which is slow
    if not newton:
        monkeypatch.setattr("xclf.training.newton_cg.MOST_ROWS", 0)
    whole = Monitor([], "iteration", 500)
    wanted = run(whole)
    steps = len(whole.history["loss"])
    kept = Checkpoint(tmp_path / "c", every=0)
    for number in (2, steps // 2 - 2, steps // 4):
        with pytest.raises(ZeroDivisionError):
            run(Monitor([RaiseAt(number, ZeroDivisionError)], "iteration", 500, checkpoint=kept))
    last = Monitor([], "iteration", 500, checkpoint=kept)
    got = run(last)
    assert last.history["loss"] == whole.history["loss"]
    for one, other in zip(trees_of(got), trees_of(wanted), strict=True):
        assert one.pop("theta").tobytes() == other.pop("theta").tobytes()
        assert repr(one) == repr(other)


def test_rows_in_several_folds_share_the_path(monkeypatch):
    """The folds of a value train together."""
    paths = watched_levels(monkeypatch)
    search = SweepCV(SoftmaxClassifier(), {"reg": REG}, cv=4, refit=False).fit(X, Y)
    assert paths == [[4] * len(REG)]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_every_backend_goes_along_it(backend):
    """By estimators, on devices too: as NumPy does, to what `converged_` promises."""
    x = backend.asarray(X)
    rows = np.arange(len(Y))
    fits = [Fit(0, SoftmaxClassifier(reg=reg, tol=1e-5)) for reg in REG]
    fit_together(x, fits, [Fold(rows, rows, Y)])
    for fit, reg in zip(fits, REG, strict=True):
        assert fit.error is None
        single = SoftmaxClassifier(reg=reg, tol=1e-5).fit(X, Y)
        assert fit.template.converged_
        assert fit.template.objective_ == pytest.approx(single.objective_, rel=2e-5)


def test_the_bound_on_the_way_is_about_the_mean_of_the_rows():
    """|g|^2 / (4 reg), g in the weights at fixed biases about the centre."""
    reg, theta = np.array([1e-2, 1e-1]), np.random.default_rng(0).normal(size=(2, 21))
    far = problem(reg, x=X + 5.0)
    precondition, _ = lbfgs_fit._precondition(far, theta, None)
    bound = lbfgs_fit._evaluation(far, precondition)(theta)[2]
    _, grad = far.value_and_grad(theta)
    centre = precondition.mean  # of a sample of the rows
    assert np.abs(centre - (X + 5.0).mean(axis=0)).max() < 1.0
    own = grad[:, :18].reshape(2, 3, 6) - grad[:, 18:, None] * centre
    assert bound == pytest.approx(np.sum(own**2, axis=(1, 2)) / (4.0 * reg), rel=1e-10)


def test_starts_are_on_a_line_over_the_logarithm_of_the_penalty():
    """What is linear in log reg is met; one point is taken as it is, and so is one too far off."""
    slope, one = np.arange(3.0), np.ones(3)

    def at(reg):
        return one + slope * np.log(reg)

    line = [(reg, at(reg)) for reg in (1e-1, 4e-2)]
    np.testing.assert_allclose(_penalty_path._ahead(line, 2e-2), at(2e-2), rtol=1e-14)
    np.testing.assert_array_equal(_penalty_path._ahead(line[1:], 2e-2), at(4e-2))
    np.testing.assert_array_equal(_penalty_path._ahead(line, 1e-9), at(4e-2))
    np.testing.assert_array_equal(_penalty_path._ahead(line, 4e-2), at(4e-2))
    np.testing.assert_array_equal(_penalty_path._ahead([line[1], line[1]], 2e-2), at(4e-2))
