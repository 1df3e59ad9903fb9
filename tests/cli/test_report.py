"""`--report` of train, sweep and evaluate, and `xclf compare`."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_cases import blobs, write_csv, write_npz
from sklearn.metrics import average_precision_score, balanced_accuracy_score, log_loss

import xclf

QUICK = ("--max-iter", "3")


def figures_of(text: str) -> set[str]:
    return {part.partition('"')[0] for part in text.split('id="figure-')[1:]}


def test_a_training_writes_a_page(shell, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["xclf", "train", "digits"])
    said = shell.good("train", "digits", *QUICK, "--report", "page.html")
    assert "report      page.html" in said
    text = Path("page.html").read_text(encoding="utf-8")
    assert figures_of(text) == {"loss", "confusion", "reliability"}
    assert "xclf train digits" in re.sub("<[^>]*>", "", text)
    assert "Weights of 9" in text
    assert "SoftmaxClassifier on digits" in text


def test_the_results_of_a_training_as_json(shell):
    shell.good("train", "digits", *QUICK, "--model", "svm", "--report", "r.json")
    found = json.loads(Path("r.json").read_text())
    assert (found["format"], found["kind"]) == (1, "train")
    assert [entry["role"] for entry in found["data"]] == ["train", "test"]
    assert found["data"][1]["rows"] == 360
    assert "calibration" not in found
    assert found["model"]["parameters"]["max_iter"] == 3
    assert [entry["stage"] for entry in found["times"]] == ["read", "fit", "test"]
    assert found["peak_memory"] > 2**20
    assert len(found["templates"]["images"]) == 10


def test_a_sweep_has_its_search(shell):
    shell.good("sweep", "digits", "--reg", "1e-4,1e-2,1", *QUICK, "--cv", 2, "--report", "r.json")
    search = json.loads(Path("r.json").read_text())["search"]
    assert (search["parameter"], search["log"], search["metric"]) == ("reg", True, "accuracy")
    scores = [point["score"] for point in search["points"]]
    assert [point["value"] for point in search["points"]] == [1e-4, 1e-2, 1.0]
    assert search["chosen"] == int(np.argmax(scores))
    options = ("--reg", "1e-3,1e-2", "--lr", "1e-2,1e-1,1", "--solver", "adam", *QUICK)
    shell.good("sweep", "digits", *options, "--report", "p.html")
    text = Path("p.html").read_text(encoding="utf-8")
    assert "search" in figures_of(text)
    assert "Accuracy against learning rate" in text
    assert "reg=0.001" in text


def test_evaluate_prints_and_returns_the_metrics(shell):
    data = write_npz(Path("t.npz"))
    x, y = blobs()
    model = xclf.SoftmaxClassifier().fit(x, y)
    model.save("m")
    said = shell.good("evaluate", "m", data, "--report", "e.html", "--json")
    found = json.loads(said)
    p, truth = model.predict_proba(x), np.arange(3) == y[:, None]
    expected = {
        "accuracy": model.score(x, y),
        "balanced_accuracy": balanced_accuracy_score(y, model.predict(x)),
        "negative_log_likelihood": log_loss(y, p),
        "average_precision": average_precision_score(truth, p, average="macro"),
    }
    # Sums of 120 terms, each with a few roundings of 1.1e-16.
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12)
    assert 0 < found["calibration_error"] < 1
    assert "top5" not in found
    assert found["classes"][0]["average_precision"] > 0.5
    text = shell.good("evaluate", "m", data)
    assert f"negative log-likelihood     {found['negative_log_likelihood']:.4f}" in text
    assert figures_of(Path("e.html").read_text(encoding="utf-8")) == {
        *("loss", "confusion", "reliability")
    }


def test_names_with_markup_stay_text_on_the_page(shell):
    names = np.array(["<script>alert(1)</script>", "&amp;", '"quoted"'])
    path = write_csv(Path("t.csv"), names)
    shell.good("train", path, "--label", "species", "--report", "p.html")
    text = Path("p.html").read_text(encoding="utf-8")
    assert text.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


@pytest.mark.parametrize("name", ["page.txt", "nowhere/page.html", "t.npz"])
def test_a_page_that_cannot_be_written_is_refused_before_the_work(shell, name):
    write_npz(Path("t.npz"))
    for command in (("train", "t.npz"), ("sweep", "t.npz"), ("evaluate", "m", "t.npz")):
        assert shell.fails(*command, "--report", name).startswith("--report")


def test_results_side_by_side(shell):
    write_npz(Path("t.npz"))
    for name, reg in (("[red]a.json", 1e-3), ("b.json", 10.0)):
        shell.good("train", "t.npz", "--reg", reg, "--report", name)
    said = shell.good("compare", "[red]a.json", "b.json", "--report", "both.html")
    assert "│ [red]a │" in said
    assert "different rows" not in said
    rows = json.loads(shell.good("compare", "[red]a.json", "b.json", "--json"))
    for row in rows:
        kept = json.loads(Path(f"{row['name']}.json").read_text())
        assert row["accuracy"] == kept["metrics"][0]["accuracy"]
    assert figures_of(Path("both.html").read_text(encoding="utf-8")) == {"loss"}
    shell.good("train", "t.npz", "--seed", 1, "--report", "c.json")
    assert "different rows" in shell.good("compare", "b.json", "c.json")


def test_what_json_prints_is_compared_as_reports_are(shell, monkeypatch):
    write_npz(Path("t.npz"))
    quick = ("t.npz", "--reg", "1e-3,1e-2", "--json")
    commands = {
        "train": ("train", *quick[:2], "1e-3", "--json", "--out", "m", "--report", "r.json"),
        "sweep": ("sweep", *quick, "--cv", 3, "--report", "s.json"),
        "evaluate": ("evaluate", "m", "t.npz", "--json"),
        "probe": ("probe", "t.npz", "--reg", "1e-3,1e-2", "--json"),
    }
    printed = {name: shell.good(*command) for name, command in commands.items()}
    for name, text in printed.items():
        Path(f"{name}.json").write_text(text)
    text = shell.good("compare", *(f"{name}.json" for name in printed), "--json")
    rows = json.loads(text)
    assert [(row["name"], row["kind"]) for row in rows] == [(name, name) for name in printed]
    (report,) = json.loads(shell.good("compare", "r.json", "s.json", "--json"))[:1]
    same = {key for key in report if key not in ("name", "seconds", "peak_memory")}
    assert {key: rows[0][key] for key in same} == {key: report[key] for key in same}
    assert len({row["labels"] for row in rows[:3]}) == 1
    Path("both.json").write_text(text)  # a file of several runs
    again = json.loads(shell.good("compare", "both.json", "r.json", "--json"))
    assert [row["name"] for row in again] == [*printed, "r"]
    assert [row["accuracy"] for row in again[:4]] == [row["accuracy"] for row in rows]
    shell.good("compare", "sweep.json", "s.json", "evaluate.json", "--report", "all.html")
    assert "search" in figures_of(Path("all.html").read_text(encoding="utf-8"))
    Path("runs.jsonl").write_text(printed["train"] + printed["sweep"])  # a line for each run
    monkeypatch.setattr("sys.stdin", io.StringIO(printed["evaluate"]))
    rows = json.loads(shell.good("compare", "runs.jsonl", "-", "--json"))
    assert [row["name"] for row in rows] == ["runs.jsonl 1", "runs.jsonl 2", "standard input"]
    untested = shell.good("train", "t.npz", "--test-size", 0, "--json")
    Path("u.json").write_text(untested)
    assert "u has no metrics" in shell.fails("compare", "u.json", "r.json")


def test_comparisons_that_cannot_be_made(shell):
    write_npz(Path("t.npz"))
    shell.good("train", "t.npz", "--report", "a.json")
    Path("bad.json").write_text('{"format"')
    assert "two runs or more" in shell.fails("compare", "a.json")
    assert "bad.json: not JSON" in shell.fails("compare", "a.json", "bad.json")
    assert "no such file" in shell.fails("compare", "a.json", "nowhere")
    message = shell.fails("compare", "a.json", "a.json", "--data", "other")
    assert "no metrics of 'other' rows" in message
    message = shell.fails("compare", "a.json", "a.json", "--report", "a.json")
    assert "is an input of this command" in message
