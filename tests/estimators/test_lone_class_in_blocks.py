"""Rows in blocks of which one class alone has weight: biases bring all losses to 0, in no step."""

from __future__ import annotations

import numpy as np
import pytest
from dask_cases import need, small_groups

from xclf import SoftmaxClassifier, SVMClassifier

need("dask.array")

import dask.array as da  # noqa: E402

MODELS = [
    SoftmaxClassifier(1e-3),
    SVMClassifier(1e-3, margin=3.0),
    SVMClassifier(1e-3, loss="squared_hinge"),
    SVMClassifier(0.0),
]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_one_class_alone_with_weight(model, monkeypatch):
    small_groups(monkeypatch)
    r, y = np.random.default_rng(0), np.arange(200) % 3
    x = r.standard_normal((200, 4)) + y[:, None]
    x, y, weights = (da.from_array(a, chunks=(50, *a.shape[1:])) for a in (x, y, 1.0 * (y == 1)))
    model.fit(x, y, sample_weight=weights)
    assert model.converged_
    assert model.n_iter_ == 1
    assert model.objective_ == model.dual_gap_ == 0.0
    assert not model.coef_.any()
    assert np.all(np.asarray(model.predict(x)) == 1)
    scores = np.asarray(model.decision_function(x))
    assert np.all(scores[:, 1:2] - scores[:, [0, 2]] >= getattr(model, "margin", 700.0))
