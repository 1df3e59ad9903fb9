"""Models of several tasks in the shell: predict, evaluate and export use what probe saved."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from probe_cases import TEST, TRAIN
from safetensors.numpy import load_file

import xclf

GRID = ("--c", "0.01,1")


def tasks(y: np.ndarray) -> np.ndarray:
    """The classes, and whether it is the third."""
    return np.stack([10 * y, y == 2], axis=1).astype(int)


def indicators(y: np.ndarray) -> np.ndarray:
    return (y[:, None] == np.arange(3)).astype(int)


def save(home: Path, labels) -> None:
    for name, (x, y) in (("train", TRAIN), ("test", TEST)):
        np.save(home / f"{name}.npy", x)
        np.save(home / f"{name}-y.npy", labels(y))


def table(path: Path, part, names=("kind", "third")) -> None:
    x, y = part
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["a", "b", "c", "d", "e", *names, "junk", "nr"])
        for number, (row, own) in enumerate(zip(x, tasks(y), strict=True)):
            lines.writerow([*row, *own, 7, f"r{number}"])


def columns(path: str) -> dict[str, list[str]]:
    with Path(path).open(newline="") as file:
        return {name: list(column) for name, *column in zip(*csv.reader(file), strict=True)}


def test_arrays_of_labels(shell):
    save(shell.home, tasks)
    shell.good("probe", "train.npy,train-y.npy", "--test", "0", *GRID, "--out", "p")
    probed = json.loads(Path("p/results.json").read_text())
    assert "reg" not in probed["model"]["parameters"]  # each task has its own
    model, (x, y) = xclf.load("p/model.safetensors"), TEST
    shell.said("predict", "p/model.safetensors", "test.npy", "--out", "q.csv")
    labels = model.predict(x)
    assert columns("q.csv") == {f"task {t}": [str(v) for v in labels[:, t]] for t in range(2)}

    shell.said("predict", "p/model.safetensors", "test.npy,test-y.npy", "--out", "q.csv",
               "--proba", "--top-k", 1)  # fmt: skip
    p = model.predict_proba(x)
    found = columns("q.csv")
    assert list(found) == [
        "task 0", "task 1", "p_task 0_0", "p_task 0_10", "p_task 0_20", "top1_task 0",
        "top1_score_task 0", "p_task 1_0", "p_task 1_1", "top1_task 1", "top1_score_task 1",
    ]  # fmt: skip
    # Products for one task or for both round differently, by an ulp or two of 1.
    np.testing.assert_allclose(np.asarray(found["p_task 0_10"], float), p[0][:, 1], atol=1e-14)
    assert found["top1_task 1"] == found["task 1"]

    printed = shell("evaluate", "p/model.safetensors", "test.npy,test-y.npy", "--json")
    result = json.loads(printed.out)
    shares = np.mean(labels == tasks(y), axis=0)
    assert [task["metrics"]["accuracy"] for task in result["tasks"]] == shares.tolist()
    assert result["accuracy"] == pytest.approx(shares.mean(), abs=1e-15)
    output = shell.said("evaluate", "p/model.safetensors", "test.npy,test-y.npy")
    assert "mean accuracy of the tasks" in output
    shell.said("evaluate", "p/model.safetensors", "test.npy,test-y.npy", "--report", "e.html")
    document = Path("e.html").read_text()
    assert "task 1" in document
    assert "mean of 2 tasks" in document
    assert "interval" not in document
    Path("e.json").write_text(printed.out)
    shell.good("compare", "e.json", "p")


def test_indicators_have_mean_average_precision(shell):
    save(shell.home, indicators)
    train, test = "train.npy,train-y.npy", "test.npy,test-y.npy"
    shell.good("probe", train, "--test", test, *GRID, "--out", "p")
    probed = json.loads(Path("p/results.json").read_text())
    assert probed["search"]["spread"] == "tasks"
    assert [(d["tasks"], "classes" in d) for d in probed["data"]] == [(3, False)] * 3
    result = json.loads(shell("evaluate", "p/model.safetensors", test, "--json").out)
    row = next(row for row in probed["metrics"] if row["data"] == "test")
    assert result["average_precision"] == pytest.approx(row["average_precision"], rel=1e-12)
    shell.said("predict", "p/model.safetensors", "test.npy", "--out", "q.csv", "--proba")
    found = columns("q.csv")
    assert list(found) == [f"{p}task {t}" for p in ("", "p_") for t in range(3)]
    p = xclf.load("p/model.safetensors").predict_proba(TEST[0])
    np.testing.assert_allclose(np.asarray(found["p_task 2"], float), p[:, 2], atol=1e-14)


def test_tables_and_the_rows_that_were_held_out(shell):
    table(shell.home / "train.csv", TRAIN)
    labels = ("--label", "kind", "--label", "third")
    more = ("--drop", "junk", "--id", "nr")
    shell.good("probe", "train.csv", *labels, *more, *GRID, "--out", "p")
    shell.said("predict", "p/model.safetensors", "train.csv", "--out", "q.csv")
    assert list(columns("q.csv")) == ["nr", "kind", "third"]
    said = shell.said("evaluate", "p/model.safetensors", "train.csv")
    assert "the rows that the training held out" in said
    probed = json.loads(Path("p/results.json").read_text())
    result = json.loads(shell("evaluate", "p/model.safetensors", "train.csv", "--json").out)
    assert result["accuracy"] == probed["metrics"][1]["accuracy"]
    assert [task["name"] for task in result["tasks"]] == ["kind", "third"]


def test_one_task_is_exported(shell):
    save(shell.home, tasks)
    shell.good("probe", "train.npy,train-y.npy", "--test", "0", *GRID, "--out", "p")
    error = shell.fails("export", "p/model.safetensors", "--out", "h.safetensors")
    assert error == "the model has 2 tasks: --task NAME takes one of task 0, task 1"
    shell.said("export", "p/model.safetensors", "--out", "h.safetensors", "--task", "task 1")
    own = xclf.load("p/model.safetensors").estimators_[1]
    np.testing.assert_array_equal(
        load_file("h.safetensors")["weight"][1] - load_file("h.safetensors")["weight"][0],
        own._layers()[0].w[1] - own._layers()[0].w[0],
    )


def test_labels_that_are_not_the_models(shell):
    save(shell.home, tasks)
    shell.good("probe", "train.npy,train-y.npy", "--test", "0", *GRID, "--out", "p")
    np.save("one.npy", TEST[1])
    error = shell.fails("evaluate", "p/model.safetensors", "test.npy,one.npy")
    assert "labels of 1 column, the model has 2 tasks (task 0, task 1)" in error
    np.save("other.npy", tasks(TEST[1]) + 1)
    error = shell.fails("evaluate", "p/model.safetensors", "test.npy,other.npy")
    assert "test.npy,other.npy: task 0 holds labels that the model does not know" in error
    error = shell.fails("train", "test.npy,one.npy", "--start", "p/model.safetensors")
    assert "a model of several tasks" in error
