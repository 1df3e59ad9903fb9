"""Building the spectral preconditioner of a linear model from its rows."""

from __future__ import annotations

from typing import Any

from xclf._xp import Array, eigh, namespace
from xclf.objectives import Stack
from xclf.optim import SpectralPreconditioner
from xclf.rows import Rows
from xclf.training.problem import column_moments, covariance

#: Past these sizes an eigenbasis, of features or of classes, is not worth its memory.
MAX_BASIS, MAX_CLASSES = 4096, 1024

# The spectrum need only be roughly right: rows enough to see it, not all of them.
_ROWS_PER_FEATURE = 8

# An eigenbasis of r directions costs about 10 r^3 operations, a pass over the rows 4 N D C. It may
# cost as much as this many passes, which is what it saves on a badly conditioned problem; small
# ones are free anyway.
_WORTH_PASSES, _SMALL = 300, 256
# Fewer rows than features: the basis comes from the rows' Gram matrix, with a centred copy of X.
_MOST_COPIED = 256 << 20


def spectral_preconditioner(
    stack: Stack, rows: Rows, reg: Any, curvature: Array
) -> SpectralPreconditioner:
    """The preconditioner for `stack`, a linear model, with class curvature (C, C) to begin with.

    Features are seen in fitting coordinates, rotated into the eigenbasis of their covariance where
    that is worth its cost (estimated from at most 8 rows a feature), else scaled one by one.
    Raises ValueError if squares of X overflow.
    """
    xp = namespace(rows.x)
    worth = _worth_a_basis(len(rows), *stack.widths)
    rows = _sample(rows, _ROWS_PER_FEATURE * stack.widths[0])
    mean, variance = column_moments(rows)
    if not bool(xp.all(xp.isfinite(variance))):
        raise ValueError("X holds values so large that their squares overflow: scale X")
    centre = mean if stack.bias else xp.zeros_like(mean)
    basis = None
    if not worth:
        spectrum = variance + (mean - centre) ** 2
        if stack.scale is not None:
            spectrum = spectrum / stack.scale**2
    elif len(rows) < stack.widths[0]:
        spectrum, basis = _thin_basis(rows, centre, stack.scale)
    else:
        second = covariance(rows, centre)
        if stack.scale is not None:
            second = second / (stack.scale[:, None] * stack.scale)
        _check_overflow(second)
        spectrum, basis = eigh(second)
        basis = xp.astype(basis, rows.dtype, copy=False)
    if stack.scale is not None and stack.shift is not None and stack.bias:
        centre = (centre - stack.shift) / stack.scale
    # Rounding leaves eigenvalues a little below zero where X has no spread at all.
    spectrum = xp.maximum(spectrum, 0.0)
    return SpectralPreconditioner(basis, spectrum, centre, curvature, reg, stack.bias)


def _worth_a_basis(n_rows: int, n_features: int, n_classes: int) -> bool:
    size = min(n_rows, n_features)
    if size > MAX_BASIS or (n_rows < n_features and 8 * n_rows * n_features > _MOST_COPIED):
        return False
    passes = 10 * size**3 / (4 * n_rows * n_features * n_classes)
    return size <= _SMALL or passes <= _WORTH_PASSES


def _thin_basis(rows: Rows, centre: Array, scale: Array | None) -> tuple[Array, Array]:
    """(spectrum (r,), basis (D, r)) of the second moment about `centre`, from fewer rows than D.

    With A the weighted, centred rows, A A^T = U diag(lam) U^T gives A^T A the eigenvalues lam and
    the eigenvectors A^T U / sqrt(lam).
    """
    xp = namespace(rows.x)
    a = xp.astype(rows.x, centre.dtype, copy=False) - centre
    if scale is not None:
        a = a / scale
    share = xp.ones_like(a[:, 0]) if rows.weights is None else rows.weights
    share = xp.astype(share, a.dtype, copy=False)
    a = a * xp.sqrt(share / xp.sum(share))[:, None]
    gram = xp.matmul(a, xp.matrix_transpose(a))
    _check_overflow(gram)
    values, vectors = eigh(gram)
    # Directions at rounding level are left out: the rest of the space has spectrum 0.
    keep = int(xp.sum(xp.astype(values > 1e-10 * values[-1], xp.int64)))
    keep = max(keep, 1)
    values, vectors = values[-keep:], vectors[:, -keep:]
    basis = xp.matmul(xp.matrix_transpose(a), vectors) / xp.sqrt(xp.maximum(values, 1e-300))
    return values, xp.astype(basis, rows.dtype, copy=False)


def _check_overflow(matrix: Array) -> None:
    xp = namespace(matrix)
    if not bool(xp.all(xp.isfinite(matrix))):
        raise ValueError("X holds values so large that their products overflow: scale X")


def _sample(rows: Rows, most: int) -> Rows:
    """Every k-th row, so that at least `most`, and fewer than twice as many, remain."""
    stride = len(rows) // most
    if stride < 2:
        return rows
    weights = rows.weights
    return Rows(
        rows.x[::stride, :],
        rows.labels[..., ::stride],
        None if weights is None else weights[..., ::stride],
        rows.dtype,
    )
