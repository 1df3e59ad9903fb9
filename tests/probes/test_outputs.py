"""The folder of a probe: whole or not at all, and what is in it; goes on from a checkpoint."""

from __future__ import annotations

import csv
import importlib.util
import json

import numpy as np
import pytest
from probe_cases import GRID, TEST, TRAIN, VAL, WIDE
from sklearn.datasets import load_digits

import xclf
from xclf.probes import ProbeInterrupted, _outputs

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe") / "out"
    return folder, xclf.probe(TRAIN, VAL, TEST, C=GRID, shots=[1], tries=2, out=folder)


def test_the_files(probed):
    folder, result = probed
    names = {path.name for path in folder.iterdir()}
    assert names == {"results.json", "model.safetensors", "predictions.parquet", "report.html"}
    assert json.loads((folder / "results.json").read_text()) == result.to_dict()
    model = xclf.load(folder / "model.safetensors")
    np.testing.assert_array_equal(model.coef_, result.model.coef_)
    page = (folder / "report.html").read_text()
    assert f"{100 * result.accuracy:.1f}" in page
    assert "Linear probe" in page


def test_the_predictions(probed):
    folder, result = probed
    table = parquet.read_table(folder / "predictions.parquet").to_pydict()
    x, y = TEST
    assert table["row"] == list(range(60))
    assert set(table["data"]) == {"test"}
    assert table["label"] == y.tolist()
    assert table["prediction"] == result.model.predict(x).tolist()
    p = np.sort(result.model.predict_proba(x), axis=1)[:, ::-1]
    for column, name in enumerate(["probability", "top2_probability", "top3_probability"]):
        np.testing.assert_allclose(table[name], p[:, column], rtol=1e-12)


def test_results_have_the_common_format(probed):
    _, result = probed
    results = result.to_dict()
    assert (results["format"], results["kind"], results["seed"]) == (1, "probe", 0)
    assert {"python", "numpy", "scikit-learn"} <= set(results["environment"])
    assert [entry["role"] for entry in results["data"]] == ["train", "validation", "test"]
    prints = [entry["fingerprint"] for entry in results["data"]]
    assert len(set(prints)) == 3
    assert all(one.startswith("sha256:") for one in prints)
    counts = np.asarray(results["confusion"]["counts"])
    assert counts[:, 2].sum() == 60
    right = counts[counts[:, 0] == counts[:, 1], 2].sum()
    assert right / 60 == result.accuracy
    stages = [entry["stage"] for entry in results["times"]]
    assert stages == ["search", "refit", "1 shot"]
    assert results["peak_memory"] > 0
    assert results["model"]["estimator"] == "SoftmaxClassifier"
    assert len(results["history"]["objective"]) == len(results["history"]["iteration"])
    assert "templates" not in results


def test_scores_where_there_are_no_probabilities(tmp_path):
    result = xclf.probe(TRAIN, VAL, TEST, C=GRID, estimator="svm", out=tmp_path / "out")
    table = parquet.read_table(tmp_path / "out" / "predictions.parquet").to_pydict()
    best = result.model.decision_function(TEST[0]).max(axis=1)
    np.testing.assert_allclose(table["score"], best, rtol=1e-12)
    assert result.metrics[0].get("negative_log_likelihood") is None


def test_images_have_templates():
    x, y = load_digits(return_X_y=True)
    data = xclf.data.load("digits")
    result = xclf.probe(data, C=[1e-3], tol=1e-2)
    assert result.results["templates"]["shape"] == [8, 8, 1]
    assert len(result.results["templates"]["images"]) == 10
    rows = {entry["role"]: entry["rows"] for entry in result.results["data"]}
    assert sum(rows.values()) == len(y) == len(x)


def test_csv_without_pyarrow(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyarrow" else real(name)
    )
    result = xclf.probe(TRAIN, VAL, TEST, C=GRID, out=tmp_path / "out")
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["prediction"]) for row in rows] == result.model.predict(TEST[0]).tolist()


def test_a_second_probe_replaces_the_first(tmp_path):
    for C in (1e-3, 10.0):
        xclf.probe(TRAIN, VAL, TEST, C=[C], out=tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["search"]["points"][0]["value"] == 10.0


def test_a_failure_leaves_no_results(tmp_path, monkeypatch):
    xclf.probe(TRAIN, VAL, TEST, C=[1.0], out=tmp_path / "out")
    monkeypatch.setattr(_outputs, "write_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        xclf.probe(TRAIN, VAL, TEST, C=[10.0], out=tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "results.json" not in names
    assert not [name for name in names if name.endswith(".part")]


def test_where_it_cannot_be_written_is_one_error_before_any_fit(tmp_path, monkeypatch):
    monkeypatch.setattr("xclf.probes._feature_set.search", None)  # not called
    (tmp_path / "file").touch()
    for out, words in (("file", "is no folder"), (".", "holds files"), ("a/b", "there is no")):
        with pytest.raises(ValueError, match=words):
            xclf.probe(TRAIN, VAL, TEST, C=GRID, out=tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_it_goes_on_from_a_checkpoint(share, tmp_path):
    """Stopped at some event, and called again: the same bits as without a break."""
    options = {"C": GRID, "shots": [2], "tries": 2, "solver": "momentum", "max_iter": 8}
    seen = []

    def count(event):
        seen.append(event)
        if len(seen) == stop:
            raise KeyboardInterrupt

    stop = 0
    whole = xclf.probe(*WIDE, callbacks=[count], **options)
    total = len(seen)
    stop, seen = int(share * total), []
    kept = xclf.Checkpoint(tmp_path / "kept", every=0.0)
    with pytest.raises(ProbeInterrupted):
        xclf.probe(*WIDE, callbacks=[count, kept], **options)
    after = []
    again = xclf.probe(*WIDE, callbacks=[after.append, kept], **options)
    assert len(after) < total
    np.testing.assert_array_equal(again.model.coef_, whole.model.coef_)
    for name in ("search", "few_shot", "metrics"):
        assert getattr(again, name) == getattr(whole, name)
    with pytest.raises(ValueError, match=r"is of other work: .*seed was 0, is 1"):
        xclf.probe(*WIDE, callbacks=[kept], **{**options, "seed": 1})
