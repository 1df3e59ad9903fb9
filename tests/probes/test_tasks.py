"""Several tasks: equal to a probe of each column of labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse
from probe_cases import GRID, TEST, TRAIN, VAL, WIDE
from sklearn.metrics import average_precision_score

import xclf
from xclf.probes import ProbeInterrupted

parquet = pytest.importorskip("pyarrow.parquet")


def tasks(part):
    """Three tasks: the classes, whether it is the third, and another pair."""
    x, y = part
    return x, np.stack([y, y == 2, (y + np.arange(len(y))) % 2], axis=1).astype(int)


def indicators(part):
    x, y = part
    return x, (y[:, None] == np.arange(3)).astype(int)


@pytest.mark.parametrize("parts", [(TRAIN, VAL, TEST), WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("estimator", ["softmax", "svm"])
def test_each_task_is_a_probe_of_its_own(parts, estimator):
    options = {"C": GRID, "estimator": estimator}
    several = [tasks(part) for part in parts]
    result = xclf.probe(*several, **options)
    for t, task in enumerate(result.tasks):
        alone = xclf.probe(*((x, y[:, t]) for x, y in several), **options)
        assert task["name"] == f"task {t}"
        assert task["chosen"] == alone.chosen
        model = result.model.estimators_[t]
        # One optimum, within the solvers' promise: 1e-6 of it.
        assert model.objective_ == pytest.approx(alone.model.objective_, rel=2e-6)
        assert model.reg == alone.model.reg
        assert task["metrics"]["accuracy"] == alone.accuracy
    means = [np.mean([task["metrics"]["accuracy"] for task in result.tasks]), result.accuracy]
    assert means[0] == pytest.approx(means[1], abs=1e-12)
    assert result.model.predict(parts[2][0]).shape == (60, 3)


def test_folds_and_shares():
    x, y = tasks(TRAIN)
    for options in ({"folds": 3}, {"val": 0.2}):
        result = xclf.probe((x, y), C=GRID, **options)
        assert len(result.tasks) == 3
        assert {entry["role"] for entry in result.results["data"]} >= {"train", "test"}


def test_indicators_have_mean_average_precision():
    parts = [indicators(part) for part in (TRAIN, VAL, TEST)]
    result = xclf.probe(*parts, C=GRID, metric="average_precision")
    x, y = parts[2]
    p = result.model.predict_proba(x)
    assert p.shape == y.shape
    want = [average_precision_score(y[:, t], p[:, t]) for t in range(3)]
    got = [task["metrics"]["average_precision"] for task in result.tasks]
    np.testing.assert_allclose(got, want, rtol=1e-12)
    row = next(row for row in result.metrics if row["data"] == "test")
    assert row["average_precision"] == pytest.approx(np.mean(want), rel=1e-12)
    for t, task in enumerate(result.tasks):
        judged = []
        for C in GRID:
            model = xclf.SoftmaxClassifier(reg=1.0 / (C * len(parts[0][1])))
            model.fit(parts[0][0], parts[0][1][:, t])
            judged.append(
                average_precision_score(parts[1][1][:, t], model.decision_function(parts[1][0]))
            )
        assert task["chosen"] == GRID[int(np.argmax(judged))]


def test_the_folder(tmp_path):
    parts = [tasks(part) for part in (TRAIN, VAL, TEST)]
    result = xclf.probe(*parts, C=GRID, out=tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert kept["tasks"] == result.tasks
    model = xclf.load(tmp_path / "out" / "model.safetensors")
    x, y = parts[2]
    np.testing.assert_array_equal(model.predict(x), result.model.predict(x))
    table = parquet.read_table(tmp_path / "out" / "predictions.parquet").to_pydict()
    assert table["label_task 1"] == y[:, 1].tolist()
    assert table["prediction_task 0"] == result.model.predict(x)[:, 0].tolist()
    assert "task 1" in (tmp_path / "out" / "report.html").read_text()
    assert "task 2" in repr(result)


@pytest.mark.parametrize(
    "parts, options, words",
    [
        ((tasks(TRAIN), VAL), {}, "validation has labels of 1 columns, train of 3"),
        ((tasks(TRAIN),), {"shots": [90]}, "90 shots of task task 0 needs 90 rows of every class"),
        (((TRAIN[0], np.stack([TRAIN[1], 0 * TRAIN[1]], axis=1)),), {}, "column 1 of y must hold"),
        (((TRAIN[0], tasks(VAL)[1]),), {}, "train: X has 150 rows but y has 60"),
    ],
)
def test_bad_tasks(parts, options, words):
    with pytest.raises(ValueError, match=words):
        xclf.probe(*parts, C=GRID, **options)


def test_names_of_data_frames():
    pandas = pytest.importorskip("pandas")
    frames = [
        (x, pandas.DataFrame(y, columns=["kind", "third", "pair"]))
        for x, y in map(tasks, (TRAIN, VAL, TEST))
    ]
    result = xclf.probe(*frames, C=GRID)
    assert [task["name"] for task in result.tasks] == ["kind", "third", "pair"]


def test_ctrl_c_leaves_no_model_of_all_tasks():
    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        xclf.probe(tasks(TRAIN), C=GRID, callbacks=[stop])
    assert not isinstance(caught.value, ProbeInterrupted)


@pytest.mark.parametrize("options", [{}, {"folds": 3}], ids=["validation", "folds"])
def test_few_shot_curves_are_means_of_those_of_the_tasks(options):
    """Each task draws k rows of each of its own classes, and chooses its own penalty."""
    train, val, test = (tasks(part) for part in (TRAIN, VAL, TEST))
    some = {"C": GRID, "shots": [3], "tries": 2, "tol": 1e-8, **options}
    parts = (train, None if options else val, test)
    (point,) = xclf.probe(*parts, **some).few_shot["points"]
    singles = []
    for t in range(3):
        one = [part if part is None else (part[0], part[1][:, t]) for part in parts]
        singles.append(xclf.probe(*one, **some).few_shot["points"][0])
    if not options:  # folds of several columns are not stratified
        assert point["chosen"] == [single["chosen"] for single in singles]
        # Fits end within 1e-6 of the optimum in either way: a borderline row may differ.
        want = np.mean([single["scores"] for single in singles], axis=0)
        np.testing.assert_allclose(point["scores"], want, atol=1.0 / 60 + 1e-12)
    assert len(point["chosen"]) == 3
    assert point["mean"] == np.mean(point["scores"])


@pytest.mark.parametrize("share", [0.7, 0.99])
def test_ctrl_c_keeps_the_models_of_all_tasks(share, tmp_path):
    """In the search, and when the chosen ones are fitted again."""
    events = []

    def count(event):
        events.append(event)

    def stop(event):
        stop.left -= 1
        if stop.left == 0:
            raise KeyboardInterrupt

    parts = [tasks(part) for part in (TRAIN, VAL, TEST)]
    xclf.probe(*parts, C=GRID, callbacks=[count])
    stop.left = max(1, int(share * len(events)))
    with pytest.raises(ProbeInterrupted) as caught:
        xclf.probe(*parts, C=GRID, callbacks=[stop], out=tmp_path / "out")
    result = caught.value.result
    assert result.interrupted
    assert len(result.tasks) == 3
    model = xclf.load(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(model.predict(TEST[0]), result.model.predict(TEST[0]))


@pytest.mark.parametrize(
    "rows", [TRAIN[0], scipy.sparse.csr_array(TRAIN[0])], ids=["dense", "sparse"]
)
def test_rows_without_their_labels(rows):
    with pytest.raises(TypeError, match=r"labels go with their rows, train=\(X, y\)"):
        xclf.probe(rows, TRAIN[1], C=GRID)
