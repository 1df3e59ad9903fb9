"""xclf probe: files in, a folder and tables out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from probe_cases import GRID, TEST, TRAIN, VAL

import xclf

GIVEN = ("--c", "1e-3:10:3")


@pytest.fixture
def files(shell):
    for name, (x, y) in {"train": TRAIN, "val": VAL, "test": TEST}.items():
        np.save(shell.home / f"{name}.npy", x)
        np.save(shell.home / f"{name}-y.npy", y)
    for number, columns in enumerate((2, 5)):
        np.save(shell.home / f"layer-{number}.npy", TRAIN[0][:, :columns])
    return shell


def test_three_files_and_a_page(files):
    given = ["train.npy,train-y.npy", "--val", "val.npy,val-y.npy", "--test", "test.npy,test-y.npy"]
    text = files.good("probe", *given, *GIVEN, "--shots", "1,4", "--tries", "2", "--out", "out")
    assert "with out/model.safetensors in it" in files.fails("plot", "out")
    want = xclf.probe(TRAIN, VAL, TEST, C=GRID, shots=[1, 4], tries=2)
    assert f"{want.accuracy:.4f}" in text
    assert "wrote out: report.html" in text
    assert "95 % interval" in text
    results = json.loads((files.home / "out" / "results.json").read_text())
    assert results["few_shot"] == want.few_shot
    assert results["search"] == want.search
    assert (files.home / "out" / "report.html").is_file()


def test_streams(files):
    given = ["probe", "train.npy,train-y.npy", *GIVEN]
    found = files(*given, "--json")
    assert (found.status, found.err) == (0, "")
    results = json.loads(found.out)
    assert results["kind"] == "probe"
    assert "search  3/3 fits" in files(*given).err
    assert "search  3/3 fits" in files(*given, "--json", "--verbose").err
    quiet = files(*given, "--quiet")
    assert quiet.out == f"test accuracy {results['metrics'][-1]['accuracy']:.4f}\n"
    assert quiet.err == ""
    roles = {entry["role"]: entry["rows"] for entry in results["data"]}
    assert roles == {"train": 108, "validation": 12, "test": 30}


def test_a_name_with_a_comma_and_labels_beside_it(files):
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.save(files.home / "a,b.npy", x)
    np.save(files.home / "beside.npy", np.arange(60) % 3)
    assert "test accuracy" in files.good("probe", "a,b.npy", "--y", "beside.npy", "--c", "1")


def test_layers(files):
    given = ["layer-0.npy", "layer-1.npy", "--y", "train-y.npy", "--folds", "3"]
    text = files.good("probe", *given, *GIVEN)
    for words in ("feature sets", "layer-0", "layer-1", "accuracy, 3 folds"):
        assert words in text
    again = files.good("probe", "layer-*.npy,train-y.npy", "--folds", "3", *GIVEN)
    first, second = text.splitlines(), again.splitlines()
    assert (second[1:-2], second[-1]) == (first[1:-2], first[-1])  # all but title and seconds


def test_words_of_one_and_of_none(files):
    """One value, one draw; folds without test rows have no table of metrics."""
    given = ("probe", "train.npy,train-y.npy", "--c", "0.1", "--test", "0", "--folds", "2")
    text = files.good(*given)
    assert "metrics" not in text
    assert "1 of 1 value\n" in text
    assert text.splitlines()[-1].startswith("2 folds accuracy 0.")
    given = ("probe", "train.npy,train-y.npy", "--c", "0.1", "--out", "one")
    text = files.good(*given, "--shots", "2", "--tries", "1")
    assert "1 draw of k rows a class" in text
    assert "1 value of C;" in Path("one/report.html").read_text()
    found = json.loads(Path("one/results.json").read_text())
    names = [entry["data"] for entry in found["data"]]
    assert names[1:] == [row["data"] for row in found["metrics"]] == ["validation", "test"]


def test_top_k_accuracy(files):
    """Of probe and evaluate alike: the share of rows whose class is among the k best."""
    files.good("probe", "train.npy,train-y.npy", *GIVEN, "--top-k", "2", "--out", "two")
    found = json.loads(Path("two/results.json").read_text())
    model = "two/model.safetensors"
    output = files("evaluate", model, "train.npy,train-y.npy", "--top-k", "2", "--json").out
    measured = json.loads(output)
    assert measured["top2"] == found["metrics"][-1]["top2"] > measured["accuracy"]
    assert "top-2 accuracy" in files.said(
        "evaluate", model, "train.npy,train-y.npy", "--top-k", "2"
    )
    files.fails("probe", "train.npy,train-y.npy", "--top-k", "1")


def test_options_reach_the_fit(files):
    given = ["train.npy,train-y.npy", "--val", "0.5", "--test", "0", "--reg", "0.1"]
    options = ["--model", "svm", "--loss", "squared_hinge", "--standardize", "--normalize"]
    more = ["--no-intercept", "--seed", "3", "--metric", "mean_per_class", "--json"]
    results = json.loads(files.good("probe", *given, *options, *more))
    parameters = results["model"]["parameters"]
    assert results["model"]["estimator"] == "SVMClassifier"
    assert (parameters["loss"], parameters["reg"]) == ("squared_hinge", 0.1)
    assert parameters["standardize"] is True
    assert parameters["fit_intercept"] is False
    assert parameters["random_state"] == results["seed"] == 3
    assert results["search"]["metric"] == "mean_per_class"
    assert {entry["role"] for entry in results["data"]} == {"train", "validation"}


def test_a_probe_goes_on(files):
    given = ["probe", "train.npy,train-y.npy", *GIVEN, "--out", "out", "--resume"]
    first = files.good(*given)
    assert not (files.home / "out.checkpoint").exists()  # all is done
    assert files.good(*given).splitlines()[:-3] == first.splitlines()[:-3]  # but for the time


@pytest.mark.parametrize(
    "given, words",
    [
        (["--protocol", "dino"], "protocol must be one of dinov2, simclr"),
        (["--c", "a"], "--c must be LOW:HIGH:COUNT"),
        (["--c", "1", "--reg", "1"], "give one of C, reg, learning_rate"),
        (["--shots", "1.5"], "--shots must be whole numbers"),
        (["--shots", "60"], "60 shots needs 60 rows of every class"),
        (["--val", "1.5"], "--val must be DATA, or a share in [0, 1)"),
        (["--val", "nothing.npy"], "nothing.npy: no such file"),
        (["--test", "layer-0.npy,train-y.npy"], "test has 2 features a row, train 5"),
        (["--y", "train-y.npy"], "--y train-y.npy is for TRAIN without labels"),
        (["--metric", "f1"], "metric must be one of accuracy, mean_per_class, average_precision"),
        (["--hidden", "5"], "--hidden is for --model two-layer only"),
        (["--out", "train.npy"], "--out train.npy is no folder"),
        (["--out", "x.html"], "--out x.html is the name of a file: give that of a folder, which"),
        (["--out", "."], "holds files and no results.json"),
    ],
)
def test_errors(files, given, words):
    before = sorted(path.name for path in files.home.iterdir())
    assert words in files.fails("probe", "train.npy,train-y.npy", *given)
    assert sorted(path.name for path in files.home.iterdir()) == before


def test_rows_without_labels(files):
    assert "labels" in files.fails("probe", "train.npy", *GIVEN)
    message = files.fails("probe", "train.npy", "train-y.npy", *GIVEN)
    assert message.endswith("rows and labels are one argument, train.npy,train-y.npy")
    found = files("probe", "train.npy,train-y.npy", "train.npy", *GIVEN)
    assert (found.status, found.out) == (2, "")  # before the first is probed
    assert found.err.startswith("xclf: train.npy: rows without labels")
    message = files.fails("train", "train.npy", "train-y.npy")
    assert "rows and labels in two files are one argument, x.npy,y.npy" in message


def test_several_tasks_of_a_table(files):
    pandas = pytest.importorskip("pandas")
    x, y = TRAIN
    table = pandas.DataFrame(x, columns=list("abcde")).assign(kind=y, third=(y == 2).astype(int))
    table.to_csv(files.home / "table.csv", index=False)
    given = ["table.csv", "--label", "kind", "--label", "third", *GIVEN, "--json"]
    results = json.loads(files.good("probe", *given))
    assert [task["name"] for task in results["tasks"]] == ["kind", "third"]
    want = xclf.probe((x, np.stack([y, y == 2], axis=1).astype(int)), C=GRID)
    assert [task["chosen"] for task in results["tasks"]] == [t["chosen"] for t in want.tasks]


def test_names_in_a_file_of_arrays(files):
    np.savez(files.home / "all.npz", emb=TRAIN[0], cls=TRAIN[1])
    found = json.loads(files.good("probe", "all.npz", "--x", "emb", "--y", "cls", *GIVEN, "--json"))
    assert found["search"] == xclf.probe(TRAIN, C=GRID).search


def test_the_model_knows_its_columns(shell):
    """As that of train: names of a table's columns, and the first index of svmlight files."""
    x, y = TRAIN
    names = ["a", "b", *(f"f{k}" for k in range(x.shape[1] - 2))]
    for name, columns in (("t.csv", names), ("swapped.csv", ["b", "a", *names[2:]])):
        lines = [",".join([*columns, "label"])]
        lines += [",".join([*map(repr, r), str(k)]) for r, k in zip(x.tolist(), y, strict=True)]
        Path(name).write_text("\n".join(lines) + "\n")
    shell.good("probe", "t.csv", "--c", "1", "--out", "p")
    assert xclf.load("p/model.safetensors").feature_names_in_.tolist() == names
    error = shell.fails("predict", "p/model.safetensors", "swapped.csv", "--out", "q.npy")
    assert "feature column 1 is 'b', the model was trained with 'a' there" in error
    error = shell.fails("probe", "t.csv", "--test", "swapped.csv", "--c", "1")
    assert "test: feature column 1 is 'b', train has 'a' there" in error

    Path("rows.svm").write_text("".join(f"{k % 2} 0:{k % 2} 1:1\n" for k in range(40)))
    Path("new.svm").write_text("1 1:1\n" * 4)  # alone, 1 would be the first column
    shell.good("probe", "rows.svm", "--c", "100", "--test", "0", "--out", "s")
    shell.said("predict", "s/model.safetensors", "new.svm", "--out", "q.npy")
    np.testing.assert_array_equal(np.load("q.npy"), 0)


def test_shares_have_names_of_their_own(files):
    given = ("probe", "train.npy,train-y.npy", "--c", "0.1", "--json")
    named = json.loads(files.good(*given, "--val-size", "0.3", "--test-size", "0.4"))
    plain = json.loads(files.good(*given, "--val", "0.3", "--test", "0.4"))
    assert named["metrics"] == plain["metrics"]
    error = files.fails(*given, "--test", "test.npy,test-y.npy", "--test-size", "0.4")
    assert "--test-size has no effect: --test gives rows" in error
    assert "--val-size must be a share in [0, 1), got 2" in files.fails(*given, "--val-size", "2")
