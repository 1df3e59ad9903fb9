"""The preconditioner's basis where rows are fewer than features, and where squares overflow."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on
from sklearn.exceptions import ConvergenceWarning

from xclf import SoftmaxClassifier, SVMClassifier
from xclf.objectives import Network
from xclf.rows import MemoryBudget, Rows
from xclf.training import preconditioner
from xclf.training.preconditioner import spectral_preconditioner

module = sys.modules["xclf.training.preconditioner"]
X, Y = blobs(9, 14, 3)
WEIGHTS = np.random.default_rng(1).uniform(0.2, 2.0, size=9)


def _dense(network, second, mean, curvature, reg):
    """Inverse of A (x) S + 2 reg I in centred coordinates, eigenvalues of A at least 1e-4."""
    values, vectors = np.linalg.eigh(curvature)
    a = (vectors * np.maximum(values, 1e-4 * values.max())) @ vectors.T
    d, c = network.widths
    model = np.zeros((network.size, network.size))
    model[: c * d, : c * d] = np.kron(a, second) + 2 * reg * np.eye(c * d)
    if network.bias:
        model[c * d :, c * d :] = a
    centre = np.eye(network.size)
    for k in range(c * network.bias):
        centre[c * d + k, k * d : (k + 1) * d] = mean
    return np.linalg.inv(centre.T @ model @ centre)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("standardised", [True, False], ids=["standardised", "raw"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_fewer_rows_than_features(backend, bias, standardised, weights):
    """The Gram matrix of 9 rows gives the basis of 14 features; elsewhere only reg curves."""
    w = np.ones(9) / 9 if weights is None else weights / weights.sum()
    mean = w @ X
    scale = np.linspace(0.5, 2.0, 14)
    place = {"shift": mean if bias else None, "scale": scale} if standardised else {}
    there = {key: None if a is None else backend.asarray(a) for key, a in place.items()}
    network = Network((14, 3), bias=bias, **there)
    problem = problem_on(backend, network, X, Y, weights=weights)
    curvature = problem.curvature(backend.asarray(np.zeros(network.size)))
    made = spectral_preconditioner(network, problem.rows, 0.05, curvature)
    assert made.basis.shape[1] < 14
    z = (X - (mean if bias else 0.0)) / scale if standardised else X
    centre = w @ z if bias else np.zeros(14)
    second = ((z - centre) * w[:, None]).T @ (z - centre)
    want = _dense(network, second, centre, backend.to_host(curvature), 0.05)
    got = np.stack(
        [backend.to_host(made(backend.asarray(unit[None, :])))[0] for unit in np.eye(network.size)]
    )
    np.testing.assert_allclose(got, want, atol=1e-8 * np.abs(want).max())


@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
def test_fits_with_fewer_rows_than_features(cls, monkeypatch):
    got = cls(reg=1e-2, tol=1e-9).fit(X, Y)
    monkeypatch.setattr("xclf.training.lbfgs_fit._precondition", lambda *_: (None, np.inf))
    want = cls(reg=1e-2, tol=1e-9).fit(X, Y)
    assert got.converged_
    assert want.converged_
    assert got.objective_ == pytest.approx(want.objective_, rel=1e-8)


@pytest.mark.parametrize(
    ("n", "widths", "heads", "least", "most"),
    [
        (60_000, (784, 10), 1, 0.0, module.AT_ONCE),
        (100, (5, 2), 1, 0.0, 0.0),  # small ones are free
        (100, (3000, 10), 1, 0.0, 0.0),  # by the Gram matrix of 100 rows
        (5000, (4000, 2), 1, 1000.0, 1e5),  # cubic in 4000, and few operations a pass
        (5000, (4000, 2), 100, 10.0, module.AT_ONCE),  # shared by many heads
        (10**6, (5000, 1000), 1, np.inf, np.inf),  # past the largest basis
        (3000, (10**6, 10), 1, np.inf, np.inf),  # a centred copy of X would not fit
    ],
)
def test_what_a_full_basis_costs(n, widths, heads, least, most):
    rows = Rows(np.broadcast_to(0.0, (n, widths[0])), np.zeros(1, int), None, np.float64)
    assert least <= module.passes_for_a_full_basis(rows, Network(widths), heads) <= most


@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
def test_a_dear_basis_waits_and_is_made_in_the_end(cls, monkeypatch):
    """Leading directions first, all of them after half of what the full basis costs."""
    monkeypatch.setattr("xclf.training.newton_cg.MOST_ROWS", 0)  # else its steps take no basis
    lbfgs_fit = sys.modules["xclf.training.lbfgs_fit"]
    asked = []
    make = lbfgs_fit.spectral_preconditioner

    def watched(*args, full):
        asked.append(full)
        return make(*args, full=full)

    monkeypatch.setattr(module, "RANK", 3)
    monkeypatch.setattr(module, "_SPARE", 2)
    x, y = blobs(200, 12, 3)
    # The hinge's optimum is 4e-5 here: a gap of 1e-10 of that drowns in rounding.
    tol = 1e-10 if cls is SoftmaxClassifier else 5e-10
    want = cls(reg=1e-4, tol=tol).fit(x, y)
    monkeypatch.setattr(lbfgs_fit, "spectral_preconditioner", watched)
    monkeypatch.setattr(lbfgs_fit, "passes_for_a_full_basis", lambda *_: 1e3)
    model = cls(reg=1e-4, tol=tol).fit(x, y)
    if cls is SoftmaxClassifier:
        assert asked == [False]  # over before its 500th iteration
        monkeypatch.setattr(lbfgs_fit, "AT_ONCE", 1.0)
        monkeypatch.setattr(lbfgs_fit, "passes_for_a_full_basis", lambda *_: 8.0)
        asked.clear()
        model = cls(reg=1e-4, tol=tol).fit(x, y)
        assert asked == [False, True]
    assert model.objective_ == pytest.approx(want.objective_, rel=1e-9)


@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
@pytest.mark.parametrize(
    "x",
    [
        blobs(30, 4, 3)[0] * 1e200,
        (blobs(30, 4, 3)[0] * 1e25).astype(np.float32),
        X * 1e200,
    ],
    ids=["float64", "float32", "few rows"],
)
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_values_whose_squares_overflow(cls, x, every_problem_is_large):
    y = np.arange(len(x)) % 3
    model = cls()
    with pytest.raises(ValueError, match=r"X holds values so large that their .* overflow: "):
        model.fit(x, y)
    assert not hasattr(model, "classes_")


def test_an_empty_spectrum_keeps_one_direction():
    """Equal rows: no spread anywhere, and still a usable preconditioner."""
    x = np.ones((6, 10))
    problem = problem_on(Backend.NUMPY, Network((10, 2)), x, np.arange(6) % 2)
    made = spectral_preconditioner(problem.objective.network, problem.rows, 0.1, np.eye(2))
    out = made(np.random.default_rng(0).normal(size=(1, 22)))
    assert np.isfinite(out).all()


@pytest.fixture(scope="module")
def far_wider():
    """(x, y, objective in float64)."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(50, 3000)) * np.geomspace(10.0, 0.3, 50)[:, None]
    x = rng.normal(size=(200, 50)) @ directions + rng.normal(size=(200, 3000))
    y = (x[:, :5] + 6 * rng.normal(size=(200, 5))).argmax(axis=1)
    return x, y, SoftmaxClassifier(reg=1e-4).fit(x, y).objective_


@pytest.mark.parametrize("warm", [False, True])
def test_float32_rows_far_wider_than_many(far_wider, warm):
    """What rounding leaves of the rows' own directions outside the basis must not be scaled up by
    1 / reg: it drowned the step, and the line search found nothing."""
    x, y, want = far_wider
    model = SoftmaxClassifier(reg=1e-2, warm_start=True)
    if warm:
        model.fit(x.astype(np.float32), y)
    with warnings.catch_warnings():
        # Weights that are stored in float32 may keep the bound just above the 1e-6 that
        # `converged_` stands for: their gradient is as large as 2^-24 of its terms.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.set_params(reg=1e-4).fit(x.astype(np.float32), y)
    assert model.dual_gap_ <= 1e-5 * model.objective_
    assert model.objective_ == pytest.approx(want, rel=1e-3)


def test_a_basis_in_float32_where_float64_does_not_fit():
    x, y = blobs(900, 300, 3)
    problem = problem_on(Backend.NUMPY, Network((300, 3)), x, y)
    bases = {}
    for budget in (1_500_000, 10_000_000):
        rows = replace(problem.rows, budget=MemoryBudget(int(budget / 0.8)))
        assert module.passes_for_a_full_basis(rows, problem.objective.network, 1) < np.inf
        made = spectral_preconditioner(problem.objective.network, rows, 0.1, np.eye(3), full=True)
        bases[made.basis.dtype.name] = made
    v = np.random.default_rng(0).normal(size=(1, 903))
    narrow, wide = bases["float32"](v), bases["float64"](v)
    assert narrow.dtype == np.float64
    # Rounding of the products, 1e-7 times the root of 300, by the condition of the model, 30.
    np.testing.assert_allclose(narrow, wide, atol=1e-4 * np.abs(wide).max())
    rows = replace(problem.rows, budget=MemoryBudget(1_000_000))
    assert module.passes_for_a_full_basis(rows, problem.objective.network, 1) == np.inf


def test_columns_of_any_size_become_orthonormal():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(50, 6)) * 10.0 ** np.array([-9, -3, 0, 4, 9, 80])
    got = preconditioner._orthonormal(columns)
    np.testing.assert_allclose(got.T @ got, np.eye(6), atol=1e-13)
    unit = columns / np.linalg.norm(columns, axis=0)
    np.testing.assert_allclose(got @ (got.T @ unit), unit, atol=1e-13)
