"""Heads with few rows of their own, computed as stacks: each ends where a fit of its rows ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from backends import Backend, why_missing
from estimator_cases import problem_on
from kill_cases import RaiseAt
from pairwise import mostly_long

from xclf import Checkpoint, SoftmaxClassifier
from xclf.estimators import _together
from xclf.estimators._fitting import TOGETHER
from xclf.objectives import Network
from xclf.sweep import Fit, Fold, fit_together
from xclf.training import Monitor, _draws, full_batch, trees_of
from xclf.training._rotated_rows import rotated_rows

C, EACH, DRAWS = 3, 4, 5
N = 20 * C
RNG = np.random.default_rng(3)
Y = np.arange(N) % C
REGS = np.geomspace(1e-3, 1e-1, 4)
NOTHING = np.empty(0, dtype=int)


def _rows(features):
    means = RNG.standard_normal((C, features))[Y]
    x = (RNG.standard_normal((N, features)) + 0.5 * means) * np.geomspace(1, 20, features) + 3
    by_class = [np.flatnonzero(c == Y) for c in range(C)]
    draws = [
        np.concatenate([RNG.choice(own, EACH, replace=False) for own in by_class])
        for _ in range(DRAWS)
    ]
    return x, draws


@pytest.fixture
def stacks(monkeypatch):
    """How many draws each fit computed together."""
    seen, original = [], full_batch._ByNewton

    class Watched(original):
        def __init__(self, problem, draws, *limits):
            seen.append(len(draws.problems))
            super().__init__(problem, draws, *limits)

    monkeypatch.setattr(full_batch, "_ByNewton", Watched)
    return seen


def _fitted(x, draws, labels, regs=REGS, tasks=None, **options):
    folds = [Fold(rows, NOTHING, y[rows]) for rows, y in zip(draws, labels, strict=True)]
    fits = [
        Fit(number, SoftmaxClassifier(reg=reg, **options))
        for number in range(len(draws))
        for reg in regs
    ]
    fit_together(x, fits, folds, tasks=tasks)
    return fits, folds


@mostly_long(
    where=list(Backend),
    options=[{}, {"fit_intercept": False}, {"class_weight": "balanced"}],
    features=[5, 40],
)
def test_they_are_fits_of_their_rows(stacks, where, features, options):
    """Of fewer rows than features, and of more: both within 1e-6 of the optimum."""
    if why_missing(where):
        pytest.skip(why_missing(where))
    x, draws = _rows(features)
    x = x.astype(np.float32)
    fits, folds = _fitted(where.asarray(x), draws, [Y] * DRAWS, **options)
    assert stacks == [DRAWS]
    for fit in fits[::3]:  # every penalty and every draw is among them
        one, rows = fit.template, folds[fit.split].train
        alone = SoftmaxClassifier(reg=one.reg, **options).fit(x[rows], Y[rows])
        assert one.converged_
        assert abs(one.objective_ - alone.objective_) <= 2e-6 * alone.objective_
        # reg |V - V*|^2 <= P - P*
        apart = where.to_host(one.coef_).astype(float) - alone.coef_
        assert np.sum(apart**2) <= 4e-6 * alone.objective_ / one.reg
        assert one.dual_gap_ <= 1e-6 * one.objective_


def test_draws_of_several_label_sets(stacks):
    """Every task has its own draws, and its own labels of all rows."""
    x, draws = _rows(8)
    other = (Y + (np.arange(N) // C) % 2) % C
    labels = [Y if k % 2 == 0 else other for k in range(DRAWS)]
    fits, folds = _fitted(x, draws, labels, tasks=[k % 2 for k in range(DRAWS)])
    assert stacks == [DRAWS]
    for fit in fits:
        one, fold = fit.template, folds[fit.split]
        alone = SoftmaxClassifier(reg=one.reg).fit(x[fold.train], fold.y)
        assert one.converged_
        assert abs(one.objective_ - alone.objective_) <= 2e-6 * alone.objective_


def test_a_few_values_need_no_path(stacks):
    x, draws = _rows(8)
    fits, folds = _fitted(x, draws, [Y] * DRAWS, regs=REGS[:1])
    assert stacks == [DRAWS]
    for fit in fits:
        rows = folds[fit.split].train
        alone = SoftmaxClassifier(reg=REGS[0]).fit(x[rows], Y[rows])
        assert abs(fit.template.objective_ - alone.objective_) <= 2e-6 * alone.objective_


@pytest.mark.parametrize("some", [1, DRAWS])
def test_rows_that_are_named_twice_weigh_twice(stacks, some):
    """In one of the draws, or in all."""
    x, draws = _rows(8)
    draws = [np.concatenate([rows, rows[:3]]) if k < some else rows for k, rows in enumerate(draws)]
    fits, folds = _fitted(x, draws, [Y] * DRAWS)
    assert stacks == [DRAWS]
    for fit in fits[::3]:
        one, rows = fit.template, folds[fit.split].train
        alone = SoftmaxClassifier(reg=one.reg).fit(x[rows], Y[rows])
        assert abs(one.objective_ - alone.objective_) <= 2e-6 * alone.objective_


@pytest.mark.filterwarnings("ignore:.*did not converge")  # without a penalty
@pytest.mark.parametrize("change", ["many rows", "unequal rows", "no penalty", "little memory"])
def test_where_they_are_not_stacked(stacks, change, monkeypatch):
    """Fits end where they would alone all the same."""
    x, draws = _rows(6)
    regs = REGS
    if change == "many rows":
        draws = [np.delete(np.arange(N), np.arange(k, N, DRAWS)) for k in range(DRAWS)]
    elif change == "unequal rows":
        draws[0] = draws[0][:-1]
    elif change == "no penalty":
        regs = [*REGS, 0.0]
    else:
        monkeypatch.setattr(_draws, "_SCORES", 1 << 40)
    fits, folds = _fitted(x, draws, [Y] * DRAWS, regs=regs, max_iter=200)
    assert DRAWS not in stacks
    for fit in fits:
        one, rows = fit.template, folds[fit.split].train
        if one.reg > 0.0:
            alone = SoftmaxClassifier(reg=one.reg, max_iter=200).fit(x[rows], Y[rows])
            assert abs(one.objective_ - alone.objective_) <= 2e-6 * alone.objective_


def test_passes_take_as_many_draws_as_memory(stacks, monkeypatch):
    """Here three and a bit: none is torn apart. The two that remain hardly have rows of others."""
    monkeypatch.setattr(_together, "draw_bytes", lambda rows, widths: int(0.3 * TOGETHER))
    x, draws = _rows(6)
    fits, folds = _fitted(x, draws, [Y] * DRAWS)
    assert stacks == [3, 1]
    for fit in fits:
        one, rows = fit.template, folds[fit.split].train
        alone = SoftmaxClassifier(reg=one.reg).fit(x[rows], Y[rows])
        assert abs(one.objective_ - alone.objective_) <= 2e-6 * alone.objective_


def _problem(x, draws):
    """Of every reg on every draw, in mixed order."""
    weights = np.zeros((len(draws), N))
    for vector, rows in zip(weights, draws, strict=True):
        vector[rows] = 1.0
    order = RNG.permutation(len(draws) * len(REGS))
    reg, of = np.tile(REGS, len(draws))[order], np.repeat(np.arange(len(draws)), len(REGS))[order]
    problem = problem_on(Backend.NUMPY, Network((x.shape[1], C)), x, Y, reg=reg)
    return replace(problem, rows=replace(problem.rows, weights=weights, heads=of))


@pytest.mark.parametrize("features", [5, 40])
@pytest.mark.parametrize("weighted", [0, 1, DRAWS])
def test_terms_are_those_of_the_objective(features, weighted):
    """Of rows with weights of their own in none, some or all of the draws; to products of D terms
    in float64."""
    problem = _problem(*_rows(features))
    weights = problem.rows.weights.copy()
    weights[:weighted] *= RNG.uniform(0.5, 2.0, (weighted, N))
    problem = replace(problem, rows=replace(problem.rows, weights=weights))
    heads = len(REGS) * DRAWS
    found = _draws.Draws.of(problem, heads)
    rotated = [rotated_rows(one) for one in found.problems]
    terms = found.terms(rotated, problem.objective)
    theta = RNG.standard_normal((heads, problem.objective.network.size)) * 0.1
    v = found.inside(rotated, theta)
    for own, rows in zip(found.heads, rotated, strict=True):
        theta[own] = rows.outside(v[own])  # within the span of its rows
    for some in (np.arange(heads), np.arange(heads)[::-2], np.arange(3, 9)):
        value, dscores = terms.take_heads(some).value(v[some])
        want, grad = problem.take_heads(some).value_and_grad(theta[some])
        np.testing.assert_allclose(value, want, rtol=1e-11)
        got = terms.take_heads(some).gradient(v[some], dscores)
        np.testing.assert_allclose(
            got[..., -1], problem.objective.network.layers(grad)[0].b[..., 0], atol=1e-10
        )


def test_starts_are_those_of_each_head(stacks):
    """Next to the optimum: no steps are left to make."""
    problem = _problem(*_rows(6))
    size = problem.objective.network.size
    monitor = Monitor([], "iteration", 500)
    options = {"tol": 1e-6, "max_iter": 500, "monitor": monitor}
    ended = full_batch.fit_certified(problem, np.zeros((len(REGS) * DRAWS, size)), **options)
    again = full_batch.fit_certified(problem, np.stack([one.theta for one in ended]), **options)
    assert stacks == [DRAWS, DRAWS]
    assert {one.n_iter for one in again} == {1}
    for one, other in zip(ended, again, strict=True):
        assert other.objective == pytest.approx(one.objective, rel=1e-6)


def test_they_go_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("xclf._atomic_write._flush", lambda part: None)  # which is slow
    x, draws = _rows(6)
    problem = _problem(x, draws)

    def run(callbacks, checkpoint=None):
        theta = np.zeros((len(REGS) * DRAWS, problem.objective.network.size))
        monitor = Monitor(callbacks, "iteration", 500, checkpoint=checkpoint)
        options = {"tol": 1e-6, "max_iter": 500, "monitor": monitor}
        if checkpoint is None:
            return monitor, full_batch.fit_certified(problem, theta, **options)
        with checkpoint.stage("fit"):
            return monitor, full_batch.fit_certified(problem, theta, **options)

    whole, wanted = run([])
    steps, kept = len(whole.history["loss"]), Checkpoint(tmp_path / "c", every=0)
    for number in (2, steps // 2):
        with pytest.raises(ZeroDivisionError):
            run([RaiseAt(number, ZeroDivisionError)], kept)
    last, got = run([], kept)
    assert last.history["loss"] == whole.history["loss"]
    for one, other in zip(trees_of(got), trees_of(wanted), strict=True):
        assert one.pop("theta").tobytes() == other.pop("theta").tobytes()
        assert repr(one) == repr(other)
