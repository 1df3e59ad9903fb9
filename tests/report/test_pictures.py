"""Pictures: weight templates, and the scores of a search."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from xclf import SoftmaxClassifier, TwoLayerClassifier
from xclf.report.pictures import draw, guess_shape, templates, unit_of, write_plain_numbers
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
    labels = axis.get_xlabel(), axis.get_ylabel(), axis.get_xscale()
    assert labels == ("reg", "f1_macro, mean over the folds", "log")
    assert axis.get_title() == "f1_macro of 6 candidates; best reg=0.001, lr=0.2"
    assert len(axis.collections) == 2  # a band of deviation each
    texts = [text.get_text() for text in axis.get_legend().get_texts()]
    assert texts == ["lr=0.2", "lr=0.1", "-+ one standard deviation over the folds", "best: 0.9000"]
    low, high = axis.get_ylim()
    assert low < 0.09  # room at the edges
    assert high > 0.91
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axis.lines}
    assert len(looks) == 3  # told apart without colours


def test_bands_of_shares_end_at_one(tmp_path, monkeypatch):
    params = [{"reg": 1e-3}, {"reg": 1e-2}]
    axis = _drawn(_results(params, [0.9, 0.1], [0.3, 0.3]), tmp_path, monkeypatch)
    edges = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == (0.0, 1.0)


@pytest.mark.parametrize("values", [[9.0360001e-2, 9.0360002e-2], [0.25, 7.0], [1e-7, 1e-6]])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_tick_labels_are_whole_numbers_of_their_own(values, scale):
    figure = Figure()
    axis = figure.subplots()
    axis.plot([1, 2], values)
    axis.set_yscale(scale)
    write_plain_numbers(axis)
    figure.draw_without_rendering()
    assert axis.yaxis.get_offset_text().get_text() == ""
    labels = axis.get_yticklabels(which="both")
    shown = {one.get_text(): one.get_position()[1] for one in labels if one.get_text()}
    assert len(shown) > 1
    for text, place in shown.items():
        assert float(text) == pytest.approx(place, rel=1e-8)


def test_a_picture_says_what_it_shows(tmp_path, monkeypatch):
    model = SoftmaxClassifier().fit(np.eye(16), np.arange(16) % 3)
    model.class_names_ = ["cat", "dog", "emu"]
    figures = []
    monkeypatch.setattr(
        "xclf.report.pictures.save_figure", lambda figure, path: figures.append(figure)
    )
    draw(model, tmp_path / "s.png", (4, 4, 1), channel_first=True)
    weights, curve = figures[0].subfigs
    assert weights.get_suptitle() == (
        "SoftmaxClassifier: weights of 3 classes, each divided by its largest"
    )
    shown = [axis.get_title() for axis in weights.axes if axis.get_title()]
    assert shown == ["cat", "dog", "emu"]
    image = weights.axes[0].images[0]
    assert (image.get_clim(), weights.axes[-1].get_ylabel()) == ((-1.0, 1.0), "weight")
    first = model.coef_[0] / abs(model.coef_[0]).max()
    np.testing.assert_array_equal(image.get_array().ravel(), first)
    assert curve.axes[0].get_xlabel() == "iteration"
    assert curve.axes[0].get_title() == "SoftmaxClassifier: objective after every iteration"
    assert unit_of(SoftmaxClassifier(solver="adam")) == unit_of(TwoLayerClassifier()) == "epoch"


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
