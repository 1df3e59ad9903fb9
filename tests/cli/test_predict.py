"""`xclf predict` and `xclf evaluate`: files with predictions, whole or not at all, and figures."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import scipy.sparse
from cli_cases import NAMES, ROWS, blobs, write_csv, write_npz
from pairwise import pairwise

import xclf

predicting = sys.modules["xclf.cli.predict"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Saved models of the blobs by labels and kind."""
    home = tmp_path_factory.mktemp("models")
    x, y = blobs()
    for name, labels in (("int", y * 10), ("str", NAMES[y])):
        xclf.SoftmaxClassifier().fit(x, labels).save(home / f"{name}-softmax")
        xclf.SVMClassifier().fit(x, labels).save(home / f"{name}-svm")
    two = y < 2
    xclf.SVMClassifier().fit(x[two], y[two]).save(home / "two-svm")
    xclf.SVMClassifier().fit(x, NAMES[y].astype(object)).save(home / "object-svm")
    return home


def read(path) -> dict[str, list]:
    """Columns of a predictions file."""
    if path.endswith(".npy"):
        array = np.load(path)
        names = array.dtype.names
        return {"label": array.tolist()} if names is None else {n: array[n].tolist() for n in names}
    if path.endswith(".parquet"):
        return pyarrow.parquet.read_table(path).to_pydict()
    with Path(path).open(newline="") as file:
        lines = list(csv.reader(file))
    return {name: list(column) for name, *column in zip(*lines, strict=True)}


def same(found: dict[str, list], expected: dict[str, np.ndarray], text: bool) -> None:
    assert list(found) == list(expected)
    for name, column in expected.items():
        values = column.tolist()
        assert found[name] == ([str(value) for value in values] if text else values)


# 120 rows: chunks that end with the rows, that leave a rest, one chunk.
@pairwise(suffix=[".npy", ".csv", ".parquet"], labels=["int", "str"], chunk=[40, 50, 1000])
def test_labels_probabilities_and_the_best_in_every_format(
    shell, models, monkeypatch, suffix, labels, chunk
):
    monkeypatch.setattr(predicting, "_ROWS", chunk)
    path = models / f"{labels}-softmax"
    model, x = xclf.load(path), blobs()[0]
    data = write_csv(shell.home / "rows.csv")
    output = shell.said("predict", path, data, "--out", "p" + suffix)
    assert f"wrote {ROWS} predictions to p{suffix}" in output
    expected = {"label": model.predict(x)}
    same(read("p" + suffix), expected, suffix == ".csv")

    shell.said("predict", path, data, "--out", "q" + suffix, "--proba", "--top-k", 2)
    # Chunk by chunk, as products of other sizes may round differently.
    parts = [x[start : start + chunk] for start in range(0, ROWS, chunk)]
    p = np.concatenate([model.predict_proba(part) for part in parts])
    best = np.argsort(-p, axis=1)
    expected |= {f"p_{label}": p[:, place] for place, label in enumerate(model.classes_)}
    for rank in range(2):
        expected[f"top{rank + 1}"] = model.classes_[best[:, rank]]
        expected[f"top{rank + 1}_score"] = np.take_along_axis(p, best, 1)[:, rank]
    same(read("q" + suffix), expected, suffix == ".csv")


def test_a_hinge_has_scores_in_place_of_probabilities(shell, models):
    data = write_npz(shell.home / "t.npz")
    x = blobs()[0]
    shell.good("predict", models / "int-svm", data, "--out", "p.npy", "--top-k", 3)
    found = read("p.npy")
    scores = xclf.load(models / "int-svm").decision_function(x)
    assert found["top1"] == found["label"]
    np.testing.assert_array_equal(found["top3_score"], scores.min(axis=1))
    shell.good("predict", models / "two-svm", data, "--out", "p.npy", "--top-k", 2)
    found = read("p.npy")
    margin = xclf.load(models / "two-svm").decision_function(x)
    assert found["top1"] == found["label"]
    np.testing.assert_array_equal(
        np.subtract(found["top1_score"], found["top2_score"]), abs(margin)
    )
    message = shell.fails("predict", models / "int-svm", data, "--out", "p.csv", "--proba")
    assert "has no probabilities; --top-k" in message


def test_labels_of_variable_length(shell, models):
    data = write_npz(shell.home / "t.npz")
    assert "use .csv or" in shell.fails("predict", models / "object-svm", data, "--out", "p.npy")
    shell.good("predict", models / "object-svm", data, "--out", "p.csv")
    assert set(read("p.csv")["label"]) == set(NAMES)


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
@pytest.mark.parametrize("error", [ValueError("row 77 is odd"), KeyboardInterrupt()])
def test_a_failure_midway_leaves_the_old_file(shell, models, monkeypatch, suffix, error):
    monkeypatch.setattr(predicting, "_ROWS", 50)
    data, out = write_npz(shell.home / "t.npz"), shell.home / f"p{suffix}"
    calls = []

    def columns(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise error
        return {"label": np.arange(50)}

    monkeypatch.setattr(predicting, "columns", columns)
    out.write_bytes(b"as it was")
    interrupted = isinstance(error, KeyboardInterrupt)
    output = shell.fails(
        "predict", models / "int-svm", data, "--out", out, status=130 if interrupted else 2
    )
    assert output == ("interrupted" if interrupted else "row 77 is odd")
    assert out.read_bytes() == b"as it was"
    assert sorted(path.name for path in shell.home.iterdir()) == [out.name, "t.npz"]


def test_not_a_number_among_the_rows(shell, models, monkeypatch):
    monkeypatch.setattr(predicting, "_ROWS", 50)
    monkeypatch.setattr("xclf.cli._source._CHECKED_ROWS", 20)
    x, y = blobs()
    x[75, 2] = np.nan
    np.savez("t.npz", X=x, y=y)
    message = "t.npz holds nan in row 75, column 2 (counted from 0): every value must be finite"
    assert shell.fails("predict", models / "int-svm", "t.npz", "--out", "p.csv") == message
    assert shell.fails("train", "t.npz") == message
    assert not (shell.home / "p.csv").exists()


def test_the_test_part_is_used(shell, models):
    x, y = blobs(30, seed=1)
    write_npz(shell.home / "t.npz", y=blobs()[1] * 10, X_test=x, y_test=y * 10)
    model = models / "int-svm"
    shell.good("predict", model, "t.npz", "--out", "p.npy")
    np.testing.assert_array_equal(np.load("p.npy"), xclf.load(model).predict(x))
    shell.good("predict", model, "t.npz", "--out", "p.npy", "--train-part")
    assert len(np.load("p.npy")) == ROWS
    for options, rows in (((), 30), (("--train-part",), ROWS)):
        result = json.loads(shell.good("evaluate", model, "t.npz", "--json", *options))
        assert result["rows"] == rows
        expected = xclf.load(model).score(
            *((x, y * 10) if rows == 30 else (blobs()[0], blobs()[1] * 10))
        )
        assert result["accuracy"] == expected
    text = shell.good("evaluate", model, "t.npz")
    assert text.splitlines()[-1] == f"accuracy {xclf.load(model).score(x, y * 10):.4f}"
    assert "30 rows; numpy on the CPU" in shell.said("evaluate", model, "t.npz")


def test_evaluate_can_be_a_check(shell, models):
    data = write_csv(shell.home / "t.csv", NAMES)
    options = ("evaluate", models / "str-svm", data, "--label", "species")
    shell.good(*options, "--min-accuracy", 0.5)
    message = shell.fails(*options, "--min-accuracy", 1.0, status=1)
    assert message.startswith("accuracy 0.")
    assert message.endswith("is below 1")
    for name in NAMES:
        assert f"│ {name} " in shell.good(*options)


def test_unknown_labels(shell, models):
    text = write_csv(shell.home / "t.csv", ["10", "20", "0"], label="label")
    assert shell.good("evaluate", models / "int-svm", text)
    unknown = write_npz(shell.home / "t.npz")
    assert "does not know: [1, 2]" in shell.fails("evaluate", models / "int-svm", unknown)
    # A number is not the string of its digits.
    assert "does not know: [0, 1, 2]" in shell.fails("evaluate", models / "str-svm", unknown)
    message = shell.fails("train", unknown, "--test", text, "--out", "m")
    assert "does not know: [10, 20]" in message
    assert not (shell.home / "m").exists()


def test_rows_without_labels_cannot_be_evaluated(shell, models):
    data = write_csv(shell.home / "rows.csv")
    assert "which column is the label" in shell.fails("evaluate", models / "int-svm", data)
    np.save("x.npy", blobs()[0])
    assert "rows without labels" in shell.fails("evaluate", models / "int-svm", "x.npy")
    shell.good("predict", models / "int-svm", "x.npy", "--out", "p.csv")
    assert len(read("p.csv")["label"]) == ROWS


def test_other_numbers_of_features(shell, models):
    data = write_csv(shell.home / "t.csv", [0, 1, 2])
    message = shell.fails("predict", models / "int-svm", data, "--out", "p.csv")
    assert "has 5 features a row, the model was trained on 4; --label NAME" in message
    shell.good("predict", models / "int-svm", data, "--out", "p.csv", "--label", "species")
    message = shell.fails("evaluate", models / "int-svm", "digits")
    assert message == "digits has 64 features a row, the model was trained on 4"


def test_parquet_needs_pyarrow(shell, models, monkeypatch):
    data = write_npz(shell.home / "t.npz")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = shell.fails("predict", models / "int-svm", data, "--out", "p.parquet")
    assert message.startswith("writing .parquet needs pyarrow: pip install 'xclf[tables]'")
    shell.good("predict", models / "int-svm", data, "--out", "p.csv")


@pytest.mark.parametrize("top_k", [-1, 4])
def test_no_more_of_the_best_than_there_are(shell, models, top_k):
    data = write_npz(shell.home / "t.npz")
    options = ("predict", models / "int-svm", data, "--out", "p.csv", "--top-k", top_k)
    assert f"--top-k must be between 0 and the 3 classes, got {top_k}" in shell.fails(*options)


def test_columns_in_another_order_are_refused(shell):
    """Tables: a model trained on named columns refuses them in another order."""
    good = write_csv(shell.home / "good.csv", NAMES)
    lines = [line.split(",") for line in good.read_text().splitlines()]
    swapped = shell.home / "swapped.csv"
    swapped.write_text("\n".join(",".join([a, c, b, *rest]) for a, b, c, *rest in lines))
    label = ("--label", "species")
    shell.good("train", good, *label, "--out", "model.safetensors")
    model = xclf.load(shell.home / "model.safetensors")
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    shell.good("evaluate", "model.safetensors", good, *label)
    np.save(shell.home / "rows.npy", blobs()[0])
    shell.good("predict", "model.safetensors", "rows.npy", "--out", "labels.csv")
    for command in (
        ["evaluate", "model.safetensors", swapped, *label],
        ["predict", "model.safetensors", swapped, "--out", "p.csv", *label],
        ["train", good, "--test", swapped, *label],
    ):
        line = shell.fails(*command)
        assert "column 2 is 'c'" in line
        assert "'b'" in line


def test_svmlight_files_have_the_columns_of_the_training_file(shell):
    Path("a.svm").write_text("0 0:1 2:0.1\n1 1:1 2:0.1\n2 2:1\n" * 20)
    Path("b.svm").write_text("1 1:1 2:0.1\n2 2:1\n" * 5)  # alone it would count from 1
    Path("narrow.svm").write_text("1 1:1\n" * 5)
    assert "test accuracy 1.0000" in shell.good(
        "train", "a.svm", "--test", "b.svm", "--out", "m", "--reg", "1e-3"
    )
    for other in ("b.svm", "narrow.svm"):
        assert "accuracy 1.0000" in shell.good("evaluate", "m", other)
    shell.good("predict", "m", "b.svm", "--out", "p.npy")
    assert np.load("p.npy").tolist() == [1, 2] * 5
    shell.good("sweep", "a.svm", "--test", "b.svm", "--reg", "1e-3,1e-2", "--out", "s")
    assert "accuracy 1.0000" in shell.good("evaluate", "s", "b.svm")
    again = shell.good("train", "b.svm", "--start", "m", "--test", "narrow.svm", "--out", "m2")
    assert "test accuracy 1.0000" in again
    assert xclf.load("m2")._index_base == 0


def test_sparse_rows_in_every_command(shell):
    x, y = blobs()
    scipy.sparse.save_npz("x.npz", scipy.sparse.csr_array(x))
    np.save("y.npy", y)
    np.savez("dense.npz", X=x, y=y)
    text = shell.said("train", "x.npz,y.npy", "--out", "m", "--seed", "1", "--report", "r.json")
    assert "96 rows x 4, 384 entries, float64" in text
    assert json.loads(Path("r.json").read_text())["data"][0]["features"] == x.shape[1]
    names = ("x.npz,y.npy", "dense.npz")
    sparse, dense = (shell.good("evaluate", "m", name, "--all-rows") for name in names)
    assert sparse.splitlines()[-1] == dense.splitlines()[-1]
    for source in ("x.npz", "dense.npz"):
        shell.good("predict", "m", source, "--out", f"{source}.npy")
    assert np.array_equal(np.load("x.npz.npy"), np.load("dense.npz.npy"))
    shell.good("sweep", "x.npz,y.npy", "--reg", "1e-3,1e-2", "--out", "s")
    shell.good("probe", "x.npz,y.npy", "--reg", "1e-3,1e-2", "--out", "probe")
    broken = scipy.sparse.csr_array(x)
    broken.data[7] = np.nan  # row 1, column 3
    scipy.sparse.save_npz("nan.npz", broken)
    for command in (["train", "nan.npz,y.npy"], ["predict", "m", "nan.npz", "--out", "q.npy"]):
        assert "NaN at row 1, column 3" in shell.fails(*command)


def test_columns_that_count_from_one(shell):
    Path("a.svm").write_text("0 1:1\n1 2:1\n" * 20)
    Path("b.svm").write_text("0 0:1\n")
    shell.good("train", "a.svm", "--out", "m")
    assert "has the index 0" in shell.fails("evaluate", "m", "b.svm")
    assert "has the index 0" in shell.fails("train", "a.svm", "--test", "b.svm")


def test_labels_with_terminal_codes_are_shown_as_escapes(shell):
    x, y = blobs()
    names = np.array(["\x1b[2Jwipe", "bell\x07 \u202eltr", "line\nbreak"])
    np.savez("t.npz", X=x, y=names[y])
    text = shell.good("train", "t.npz", "--out", "m", "--seed", "1")
    text += shell.good("evaluate", "m", "t.npz")
    for shown in ("\\x1b[2Jwipe", "bell\\x07 \\u202eltr", "line\\nbreak"):
        assert text.count(shown) >= 2
    assert not set(text) & set("\x1b\x07\u202e")
    report = json.loads(shell.good("evaluate", "m", "t.npz", "--json"))
    assert {entry["class"] for entry in report["classes"]} == set(names)
    np.savez("other.npz", X=x, y=np.full(len(x), "new\x1b]0;title\x07"))
    assert "new\\x1b]0;title\\x07" in shell.fails("evaluate", "m", "other.npz")
    assert "no\\x1b[31m" in shell.fails("evaluate", "no\x1b[31m", "t.npz")
