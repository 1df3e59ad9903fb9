"""A full-batch method minimises the losses that it is for, and refuses others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from xclf import SVMClassifier
from xclf.objectives import LOSSES, FullBatch, SquaredHinge
from xclf.training import METHODS, method_of


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_names_a_method_that_is_for_it(name):
    loss = LOSSES[name]()
    assert method_of(loss) is METHODS[loss.full_batch.method]


@pytest.mark.parametrize("method", ["certified_lbfgs", "hinge"])
def test_a_method_of_one_loss_refuses_another(method):
    @dataclass(frozen=True)
    class Slip(SquaredHinge):
        full_batch = FullBatch(method, max_iter=10, tol32=1e-3, tol64=1e-3)

    with pytest.raises(TypeError, match=f"the method '{method}' is for .* only"):
        method_of(Slip())


def test_a_method_that_does_not_exist_is_named():
    @dataclass(frozen=True)
    class Slip(SquaredHinge):
        full_batch = FullBatch("lbfgss", max_iter=10, tol32=1e-3, tol64=1e-3)

    with pytest.raises(TypeError, match="names 'lbfgss', which is none of"):
        method_of(Slip())


def test_a_loss_without_curvature_is_minimised_without_a_preconditioner(monkeypatch):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = rng.normal(size=(60, 4)) + np.eye(3, 4)[y]
    model = SVMClassifier(reg=1e-2, loss="squared_hinge")
    want = model.fit(x, y).objective_
    monkeypatch.setattr(SquaredHinge, "curved", False)
    model.fit(x, y)
    assert model.converged_
    # Both promise 1e-6 of the optimum.
    assert model.objective_ == pytest.approx(want, rel=2e-6)
