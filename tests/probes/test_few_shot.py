"""Few-shot curves: equal to a loop of single fits."""

from __future__ import annotations

import numpy as np
import pytest
from probe_cases import GRID, WIDE
from scipy.stats import t

import xclf
from xclf.probes._few_shot import interval
from xclf.probes._part import draws

TRAIN, VAL, TEST = WIDE


def loop(features, shots, tries, seed=0):
    """(scores on the test rows, chosen C) by fits of one model after the other."""
    (x, y), (xv, yv), (xt, yt) = ((a[:, :features], b) for a, b in (TRAIN, VAL, TEST))
    rows = draws(y, shots, tries, seed)
    models = [
        [
            xclf.SoftmaxClassifier(reg=1.0 / (2.0 * C * len(r)), tol=1e-8).fit(x[r], y[r])
            for r in rows
        ]
        for C in GRID
    ]
    judged = [np.mean([model.score(xv, yv) for model in some]) for some in models]
    best = int(np.argmax(judged))
    return [model.score(xt, yt) for model in models[best]], GRID[best]


# More features than rows of a draw, which are then brought into their own span; and fewer.
@pytest.mark.parametrize("features", [40, 5])
def test_the_curve_is_a_loop_of_fits(features):
    parts = [(a[:, :features], b) for a, b in (TRAIN, VAL, TEST)]
    result = xclf.probe(*parts, C=GRID, shots=[4, 1], tries=3, tol=1e-8)
    points = result.few_shot["points"]
    assert [point["shots"] for point in points] == [1, 4]
    assert result.few_shot["tries"] == 3
    for point in points:
        scores, chosen = loop(features, point["shots"], 3)
        assert point["chosen"] == chosen
        # Fits end within 1e-6 of the optimum in either way: a borderline row may differ.
        np.testing.assert_allclose(point["scores"], scores, atol=1.0 / 60 + 1e-12)
        assert point["mean"] == np.mean(point["scores"])
        assert point["low"] < point["mean"] < point["high"]


def test_with_folds_the_chosen_value_of_the_search_holds():
    result = xclf.probe(TRAIN, test=TEST, C=GRID, folds=3, shots=[2], tries=2)
    assert result.few_shot["points"][0]["chosen"] == result.chosen
    assert result.few_shot["points"][0]["low"] is not None


def test_too_few_rows_of_a_class_are_one_error_before_any_fit(monkeypatch):
    monkeypatch.setattr("xclf.probes._feature_set.search", None)  # not called
    with pytest.raises(ValueError, match="31 shots needs 31 rows of every class"):
        xclf.probe(TRAIN, VAL, TEST, C=GRID, shots=[1, 31])


def test_the_interval_is_students():
    scores = np.asarray([0.5, 0.7, 0.6, 0.9])
    mean, low, high = interval(scores)
    spread = scores.std(ddof=1) / 2.0
    np.testing.assert_allclose((low, high), t.interval(0.95, 3, mean, spread), rtol=1e-12)
    assert interval(scores[:1]) == (0.5, None, None)
    assert interval(np.array([0.2, 0.9])) == (0.55, 0.0, 1.0)  # where t is 12.7
