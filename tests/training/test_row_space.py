"""Fits of fewer rows than features, in the space of the rows: the same optimum."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from backends import Backend, why_missing
from pairwise import pairwise

from xclf import SoftmaxClassifier, SweepCV
from xclf.rows import parse_bytes
from xclf.training import full_batch

N, D, C = 24, 80, 3
RNG = np.random.default_rng(0)
Y = np.arange(N) % C
X = (RNG.standard_normal((N, D)) + 0.7 * RNG.standard_normal((C, D))[Y]) * np.geomspace(
    1, 30, D
) + 2
WEIGHTS = RNG.uniform(0.0, 2.0, N) * (np.arange(N) != 5)


@pytest.fixture
def spaces(monkeypatch, every_problem_is_large):
    """The spaces that fits are made in, or None, in their order; Newton's method is off."""
    seen, original = [], full_batch.row_space

    def watched(*arguments):
        seen.append(original(*arguments))
        return seen[-1]

    monkeypatch.setattr(full_batch, "row_space", watched)
    return seen


def _both(monkeypatch, make, *data):
    """A model fitted in the space of the rows, and one in the features."""
    inside = make().fit(*data)
    with monkeypatch.context() as patch:
        patch.setattr(full_batch, "row_space", lambda *_: None)
        return inside, make().fit(*data)


@pairwise(
    where=list(Backend),
    dtype=["float32", "float64", "uint8"],
    options=[{}, {"standardize": True}, {"fit_intercept": False}, {"class_weight": "balanced"}],
)
def test_the_optimum_is_that_of_the_features(spaces, monkeypatch, where, dtype, options):
    """Both are within 1e-6 of it, as `converged_` says; weights within what that allows."""
    if why_missing(where):
        pytest.skip(why_missing(where))
    x = where.asarray(np.clip(X, 0, 255).astype(dtype) if dtype == "uint8" else X.astype(dtype))
    one, other = _both(monkeypatch, lambda: SoftmaxClassifier(reg=1e-2, **options), x, Y, WEIGHTS)
    assert spaces[0].inner.objective.network.widths == (N, C)
    assert one.converged_
    assert other.converged_
    assert abs(one.objective_ - other.objective_) <= 2e-6 * other.objective_
    # reg |V - V*|^2 <= P - P* in standardised features as in raw ones, whose scale is 1 or more.
    apart = where.to_host(one.coef_).astype(float) - where.to_host(other.coef_)
    assert np.sum(apart**2) <= 4 * 1e-6 * other.objective_ / 1e-2
    assert one.dual_gap_ <= 1e-6 * one.objective_


@pytest.mark.parametrize("standardize", [False, True])
def test_both_problems_have_the_same_objective(spaces, standardize):
    """Of any V: two products of N and D terms in float64. (A wrong one would only cost passes: what
    the rows' space leaves in doubt is settled in the features.)"""
    SoftmaxClassifier(reg=1e-2, standardize=standardize).fit(X, Y, WEIGHTS)
    space = spaces[0]
    v = RNG.standard_normal((1, C * (N + 1)))
    theta = space.outside(v[0])[None, :]
    np.testing.assert_allclose(space.inner.value(v), space.whole.value(theta), rtol=1e-11)
    np.testing.assert_allclose(space.inside(theta), v, atol=1e-11)


def test_a_start_across_the_rows_is_left(spaces):
    x = X.astype(np.float32)
    model = SoftmaxClassifier(reg=1e-2, warm_start=True).fit(x, Y)
    want = model.objective_
    across = np.linalg.svd(X)[2][-1]
    model.coef_ = model.coef_ + 10 * across.astype(np.float32)
    model.fit(x, Y)
    assert abs(model.objective_ - want) <= 2e-6 * want


def test_heads_share_the_decomposition(spaces):
    grid = {"reg": np.geomspace(1e-4, 1.0, 5).tolist(), "class_weight": [None, "balanced"]}
    search = SweepCV(SoftmaxClassifier(), grid, cv=2, refit=False).fit(X, Y)
    assert len(spaces) == 1
    singles = [
        np.mean([SoftmaxClassifier(**one).fit(X[a], Y[a]).score(X[b], Y[b]) for a, b in _folds()])
        for one in search.cv_results_["params"]
    ]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], singles)


def _folds():
    from sklearn.model_selection import StratifiedKFold

    return list(StratifiedKFold(2).split(X, Y))


def test_where_it_is_not_worth_it(spaces):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that can be separated, without a penalty
        SoftmaxClassifier(reg=0.0, max_iter=5).fit(X, Y)  # weights across the rows cost nothing
        SoftmaxClassifier(max_iter=5).fit(np.tile(X, (2, 1)), np.tile(Y, 2))  # rows enough
        SoftmaxClassifier(max_iter=5, max_memory=_least_memory() + 10_000).fit(X, Y)
    assert spaces == [None] * 3


def _least_memory():
    """Bytes that the fit takes in any case, with as many threads as there are."""
    with pytest.raises(ValueError, match="at least") as caught:
        SoftmaxClassifier(max_memory=1).fit(X, Y)
    return parse_bytes(re.search(r"least (.*) bey", str(caught.value))[1].replace(" bytes", ""))


def test_devices_without_float64_keep_their_features(spaces, monkeypatch):
    strict = Backend.STRICT
    monkeypatch.setattr("xclf.training._row_space.accumulator", lambda xp, device: xp.float32)
    SoftmaxClassifier(reg=1e-2).fit(strict.asarray(X.astype(np.float32)), Y)
    assert spaces == [None]
