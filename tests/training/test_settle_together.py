"""Doubt about many small fits is settled together, and by Newton's method where that leaves any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from xclf import SoftmaxClassifier
from xclf.sweep import Fit, Fold, fit_together
from xclf.training import _settle, full_batch

X, Y = load_digits(return_X_y=True)
X, Y = X[Y < 5][:100].astype(np.float32), Y[Y < 5][:100]
REGS = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-2]


def together_fitted():
    """The models of all penalties, heads of one fit."""
    rows = np.arange(len(Y))
    fits = [Fit(0, SoftmaxClassifier(reg=reg)) for reg in REGS]
    fit_together(X, fits, [Fold(rows, rows, Y)])
    return [fit.template for fit in fits]


@pytest.fixture
def newton_fits(monkeypatch):
    """How many fits Newton's method has taken on."""
    seen = []
    real = _settle._newton

    def spy(*args):
        seen.append(args)
        return real(*args)

    monkeypatch.setattr(_settle, "_newton", spy)
    return seen


@pytest.mark.parametrize("together", [False, True])
def test_heads_end_where_single_fits_do(together, newton_fits, monkeypatch):
    monkeypatch.setattr(full_batch, "SETTLING", 0 if together else 1e9)
    heads = together_fitted()
    taken = len(newton_fits)
    singles = [SoftmaxClassifier(reg=reg).fit(X, Y) for reg in REGS]
    for head, single in zip(heads, singles, strict=True):
        assert head.converged_
        # Each is within 1e-6 of the one optimum.
        assert head.objective_ == pytest.approx(single.objective_, rel=2e-6)
        assert head.dual_gap_ <= 1e-6 * head.objective_ or together
    if together:
        assert taken < len(REGS) / 2
    else:
        assert taken >= len(REGS) / 2  # the rows are such that L-BFGS alone proves little


def test_what_stays_in_doubt_goes_to_newton(newton_fits, monkeypatch):
    """L-BFGS in float64 that says it has met its floor, where no bound proves it."""
    monkeypatch.setattr(full_batch, "SETTLING", 0)
    real = _settle._certified
    calls = []

    def doubtful(*args):
        settled, near = real(*args)
        calls.append(len(settled))
        if len(calls) == 2:  # after L-BFGS in float64
            doubt = {"converged": False, "reason": _settle.ROUNDING}
            settled, near = [replace(one, **doubt) for one in settled], np.zeros_like(near)
        return settled, near

    monkeypatch.setattr(_settle, "_certified", doubtful)
    heads = together_fitted()
    assert len(calls) == 2
    assert len(newton_fits) == calls[1] > 0
    for head in heads:
        assert head.converged_
        assert head.dual_gap_ <= 1e-6 * head.objective_
