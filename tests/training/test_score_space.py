"""Wide sparse rows in the space of their scores: the same objective, the same optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from helpers import gamma
from kill_cases import RaiseAt

from xclf import Checkpoint, SoftmaxClassifier, SVMClassifier, SweepCV
from xclf._sparse import SparseMatrix
from xclf.objectives import Network, Objective, loss_named
from xclf.rows import MemoryBudget, Rows
from xclf.training._hinge_scores import ScoreHinge
from xclf.training._score_space import is_wide, score_space
from xclf.training._smoothed_hinge import SmoothedHinge
from xclf.training.problem import Problem

RNG = np.random.default_rng(0)
N, D, C = 50, 300, 3
SPARSE = scipy.sparse.random_array((N, D), density=0.05, rng=RNG, format="csr")
Y = RNG.integers(C, size=N)
WEIGHTS = RNG.uniform(0.5, 1.5, (2, N))
REG = np.array([1e-3, 1e-2])


@pytest.fixture(autouse=True)
def small_problems_too(monkeypatch):
    """These rows are so few that Newton's method would take them, made dense."""
    monkeypatch.setattr("xclf.training.newton_cg.MOST_ROWS", 0)


def problem(x=SPARSE, sparse=True, budget=None, **network):
    network = Network((x.shape[1], C), sparse=sparse, **network)
    mask = np.arange(C)[:, None] == Y
    rows = Rows(
        SparseMatrix(x) if sparse else x.toarray(), mask, WEIGHTS, np.dtype("float64"),
        budget=budget or MemoryBudget(),
    )  # fmt: skip
    return Problem(Objective(network, loss_named("softmax"), REG), rows)


@pytest.mark.parametrize("place", [{}, {"bias": False}, {"scale": RNG.uniform(0.5, 2.0, D)}])
def test_objective_and_gradient_are_those_of_the_weights(place):
    """Of any a and b: the pair's halves are K r, r and g_b, and r^T U is the weights' gradient at
    fixed biases about the centre, that of the raw ones less g_b times the centre."""
    whole = problem(**place)
    space = score_space(whole, np.float64)
    a, b = RNG.normal(size=(2, N, C)), RNG.normal(size=(2, 1, C)) * whole.objective.network.bias
    theta = space._joined(a, space._apply(a), b)
    value, grad, gap = space.value_and_grad(theta)
    outside = np.stack([space.outside(one) for one in theta])
    wanted, dtheta = whole.value_and_grad(outside)
    # Sums of N and D products of entries below 10.
    bound = 10.0 * gamma(4 * (N + D), np.float64) * np.abs(theta).max() ** 2
    assert np.abs(value - wanted).max() <= bound
    image, push, r, again = space._split(2.0 * grad)
    assert np.array_equal(push, again)
    assert np.abs(image - space._apply(r)).max() <= bound
    weights = dtheta[:, : C * D].reshape(2, C, D)
    if whole.objective.network.bias:
        scale = 1.0 if whole.objective.network.scale is None else whole.objective.network.scale
        shared = (WEIGHTS / WEIGHTS.sum(axis=1, keepdims=True)).mean(axis=0)
        weights = weights - push.swapaxes(1, 2) * ((shared @ SPARSE.toarray()) / scale)
        assert np.abs(push[:, 0, :] - dtheta[:, C * D :]).max() <= bound
    gradient = np.stack([space.outside(one)[: C * D] for one in space._joined(r, image, push)])
    assert np.abs(gradient.reshape(2, C, D) - weights).max() <= bound
    assert np.abs(gap - np.sum(weights**2, axis=(1, 2)) / (4.0 * REG)).max() <= bound / REG.min()


def test_products_of_pairs_are_those_of_weights():
    space = score_space(problem(), np.float64)
    a, r = RNG.normal(size=(2, 2, N, C))
    b, g = RNG.normal(size=(2, 2, 1, C))
    step, gradient = (
        space._joined(a, space._apply(a), b),
        0.5 * space._joined(space._apply(r), r, g),
    )
    x = SPARSE.toarray()
    x = x - space.kernel.centre
    inner = [
        np.sum((one.T @ x) * (other.T @ x)) + np.sum(bias * push)
        for one, other, bias, push in zip(a, r, b, g, strict=True)
    ]
    assert np.allclose(np.sum(step * gradient, axis=1), inner, rtol=1e-12)


def test_a_start_near_the_optimum_is_taken_up():
    whole = problem()
    space = score_space(whole, np.float64)
    assert not space.inside(np.zeros((2, C * (D + 1)))).any()
    near = SoftmaxClassifier(reg=1e-3).fit(SPARSE, Y, sample_weight=WEIGHTS[0])
    theta = np.concatenate([near.coef_.ravel(), near.intercept_])
    start = space.inside(np.stack([theta, 1e3 * theta]))
    assert space.value_and_grad(start)[0][0] == pytest.approx(near.objective_, rel=1e-6)
    assert not start[1].any()  # far from it, zeros are better


def test_problems_that_it_is_not_for():
    assert is_wide(problem())
    assert not is_wide(problem(sparse=False))
    assert not is_wide(problem(SPARSE[:, :40]))
    assert not is_wide(problem(budget=MemoryBudget(100)))
    free = problem()
    free = Problem(Objective(free.objective.network, free.objective.loss, 0.0), free.rows)
    assert not is_wide(free)


OPTIONS = [
    (SoftmaxClassifier, {}), (SoftmaxClassifier, {"fit_intercept": False}),
    (SoftmaxClassifier, {"standardize": True}), (SoftmaxClassifier, {"tol": 1e-3}),
    (SoftmaxClassifier, {"reg": 1e-5}), (SVMClassifier, {"loss": "squared_hinge"}),
    (SVMClassifier, {"loss": "squared_hinge", "tol": 1e-3}), (SVMClassifier, {"tol": 1e-5}),
    (SVMClassifier, {"tol": 1e-3}), (SVMClassifier, {"tol": 1e-4, "fit_intercept": False}),
    (SVMClassifier, {"tol": 1e-3, "reg": 1e-1, "standardize": True, "margin": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
def test_fits_end_where_those_of_dense_rows_do(monkeypatch, kind, options):
    _check_fit(monkeypatch, kind, options, np.float64)


@pytest.mark.parametrize(
    ("kind", "options"),
    [case if k % 3 == 0 else pytest.param(*case, marks=pytest.mark.long)
     for k, case in enumerate(OPTIONS)],
    ids=str,
)  # fmt: skip
def test_fits_of_float32_rows_do(monkeypatch, kind, options):
    _check_fit(monkeypatch, kind, options, np.float32)


def _check_fit(monkeypatch, kind, options, dtype):
    monkeypatch.setattr("xclf.training.hinge.MOST_ROWS", 0)
    options = {"reg": 1e-3, "tol": 1e-8} | options
    exact = {} if kind is SoftmaxClassifier else {"max_iter": 20000}
    options |= exact
    model = kind(**options).fit(SPARSE.astype(dtype), Y, sample_weight=WEIGHTS[0])
    monkeypatch.undo()  # dense rows are few, and go to Newton's method
    dense = kind(**options | {"tol": 1e-8}).fit(SPARSE.toarray(), Y, sample_weight=WEIGHTS[0])
    assert dense.converged_
    assert model.converged_
    apart = max(1e-6, options["tol"])  # what `converged_` promises
    # Rows that are rounded to float32 are another problem, scores being off by D roundings.
    rounded = 0.0 if dtype is np.float64 else gamma(D, np.float32)
    assert model.objective_ == pytest.approx(dense.objective_, rel=2 * (apart + rounded))
    assert model.objective_ - model.dual_gap_ <= dense.objective_ * (1.0 + 2 * rounded + 1e-6)


def test_a_sweep_over_folds():
    grid = {"reg": [1e-4, 1e-3, 1e-2]}
    found, dense = (
        SweepCV(SoftmaxClassifier(), grid, cv=3).fit(x, Y) for x in (SPARSE, SPARSE.toarray())
    )
    scores = [search.cv_results_["mean_test_score"] for search in (found, dense)]
    assert np.allclose(*scores, atol=1e-12)


def test_callbacks_stop_it():
    seen = []
    model = SoftmaxClassifier(
        reg=1e-4, callbacks=[lambda event: seen.append(event) or len(seen) > 2]
    )
    model.fit(SPARSE, Y)
    assert not model.converged_
    assert model.n_iter_ == 3


def test_a_broken_hinge_goes_on_to_the_same_bits(monkeypatch, tmp_path):
    """In float32, as coarse tolerances begin, and in float64."""
    monkeypatch.setattr("xclf._atomic_write._flush", lambda part: None)  # which is slow
    monkeypatch.setattr("xclf.training.hinge.MOST_ROWS", 0)
    for tol in (1e-3, 1e-5):

        def model(kept=None, number=0, tol=tol):
            callbacks = [kept] * (kept is not None) + [RaiseAt(number, ZeroDivisionError)]
            return SVMClassifier(1e-3, tol=tol, callbacks=callbacks).fit(SPARSE, Y)

        whole = model()
        kept = Checkpoint(tmp_path / f"{tol}", every=0)
        for number in (3, whole.n_iter_ // 2):
            with pytest.raises(ZeroDivisionError):
                model(kept, number)
        again = model(kept)
        assert again.n_iter_ == whole.n_iter_
        assert again.coef_.tobytes() == whole.coef_.tobytes()


def test_objectives_are_those_of_weights_in_float64(monkeypatch):
    """Where the fit itself has run in float32: of weights that float32 would round."""
    monkeypatch.setattr("xclf.training.hinge.MOST_ROWS", 0)
    for model in (SVMClassifier(1e-3, tol=1e-3), SoftmaxClassifier(1e-3, tol=1e-3)):
        model.fit(SPARSE, Y, sample_weight=WEIGHTS[0])
        scores = SPARSE @ model.coef_.T + model.intercept_
        own = scores[np.arange(N), Y][:, None]
        if isinstance(model, SVMClassifier):
            losses = np.maximum(scores - own + 1.0, 0.0).sum(axis=1) - 1.0
        else:
            losses = np.log(np.exp(scores - own).sum(axis=1))
        value = np.average(losses, weights=WEIGHTS[0]) + 1e-3 * np.sum(model.coef_**2)
        assert model.objective_ == pytest.approx(value, rel=1e-11)


@pytest.mark.parametrize("bias", [True, False])
def test_the_smoothed_hinge_is_that_of_the_weights(bias):
    """Value, slack and plain hinge of both forms, before and after a move of the multipliers."""
    whole = problem(bias=bias)
    whole = replace(whole, objective=replace(whole.objective, loss=loss_named("hinge")))
    margin, smoothing = np.array([1.0, 0.5]), np.array([0.3, 2.0])
    here, there = (kind.at_zero(whole, margin, smoothing) for kind in (ScoreHinge, SmoothedHinge))
    a, b = RNG.normal(size=(2, N, C)), RNG.normal(size=(2, 1, C)) * bias
    space = score_space(whole, np.float64)
    theta = space._joined(a, space._apply(a), b)
    outside = here.outside(theta, np.arange(2))
    for moved in (False, True):
        if moved:
            for one in (here, there):
                one.move(np.array([True, False]), smoothing / 2.0)
        value, grad, slack, square, _, plain = here.value_and_grad(theta)
        wanted = there.value_and_grad(outside)
        for mine, its in zip((value, slack, plain), (wanted[0], wanted[2], wanted[5]), strict=True):
            assert np.allclose(mine, its, rtol=1e-10)
    gradient = wanted[1][:, : C * D].reshape(2, C, D)
    if bias:
        gradient = gradient - wanted[1][:, C * D :, None] * space.kernel.centre
    assert np.allclose(square, np.sum(gradient**2, axis=(1, 2)), rtol=1e-10)
    here.build_preconditioner(theta)
    push = space._split(2.0 * grad)[1]
    step = space._split(here.precondition(space._joined(0.0 * a, 0.0 * a, 0.5 * push)))[1]
    assert np.allclose(here.value_and_grad(theta)[4], np.sum(push * step, axis=(1, 2)))
