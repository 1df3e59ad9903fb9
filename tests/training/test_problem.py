"""An objective over all rows: the same numbers on every backend, moments, the preconditioner."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on
from helpers import GRADIENT_BOUND, assert_close_max_norm, assert_relative

from xclf.objectives import Network
from xclf.rows import Rows
from xclf.training import Problem, column_moments
from xclf.training.preconditioner import spectral_preconditioner
from xclf.training.problem import covariance

module = sys.modules["xclf.training.preconditioner"]
X, Y = blobs(40, 5, 3)
WEIGHTS = np.random.default_rng(1).uniform(0.1, 3.0, size=40)
NUMPY = Backend.NUMPY


@pytest.mark.parametrize("widths", [(5, 3), (5, 7, 3)], ids=["linear", "net"])
@pytest.mark.parametrize("loss", ["softmax", "hinge"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_every_backend_is_numpy(backend, widths, loss, weights, dtype):
    """Against float64 NumPy on the very inputs that the backend takes."""
    network = Network(widths)
    theta = np.random.default_rng(2).normal(size=network.size).astype(dtype)
    # Away from the hinge's kinks: a float32 rounding could flip a gradient there.
    x = X.astype(dtype)
    weights = None if weights is None else weights.astype(dtype)
    wide = problem_on(NUMPY, network, x, Y, loss=loss, weights=weights)
    got = problem_on(backend, network, x, Y, loss=loss, weights=weights, dtype=dtype)
    value, gradient = wide.value_and_grad(theta.astype(np.float64))
    start = backend.asarray(theta)
    value_there, gradient_there = got.value_and_grad(start)
    bound = {"float64": 1e-13, "float32": 1e-5}[dtype.name]  # 5 + 7 products, 40 rows
    assert_relative(backend.to_host(value_there), value, bound, "objective")
    assert_relative(backend.to_host(got.value(start)), value, bound, "objective")
    assert_close_max_norm(
        backend.to_host(gradient_there), gradient, 10 * GRADIENT_BOUND[dtype.name]
    )
    assert value_there.dtype == gradient_there.dtype == backend.dtype("float64")


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_curvature_on_every_backend(backend, weights):
    network = Network((5, 3))
    theta = np.random.default_rng(2).normal(size=network.size)
    want = problem_on(NUMPY, network, X, Y, weights=weights).curvature(theta)
    got = problem_on(backend, network, X, Y, weights=weights).curvature(backend.asarray(theta))
    assert_close_max_norm(backend.to_host(got), want, 1e-13)
    np.testing.assert_allclose(want.sum(axis=0), 0.0, atol=1e-15)


def test_total_weight(backend):
    plain = problem_on(backend, Network((5, 3)), X, Y, dtype="float32")
    assert float(backend.to_host(plain.total)) == 40.0
    own = np.array([2.0**24] + [1.0] * 39)  # a float32 sum loses the ones
    weighted = problem_on(backend, Network((5, 3)), X, Y, weights=own, dtype="float32")
    assert float(backend.to_host(weighted.total)) == 2.0**24 + 39
    heads = problem_on(backend, Network((5, 3)), X, Y, weights=np.stack([WEIGHTS, 0 * WEIGHTS + 1]))
    assert_relative(backend.to_host(heads.total), [WEIGHTS.sum(), 40.0], 1e-14)
    assert plain.rows.total_weight().dtype == backend.dtype("float64")


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("offset", [0.0, 1e4, 8e6])
def test_moments(backend, weights, offset, dtype):
    """A large offset does not cancel the variance: the second pass is about the mean. All is in
    float64, products with float32 weights too."""
    x = (X + offset).astype(dtype)
    rows = problem_on(backend, Network((5, 3)), x, Y, weights=weights, dtype=dtype).rows
    mean, variance = (backend.to_host(a) for a in column_moments(rows))
    w = np.ones(40) if weights is None else weights.astype(dtype).astype(np.float64)
    wide = x.astype(np.float64)
    want = (w @ wide) / w.sum()
    assert_relative(mean, want, 40 * 1e-14, "mean")
    centred = wide - want
    # The mean's own error enters squared, that of a difference from it as it is.
    bound = 40 * (1e-12 + offset * 1e-15)
    assert_relative(variance, (w @ centred**2) / w.sum(), bound, "variance")
    second = backend.to_host(covariance(rows, backend.asarray(want)))
    want = (centred * w[:, None]).T @ centred / w.sum()
    loose = 1e-12 if dtype == np.float64 else 1e-5 * max(1.0, offset / 1e2)
    assert_close_max_norm(second, want, loose, "covariance")


def test_moments_of_integers_are_exact(backend):
    x = np.random.default_rng(0).integers(0, 256, size=(1000, 4), dtype=np.uint8)
    rows = Rows(
        backend.asarray(x), backend.asarray(np.zeros(1000, int)), None, backend.dtype("float32")
    )
    mean, variance = (backend.to_host(a) for a in column_moments(rows))
    assert_relative(mean, x.mean(axis=0, dtype=np.float64), 1e-15)
    assert_relative(variance, x.var(axis=0, dtype=np.float64), 1e-13)


def _applied(precondition, size):
    return np.stack([precondition(unit[None, :])[0] for unit in np.eye(size)], axis=-1)


def _dense(network, second, mean, curvature, reg):
    """Inverse of the Kronecker model in raw coordinates, see test_optim_spectral."""
    values, vectors = np.linalg.eigh(curvature)
    a = (vectors * np.maximum(values, 1e-4 * values.max())) @ vectors.T
    d, c = network.widths
    model = np.kron(a, second) + 2 * reg * np.eye(c * d)
    if not network.bias:
        return np.linalg.inv(model)
    full = np.zeros((network.size, network.size))
    full[: c * d, : c * d], full[c * d :, c * d :] = model, a
    centre = np.eye(network.size)
    for k in range(c):
        centre[c * d + k, k * d : (k + 1) * d] = mean
    return np.linalg.inv(centre.T @ full @ centre)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("standardised", [True, False], ids=["standardised", "raw"])
def test_the_preconditioner_of_rows(bias, standardised):
    """From rows alone: covariance about the mean (or about 0 without biases), fitting units."""
    x = X * np.array([1.0, 10.0, 0.1, 1.0, 3.0]) + np.arange(5.0)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    place = {"shift": mean if bias else None, "scale": scale} if standardised else {}
    network = Network((5, 3), bias=bias, **place)
    problem = problem_on(NUMPY, network, x, Y)
    curvature = problem.curvature(np.zeros(network.size))
    precondition = spectral_preconditioner(network, problem.rows, 1e-2, curvature)
    z = (x - (mean if bias else 0.0)) / scale if standardised else x
    centred = z - z.mean(axis=0) if bias else z
    second = centred.T @ centred / len(z)
    want = _dense(network, second, z.mean(axis=0), curvature, 1e-2)
    got = _applied(precondition, network.size)
    np.testing.assert_allclose(got, want, atol=1e-10 * np.abs(want).max())


@pytest.mark.parametrize("standardised", [True, False], ids=["standardised", "raw"])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_leading_directions_of_rows(backend, standardised, weighted, monkeypatch):
    """Six of 30 features carry most: their eigenpairs are found, and what the others have left."""
    monkeypatch.setattr(module, "RANK", 6)
    monkeypatch.setattr(module, "_SPARE", 4)
    rng = np.random.default_rng(5)
    turn = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    spread = np.concatenate([np.array([20.0, 15, 10, 8, 6, 5]), np.full(24, 0.1)])
    x = (rng.normal(size=(350, 30)) * spread) @ turn + rng.normal(size=30)
    w = rng.uniform(size=350) if weighted else np.ones(350)
    mean = w @ x / w.sum()
    scale = np.linspace(0.5, 2.0, 30) if standardised else np.ones(30)
    place = {"shift": mean, "scale": scale} if standardised else {}
    network = Network((30, 3), **{key: backend.asarray(a) for key, a in place.items()})
    labels = rng.integers(3, size=350)
    problem = problem_on(backend, network, x, labels, weights=w if weighted else None)
    curvature = backend.asarray(np.eye(3))
    made = spectral_preconditioner(network, problem.rows, 1e-2, curvature, full=False)
    z = (x - mean) / scale
    values, vectors = np.linalg.eigh((z * w[:, None]).T @ z / w.sum())
    np.testing.assert_allclose(backend.to_host(made.spectrum), values[-6:], rtol=1e-6)
    assert made.rest == pytest.approx(values[:-6].mean(), rel=1e-3)
    basis = backend.to_host(made.basis)
    np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(basis * vectors[:, -6:], axis=0)), 1.0, rtol=1e-6)


def test_the_preconditioner_looks_at_enough_rows(monkeypatch):
    """8 to 16 rows a feature where there are so many, all over the data; weights go along."""
    monkeypatch.setattr(module, "covariance", lambda rows, centre: seen.append(rows) or np.eye(5))
    for n in (20, 40, 79, 80, 500, 4000):
        seen = []
        x, y = blobs(n, 5, 3)
        weights = np.arange(1.0, n + 1)
        problem = problem_on(NUMPY, Network((5, 3)), x, y, weights=weights)
        spectral_preconditioner(problem.objective.network, problem.rows, 0.1, np.eye(3))
        (rows,) = seen
        assert min(n, 40) <= len(rows) < 80
        stride = -(-n // len(rows))
        np.testing.assert_array_equal(rows.x, x[::stride])
        np.testing.assert_array_equal(rows.labels, problem.rows.labels[:, ::stride])
        np.testing.assert_array_equal(rows.weights, weights[::stride])


def test_a_sample_has_rows_of_every_fold():
    """Folds that take turns: every fifth row alone would leave four of them without any."""
    x, y = blobs(500, 5, 3)
    weights = (np.arange(500) % 5 == np.arange(5)[:, None]).astype(float)
    rows = problem_on(NUMPY, Network((5, 3)), x, y, weights=weights).rows
    for most in (100, 50):
        some = module.sample(rows, most)
        assert len(some) >= most
        assert np.all(some.weights.mean(axis=1) >= 0.1)


@pytest.mark.parametrize("masked", [False, True])
def test_a_sample_has_rows_of_every_class(masked):
    """Classes that take turns: every 12th row of ten classes would be of five of them."""
    x, _ = blobs(5000, 4, 10)
    y = np.arange(5000) % 10
    labels = y == np.arange(10)[:, None] if masked else y
    some = module.sample(Rows(x, labels, None, x.dtype), 400)
    found = some.labels.argmax(axis=0) if masked else some.labels
    assert 400 <= len(some) < 800
    assert np.bincount(found, minlength=10).min() >= 20


def test_a_spectrum_is_never_negative():
    """Five features of rank two: rounding leaves eigenvalues of -1e-15."""
    x = X[:, :2] @ np.random.default_rng(0).normal(size=(2, 5))
    problem = problem_on(NUMPY, Network((5, 3)), x, Y)
    second = covariance(problem.rows, x.mean(axis=0))
    assert np.linalg.eigvalsh(second).min() < 0
    made = spectral_preconditioner(problem.objective.network, problem.rows, 0.0, np.eye(3))
    assert np.all(made.spectrum >= 0)


def test_unweighted_samples_have_no_weights():
    x, y = blobs(500, 5, 3)
    problem = problem_on(NUMPY, Network((5, 3)), x, y)
    sample = module.sample(problem.rows, 40)
    assert sample.weights is None
    assert isinstance(problem, Problem)
