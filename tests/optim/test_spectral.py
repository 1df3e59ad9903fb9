"""The preconditioner is the inverse of its Kronecker model: against the dense one."""

from __future__ import annotations

import numpy as np
import pytest

from xclf.optim import SpectralPreconditioner

C, D = 3, 4
MEAN = np.array([1.0, -2.0, 0.5, 0.0])


def _psd(n, seed, rank=None):
    half = np.random.default_rng(seed).normal(size=(n, rank or n))
    return half @ half.T / n


def _curvature(seed=0):
    """Rows sum to 0, as a softmax's do: one direction without curvature."""
    p = np.random.default_rng(seed).dirichlet(np.ones(C), size=20)
    return np.mean([np.diag(q) - np.outer(q, q) for q in p], axis=0)


def _dense_inverse(curvature, second, mean, reg, bias):
    """Inverse of A (x) S + 2 reg I in centred coordinates, taken to raw weights and biases.

    With b' = b + W mean the model is block diagonal: weights A (x) S + 2 reg I, biases A, where
    eigenvalues of A are at least 1e-4 of the largest.
    """
    values, vectors = np.linalg.eigh(curvature)
    values = np.maximum(values, 1e-4 * values.max())
    a = (vectors * values) @ vectors.T
    weights = np.kron(a, second) + 2 * reg * np.eye(C * D)
    if not bias:
        return np.linalg.inv(weights)
    model = np.zeros((C * D + C, C * D + C))
    model[: C * D, : C * D] = weights
    model[C * D :, C * D :] = a
    centre = np.eye(C * D + C)  # (W, b) -> (W, b + W mean)
    for c in range(C):
        centre[C * D + c, c * D : (c + 1) * D] = mean
    return np.linalg.inv(centre.T @ model @ centre)


def _matrix(precondition, size, backend, heads=1):
    """(K, P, P): the preconditioner applied to every unit vector."""
    columns = [
        backend.to_host(precondition(backend.asarray(np.tile(unit, (heads, 1)))))
        for unit in np.eye(size)
    ]
    return np.stack(columns, axis=-1)


def _parts(second, backend, partial=False):
    """(basis, spectrum, S, rest): all eigenpairs, or the leading two and 0.3 for the others."""
    values, vectors = np.linalg.eigh(second)
    rest = 0.0
    if partial:
        rest = 0.3
        values = np.concatenate([np.full(len(values) - 2, rest), values[-2:]])
        second = (vectors * values) @ vectors.T
        values, vectors = values[-2:], vectors[:, -2:]
    return backend.asarray(vectors), backend.asarray(np.maximum(values, 0.0)), second, rest


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("partial", [False, True], ids=["all", "leading"])
@pytest.mark.parametrize("reg", [1e-3, 1.0])
def test_the_dense_inverse(backend, bias, partial, reg):
    second, curvature = _psd(D, 1), _curvature()
    basis, spectrum, second, rest = _parts(second, backend, partial)
    mean = backend.asarray(MEAN)
    precondition = SpectralPreconditioner(
        basis, spectrum, mean, backend.asarray(curvature), reg, bias, rest
    )
    got = _matrix(precondition, C * D + C * bias, backend)[0]
    want = _dense_inverse(curvature, second, MEAN, reg, bias)
    # The inverse is formed by products of matrices with condition up to 1e4: 1e-16 * 1e4.
    np.testing.assert_allclose(got, want, atol=1e-11 * np.abs(want).max())
    np.testing.assert_allclose(got, got.T, atol=1e-11 * np.abs(want).max())
    assert np.linalg.eigvalsh((got + got.T) / 2).min() > 0


@pytest.mark.parametrize("bias", [True, False])
def test_heads_with_their_own_reg_and_curvature(backend, bias):
    second, curvatures = _psd(D, 1), np.stack([_curvature(s) for s in range(3)])
    basis, spectrum, *_ = _parts(second, backend)
    regs = np.array([1e-3, 0.1, 1.0])
    precondition = SpectralPreconditioner(
        basis, spectrum, backend.asarray(MEAN), backend.asarray(curvatures),
        backend.asarray(regs), bias,
    )  # fmt: skip
    got = _matrix(precondition, C * D + C * bias, backend, heads=3)
    for k in range(3):
        want = _dense_inverse(curvatures[k], second, MEAN, regs[k], bias)
        np.testing.assert_allclose(got[k], want, atol=1e-11 * np.abs(want).max())


def test_heads_that_leave_take_theirs_along(backend):
    second, curvatures = _psd(D, 1), np.stack([_curvature(s) for s in range(3)])
    basis, spectrum, _, rest = _parts(second, backend, partial=True)
    regs = np.array([1e-3, 0.1, 1.0])

    def made(kept):
        return SpectralPreconditioner(
            basis, spectrum, backend.asarray(MEAN), backend.asarray(curvatures[kept]),
            backend.asarray(regs[kept]), True, rest,
        )  # fmt: skip

    kept = np.array([0, 2])
    narrowed, want = made(np.arange(3)), made(kept)
    narrowed.keep(kept)
    got = _matrix(narrowed, C * D + C, backend, heads=2)
    np.testing.assert_allclose(got, _matrix(want, C * D + C, backend, heads=2), rtol=1e-12)
    narrowed.refresh(backend.asarray(curvatures[kept]))
    got = _matrix(narrowed, C * D + C, backend, heads=2)
    np.testing.assert_array_equal(got, _matrix(want, C * D + C, backend, heads=2))


def test_refresh_takes_a_new_curvature(backend):
    second = _psd(D, 1)
    basis, spectrum, *_ = _parts(second, backend)
    place = (basis, spectrum, backend.asarray(MEAN))
    precondition = SpectralPreconditioner(*place, backend.asarray(_curvature(0)), 0.1, True)
    precondition.refresh(backend.asarray(_curvature(7)))
    fresh = SpectralPreconditioner(*place, backend.asarray(_curvature(7)), 0.1, True)
    got, want = (_matrix(p, C * D + C, backend) for p in (precondition, fresh))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("reg", [0.0, 1e-12])
@pytest.mark.parametrize("dead", [False, True], ids=["confused", "never confused"])
def test_positive_definite_where_nothing_is_known(reg, dead):
    """Rank-deficient features, no penalty, no curvature at all: still finite and positive."""
    second = _psd(D, 1, rank=2)
    values, vectors = np.linalg.eigh(second)
    curvature = np.zeros((C, C)) if dead else _curvature()
    precondition = SpectralPreconditioner(
        vectors, np.maximum(values, 0.0), MEAN, curvature, reg, True
    )
    rng = np.random.default_rng(0)
    for _ in range(20):
        v = rng.normal(size=(1, C * D + C))
        out = precondition(v)
        assert np.isfinite(out).all()
        assert np.sum(v * out) > 0


def test_the_dtype_of_the_vector_is_kept():
    """A float32 basis (float32 rows) turns float64 parameters."""
    values, vectors = np.linalg.eigh(_psd(D, 1))
    narrow = SpectralPreconditioner(
        vectors.astype(np.float32), values, MEAN, _curvature(), 0.1, True
    )
    wide = SpectralPreconditioner(vectors, values, MEAN, _curvature(), 0.1, True)
    v = np.random.default_rng(0).normal(size=(2, C * D + C))
    assert narrow(v).dtype == np.float64
    np.testing.assert_allclose(narrow(v), wide(v), rtol=1e-4, atol=1e-5)


def test_what_is_left_outside_holds_nothing_of_the_inside():
    """A float32 basis leaves 1e-7 of the inside behind, which 1 / reg would scale up."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(400, 5)))[0].astype(np.float32)
    spectrum, curvature, reg = np.full(5, 1e3), np.eye(C), 1e-7
    made = SpectralPreconditioner(basis, spectrum, np.zeros(400), curvature, reg, False)
    inside = rng.normal(size=(C, 5))
    v = (inside @ basis.T.astype(np.float64)).reshape(1, -1)
    got = made(v).reshape(C, 400) @ basis.astype(np.float64)
    np.testing.assert_allclose(got, inside / (1e3 + 2 * reg), atol=2e-2)
