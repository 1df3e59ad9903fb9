"""What full-batch and minibatch methods decide on their way: tolerances of the first and the second
of two solves, when a curvature is measured, how heads are shared among threads, what is counted."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from backends import Backend
from estimator_cases import blobs, problem_on

from xclf import Checkpoint
from xclf._sparse import SparseMatrix
from xclf.objectives import Network, Objective, loss_named
from xclf.rows import MemoryBudget, Rows, Streamed
from xclf.training import Monitor, _draws, _settle, full_batch, lbfgs_fit, minibatch, newton_cg
from xclf.training._draws import Draws
from xclf.training._score_space import COARSE, Swap, score_space
from xclf.training._settle import CONVERGED, ROUNDING
from xclf.training._softmax_gap import Certified
from xclf.training.events import FitResult
from xclf.training.problem import Problem

RNG = np.random.default_rng(0)
N, D, C = 50, 300, 3
SPARSE = scipy.sparse.random_array((N, D), density=0.05, rng=RNG, format="csr")
Y = np.arange(N) % C


def wide_problem(reg):
    rows = Rows(SparseMatrix(SPARSE), np.arange(C)[:, None] == Y, None, np.dtype("float64"))
    return Problem(Objective(Network((D, C), sparse=True), loss_named("softmax"), reg), rows)


@pytest.mark.parametrize("tol", [1e-7, 1e-2])
def test_wide_sparse_rows_are_fitted_in_float32_as_far_as_that_is_good(monkeypatch, tol):
    monkeypatch.setattr("xclf.training.newton_cg.MOST_ROWS", 0)
    seen, real = [], full_batch.minimise_lbfgs

    def watched(space, start, tol, *args, **options):
        seen.append((str(start.dtype), tol))
        return real(space, start, tol, *args, **options)

    monkeypatch.setattr(full_batch, "minimise_lbfgs", watched)
    start, monitor = np.zeros((1, C * (D + 1))), Monitor((), "iteration", 1000)
    (result,) = full_batch.fit_certified(
        wide_problem(1e-2), start, tol=tol, max_iter=1000, monitor=monitor
    )
    assert result.converged
    assert seen[0] == ("float32", max(tol, COARSE))
    assert (seen[1:2] == [("float64", tol)]) == (tol < COARSE)


def test_the_preconditioner_of_pairs_has_the_curvature_along_the_gradient():
    """Of the mean loss with probabilities p_i: mean of diag(p_i) - p_i p_i^T between the scores'
    changes. Differences along a step that changes scores by 1e-2 are right to a few in a hundred.
    """
    space = score_space(wide_problem(1e-3), np.float64)
    a, b = RNG.normal(size=(1, N, C)), RNG.normal(size=(1, 1, C))
    scores = space._apply(a)
    theta = space._joined(a, scores, b)
    swap = Swap.of(space, theta)
    p = np.exp(scores[0] + b[0])
    p /= p.sum(axis=1, keepdims=True)
    _, grad = space.value_and_grad(theta)[:2]
    image, push, r, _ = (part[0] for part in space._split(2.0 * grad))

    def bend(change):
        mean = np.sum(p * change, axis=1)
        return np.mean(np.sum(p * change * change, axis=1) - mean * mean)

    weights = bend(image) / np.sum(image * r) + 2e-3
    biases = bend(np.broadcast_to(push, (N, C))) / np.sum(push * push)
    assert 1.0 / swap.length[0] == pytest.approx(weights, rel=0.05)
    assert 1.0 / (swap.factor * swap.length)[0] == pytest.approx(biases, rel=0.05)
    assert swap.bias_cost(push[None])[0] == pytest.approx(np.sum(push**2) / biases, rel=0.05)


def test_the_class_curvature_is_measured_at_doublings(monkeypatch):
    """It settles as the fit does: 5 iterations after the start, then each time when as many more
    have passed."""
    seen, real = [], lbfgs_fit._LBFGSFit._refresh
    monkeypatch.setattr(
        lbfgs_fit._LBFGSFit,
        "_refresh",
        lambda self, *at: seen.append(self.steps) or real(self, *at),
    )
    x, y = blobs(200, 6, C, seed=1)
    problem = problem_on(Backend.NUMPY, Network((6, C)), x * np.geomspace(1, 1e4, 6), y, reg=1e-9)
    start, monitor = np.zeros((1, problem.objective.network.size)), Monitor((), "iteration", 45)
    (result,) = lbfgs_fit.minimise_lbfgs(problem, start, 0.0, 45, monitor)
    assert result.n_iter == 45
    assert seen == [5, 10, 20, 40]
    assert max(lbfgs_fit.REFRESH) == 5 * 2**5


@pytest.mark.parametrize("met", [True, False])
@pytest.mark.parametrize("near", [True, False])
def test_a_second_solve_has_converged_by_its_own_criteria_and_an_estimate(monkeypatch, met, near):
    theta = np.zeros(4)
    ran = FitResult(theta, 7, 0.5, met, CONVERGED if met else "reached max_iter=7")
    unproven = FitResult(theta, 7, 0.5, False, ROUNDING)
    monkeypatch.setattr(_settle, "_certified", lambda *_: ([unproven], np.asarray([near])))
    (judged,) = _settle._judged(None, [ran], 1e-6, np.float64, None)
    assert judged.converged == (met and near)
    assert judged.reason == (CONVERGED if met and near else ROUNDING)


@pytest.mark.parametrize("options, first", [({}, True), ({"newton_first": False}, False)])
def test_newton_goes_on_with_what_is_in_doubt(monkeypatch, options, first):
    """At once, or after `again` of many heads together, where that leaves them in doubt."""
    problem = problem_on(Backend.NUMPY, Network((4, C)), *blobs(60, 4, C))
    theta, taken = np.zeros(problem.objective.network.size), []
    doubtful = FitResult(theta, 7, 0.5, False, ROUNDING)
    proven = replace(doubtful, converged=True, reason=CONVERGED)
    monkeypatch.setattr(_settle, "_certified", lambda *_: ([doubtful], np.asarray([False])))
    monkeypatch.setattr(_settle, "_newton", lambda *_: taken.append("newton") or proven)
    results = _settle.settle(
        problem,
        [proven],
        tol=1e-6,
        max_iter=100,
        monitor=Monitor((), "iteration", 100),
        again=lambda *_: taken.append("again") or [doubtful],
        curvature_at=None,
        **options,
    )
    assert taken == (["newton"] if first else ["again", "newton"])
    assert results == [proven]


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("rounding", [0.9e-9, 1.1e-9])
def test_an_objective_of_a_small_problem_is_right_to_one_in_a_thousand_million(
    monkeypatch, small, rounding
):
    """As `objective_` promises of float64: one that is not is computed with centred features."""
    problem = problem_on(Backend.NUMPY, Network((4, C)), *blobs(60, 4, C))
    number = {"value": 1.0, "gap": 1e-7, "grad_norm": 1e-3, "estimate": 1.0, "rounding": rounding}
    at = Certified(**{name: np.asarray([each]) for name, each in number.items()})
    monkeypatch.setattr(_settle, "certify", lambda *_: at)
    monkeypatch.setattr(_settle, "is_small", lambda wide: small)
    ran = FitResult(np.zeros(problem.objective.network.size), 7, 1.0, True, CONVERGED)
    ((one,), _) = _settle._certified(problem, [ran], 1e-6, np.dtype("float64"), None)
    assert one.converged == (rounding < 1e-9 or not small)
    assert one.reason == (CONVERGED if one.converged else ROUNDING)


def test_a_monitor_is_as_before_after_a_path():
    x, y = blobs(60, 4, C)
    reg = np.geomspace(1e-3, 1e-1, 6)
    problem = problem_on(Backend.NUMPY, Network((4, C)), x, y, reg=reg)
    steps = []
    monitor = Monitor((lambda event: steps.append(event.step),), "iteration", 200)
    start = np.zeros((6, problem.objective.network.size))
    results = full_batch.fit_certified(problem, start, tol=1e-6, max_iter=200, monitor=monitor)
    assert all(one.converged for one in results)
    assert len(steps) > max(one.n_iter for one in results)  # level after level
    assert (monitor.before, monitor.waiting, monitor.total) == (0, 0, 200)


def parts(monkeypatch, heads=8, threads=3, ndim=2, in_blocks=False, classes=64):
    monkeypatch.setattr(minibatch, "blas_width", lambda: threads)
    network = Network((5, classes))
    theta = np.zeros((heads, network.size)[-ndim:])
    run = SimpleNamespace(heads=SimpleNamespace(number=np.arange(heads), theta=theta))
    run.whole = SimpleNamespace(rows=SimpleNamespace(in_blocks=in_blocks))
    run.whole.objective = SimpleNamespace(network=network)
    return minibatch._Run._parts(run)


def test_heads_are_shared_among_threads(monkeypatch):
    """Each head once, in shares of equal size to one, where there are columns enough for each."""
    shares = parts(monkeypatch)
    assert np.concatenate(shares).tolist() == list(range(8))
    assert sorted(map(len, shares)) == [2, 3, 3]
    assert len(parts(monkeypatch, threads=16)) == 4  # 128 columns each
    for alone in ({"ndim": 1}, {"in_blocks": True}, {"threads": 1}, {"classes": 10}, {"heads": 1}):
        assert parts(monkeypatch, **alone) == [None]


def test_the_outermost_stage_is_all_of_the_work(tmp_path):
    kept = Checkpoint(tmp_path / "c", every=0)
    with kept.stage("search") as search:
        assert search.outermost
        with kept.stage("fit") as fit:
            assert not fit.outermost
        assert search.outermost
        fit.finish(1)


def test_draws_are_sought_for_as_many_heads_as_there_are(monkeypatch):
    asked, real = [], full_batch.Draws.of
    monkeypatch.setattr(
        full_batch.Draws, "of", lambda some, heads: asked.append(heads) or real(some, heads)
    )
    x, y = blobs(60, 4, C)
    problem = problem_on(Backend.NUMPY, Network((4, C)), x, y, reg=np.asarray([1e-2, 1e-1]))
    start, monitor = np.zeros((2, problem.objective.network.size)), Monitor((), "iteration", 200)
    full_batch.fit_certified(problem, start, tol=1e-6, max_iter=200, monitor=monitor)
    assert asked == [2]


@pytest.mark.parametrize("away", ["in_blocks", "shards", "streamed"])
def test_rows_that_lie_elsewhere_are_not_drawn(away):
    """Nothing of them is read for that."""
    x = Streamed.__new__(Streamed) if away == "streamed" else np.eye(3)

    class Weights:
        ndim = 2

        def __array__(self, *_):
            raise AssertionError("weights were read")

    rows = SimpleNamespace(in_blocks=away == "in_blocks", x=x, shards=[1] * (away == "shards"))
    rows.weights = Weights()
    assert Draws._of_few_rows(SimpleNamespace(rows=rows, linear=True), 4) is None


@pytest.mark.parametrize("scores, stacked", [(1, True), (1 << 40, False)])
def test_draws_are_stacked_where_there_is_memory_for_all(monkeypatch, scores, stacked):
    """A lone one has the memory of any fit."""
    monkeypatch.setattr(_draws, "_SCORES", scores)
    x, y = blobs(60, 4, C)
    problem = problem_on(Backend.NUMPY, Network((4, C)), x, y)
    problem = replace(problem, rows=replace(problem.rows, budget=MemoryBudget(1 << 28)))
    some = [np.arange(1)]
    assert Draws(some, [problem])._suit()
    for count in (2, 3):
        assert Draws(some * count, [problem] * count)._suit() == stacked


def test_a_single_row_takes_no_steps():
    """Its biases, far apart, bring the loss to 0."""
    problem = problem_on(Backend.NUMPY, Network((2, C)), np.ones((1, 2)), np.asarray([1]))
    start = np.zeros((1, problem.objective.network.size))
    monitor = Monitor((), "iteration", 100)
    (result,) = full_batch.fit_certified(problem, start, tol=1e-6, max_iter=100, monitor=monitor)
    assert (result.n_iter, result.objective, result.converged) == (1, 0.0, True)
    assert not monitor.history["loss"]
    assert float(problem.value(result.theta[None, :])[0]) == 0.0


def test_zero_weights_are_evaluated_once_for_a_path(monkeypatch):
    asked, real = [], full_batch.at_zero
    monkeypatch.setattr(full_batch, "at_zero", lambda *at: asked.append(1) or real(*at))
    x, y = blobs(60, 4, C)
    for reg, times in ((np.geomspace(1e-3, 1e-1, 6), 1), (np.asarray([1e-2]), 0)):
        problem = problem_on(Backend.NUMPY, Network((4, C)), x, y, reg=reg)
        start = np.zeros((len(reg), problem.objective.network.size))
        monitor = Monitor((), "iteration", 200)
        full_batch.fit_certified(problem, start, tol=1e-6, max_iter=200, monitor=monitor)
        assert len(asked) == times
        asked.clear()


@pytest.mark.parametrize("rotation", [newton_cg.ROTATION + 1.0, newton_cg.ROTATION + 70.0])
def test_lbfgs_is_slow_once_it_has_taken_as_long_as_a_rotation(monkeypatch, rotation):
    """Of few rows, which Newton-CG could have fitted: so no fit takes more than twice as long."""
    for where in (full_batch, newton_cg):
        monkeypatch.setattr(where, "rotation_in_passes", lambda problem, heads: rotation)
    monkeypatch.setattr(full_batch, "is_small", lambda problem: False)
    limits, real = [], full_batch.minimise_lbfgs

    def watched(problem, start, tol, max_iter, monitor, slow_at, common):
        limits.append(slow_at)
        return real(problem, start, tol, max_iter, monitor, slow_at, common)

    monkeypatch.setattr(full_batch, "minimise_lbfgs", watched)
    x, y = blobs(60, 4, C)
    problem = problem_on(Backend.NUMPY, Network((4, C)), x, y)
    start = np.zeros((1, problem.objective.network.size))
    for most, want in ((60, rotation), (59, np.inf)):
        monkeypatch.setattr(newton_cg, "MOST_ROWS", most)
        monitor = Monitor((), "iteration", 100)
        full_batch.fit_certified(problem, start, tol=1e-6, max_iter=100, monitor=monitor)
        assert limits.pop() == want
