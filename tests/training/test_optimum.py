"""Full-batch fits reach the optimum that others find: scikit-learn, a general solver, a dual."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from estimator_cases import blobs, ill_conditioned, objective_of, svm_by_general_solver
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from xclf import SoftmaxClassifier, SVMClassifier

SETS = {
    "digits": lambda: load_digits(return_X_y=True),
    "breast cancer": lambda: load_breast_cancer(return_X_y=True),
    "ill-conditioned": ill_conditioned,
}
REG = 1e-4  # the default


def _row_weights(y, how):
    """What the objective weighs rows by: given ones, or n / (C n_c)."""
    if how == "sample_weight":
        return np.random.default_rng(1).uniform(0.0, 2.0, size=len(y))
    if how == "balanced":
        return (len(y) / (len(np.unique(y)) * np.bincount(y)))[y]
    return np.ones(len(y))


def _logistic_regression(x, y, weights):
    c = 1 / ((1 if y.max() == 1 else 2) * REG * weights.sum())
    reference = LogisticRegression(C=c, tol=1e-12, max_iter=200, solver="newton-cholesky")
    with threadpool_limits(1):  # its products are small: two threads only wait for each other
        reference.fit(x, y, sample_weight=weights)
    reference.reg = REG
    return objective_of(reference, x, y, weights)


# Each set, and each way of weighting: what weights do does not depend on the features.
@pytest.mark.parametrize(
    "name, how",
    [
        ("digits", "equal"),
        ("breast cancer", "equal"),
        ("breast cancer", "balanced"),
        ("ill-conditioned", "sample_weight"),
    ],
)
def test_softmax_at_its_defaults_is_logistic_regression(name, how):
    """To 1e-6 relative in the objective: raw features, no scaling, no settings."""
    x, y = SETS[name]()
    weights = _row_weights(y, how)
    model = SoftmaxClassifier(class_weight="balanced" if how == "balanced" else None)
    model.fit(x, y, sample_weight=weights if how == "sample_weight" else None)
    assert model.converged_
    got, want = objective_of(model, x, y, weights), _logistic_regression(x, y, weights)
    assert got <= want * (1 + 1e-6)
    assert got >= want * (1 - 1e-9)  # nothing lies below an optimum
    assert model.objective_ == pytest.approx(got, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("reg", [1.0, 1e-2, 1e-5])
def test_softmax_of_one_class_with_weight(reg, classes):
    """Biases alone bring the loss to 0, which is the optimum, with weights of 0."""
    x, y = blobs(20, 3, classes)
    model = SoftmaxClassifier(reg).fit(x.astype("float32"), y, sample_weight=(y == 0) * 1.0)
    assert model.converged_
    assert model.objective_ <= 1e-12


@pytest.mark.parametrize("shape", [(30, 4000), (3000, 9000), (3000, 20)])
def test_sparse_rows_of_which_one_class_has_weight(shape):
    """As few steps, without a product that overflows, whatever method is for such rows."""
    x = scipy.sparse.random(*shape, 1e-3, format="csr", random_state=0)
    y = np.r_[np.arange(3), np.random.default_rng(0).integers(0, 3, shape[0] - 3)]
    model = SoftmaxClassifier(1e-2).fit(x, y, sample_weight=(y == 1) * 2.0)
    assert model.converged_
    assert model.objective_ == model.dual_gap_ == 0.0
    assert np.array_equal(model.predict(x), np.ones(len(y)))
    assert model.score(x, y, sample_weight=(y == 1) * 2.0) == 1.0


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
def test_a_class_without_weight_has_a_bias_alone(cls, standardize):
    """No row costs anything because of it: it stays as far below as the loss needs."""
    x, y = blobs(40, 4, 4, seed=3)
    x = x * [1.0, 30.0, 0.1, 3.0] + 5.0
    there = y != 2
    model = cls(1e-2, standardize=standardize).fit(x, y, sample_weight=there * 1.0)
    without = cls(1e-2, standardize=standardize).fit(x[there], y[there])
    assert model.converged_
    assert model.objective_ == pytest.approx(without.objective_, rel=2e-6)
    np.testing.assert_array_equal(model.coef_[2], 0.0)
    if cls is SoftmaxClassifier:
        assert model.predict_proba(x[there])[:, 2].max() == 0.0
    else:
        own = model.decision_function(x)[np.arange(40), y][there].min()
        least = own - 2.0  # twice the margin, and a thousandth
        assert least - 2e-3 * abs(least) <= model.intercept_[2] <= least


def test_raw_breast_cancer_in_float32():
    """Areas of 1e3 beside smoothness of 1e-1, in float32: within its own promise of 1e-6."""
    x, y = load_breast_cancer(return_X_y=True)
    x = x.astype("float32")
    model = SoftmaxClassifier().fit(x, y)
    best = SoftmaxClassifier(tol=1e-10).fit(x.astype(float), y)
    assert model.converged_
    assert objective_of(model, x, y) == pytest.approx(best.objective_, rel=1e-5)


@pytest.mark.parametrize(
    "reg, weighted", [(1.0, False), (1e-1, True), (1e-2, False), (1e-2, True), (1e-3, False)]
)
def test_svm_is_the_quadratic_programme(reg, weighted):
    x, y = blobs(18, 3, 3, seed=3)
    weights = np.random.default_rng(1).uniform(0.2, 2.0, size=18) if weighted else np.ones(18)
    model = SVMClassifier(reg=reg).fit(x, y, sample_weight=weights)
    want = svm_by_general_solver(x, y, reg, weights)
    assert model.converged_
    assert objective_of(model, x, y, weights) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
    "classes, margin, bias", [(2, 1.0, True), (4, 2.5, True), (3, 0.5, False), (2, 1.0, False)]
)
def test_svm_with_other_classes_margins_and_no_bias(classes, margin, bias):
    x, y = blobs(18, 3, classes, seed=4)
    model = SVMClassifier(reg=1e-2, margin=margin, fit_intercept=bias).fit(x, y)
    want = svm_by_general_solver(x, y, 1e-2, np.ones(18), margin, bias)
    assert model.converged_
    assert objective_of(model, x, y, margin=margin) == pytest.approx(want, rel=1e-5)


def _svm_by_dual(x, y, reg, gap, sweeps=20_000):
    """(lower, upper) bounds of the optimum without biases, by exact coordinate ascent in the dual.

    max  sum_ij a_ij - reg |W(a)|^2,  W = 1/(2 reg) sum_ij a_ij (e_y - e_j) x_i^T,  0 <= a <= 1/N
    """
    n, c = len(x), int(y.max()) + 1
    a, w = np.zeros((n, c)), np.zeros((c, x.shape[1]))
    for _ in range(sweeps):
        for i in range(n):
            for j in range(c):
                if j == y[i]:
                    continue
                gradient = 1.0 + (w[j] - w[y[i]]) @ x[i]
                new = min(max(a[i, j] + gradient * reg / (x[i] @ x[i]), 0.0), 1.0 / n)
                move = (new - a[i, j]) / (2 * reg) * x[i]
                w[y[i]] += move
                w[j] -= move
                a[i, j] = new
        m = x @ w.T - np.sum(x * w[y], axis=1)[:, None] + 1.0
        m[np.arange(n), y] = 0.0
        upper = np.maximum(m, 0.0).sum() / n + reg * np.sum(w**2)
        lower = a.sum() - reg * np.sum(w**2)
        if upper - lower <= gap * upper:
            break
    return lower, upper


@pytest.mark.parametrize("reg", [1.0, 1e-1])
def test_svm_lies_between_the_bounds_of_the_dual(reg):
    x, y = blobs(30, 4, 3, seed=5)
    model = SVMClassifier(reg=reg, fit_intercept=False).fit(x, y)
    lower, upper = _svm_by_dual(x, y, reg, 1e-6)
    got = objective_of(model, x, y)
    assert upper - lower <= 1e-6 * upper
    assert lower <= got <= upper * (1 + 1e-6)


def test_svm_on_digits_beats_every_nearby_point():
    """No solver to compare with at this size: the optimum of a convex function has no descent."""
    x, y = load_digits(return_X_y=True)
    x = x[::4] / 16
    y = y[::4]
    model = SVMClassifier(reg=1e-3).fit(x, y)
    assert model.converged_
    best = objective_of(model, x, y)
    rng = np.random.default_rng(0)
    coef, intercept = model.coef_.copy(), model.intercept_.copy()
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(4):
            model.coef_ = coef + size * rng.normal(size=coef.shape)
            model.intercept_ = intercept + size * rng.normal(size=intercept.shape)
            assert objective_of(model, x, y) >= best * (1 - 1e-6)


# --- how optima move -------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
def test_integer_weights_are_repeated_rows(cls):
    x, y = blobs(40, 4, 3, seed=6)
    counts = np.random.default_rng(2).integers(0, 4, size=40)
    weighted = cls(reg=1e-2, tol=1e-10).fit(x, y, sample_weight=counts)
    repeated = cls(reg=1e-2, tol=1e-10).fit(np.repeat(x, counts, axis=0), np.repeat(y, counts))
    assert weighted.objective_ == pytest.approx(repeated.objective_, rel=1e-9)
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-4)


@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
def test_the_scale_of_weights_does_not_matter(cls):
    x, y = blobs(40, 4, 3, seed=6)
    weights = np.random.default_rng(2).uniform(size=40)
    one, other = (cls(reg=1e-2).fit(x, y, sample_weight=s * weights) for s in (1.0, 1024.0))
    np.testing.assert_array_equal(one.coef_, other.coef_)


@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
def test_rows_of_weight_zero_are_not_there(cls):
    x, y = blobs(40, 4, 3, seed=6)
    weights = np.repeat([1.0, 0.0], 20)
    zero = cls(reg=1e-2, tol=1e-10).fit(x, y, sample_weight=weights)
    gone = cls(reg=1e-2, tol=1e-10).fit(x[:20], y[:20])
    assert zero.objective_ == pytest.approx(gone.objective_, rel=1e-8)


@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
def test_more_penalty_means_smaller_weights_and_a_larger_objective(cls):
    x, y = blobs(40, 4, 3, seed=6)
    models = [cls(reg=reg).fit(x, y) for reg in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)]
    sizes = [np.sum(m.coef_**2) for m in models]
    values = [m.objective_ for m in models]
    assert np.all(np.diff(sizes) < 0)
    assert np.all(np.diff(values) > 0)


@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
def test_permuted_rows_relabelled_classes_rotated_features(cls):
    x, y = blobs(40, 4, 3, seed=6)
    rng = np.random.default_rng(3)
    order = rng.permutation(40)
    q, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    best = cls(reg=1e-2, tol=1e-9).fit(x, y)
    rotated = cls(reg=1e-2, tol=1e-9).fit(x @ q, y)
    for other in (
        cls(reg=1e-2, tol=1e-9).fit(x[order], y[order]),
        cls(reg=1e-2, tol=1e-9).fit(x, (y + 1) % 3),
        rotated,
        cls(reg=1e-2, tol=1e-9).fit(x + 7.0, y),  # biases are free
    ):
        assert other.objective_ == pytest.approx(best.objective_, rel=2e-9)
    np.testing.assert_allclose(rotated.coef_ @ q.T, best.coef_, atol=1e-3)
