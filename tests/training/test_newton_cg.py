"""Newton's method with conjugate gradients, in the eigenbasis of few rows: the same optimum."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from backends import Backend, why_missing
from estimator_cases import problem_on
from pairwise import pairwise

from xclf import SoftmaxClassifier, SweepCV
from xclf.objectives import Network, Objective, loss_named
from xclf.rows import Rows, parse_bytes
from xclf.training import Monitor, full_batch, newton_cg
from xclf.training._newton_terms import terms_of
from xclf.training._rotated_rows import rotated_rows
from xclf.training.problem import Problem

N, D, C = 24, 80, 3
RNG = np.random.default_rng(0)
Y = np.arange(N) % C
X = (RNG.standard_normal((N, D)) + 0.7 * RNG.standard_normal((C, D))[Y]) * np.geomspace(
    1, 30, D
) + 2
WEIGHTS = RNG.uniform(0.0, 2.0, N) * (np.arange(N) != 5)
NUMPY = Backend.NUMPY


@pytest.fixture
def runs(monkeypatch):
    """The rotated rows of every run of the method."""
    seen, original = [], rotated_rows

    def watched(problem):
        seen.append(original(problem))
        return seen[-1]

    for where in (newton_cg, full_batch):
        monkeypatch.setattr(where, "rotated_rows", watched)
    return seen


@pairwise(
    where=list(Backend),
    rows=[N, 8 * N],
    dtype=["float32", "float64", "uint8"],
    options=[{}, {"standardize": True}, {"fit_intercept": False}, {"class_weight": "balanced"}],
)
def test_the_optimum_is_that_of_lbfgs(runs, monkeypatch, where, rows, dtype, options):
    """Fewer rows than features, and more. Both are within 1e-6 of it, as `converged_` says; weights
    within what that allows."""
    if why_missing(where):
        pytest.skip(why_missing(where))
    x = np.tile(X, (rows // N, 1)) + RNG.standard_normal((rows, D)) * (rows > N)
    x = where.asarray(np.clip(x, 0, 255).astype(dtype))
    y, weights = np.resize(Y, rows), np.resize(WEIGHTS, rows)
    one = SoftmaxClassifier(reg=1e-2, **options).fit(x, y, weights)
    assert runs[0].z.shape == (rows, min(rows, D) + options.get("fit_intercept", True))
    monkeypatch.setattr(newton_cg, "MOST_ROWS", 0)
    other = SoftmaxClassifier(reg=1e-2, **options).fit(x, y, weights)
    assert len(runs) == 1
    assert one.converged_
    assert other.converged_
    assert abs(one.objective_ - other.objective_) <= 2e-6 * other.objective_
    # reg |V - V*|^2 <= P - P* in standardised features as in raw ones, whose scale is 1 or more.
    apart = where.to_host(one.coef_).astype(float) - where.to_host(other.coef_)
    assert np.sum(apart**2) <= 4 * 1e-6 * other.objective_ / 1e-2
    assert one.dual_gap_ <= 1e-6 * one.objective_


LOSSES = [("softmax", {}), ("squared_hinge", {"margin": np.asarray([0.7, 1.0])})]


@pytest.mark.parametrize("loss, parameters", LOSSES, ids=["softmax", "squared-hinge"])
@pytest.mark.parametrize("weights", [None, WEIGHTS, np.stack([WEIGHTS, WEIGHTS[::-1]])])
@pytest.mark.parametrize("bias", [True, False])
def test_terms_are_those_of_the_objective(loss, parameters, weights, bias):
    """Objective and gradient at any parameters, to products of D terms in float64; the Hessian's
    products, in float32, against differences of the gradient."""
    network = Network((D, C), bias=bias)
    rows = Rows(X, Y, weights, X.dtype)
    reg = np.asarray([1e-2, 1e-1])
    problem = Problem(Objective(network, loss_named(loss, **parameters), reg), rows)
    rotated = rotated_rows(problem)
    terms = terms_of(problem, rotated)
    theta = RNG.standard_normal((2, network.size)) * 0.05
    theta = rotated.outside(rotated.inside(theta))  # within the span of the rows
    v = rotated.inside(theta)
    np.testing.assert_allclose(rotated.inside(rotated.outside(v)), v, atol=1e-11)
    value, dscores = terms.value(v)
    want, grad = problem.value_and_grad(theta)
    np.testing.assert_allclose(value, want, rtol=1e-11)
    got = terms.gradient(v, dscores)
    # theta = (W, b) and v = (W Q, b + W centre): gradients map by the transpose.
    w, b = got[..., : N if D > N else D], got[..., -1] if bias else 0.0
    mapped = w @ rotated.q.T + (b[..., None] * rotated.centre if bias else 0.0)
    layer = network.layers(grad)[0]
    np.testing.assert_allclose(mapped, layer.w, atol=1e-10)
    if bias:
        np.testing.assert_allclose(b, layer.b[..., 0], atol=1e-10)
    along, h = RNG.standard_normal(v.shape), 1e-6
    product = terms.hessian_product(terms.loss.curvature(dscores, terms.mask), along)
    ends = [terms.gradient(u, terms.value(u)[1]) for u in (v - h * along, v + h * along)]
    scale = np.abs(product).max()
    np.testing.assert_allclose((ends[1] - ends[0]) / (2 * h), product, atol=1e-5 * scale)


def test_a_start_across_the_rows_is_left(runs):
    x = X.astype(np.float32)
    model = SoftmaxClassifier(reg=1e-2, warm_start=True).fit(x, Y)
    want = model.objective_
    across = np.linalg.svd(X)[2][-1]
    model.coef_ = model.coef_ + 10 * across.astype(np.float32)
    model.fit(x, Y)
    assert len(runs) == 2
    assert abs(model.objective_ - want) <= 2e-6 * want


def test_heads_share_the_rotation(runs, monkeypatch):
    monkeypatch.setattr(newton_cg, "_HOST_SCORES", 8 * 3 * N * C)  # groups of three heads
    grid = {"reg": np.geomspace(1e-4, 1.0, 5).tolist(), "class_weight": [None, "balanced"]}
    search = SweepCV(SoftmaxClassifier(), grid, cv=2, refit=False).fit(X, Y)
    assert len(runs) == 1
    singles = [
        np.mean([SoftmaxClassifier(**one).fit(X[a], Y[a]).score(X[b], Y[b]) for a, b in _folds()])
        for one in search.cv_results_["params"]
    ]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], singles)


def _folds():
    from sklearn.model_selection import StratifiedKFold

    return list(StratifiedKFold(2).split(X, Y))


def test_steps_that_go_too_far_are_halved():
    """From far off, where the Hessian is next to nothing, a whole step overshoots."""
    problem = problem_on(NUMPY, Network((D, C)), X, Y, reg=1e-6)
    theta = RNG.standard_normal((3, problem.objective.network.size)) * 2.0
    monitor = Monitor((), "iteration", 200)
    results = newton_cg.fit_newton_cg(problem, theta, 1e-6, 200, monitor)
    zero = newton_cg.fit_newton_cg(problem, 0.0 * theta, 1e-6, 200, monitor)
    for one, other in zip(results, zero, strict=True):
        assert one.converged
        assert one.objective == pytest.approx(other.objective, rel=1e-5)


def test_limits_are_kept():
    problem = problem_on(NUMPY, Network((D, C)), X, Y, reg=1e-6)
    theta = np.zeros((1, problem.objective.network.size))
    monitor = Monitor((), "iteration", 3)
    (few,) = newton_cg.fit_newton_cg(problem, theta, 1e-9, 3, monitor)
    assert (few.n_iter, few.reason) == (3, "reached max_iter=3")
    (slow,) = newton_cg.fit_newton_cg(problem, theta, 1e-9, 100, monitor, 5)
    assert (slow.converged, slow.reason) == (False, newton_cg.SLOW)


def test_heads_that_are_interrupted_keep_their_last_point():
    def stop(event):
        if event.step == 5:
            raise KeyboardInterrupt

    problem = problem_on(NUMPY, Network((D, C)), X, Y, reg=np.asarray([1e-8, 1e3]))
    theta = np.zeros((2, problem.objective.network.size))
    monitor = Monitor((stop,), "iteration", 100)
    far, near = newton_cg.fit_newton_cg(problem, theta, 1e-9, 100, monitor)
    assert (far.interrupted, near.interrupted) == (True, False)
    assert near.converged
    value = problem.take_heads(np.asarray([0])).value(far.theta[None, :])
    assert far.objective == pytest.approx(float(value[0]), rel=1e-9)
    assert 0.0 < far.objective < np.log(C)


def test_it_goes_on_where_lbfgs_has_taken_as_long_as_a_rotation(runs, monkeypatch):
    """Columns of 1e-6 to 1e6: an optimum of 1e-10, to which L-BFGS may take hundreds of passes."""
    x = X * 10.0 ** np.linspace(-6.0, 6.0, D)[RNG.permutation(D)]
    want = SoftmaxClassifier(reg=1e-2).fit(x, Y).objective_
    monkeypatch.setattr(newton_cg, "ROTATION", -1)
    monkeypatch.setattr(full_batch, "rotation_in_passes", lambda problem, heads: 20.0)
    monkeypatch.setattr(full_batch, "is_small", lambda problem: False)
    late = SoftmaxClassifier(reg=1e-2).fit(x, Y)
    assert len(runs) == 2
    assert late.n_iter_ > 20
    assert abs(late.objective_ - want) <= 1e-6 * want


def test_where_it_is_not_made_for(runs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that can be separated, without a penalty
        SoftmaxClassifier(reg=0.0, max_iter=5).fit(X, Y)
        SoftmaxClassifier(max_iter=5, max_memory=_least_memory() + 10_000).fit(X, Y)
        many = np.tile(X[:, :4], (newton_cg.MOST_ROWS // N + 1, 1))
        SoftmaxClassifier(max_iter=5).fit(many, np.resize(Y, len(many)))
    assert not runs


def _least_memory():
    """Bytes that the fit takes in any case, with as many threads as there are."""
    with pytest.raises(ValueError, match="at least") as caught:
        SoftmaxClassifier(max_memory=1).fit(X, Y)
    return parse_bytes(re.search(r"least (.*) bey", str(caught.value))[1].replace(" bytes", ""))


def test_without_float64_it_does_not_run(monkeypatch, runs):
    monkeypatch.setattr("xclf.training._rotated_rows.accumulator", lambda xp, device: xp.float32)
    SoftmaxClassifier(reg=1e-2).fit(X.astype(np.float32), Y)
    assert not runs
