"""Metrics of predictions: scikit-learn's values, and the formulas where it has none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
)

from xclf.report import metrics
from xclf.report.metrics import CALIBRATION_BINS, Evaluation, evaluation, ordered_metrics

NAMES = [f"class {k}" for k in range(8)]


def problem(rows: int = 300, absent: int = 5, levels: int | None = None):
    """Labels without class `absent`, and probabilities; `levels` rounds so that many are equal."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, len(NAMES) - (absent < len(NAMES)), rows)
    y += y >= absent
    scores = rng.standard_normal((rows, len(NAMES)))
    scores[np.arange(rows), y] += 1.0
    if levels is not None:
        scores = np.round(scores * levels) / levels
    p = np.exp(scores)
    return y, p / p.sum(axis=1, keepdims=True)


# Sums of 300 terms of at most 4: 300 roundings of 1.1e-16 each, relative to values of about 0.1.
CLOSE = {"rel": 1e-12, "abs": 0}


def test_the_metrics_are_those_of_scikit_learn():
    y, p = problem()
    row = evaluation(y, probabilities=p, class_names=NAMES, data="validation")["metrics"]
    predicted = p.argmax(axis=1)
    present = np.unique(y)
    precision = [average_precision_score(y == k, p[:, k]) for k in present]
    assert row["data"] == "validation"
    assert row["accuracy"] == accuracy_score(y, predicted)
    assert row["balanced_accuracy"] == row["mean_per_class"]
    recall = [accuracy_score(y[y == k], predicted[y == k]) for k in present]
    assert row["balanced_accuracy"] == pytest.approx(np.mean(recall), **CLOSE)
    everywhere, p_everywhere = problem(absent=8)  # no class is: scikit-learn would warn
    found = evaluation(everywhere, probabilities=p_everywhere, class_names=NAMES)["metrics"]
    expected = balanced_accuracy_score(everywhere, p_everywhere.argmax(axis=1))
    assert found["balanced_accuracy"] == pytest.approx(expected, **CLOSE)
    expected = log_loss(y, p, labels=np.arange(len(NAMES)))
    assert row["negative_log_likelihood"] == pytest.approx(expected, **CLOSE)
    assert row["average_precision"] == pytest.approx(np.mean(precision), **CLOSE)


def test_equal_scores_count_together_in_average_precision():
    y, p = problem()
    p = p.round(1)  # many rows for a threshold
    found = metrics.average_precision(y, p)
    for k in range(len(NAMES)):
        if k == 5:
            assert np.isnan(found[k])
        else:
            assert found[k] == pytest.approx(average_precision_score(y == k, p[:, k]), **CLOSE)


@pytest.mark.parametrize("top_k", [2, 5])
def test_a_row_is_among_the_best_k_by_plain_counting(top_k):
    y, p = problem(levels=1)
    row = evaluation(y, probabilities=p, class_names=NAMES, top_k=top_k)["metrics"]
    hits = 0
    for label, values in zip(y, p, strict=True):
        best = sorted(range(len(NAMES)), key=lambda k, v=values: (-v[k], k))
        hits += label in best[:top_k]
    assert row[f"top{top_k}"] == hits / len(y)


def test_of_equal_scores_the_first_class_is_predicted():
    row = evaluation([1, 0], scores=np.zeros((2, 8)), class_names=NAMES)["metrics"]
    assert row["accuracy"] == 0.5


def test_calibration_by_plain_counting():
    y, p = problem()
    p[0] = np.eye(8)[3]  # a confidence of 1 belongs to the last bin
    found = evaluation(y, probabilities=p, class_names=NAMES)
    bins = found["calibration"]["bins"]
    assert len(bins) == CALIBRATION_BINS == 15
    error = 0.0
    for number, entry in enumerate(bins):
        low, high = number / 15, (number + 1) / 15
        rows = [i for i in range(len(y)) if low < p[i].max() <= high]
        assert entry["count"] == len(rows)
        assert (entry["low"], entry["high"]) == pytest.approx((low, high))
        if not rows:
            assert entry["confidence"] is entry["accuracy"] is None
            continue
        confidence = sum(p[i].max() for i in rows) / len(rows)
        accuracy = sum(p[i].argmax() == y[i] for i in rows) / len(rows)
        assert entry["confidence"] == pytest.approx(confidence, **CLOSE)
        assert entry["accuracy"] == pytest.approx(accuracy, **CLOSE)
        error += len(rows) / len(y) * abs(accuracy - confidence)
    assert found["metrics"]["calibration_error"] == pytest.approx(error, **CLOSE)
    assert bins[-1]["count"] >= 1


def test_confusion_and_figures_of_each_class():
    y, p = problem()
    found = evaluation(y, probabilities=p, class_names=NAMES)
    counts = np.zeros((8, 8), dtype=int)
    for true, predicted, rows in found["confusion"]["counts"]:
        assert rows > 0
        counts[true, predicted] = rows
    predicted = p.argmax(axis=1)
    np.testing.assert_array_equal(counts, confusion_matrix(y, predicted, labels=np.arange(8)))
    parts = precision_recall_fscore_support(y, predicted, labels=np.arange(8), zero_division=0.0)
    for k, entry in enumerate(found["per_class"]):
        assert entry["class"] == NAMES[k]
        values = [entry[name] for name in ("precision", "recall", "f1", "rows")]
        assert values == [part[k] for part in parts]
    assert found["per_class"][5]["average_precision"] is None
    json.dumps(found, allow_nan=False)


def test_scores_have_no_likelihood_and_no_calibration():
    y, p = problem()
    by_scores = evaluation(y, scores=np.log(p), class_names=NAMES)
    by_probability = evaluation(y, probabilities=p, class_names=NAMES)
    assert "calibration" not in by_scores
    for name in ("negative_log_likelihood", "calibration_error"):
        assert name not in by_scores["metrics"]
    for name, value in by_scores["metrics"].items():
        assert value == by_probability["metrics"][name]


def test_scores_of_the_second_of_two_classes():
    s = np.array([-2.0, -0.5, 0.5, 1.0])
    found = evaluation([0, 1, 0, 1], scores=s, class_names=["a", "b"])
    assert found["metrics"]["accuracy"] == 0.5
    assert "top5" not in found["metrics"]
    for k, sign in enumerate((-1, 1)):
        expected = average_precision_score(np.array([0, 1, 0, 1]) == k, sign * s)
        assert found["per_class"][k]["average_precision"] == pytest.approx(expected, **CLOSE)


def test_chunks_give_what_all_rows_give(monkeypatch):
    y, p = problem()
    whole = evaluation(y, probabilities=p, class_names=NAMES)
    monkeypatch.setattr(metrics, "_CHUNK", 64)  # eight rows of eight classes
    parts = Evaluation(NAMES, probabilistic=True, rows=len(y))
    for start in range(0, len(y), 77):
        parts.add(y[start : start + 77], p[start : start + 77])
    halves = [Evaluation(NAMES, probabilistic=True, rows=len(y)) for _ in range(2)]
    for half, where in zip(halves, (slice(0, 100), slice(100, None)), strict=True):
        half.add(y[where], p[where])
    halves[0].merge(halves[1])
    for found in (parts.results(), halves[0].results()):
        assert up_to_rounding(found) == up_to_rounding(whole)


def up_to_rounding(value):
    if isinstance(value, dict):
        return {key: up_to_rounding(one) for key, one in value.items()}
    if isinstance(value, list):
        return [up_to_rounding(one) for one in value]
    return round(value, 12) if isinstance(value, float) else value


def test_scores_beyond_the_limit_are_not_kept(monkeypatch):
    monkeypatch.setattr(metrics, "_MOST_SCORES", 100)
    y, p = problem()
    found = evaluation(y, probabilities=p, class_names=NAMES)
    assert "average_precision" not in found["metrics"]
    assert found["metrics"]["accuracy"] > 0.3


def test_arrays_of_every_backend(backend):
    y, p = problem()
    expected = evaluation(y, probabilities=p, class_names=NAMES)
    found = evaluation(backend.asarray(y), probabilities=backend.asarray(p), class_names=NAMES)
    assert found == expected


@pytest.mark.parametrize(
    ("labels", "values", "message"),
    [
        ([0, 1], np.zeros((2, 7)), r"must be \(2, 8\)"),
        ([0, 8], np.zeros((2, 8)), "from 0 to 7"),
        ([0, -1], np.zeros((2, 8)), "from 0 to 7"),
        ([0.0, 1.0], np.zeros((2, 8)), "integers"),
        ([0, 1], np.full((2, 8), np.nan), "finite"),
        (np.zeros(0, int), np.zeros((0, 8)), "at least one row"),
    ],
)
def test_bad_input_is_refused(labels, values, message):
    with pytest.raises(ValueError, match=message):
        evaluation(labels, scores=values, class_names=NAMES)


def test_one_of_scores_and_probabilities():
    for options in ({}, {"scores": np.zeros((1, 8)), "probabilities": np.zeros((1, 8))}):
        with pytest.raises(ValueError, match="either scores or probabilities"):
            evaluation([0], class_names=NAMES, **options)


def test_metrics_are_in_one_order_whatever_k_is():
    given = ["rows", "top10", "balanced_accuracy", "top2", "accuracy", "data", "top5"]
    assert ordered_metrics(given) == ["accuracy", "top2", "top5", "top10", "balanced_accuracy"]
    assert ordered_metrics(["calibration_error", "top3"]) == ["top3", "calibration_error"]
