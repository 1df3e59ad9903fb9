"""Pictures: weight templates, and the scores of a search."""

from __future__ import annotations

import numpy as np
import pytest

from xclf import SoftmaxClassifier
from xclf.report.pictures import draw, guess_shape, templates
from xclf.report.scores import draw_scores, varied


def test_templates_are_laid_out_as_the_rows_are():
    x = np.eye(12)
    model = SoftmaxClassifier().fit(x, np.arange(12) % 3)
    first, titles = templates(model, (2, 2, 3), channel_first=True)
    last, _ = templates(model, (2, 2, 3), channel_first=False)
    assert titles == ["0", "1", "2"]
    low = model.coef_.min(axis=1, keepdims=True)
    scaled = (model.coef_ - low) / (model.coef_.max(axis=1, keepdims=True) - low)
    np.testing.assert_array_equal(last.reshape(3, 12), scaled)
    np.testing.assert_array_equal(first.transpose(0, 3, 1, 2).reshape(3, 12), scaled)


def test_guessed_shapes():
    shapes = {3072: (32, 32, 3), 784: (28, 28, 1), 64: (8, 8, 1), 16: (4, 4, 1), 9: None, 12: None}
    assert {n: guess_shape(n) for n in shapes} == shapes


@pytest.mark.parametrize(("least", "scale"), [(0.1, "log"), (100.0, "linear")])
def test_a_loss_curve_over_decades_has_a_logarithmic_axis(tmp_path, monkeypatch, least, scale):
    model = SoftmaxClassifier().fit(np.eye(12), np.arange(12) % 3)
    model.history_ = {"loss": [1000.0, 10 * least, least], "val_accuracy": [0.5, 0.25, 0.75]}
    figures = []
    monkeypatch.setattr(
        "xclf.report.pictures.save_figure", lambda figure, path: figures.append(figure)
    )
    assert draw(model, tmp_path / "s.png", None, channel_first=True) == ["objective"]
    loss, accuracy = figures[0].axes
    assert loss.get_yscale() == scale
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), model.history_["loss"])
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), [0.5, 0.25, 0.75])


def _results(params, mean, std):
    rank = np.argsort(np.argsort(-np.asarray(mean))) + 1
    return {
        "params": params,
        "mean_test_score": np.asarray(mean),
        "std_test_score": np.asarray(std),
        "rank_test_score": rank,
    }


def _drawn(results, tmp_path, monkeypatch):
    """The axis of the picture, and its file."""
    kept = []
    monkeypatch.setattr("xclf.report.scores.save_figure", lambda figure, path: kept.append(figure))
    draw_scores(results, tmp_path / "s.png", "f1_macro")
    return kept[0].axes[0]


def test_the_picture_shows_what_was_measured(tmp_path, monkeypatch):
    params = [{"lr": lr, "reg": reg} for reg in (1e-1, 1e-3, 1e-2) for lr in (0.1, 0.2)]
    mean = [0.1, 0.2, 0.3, 0.9, 0.5, 0.6]
    axis = _drawn(_results(params, mean, [0.01] * 6), tmp_path, monkeypatch)
    assert varied(_results(params, mean, [0.0] * 6)) == ["reg", "lr"]
    lines = {line.get_label(): line for line in axis.lines}
    np.testing.assert_allclose(lines["lr=0.1"].get_xdata(), [1e-3, 1e-2, 1e-1])
    np.testing.assert_allclose(lines["lr=0.1"].get_ydata(), [0.3, 0.5, 0.1])
    np.testing.assert_allclose(lines["lr=0.2"].get_ydata(), [0.9, 0.6, 0.2])
    star = axis.lines[-1]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (1e-3, 0.9)
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_xscale()) == ("reg", "f1_macro", "log")
    assert len(axis.collections) == 2  # a band of deviation each


@pytest.mark.parametrize(
    "params",
    [
        [{"reg": 0.0}, {"reg": 1.0}],
        [{"solver": "adam"}, {"solver": "sgd"}],
        [{"reg": 1.0}],
        [{"reg": 1.0}, {"hidden": 3}],
        [{"reg": 10.0**k, "hidden": h} for k in range(12) for h in range(1, 13)],
    ],
)
def test_any_grid_can_be_drawn(tmp_path, params):
    rng = np.random.default_rng(0)
    results = _results(params, rng.uniform(size=len(params)), np.zeros(len(params)))
    draw_scores(results, tmp_path / "s.png", "accuracy")
    assert (tmp_path / "s.png").stat().st_size > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["s.png"]
