"""Small problems whose penalty is rounding beside the rows: they end soon, near the optimum.

The oracles of the random campaigns give a bound of the optimum from above. What they and sums in
float64 leave is at most 1e-6 of an objective, and the rounding of its scores.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from estimator_cases import problem_on

from tests.fuzz import fits, oracles
from xclf import SVMClassifier
from xclf.objectives import Network
from xclf.training._newton import Newton

#: Condition of rows over penalty 1e8 to 1e72; integers up to 1e10, columns from 1e-30 to 1e27.
DRAWN = [(2027, 218), (2028, 1768), (2028, 2780), (2029, 46)]
DRAWN += [(2041, case) for case in (216, 395, 1448, 1982)]

#: Steps that these take: 19 to 169. They were thousands, or ended at up to twice the optimum.
STEPS = 400


@pytest.mark.parametrize("seed, index", DRAWN)
def test_ends_soon_and_near(seed, index):
    case = fits.draw(seed, index)
    assert not fits.check(case).broken
    model, share = case.model(), fits.row_share(case)
    with warnings.catch_warnings(action="ignore"):  # that it has not converged, where it has not
        model.fit(case.x, case.y, sample_weight=case.weights)
    assert model.n_iter_ <= STEPS
    best = oracles.optimum(oracles.problem(model, case.x, case.y, share))
    assert model.objective_ <= best * (1 + 1e-6) + oracles.rounding(model, case.x, case.y, share)


@pytest.mark.parametrize("reg", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_weights_of_any_size_beside_each_other(loss, reg):
    """1e-30 to 1e30: within the promise of the oracle, in few steps."""
    r = np.random.default_rng(0)
    y = r.permutation(np.arange(60) % 3)
    x = r.standard_normal((60, 4)) + 0.5 * r.standard_normal((3, 4))[y]
    case = fits.Fit(x, y, 10.0 ** r.uniform(-30, 30, 60), {"loss": loss, "reg": reg})
    assert fits.check(case).name == "converged"
    model, share = case.model().fit(x, y, sample_weight=case.weights), fits.row_share(case)
    best = oracles.optimum(oracles.problem(model, x, y, share))
    assert abs(model.objective_ - best) <= 1e-6 * best
    assert model.n_iter_ <= STEPS


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_many_columns_of_any_scale_cost_what_alike_ones_do(loss):
    """1e-6 to 1e6: 36 and 147 steps, from the equations of the few pairs that are between their
    bounds. From those of all weights, which are 450, the squared hinge did not end in minutes."""
    r = np.random.default_rng(0)
    y = r.permutation(np.arange(90) % 5)
    x = r.standard_normal((90, 120)) + 0.5 * r.standard_normal((5, 120))[y]
    model = SVMClassifier(1e-3, loss=loss).fit(x * 10.0 ** r.uniform(-6, 6, 120), y)
    assert model.converged_
    assert model.n_iter_ <= 200


@pytest.mark.parametrize("seed, index", [(2035, 57), (2041, 805)])
def test_what_overflows_float32_is_no_warning(seed, index):
    assert fits.check(fits.draw(seed, index)).name == "converged"


def test_what_float32_cannot_store_takes_no_further_method(monkeypatch):
    """A column 1800 deviations from 0: the solver is done, and the stored model is what is off."""

    def never(*_, **__):
        raise AssertionError("the augmented Lagrangian has begun")

    monkeypatch.setattr("xclf.training.hinge.fit_augmented_lagrangian", never)
    case = fits.draw(2041, 1786)
    with pytest.warns(match="rounding"):
        model = SVMClassifier(2.48e-5, standardize=True).fit(case.x, case.y)
    wide = SVMClassifier(2.48e-5, standardize=True).fit(case.x.astype(float), case.y)
    assert wide.converged_
    # Both bounds hold, of one problem but for the rounding of its scale, 1e-7.
    assert model.objective_ - model.dual_gap_ <= wide.objective_ * (1 + 1e-6)
    assert model.objective_ - wide.objective_ >= 0.99 * model.dual_gap_


def test_the_hessian_of_rows_that_are_classified(backend):
    """p (1 - p) where p is 1 but for 1e-14, against extended precision: a sum of 6 products of
    5 factors, each with its rounding, is within 6 eps of their sizes. Entries on the diagonal hold
    a curvature of what all classes have in common besides."""
    r, rows = np.random.default_rng(0), np.arange(6)
    x, y = r.standard_normal((6, 2)), rows % 3
    d = r.uniform(1e-16, 1e-12, (6, 3))
    d[rows, y] = 0.0
    d[rows, y] = -d.sum(axis=1)
    newton = Newton(problem_on(backend, Network((2, 3), bias=False), x, y), lambda w, b: (w, b))
    got = newton._hessian(d).reshape(3, 2, 3, 2)
    wide, z = d.astype(np.longdouble), newton.z.astype(np.longdouble)
    for j in range(3):
        variance = np.where(y == j, -wide[:, j], wide[:, j]) * (1 - np.abs(wide[:, j])) / 6
        terms = variance * z[:, 0] * z[:, 1]
        assert abs(got[j, 0, j, 1] - terms.sum()) <= 6 * 2.0**-52 * np.abs(terms).sum()
