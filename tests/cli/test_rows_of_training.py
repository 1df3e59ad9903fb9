"""What commands know of the data set that a model was trained on: its split, names and columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from cli_cases import NAMES, ROWS, blobs, write_csv, write_npz
from data_cases import CIFAR_NAMES, write_cifar
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

import xclf
from xclf.data import load
from xclf.report.pictures import templates

QUICK = ("--max-iter", "3")


def evaluated(shell, *arguments) -> dict:
    return json.loads(shell.good("evaluate", *arguments, "--json"))


@pytest.mark.parametrize("command", [("train",), ("sweep", "--reg", "1e-3,1e-2"), ("probe",)])
def test_evaluate_measures_the_rows_that_were_held_out(shell, command):
    """The numbers of the rows do not depend on the command that drew them."""
    data = write_npz(shell.home / "t.npz")
    x, y = blobs()
    _, held = train_test_split(np.arange(ROWS), test_size=0.2, stratify=y, random_state=3)
    out = "folder" if command[0] == "probe" else "m"
    shell.good(command[0], data, *command[1:], "--seed", 3, "--out", out)
    path = "folder/model.safetensors" if command[0] == "probe" else "m"
    model = xclf.load(path)
    result = evaluated(shell, path, data)
    assert (result["rows"], result["accuracy"]) == (24, model.score(x[held], y[held]))
    assert "held out: 20% held out, stratified, seed 3; --all-rows" in result["remark"]
    kept = np.setdiff1d(np.arange(ROWS), held)
    seen = evaluated(shell, path, data, "--train-part")
    assert (seen["rows"], seen["accuracy"]) == (96, model.score(x[kept], y[kept]))
    assert seen["remark"].startswith("warning: the model was trained on all of these rows")
    every = shell("evaluate", path, data, "--all-rows")
    assert f"accuracy {model.score(x, y):.4f}" in every.out
    assert "warning: the model was trained on most of these rows" in every.err


@pytest.mark.parametrize("command", [("train",), ("sweep", "--reg", "1e-3"), ("probe",)])
def test_rows_of_the_training_are_known_in_other_files(shell, command):
    data = write_npz(shell.home / "t.npz")
    out = "folder" if command[0] == "probe" else "m"
    shell.good(command[0], data, *command[1:], "--out", out)
    path = "folder/model.safetensors" if command[0] == "probe" else "m"
    x, y = blobs()
    new = np.random.default_rng(1).normal(size=(80, 4))
    more = np.concatenate([x, new]).astype(np.float32), np.concatenate([y, y[:80]])
    others = {"grown": more, "turned": (x[::-1], y[::-1]), "new": (new, y[:80])}
    remarks = {}
    for name, (rows, labels) in others.items():
        np.savez(f"{name}.npz", X=rows, y=labels)
        result = evaluated(shell, path, f"{name}.npz")
        assert result["rows"] == len(labels)
        remarks[name] = result["remark"]
    worse = "rows equal rows of the training: on new rows it will do worse"
    assert remarks == {
        "grown": f"warning: 96 of these 200 {worse}",
        "turned": f"warning: 96 of these 120 {worse}",
        "new": None,
    }
    held = evaluated(shell, path, data)
    assert "held out" in held["remark"]


def test_a_sketch_of_rows_speaks_of_shares(shell):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9000, 3)), np.arange(9000) % 2
    write = {"t": slice(None, 6000), "mixed": slice(3000, 9000), "few": slice(0, 60)}
    for name, part in write.items():
        np.savez(f"{name}.npz", X=x[part], y=y[part])
    shell.good("train", "t.npz", "--test-size", 0, "--out", "m")
    remark = evaluated(shell, "m", "mixed.npz")["remark"]
    share = int(remark.removeprefix("warning: about ").partition("%")[0])
    assert abs(share - 50) < 8  # five standard errors
    assert "warning: some of these 60 rows" in evaluated(shell, "m", "few.npz")["remark"]
    assert "trained on all of these" in evaluated(shell, "m", "t.npz")["remark"]
    model = xclf.load("m")
    model.save("again")
    np.testing.assert_array_equal(
        xclf.load("again")._trained_on.seen.hashes, model._trained_on.seen.hashes
    )


@pytest.mark.parametrize("command", [("train",), ("sweep", "--reg", "1e-3,1e-2", "--cv", 3)])
def test_nothing_is_held_out(shell, command):
    data = write_npz(shell.home / "t.npz")
    both = ("--test-size", 0, "--out", "m", "--report", "r.json")
    found = shell(command[0], data, *command[1:], *both)
    assert found.status == 0
    assert "nothing is held out: all rows are trained on" in found.err
    assert found.out.endswith(
        "trained on all 120 rows; nothing was held out, --test gives rows to test on\n"
    )
    result = json.loads(shell.good(command[0], data, *command[1:], *both, "--json"))
    assert (result["test"], result["labels"], result["train_rows"]) == (None, None, ROWS)
    assert json.loads(Path("r.json").read_text())["metrics"] == []
    shell.good(command[0], data, *command[1:], "--test-size", 0, "--report", "r.html")
    assert "all of these rows" in evaluated(shell, "m", data)["remark"]


def test_names_of_arrays_for_a_table(shell):
    data = write_csv(shell.home / "t.csv", NAMES)
    shell.good("train", data, "--label", "species", *QUICK, "--out", "m")
    for option in ("--x", "--y"):
        message = shell.fails("evaluate", "m", data, option, "A")
        assert message == f"{option} has no effect: {data} holds no arrays with names"


def test_there_is_no_training_part(shell):
    data = write_npz(shell.home / "t.npz")
    x, y = blobs(seed=5)
    np.savez("u.npz", X=x, y=y)
    shell.good("train", data, "--out", "m")
    assert "u.npz ships no training and test" in shell.fails(
        "evaluate", "m", "u.npz", "--train-part"
    )
    message = shell.fails("predict", "m", "u.npz", "--train-part", "--out", "p.csv")
    assert "u.npz ships no training and test part" in message
    both = ("--train-part", "--all-rows")
    assert "exclude each other" in shell.fails("evaluate", "m", data, *both)


def test_a_model_that_has_seen_all_rows(shell):
    x, y = blobs(30, seed=1)
    data = write_npz(shell.home / "t.npz", X_test=x, y_test=y)
    shell.good("train", data, "--out", "m")
    assert evaluated(shell, "m", data)["remark"] is None  # its test part
    found = shell("evaluate", "m", data, "--train-part")
    assert "warning: the model was trained on all of these rows" in found.err
    xclf.SoftmaxClassifier().fit(x, y).save("own")
    assert evaluated(shell, "own", data, "--train-part")["remark"] is None  # it does not know


def test_names_of_classes_go_everywhere(shell, tmp_path):
    folder = write_cifar(tmp_path / "cifar")
    shell.good("train", folder, *QUICK, "--out", "m")
    model = xclf.load("m")
    names = [CIFAR_NAMES[label] for label in model.classes_]
    assert model.class_names_ == names
    assert model._trained_on.image_shape == (32, 32, 3)
    rows = load(folder).test.x
    np.savez("plain.npz", X=rows, y=load(folder).test.y)  # without names
    assert {one["class"] for one in evaluated(shell, "m", "plain.npz")["classes"]} == set(names)
    shell.good("predict", "m", "plain.npz", "--out", "p.csv", "--proba", "--top-k", 1)
    with Path("p.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0])[:3] == ["label", "class", f"p_{names[0]}"]
    labels = model.predict(rows)
    assert [line["class"] for line in lines] == [CIFAR_NAMES[label] for label in labels]
    assert [line["top1"] for line in lines] == [line["class"] for line in lines]
    shell.good("predict", "m", "plain.npz", "--out", "p.npy")
    np.testing.assert_array_equal(np.load("p.npy"), labels)  # a plain array
    assert templates(model, (32, 32, 3), channel_first=True)[1] == names
    with pytest.warns(ConvergenceWarning):
        model.fit(rows, load(folder).test.y)
    assert model.class_names_ is None


def test_names_that_do_not_fit(tmp_path):
    x, y = blobs()
    model = xclf.SoftmaxClassifier().fit(x, y)
    for names in (["a", "b"], "abc", ["a", "b", 3]):
        model.class_names_ = names
        with pytest.raises(ValueError, match="class_names_ must be 3 strings"):
            model.save(tmp_path / "m")
    model.class_names_ = ("a", "b", "c")
    model.save(tmp_path / "m")
    assert xclf.load(tmp_path / "m").class_names_ == ["a", "b", "c"]


def numbered(path: Path) -> Path:
    """A table of blobs with a column that counts its rows, and one of text."""
    lines = write_csv(path, NAMES).read_text().splitlines()
    more = [f"n{k % 5},{100 + k}" for k in range(ROWS)]
    rows = [",".join(parts) for parts in zip(["note,id", *more], lines, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_ids_and_dropped_columns(shell):
    data = numbered(shell.home / "t.csv")
    options = ("--label", "species", "--drop", "note")
    found = shell("train", data, *options, *QUICK)
    assert "96 rows x 5" in found.err
    assert "hint: the column 'id' looks like the number of a row; --id id keeps" in found.err
    found = shell("train", data, *options, "--id", "id", "--out", "m")
    assert "96 rows x 4" in found.err
    assert "hint" not in found.err
    # Later commands know the columns by themselves, and do without them too.
    assert evaluated(shell, "m", data)["rows"] == 24
    shell.good("predict", "m", data, "--out", "p.csv")
    with Path("p.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    assert head == ["id", "label"]
    assert [line[0] for line in lines] == [str(100 + k) for k in range(ROWS)]
    assert shell.good("predict", "m", data, "--out", "-").encode() == Path("p.csv").read_bytes()
    shell.good("predict", "m", data, "--out", "p.npy")
    assert np.load("p.npy")["id"].tolist() == [str(100 + k) for k in range(ROWS)]
    rows = write_csv(shell.home / "rows.csv")
    shell.good("predict", "m", rows, "--out", "q.csv")
    assert Path("q.csv").read_text().startswith("label\n")
    message = shell.fails("train", data, "--label", "species", "--drop", "not,id")
    assert "no column 'not'; columns: note, id, a" in message
    assert "--drop" in shell.fails("train", data, "--label", "species")
    other = shell.fails("predict", "m", data, "--out", "p.csv", "--label", "note")
    assert "not on 'id'" in other or "not numbers: species" in other


def test_a_file_of_arrays_has_no_names_to_drop(shell):
    data = write_npz(shell.home / "t.npz")
    assert "its columns have no names" in shell.fails("train", data, "--drop", "a")


def test_json_says_what_it_is_about(shell):
    data = write_npz(shell.home / "t.npz")
    trained = json.loads(shell.good("train", data, "--json", "--out", "m"))
    measured = evaluated(shell, "m", data, "--all-rows")
    for result in (trained, measured):
        assert result["xclf"] == xclf.__version__
        assert result["created"].endswith("+00:00")
        assert "command" in result
    assert trained["fingerprint"] == measured["fingerprint"]  # of all rows
    assert measured["fingerprint"].startswith("sha256:")
    x, y = blobs()
    matrix = np.zeros((3, 3), int)
    np.add.at(matrix, (y, xclf.load("m").predict(x)), 1)
    found = np.zeros((3, 3), int)
    for true, predicted, rows in measured["confusion"]:
        found[true, predicted] = rows
    np.testing.assert_array_equal(found, matrix)
