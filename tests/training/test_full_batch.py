"""Full-batch fits: what converged means, what ends them, and that every backend agrees."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on
from scipy.optimize import minimize

from xclf.objectives import Network
from xclf.training import Monitor, Problem, fit_augmented_lagrangian, fit_lbfgs

full_batch = sys.modules["xclf.training.full_batch"]
lbfgs_fit = sys.modules["xclf.training.lbfgs_fit"]
X, Y = blobs(30, 5, 3)
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, size=30)
NUMPY = Backend.NUMPY
losses_ = pytest.mark.parametrize("loss", ["softmax", "hinge"])


def _fit(loss="softmax", backend=NUMPY, *, widths=(5, 3), reg=1e-2, tol=1e-8, max_iter=2000,
         start=None, callbacks=(), weights=None, x=X, dtype="float64", **place):  # fmt: skip
    network = Network(widths, **place)
    problem = problem_on(backend, network, x, Y, loss=loss, reg=reg, weights=weights, dtype=dtype)
    monitor = Monitor(callbacks, "iteration", max_iter)
    theta = np.zeros(network.size) if start is None else start
    if start is None and len(widths) > 2:
        theta = np.random.default_rng(2).normal(size=network.size) * 0.5
    options = {"tol": tol, "max_iter": max_iter, "monitor": monitor}
    method = fit_augmented_lagrangian if loss == "hinge" else fit_lbfgs
    (result,) = method(problem, backend.asarray(theta)[None, :], **options)
    return result, monitor, problem


@functools.cache
def _on_numpy(loss, weighted, tol):
    return _fit(loss, weights=WEIGHTS if weighted else None, tol=tol)[0]


@pytest.mark.parametrize("loss, weighted", [("softmax", False), ("softmax", True), ("hinge", True)])
def test_every_backend_reaches_the_same_objective(backend, loss, weighted):
    """Float64 fits, converged: equal to 1e-10 whatever the library's own rounding."""
    tol = 1e-9 if loss == "softmax" else 1e-11
    want = _on_numpy(loss, weighted, tol)
    got, _, problem = _fit(loss, backend, weights=WEIGHTS if weighted else None, tol=tol)
    assert want.converged
    assert got.converged
    assert got.objective == pytest.approx(want.objective, rel=1e-10)
    value = float(backend.to_host(problem.value(got.theta)))
    assert value == pytest.approx(got.objective, rel=1e-14)


@functools.cache
def _squared_hinge_by_bfgs(reg, weighted):
    """SciPy's BFGS on the formula in NumPy."""
    w = WEIGHTS if weighted else np.ones(len(X))
    true = np.eye(3, dtype=bool)[Y]

    def objective(theta):
        v, b = theta[:15].reshape(3, 5), theta[15:]
        scores = X @ v.T + b
        m = np.where(true, 0.0, np.maximum(scores - scores[true][:, None] + 1.0, 0.0))
        g = 2.0 * m * (w / w.sum())[:, None]
        g[true] = -g.sum(axis=1)
        gradient = np.concatenate([(g.T @ X + 2 * reg * v).ravel(), g.sum(axis=0)])
        return w @ (m**2).sum(axis=1) / w.sum() + reg * np.sum(v**2), gradient

    best = minimize(objective, np.zeros(18), jac=True, method="BFGS", options={"gtol": 1e-9})
    assert np.abs(best.jac).max() < 1e-6
    return best.fun


@pytest.mark.parametrize("reg, weighted", [(1e-3, False), (1e-2, True), (1.0, False)])
def test_the_squared_hinge_reaches_the_optimum_of_another_method(backend, weighted, reg):
    """Both gradients vanish, so objectives agree to the square of their distance."""
    weights = WEIGHTS if weighted else None
    got, _, _ = _fit("squared_hinge", backend, reg=reg, weights=weights, tol=1e-9)
    assert got.converged
    assert got.objective == pytest.approx(_squared_hinge_by_bfgs(reg, weighted), rel=1e-10)


@losses_
def test_the_same_fit_repeats_bit_for_bit(backend, loss):
    (one, first, _), (two, second, _) = (_fit(loss, backend, max_iter=20) for _ in range(2))
    np.testing.assert_array_equal(backend.to_host(one.theta), backend.to_host(two.theta))
    assert first.history["loss"] == second.history["loss"]


@losses_
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_converged_is_near_the_optimum(loss, bias):
    """Against the same fit at a far smaller tolerance."""
    best, _, _ = _fit(loss, tol=1e-11, bias=bias)
    for tol in (1e-3, 1e-6):
        result, _, _ = _fit(loss, tol=tol, bias=bias)
        assert result.converged
        assert result.reason == "converged"
        assert -1e-10 <= result.objective / best.objective - 1 <= tol


@pytest.mark.parametrize(
    "units, reg", [([1e3, 1, 1e-1, 1, 1e-1], 1e-4), ([1e2, 1, 1e-2, 1, 1e-2], 1e-6)]
)
def test_converged_is_near_the_optimum_whatever_the_units(units, reg):
    """The largest gradient says nothing of the small features: stopping by it alone leaves 6%."""
    x = X * np.array(units)
    best, _, _ = _fit(x=x, tol=1e-11, reg=reg)
    result, _, _ = _fit(x=x, tol=1e-2, reg=reg)
    assert best.converged
    assert result.converged
    assert result.objective / best.objective - 1 <= 1e-2


@pytest.mark.parametrize("units", [[30, 1, 1e-1, 1, 3e-2], [100, 10, 1, 1e-1, 1e-2]])
def test_units_of_columns_cost_the_hinge_few_steps(units):
    """57 and 85 on 60 rows; without a preconditioner at the start it was 149 and 195."""
    x, y = blobs(60, 5, 3)
    problem = problem_on(NUMPY, Network((5, 3)), x * units, y, loss="hinge", reg=1e-2)
    monitor = Monitor((), "iteration", 2000)
    (result,) = fit_augmented_lagrangian(
        problem, np.zeros((1, 18)), tol=1e-6, max_iter=2000, monitor=monitor
    )
    assert result.converged
    assert result.n_iter <= 120


def test_softmax_convergence_is_the_gradient_and_the_distance():
    result, _, problem = _fit(tol=1e-6)
    start = np.abs(problem.value_and_grad(np.zeros(18))[1]).max()
    assert result.grad_norm <= 1e-6 * start
    assert result.grad_norm == np.abs(problem.value_and_grad(result.theta)[1]).max()


def test_a_warm_start_is_measured_against_zero_weights():
    """Near the optimum the gradient is small already: it need not fall by tol again."""
    first, _, _ = _fit(tol=1e-6)
    second, monitor, _ = _fit(tol=1e-5, start=first.theta)
    assert second.converged
    assert len(monitor.history["loss"]) <= 2
    assert second.n_iter >= 1


def test_a_zero_gradient_is_converged_at_once():
    """Equally frequent classes at one point: zero weights are the optimum."""
    x = np.zeros((30, 5))
    problem = problem_on(NUMPY, Network((5, 2)), x, np.arange(30) % 2)
    monitor = Monitor((), "iteration", 9)
    (result,) = fit_lbfgs(problem, np.zeros((1, 12)), tol=0.0, max_iter=9, monitor=monitor)
    assert result.converged
    assert result.n_iter == 1  # scikit-learn wants at least one
    assert result.objective == pytest.approx(np.log(2), rel=1e-15)


@losses_
def test_max_iter_ends_the_fit(loss):
    result, monitor, problem = _fit(loss, max_iter=4, tol=1e-14)
    assert result.n_iter == len(monitor.history["loss"]) == 4
    assert not result.converged
    assert result.reason == "reached max_iter=4"
    assert result.objective == pytest.approx(float(problem.value(result.theta)), rel=1e-15)


def test_steps_of_newtons_method_count():
    """Hardly penalised, L-BFGS is slow, and hands over: both methods' steps are iterations."""
    method = full_batch.fit_certified
    problem = problem_on(NUMPY, Network((5, 3)), X, Y, reg=1e-9)
    monitor = Monitor((), "iteration", 2000)
    theta = np.zeros((1, problem.objective.network.size))
    (result,) = method(problem, theta, tol=1e-10, max_iter=2000, monitor=monitor)
    (slow,) = fit_lbfgs(
        problem, theta, tol=1e-10, max_iter=2000, monitor=Monitor((), "iteration", 2000)
    )
    assert result.converged
    assert result.n_iter == len(monitor.history["loss"])
    assert result.n_iter < slow.n_iter


@losses_
def test_a_callback_ends_the_fit(loss):
    result, monitor, _ = _fit(loss, callbacks=[lambda event: event.step == 3], tol=1e-14)
    assert result.reason == "a callback stopped the fit"
    assert len(monitor.history["loss"]) == result.n_iter == 3


@losses_
def test_ctrl_c_keeps_what_there_is(loss):
    def interrupt(event):
        if event.step == 3:
            raise KeyboardInterrupt

    result, monitor, problem = _fit(loss, callbacks=[interrupt], tol=1e-14)
    assert result.interrupted
    assert not result.converged
    assert result.n_iter == len(monitor.history["loss"]) == 3
    zero = float(problem.value(np.zeros(18)))
    assert float(problem.value(result.theta)) == pytest.approx(result.objective, rel=1e-12)
    assert result.objective < zero


@losses_
def test_the_objective_of_softmax_never_rises(loss):
    """The hinge's history is that of its smoothed inner objectives, which bound it from below."""
    result, monitor, _ = _fit(loss)
    if loss == "softmax":
        assert np.all(np.diff(monitor.history["loss"]) <= 1e-15)
    else:
        assert max(monitor.history["loss"]) >= result.objective * (1 - 1e-8)


@losses_
def test_float32_rows_converge_at_their_own_tolerance(backend, loss):
    tol = 1e-6 if loss == "softmax" else 1e-4
    want, _, _ = _fit(loss, x=X.astype("float32"), tol=1e-9)
    start = np.zeros(18)  # parameters in float64, as the estimators have them
    got, _, _ = _fit(loss, backend, x=X.astype("float32"), dtype="float32", tol=tol, start=start)
    assert got.converged
    assert got.objective == pytest.approx(want.objective, rel=max(tol, 1e-6))


def test_the_hinge_goes_on_in_float64_where_float32_ends(monkeypatch):
    """A gap of 1e-9 is below float32's rounding of the products: the fit widens them. What is left
    is the rounding of the parameters, as a float32 model holds them."""
    want, _, _ = _fit("hinge", x=X.astype("float32"), tol=1e-10)
    wide, module = [], sys.modules["xclf.training.augmented_lagrangian"]
    fit = module._AugmentedLagrangianFit
    monkeypatch.setattr(module, "_PATIENCE", 3)  # rounding is soon blamed, in float64 too
    original = fit.widen
    monkeypatch.setattr(fit, "widen", lambda self: wide.append(1) or original(self))
    start = np.zeros(18)  # parameters in float64, as the estimators have them
    got, _, problem = _fit("hinge", x=X.astype("float32"), dtype="float32", tol=1e-9, start=start)
    assert wide == [1]
    assert problem.rows.dtype == np.float32
    assert got.reason in ("rounding left nothing to gain", "converged")
    assert got.dual_gap <= 2e-6 * got.objective
    assert want.objective <= got.objective <= want.objective + got.dual_gap


def test_a_tolerance_below_rounding_ends_too():
    result, _, _ = _fit("softmax", tol=0.0)
    best, _, _ = _fit("softmax", tol=1e-9)
    assert result.objective == pytest.approx(best.objective, rel=1e-12)
    result, _, _ = _fit("hinge", tol=1e-14)
    best, _, _ = _fit("hinge", tol=1e-10)
    assert result.objective == pytest.approx(best.objective, rel=1e-6)
    assert result.reason in ("rounding left nothing to gain", "converged")


@losses_
def test_a_net_goes_down(backend, loss):
    """ReLU has kinks, where no gradient vanishes: a line search that fails there ends the fit."""
    result, monitor, problem = _fit(
        loss, backend, widths=(5, 6, 3), tol=1e-3, reg=3e-2, max_iter=40
    )
    assert result.converged or result.reason.startswith(("rounding", "reached", "no further"))
    assert result.objective < 0.7 * monitor.history["loss"][0]
    value = problem.value(result.theta)
    assert float(backend.to_host(value)) == pytest.approx(result.objective, rel=1e-12)


@losses_
def test_more_classes_than_a_curvature_is_kept_for(loss, monkeypatch):
    monkeypatch.setattr(sys.modules["xclf.training.lbfgs_fit"], "MAX_CLASSES", 2)
    monkeypatch.setattr(sys.modules["xclf.training._smoothed_hinge"], "MAX_CLASSES", 2)
    want, _, _ = _fit(loss, tol=1e-7)
    monkeypatch.undo()
    got, _, _ = _fit(loss, tol=1e-7)
    assert got.converged
    assert want.objective == pytest.approx(got.objective, rel=1e-6)


@losses_
def test_without_penalty_and_separable_it_ends(loss):
    """The hinge reaches 0; the softmax's infimum 0 is at infinity."""
    x = X + 50.0 * np.eye(3, 5)[Y]
    result, _, _ = _fit(loss, x=x, reg=0.0, max_iter=300)
    assert result.objective < 1e-6
    assert np.isfinite(result.theta).all()


def test_values_that_overflow_end_the_fit():
    with np.errstate(all="ignore"):
        for loss in ("softmax", "hinge"):
            result, _, _ = _fit(loss, start=np.full(18, 1e200), max_iter=50)
            assert not result.converged
            assert "not finite" in result.reason


def test_curvature_is_refreshed_now_and_then(monkeypatch):
    seen = []
    original = lbfgs_fit.SpectralPreconditioner.refresh
    monkeypatch.setattr(
        lbfgs_fit.SpectralPreconditioner,
        "refresh",
        lambda self, curvature: seen.append(1) or original(self, curvature),
    )
    result, _, _ = _fit(tol=1e-12, reg=1e-6)
    due = sum(step <= result.n_iter for step in lbfgs_fit.REFRESH)
    assert due >= 2
    assert len(seen) in (due, due + 1)  # and once when it is built


@losses_
def test_standardised_coordinates_have_their_own_optimum(loss):
    """The penalty is on the weights of (x - shift) / scale: explicit rows give the same."""
    mean, scale = X.mean(axis=0), np.array([1.0, 10.0, 0.1, 1.0, 3.0])
    got, _, _ = _fit(loss, tol=1e-10, shift=mean, scale=scale)
    want, _, _ = _fit(loss, tol=1e-10, x=(X - mean) / scale)
    assert got.objective == pytest.approx(want.objective, rel=1e-8)
    np.testing.assert_allclose(got.theta[:15], want.theta[:15], atol=1e-4)


def test_the_class_curvature_is_measured_on_a_sample(monkeypatch):
    """Of some rows for every class, weights and all; where the fit ends is the same."""
    x, y = blobs(400, 5, 3)
    weights = np.random.default_rng(1).uniform(0.5, 1.5, 400)
    seen, plain = [], Problem.curvature
    monkeypatch.setattr(
        Problem, "curvature", lambda self, theta: seen.append(self.rows) or plain(self, theta)
    )
    found = []
    for rows in ((1, 400), (30, 16), (1, 120)):
        monkeypatch.setattr(lbfgs_fit, "CURVATURE_ROWS", rows)
        problem = problem_on(NUMPY, Network((5, 3)), x, y, reg=1e-3, weights=weights)
        monitor = Monitor((), "iteration", 500)
        theta = np.zeros((1, problem.objective.network.size))
        (result,) = fit_lbfgs(problem, theta, tol=1e-9, max_iter=500, monitor=monitor)
        assert result.converged
        found.append((result.objective, {len(rows) for rows in seen}))
        np.testing.assert_array_equal(seen[-1].weights, weights[:: -(-400 // len(seen[-1]))])
        seen.clear()
    assert [sizes for _, sizes in found] == [{400}, {100}, {134}]
    for objective, _ in found[1:]:
        assert objective == pytest.approx(found[0][0], rel=1e-12)
