"""Small problems of both hinges: few rows end at their optimum in few steps, at every penalty.

What is exact in theory is tested to the rounding of float64. The certified gap is a bound on the
distance to the optimum; SciPy's solution of the same programme confirms it.
"""

from __future__ import annotations

import numpy as np
import pytest
from estimator_cases import blobs, objective_of, svm_by_general_solver
from pairwise import pairwise

from xclf import SVMClassifier

REGS = [10.0, 1e-1, 1e-3, 1e-5, 1e-7]
#: Newton steps; the method has no bound of its own, and needs 10 to 110 on such problems.
STEPS = 200


def _one_shot(rows=5, features=64, classes=3, seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, features))
    return x / np.linalg.norm(x, axis=1, keepdims=True), np.arange(rows) % classes


def _mixed_units(n=120):
    """Age, income, a ratio, an identifier: deviations of 10, 1e4, 0.3 and 1e9."""
    r = np.random.default_rng(1)
    y = r.permutation(np.arange(n) % 3)
    columns = [r.normal(40, 12, n) + 4 * y, r.lognormal(10, 1, n), r.random(n)]
    return np.stack([*columns, r.integers(10**8, 9 * 10**9, n).astype(float)], axis=1), y


@pairwise(
    loss=["hinge", "squared_hinge"],
    shape=[(5, 64, 2), (60, 80, 30), (40, 128, 10)],
    reg=REGS,
    dtype=["float64", "float32"],
)
def test_few_separable_rows(loss, shape, reg, dtype):
    """Also as a float32 model stores them: coefficients grow by some units, to meet margins."""
    x, y = _one_shot(*shape)
    model = SVMClassifier(reg, loss=loss, tol=1e-5).fit(x.astype(dtype), y)
    assert model.converged_
    assert model.n_iter_ <= STEPS
    assert model.dual_gap_ <= (1e-9 if dtype == "float64" else 1e-5) * model.objective_


@pytest.mark.parametrize("reg", REGS[1:])
@pytest.mark.parametrize("margin, bias", [(1.0, True), (2.5, False)])
def test_the_optimum_of_a_general_solver(reg, margin, bias):
    x, y = blobs(18, 3, 3, seed=4)
    weights = np.random.default_rng(1).uniform(0.2, 2.0, size=18)
    weights[3] = 0.0
    model = SVMClassifier(reg, margin=margin, fit_intercept=bias).fit(x, y, sample_weight=weights)
    best = svm_by_general_solver(x, y, reg, weights, margin, bias)
    assert model.converged_
    assert model.objective_ - model.dual_gap_ <= best * (1 + 1e-8)
    # At small penalties the general solver ends early; it is never below the optimum.
    assert model.objective_ <= best * (1 + 1e-8)
    value = objective_of(model, x, y, weights, margin=margin)
    assert model.objective_ == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("reg", [1e-1, 1e-3, 1e-5])
def test_badly_scaled_columns_cost_no_more(reg, loss):
    x, y = _mixed_units()
    model = SVMClassifier(reg, loss=loss).fit(x, y)
    assert model.converged_
    assert model.n_iter_ <= STEPS


def test_columns_of_one_part_in_ten_thousand_million():
    """A power of two changes no digit of a column, and a penalty on none of them hardly any of the
    optimum: weights of 1e10-fold columns are as good as free, those of 1e-10-fold ones nothing."""
    x, y = blobs(80, 6, 3, seed=2)
    wide = x * np.array([2.0**33, 2.0**33, 1, 1, 2.0**-33, 2.0**-33])
    model = SVMClassifier(1e-3).fit(wide, y)
    assert model.converged_
    # Without the last two columns: they could gain less than |x|^2 / (4 reg) = 1e-17.
    without = SVMClassifier(1e-3).fit(wide[:, :4], y)
    assert model.objective_ == pytest.approx(without.objective_, rel=2e-6)


def test_an_offset_changes_nothing():
    """2^20 is exact, and so are the columns beside it, which have 32 bits; biases are not
    penalised."""
    x, y = blobs(60, 5, 3)
    x = np.round(x * 2.0**12) / 2.0**12
    near, far = SVMClassifier(1e-3).fit(x, y), SVMClassifier(1e-3).fit(x + 2.0**20, y)
    assert far.converged_
    assert far.objective_ == pytest.approx(near.objective_, rel=1e-8)
    np.testing.assert_allclose(far.coef_, near.coef_, atol=1e-6)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("reg", REGS)
def test_repeated_collinear_and_constant(reg, loss):
    x, y = blobs(20, 3, 3)
    x, y = np.repeat(x, 3, axis=0), np.repeat(y, 3)
    more = np.c_[x, x[:, 0] + x[:, 1], x[:, 2], np.full(len(x), 7.0)]
    model = SVMClassifier(reg, loss=loss).fit(more, y)
    assert model.converged_
    assert model.n_iter_ <= STEPS
    assert model.coef_[:, -1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("classes", [2, 3])
def test_one_class_alone_has_weight(classes, loss):
    """No loss without weights: biases meet all margins."""
    x, y = blobs(30, 4, classes)
    model = SVMClassifier(1e-3, loss=loss).fit(x, y, sample_weight=(y == 1).astype(float))
    assert model.converged_
    assert model.objective_ == 0.0
    np.testing.assert_array_equal(model.coef_, 0.0)
    np.testing.assert_array_equal(model.predict(x), 1)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("reg", [1e-9, 1e-3, 10.0])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_rows_without_any_spread(value, reg, loss):
    """Biases alone are left: the classes of 5, 3 and 2 rows of 10 have the optimum of no weights.

    The hinge is linear between the margins: 1.5 at b = (1, 0, 0), as an error of the rows of the
    other classes costs 2 + 1, and 5 rows none. That of squares solves linear equations in b."""
    y = np.repeat([0, 1, 2], [5, 3, 2])
    model = SVMClassifier(reg, loss=loss).fit(np.full((10, 2), value), y)
    assert model.converged_
    np.testing.assert_array_equal(model.coef_, 0.0)
    best = {"hinge": 1.5, "squared_hinge": 236 / 131}[loss]
    assert model.objective_ == pytest.approx(best, rel=1e-6)


def test_a_class_without_weight_takes_no_part():
    x, y = blobs(40, 4, 3)
    model = SVMClassifier(1e-2).fit(x, y, sample_weight=(y != 2).astype(float))
    two = SVMClassifier(1e-2).fit(x[y != 2], y[y != 2])
    assert model.converged_
    assert model.objective_ == pytest.approx(two.objective_, rel=1e-8)


def test_a_strong_penalty_leaves_biases_alone():
    """All multipliers are at a bound: weights are the gradient at 0 over 2 reg."""
    x, y = blobs(31, 4, 3)
    model = SVMClassifier(1e6).fit(x, y)
    assert model.converged_
    assert model.objective_ == pytest.approx(SVMClassifier(1e12).fit(x, y).objective_, abs=1e-4)


def test_steps_are_bounded_and_a_callback_ends_them():
    x, y = blobs(60, 5, 3)
    with pytest.warns(Warning, match="max_iter"):
        model = SVMClassifier(1e-3, max_iter=5).fit(x, y)
    assert model.n_iter_ == 5
    assert len(model.history_["loss"]) == 5
    seen = []

    def stop(event):
        seen.append(event)
        return len(seen) == 4

    assert not SVMClassifier(1e-3, callbacks=[stop]).fit(x, y).converged_
    assert [event.step for event in seen] == [1, 2, 3, 4]


def test_ctrl_c_leaves_what_the_fit_has_come_to():
    def interrupt(event):
        if event.step == 7:
            raise KeyboardInterrupt

    x, y = blobs(60, 5, 3)
    model = SVMClassifier(1e-3, callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y)
    assert not model.converged_
    assert 0.0 < model.dual_gap_ <= model.objective_ < 2.0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("reg", [1e-4, 1.0])
def test_many_rows_of_which_one_class_has_weight(loss, reg, dtype):
    """Biases alone meet all margins: the optimum is 0, without weights."""
    y = np.arange(2100) % 3  # more rows than Newton's method takes
    x = np.random.default_rng(0).standard_normal((2100, 4)).astype(dtype)
    model = SVMClassifier(reg, loss=loss).fit(x, y, sample_weight=(y == 1).astype(float))
    assert model.converged_
    assert model.objective_ == 0.0
    np.testing.assert_array_equal(model.coef_, 0.0)
    np.testing.assert_array_equal(model.predict(x), 1)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("dtype", ["int8", "float32", "float64"])
def test_one_class_without_a_penalty(loss, dtype):
    """Of all its rows: weights that suit the first alone said an objective of 0, at one of 1e7."""
    x, y = np.asarray([[-15], [-80], [-2]], dtype=dtype), np.asarray([0, 1, 1])
    model = SVMClassifier(loss=loss, reg=0.0, class_weight={0: 0.0, 1: 1.0}).fit(x, y)
    assert model.objective_ == 0.0
    assert (np.asarray(model.decision_function(x))[1:] >= 1.0).all()


@pytest.mark.parametrize("reg", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("features, classes, apart", [(20, 5, 0.3), (64, 3, 0.1)])
def test_classes_that_overlap(features, classes, apart, reg):
    """Rows between their bounds are many, and stay well conditioned down to the weakest penalty."""
    r, y = np.random.default_rng(0), np.arange(600) % classes
    x = r.standard_normal((600, features)) + apart * r.standard_normal((classes, features))[y]
    model = SVMClassifier(reg).fit(x, y)
    assert model.converged_
    assert model.n_iter_ <= STEPS


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("max_iter", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_the_gap_of_a_fit_that_ends_early_reaches_down_to_the_optimum(loss, max_iter):
    x, y = blobs(60, 5, 3)
    best = SVMClassifier(1e-3, loss=loss, tol=1e-10).fit(x, y).objective_
    early = SVMClassifier(1e-3, loss=loss, max_iter=max_iter).fit(x, y)
    assert early.objective_ - early.dual_gap_ <= best * (1.0 + 1e-9)
