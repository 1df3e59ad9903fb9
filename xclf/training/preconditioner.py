"""Building the spectral preconditioner of a linear model from its rows."""

from __future__ import annotations

from typing import Any

from xclf._xp import Array, eigh, namespace
from xclf.objectives import Stack
from xclf.optim import SpectralPreconditioner
from xclf.rows import Rows
from xclf.training.problem import column_moments, covariance

#: Past these sizes a D x D eigenbasis, or a C x C one, costs more than the iterations it saves.
MAX_BASIS, MAX_CLASSES = 4096, 1024

# The spectrum need only be roughly right: rows enough to see it, not all of them.
_ROWS_PER_FEATURE = 8


def spectral_preconditioner(
    stack: Stack, rows: Rows, reg: Any, curvature: Array
) -> SpectralPreconditioner:
    """The preconditioner for `stack`, a linear model, with class curvature (C, C) to begin with.

    Features are seen in fitting coordinates. Up to 4096 of them are rotated into their eigenbasis,
    estimated from at most 8 rows a feature; more are scaled one by one.
    """
    xp = namespace(rows.x)
    rows = _sample(rows, _ROWS_PER_FEATURE * stack.widths[0])
    mean, variance = column_moments(rows)
    centre = mean if stack.bias else xp.zeros_like(mean)
    basis = None
    if stack.widths[0] <= MAX_BASIS:
        second = covariance(rows, centre)
        if stack.scale is not None:
            second = second / (stack.scale[:, None] * stack.scale)
        spectrum, basis = eigh(second)
        basis = xp.astype(basis, rows.dtype, copy=False)
    else:
        spectrum = variance + (mean - centre) ** 2
        if stack.scale is not None:
            spectrum = spectrum / stack.scale**2
    if stack.scale is not None and stack.shift is not None and stack.bias:
        centre = (centre - stack.shift) / stack.scale
    # Rounding leaves eigenvalues a little below zero where X has no spread at all.
    spectrum = xp.maximum(spectrum, 0.0)
    return SpectralPreconditioner(basis, spectrum, centre, curvature, reg, stack.bias)


def _sample(rows: Rows, most: int) -> Rows:
    """Every k-th row, so that at most `most` (and at least most / 2) remain."""
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
