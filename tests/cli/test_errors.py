"""Mistakes in the shell: one line that says what is wrong and what to do, exit status 2."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_cases import Shell, blobs, write_csv, write_npz

import xclf
from xclf.cli import run
from xclf.cli.plot import parse_shape


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Data `t.npz`, a table `t.csv` and models `linear` and `svm`."""
    home = tmp_path_factory.mktemp("files")
    x, y = blobs()
    write_npz(home / "t.npz")
    write_csv(home / "t.csv", list("abc"))
    (home / "empty").mkdir()
    xclf.SoftmaxClassifier().fit(x, y).save(home / "linear")
    xclf.SVMClassifier().fit(x, y).save(home / "svm")
    return home


@pytest.fixture
def shell(capsys, tmp_path, monkeypatch, files) -> Shell:
    """In a folder with copies of `files`."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    return Shell(capsys, tmp_path, monkeypatch)


# A command, and a part of its message.
SLIPS = [
    ("trian digits", "Did you mean 'train'?"),
    ("--versoin", "No such option: --versoin"),
    ("train", "Missing argument 'data'; see: xclf train --help"),
    ("train digits --regg 1", "--reg"),
    ("train digits --model svn", "'--model': 'svn' is not one of 'softmax', 'svm', 'two-layer'"),
    ("train digits --reg much", "valid number"),
    ("train digits --reg -1", "reg must be a finite number >= 0, got -1.0"),
    ("train digits --reg nan", "reg must be a finite number >= 0, got nan"),
    ("train digits --seed -1", "greater than or equal to 0"),
    ("train digits --seed 99999999999", "less than or equal to"),
    ("train digits --solver newton", "solver must be one of 'auto', 'lbfgs'"),
    ("train digits --max-iter 0", "max_iter must be None or an integer >= 1"),
    ("train digits --momentum 1", "momentum must be None or a number in [0, 1)"),
    ("train digits --lr-schedule steps", "'constant', 'cosine'"),
    ("train digits --model two-layer --loss mse", "'softmax', 'hinge'"),
    ("train digits --model two-layer --hidden 0", "hidden must be an integer >= 1"),
    ("train digits --hidden 9", "--hidden is for --model two-layer only"),
    ("train digits --loss hinge", "--loss is for --model svm or two-layer only"),
    ("train digits --model svm --loss softmax", "loss must be one of 'hinge'"),
    ("train digits --margin 1", "--margin is for --model svm only"),
    ("train digits --test-size 2", "--test-size must be between 0 and 1 (0: no test rows), got 2"),
    ("train digits --test-size 0.00001", "cannot hold out 1e-5 of 1797 rows of digits"),
    ("train digits --early-stopping --solver adam --validation-fraction 2", "(0, 1)"),
    ("train digits --max-memory 4XB", "a size such as 500MB or 4G, got '4XB'"),
    ("evaluate no-model digits --max-memory 0", "a size such as 500MB or 4G, got '0'"),
    ("train digits --max-memory -1", "--max-memory"),
    ("train digits --max-memory G", "--max-memory"),
    ("train digits --max-memory infG", "--max-memory"),
    ("train digits --device gpu", "must be auto, cpu, cuda, cuda:N or cuda:all, got 'gpu'"),
    ("train digits --device cuda", "no cuda:0 [here]; 'xclf backends' says more, and --device cpu"),
    ("train digits --device cuda:1", "--device cuda:1 cannot be used: no cuda:1 [here]"),
    ("train digits --device cuda:x", "--device must be"),
    ("train digits --device cuda:²", "--device must be"),
    ("train digits --test t.npz", "--test t.npz has 4 features a row, digits 64"),
    ("train digits --test nowhere.npz", "nowhere.npz: no such file"),
    ("train digit", "did you mean digits?"),
    ("train nowhere.csv", "nowhere.csv: no such file"),
    ("train linear", "this kind of file is not known"),
    ("train empty", "no data set in this folder"),
    ("train t.csv", "which column is the label?"),
    ("train t.csv --label kind", "no column 'kind'; columns: a, b, c, d, species"),
    ("train digits --out -", "--out - : only tables of predictions go to standard output"),
    ("sweep digits --report -", "--report - : only tables"),
    ("probe digits --out -", "--out - is the name of a file"),
    ("train digits --out .", "is a folder: give a file name"),
    ("train digits --out no/m", "there is no folder no"),
    ("train digits --out t.npz/m", "there is no folder t.npz"),
    ("train digits --out /dev/null", "is not an ordinary file"),
    (f"train digits --out {'m' * 250}", "cannot be written"),
    ("train t.npz --out t.npz", "is an input of this command"),
    ("train digits --out m.pkl", "its name must end in .safetensors, got 'm.pkl'"),
    ("sweep digits --out m.pkl", "--out: a model file is safetensors: its name must end in"),
    ("sweep digits --out m.png --plot m.png", "must end in .safetensors, got 'm.png'"),
    ("evaluate linear", "Missing argument 'data'; see: xclf evaluate --help"),
    ("evaluate t.npz linear", "t.npz is not an xclf model file, or was cut short"),
    ("evaluate linear t.npz --min-accuracy 90", "less than or equal to 1"),
    ("evaluate nowhere t.npz", "no model file at nowhere"),
    ("predict linear t.npz", "Missing option '--out'; see: xclf predict --help"),
    ("predict linear t.npz --out p.txt", "--out must end in .npy, .csv, .parquet, got 'p.txt'"),
    ("predict linear t.npz --out p", "--out must end in"),
    ("predict linear t.csv --out t.csv --label species", "is an input of this command"),
    ("predict svm t.npz --out p.csv --proba", "has no probabilities; --top-k"),
    ("compare linear", "linear: not JSON, or cut short; results are what --report FILE.json"),
    ("plot nowhere", "no model file at nowhere"),
    ("plot t.npz", "is not an xclf model file"),
    ("plot linear --out p.gif", "--out must end in .png, .pdf, .svg, got 'p.gif'"),
    ("plot linear --out linear", "is an input of this command"),
    ("plot linear --shape 2x2x3", "does not fit rows of 4 features"),
    ("plot linear --shape four", "--shape must be like 48x64 or 32x32x3"),
    ("plot linear --shape 2x1x2", "(1 or 3 channels), got '2x1x2'"),
    ("gradcheck --rows 0", "--rows must be at least 1, got 0"),
    ("gradcheck --classes 1", "--classes must be at least 2, got 1"),
    ("gradcheck --seed -1", "greater than or equal to 0"),
    ("gradcheck --device tpu", "--device must be"),
]


@pytest.mark.parametrize(("command", "message"), SLIPS, ids=[c[:60] for c, _ in SLIPS])
def test_a_slip_is_one_line_and_leaves_nothing(shell, command, message):
    before = sorted(shell.home.iterdir())
    assert message in shell.fails(*command.split())
    assert sorted(shell.home.iterdir()) == before


@pytest.mark.parametrize("command", ["train", "sweep", "probe"])
def test_too_little_memory_is_said_before_a_word(shell, command):
    found = shell(command, "digits", "--max-memory", "10KB")
    assert found.status == 2
    (line,) = found.err.splitlines()
    assert "max_memory='10KB' cannot be kept: this fit takes at least" in line


def test_a_file_that_is_there_is_not_touched_by_a_slip(shell):
    saved = (shell.home / "linear").read_bytes()
    shell.fails("train", "t.npz", "--start", "svm", "--out", "linear")
    shell.fails("train", "t.csv", "--out", "linear")
    assert (shell.home / "linear").read_bytes() == saved
    # A model may replace the one it goes on from.
    shell.good("train", "t.npz", "--start", "linear", "--out", "linear", "--max-iter", 1)


def test_a_model_to_start_from_that_is_of_other_data(shell):
    """The estimator would start anew, and the model would be lost."""
    shell.good("train", "t.csv", "--label", "species", "--out", "m")
    before = (shell.home / "m").read_bytes()
    start = ("--start", "m", "--out", "m")
    message = shell.fails("train", "t.npz", *start)
    assert message.startswith("--start was trained on the classes ['a', 'b', 'c'], none of which")
    assert message.endswith("is a label of t.npz: [0, 1, 2]")
    text = (shell.home / "t.csv").read_text()
    (shell.home / "t.csv").write_text(text.replace("a,b,c,d", "b,a,c,d", 1))
    message = "t.csv: feature column 1 is 'b', the model was trained with 'a' there"
    assert message in shell.fails("train", "t.csv", "--label", "species", *start)
    assert (shell.home / "m").read_bytes() == before
    (shell.home / "t.csv").write_text(text.replace(",c\n", ",new\n"))  # some classes persist
    shell.good("train", "t.csv", "--label", "species", *start)


def test_a_label_that_names_each_row(shell):
    rows = "".join(f"{k},row-{k}\n" for k in range(50))
    (shell.home / "ids.csv").write_text("a,id\n" + rows)
    message = shell.fails("train", "ids.csv", "--label", "id")
    assert message.startswith("cannot hold out 0.2 of 50 rows of ids.csv, stratified")
    assert "row-" not in message


def test_columns_that_the_model_knows_and_a_table_lacks(shell):
    shell.good("train", "t.csv", "--label", "species", "--out", "m")
    for header, words in (("a,c,d", "also on 'b'"), ("a,c,e", "also on 'b', 'd', not on 'e'; --")):
        (shell.home / "few.csv").write_text(f"{header}\n1,2,3\n")
        message = shell.fails("predict", "m", "few.csv", "--out", "p.csv")
        assert f"few.csv has 3 features a row, the model was trained on 4: {words}" in message


@pytest.mark.parametrize("cut", ["short", "empty", "changed"])
def test_a_damaged_model(shell, cut):
    data = (shell.home / "linear").read_bytes()
    damaged = {"short": data[:-9], "empty": b"", "changed": data[:-1] + bytes([data[-1] ^ 1])}
    (shell.home / "linear").write_bytes(damaged[cut])
    for command in (
        ("evaluate", "linear", "t.npz"),
        ("predict", "linear", "t.npz", "--out", "p.csv"),
        ("plot", "linear"),
        ("train", "t.npz", "--start", "linear"),
    ):
        message = shell.fails(*command)
        assert message.startswith("linear ")
        assert ("altered" if cut == "changed" else "cut short") in message


def test_rows_that_cannot_be_trained_on(shell):
    x, y = blobs()
    np.savez("one.npz", X=x, y=np.zeros_like(y))
    for command in ("train", "sweep"):
        message = shell.fails(command, "one.npz", "--out", "m")
        assert message == "one.npz holds one class only, 0: a classifier needs two"
        assert shell(command, "one.npz").out == ""  # before a fit is announced
    x[3, 1] = np.inf
    np.savez("inf.npz", X=x, y=y)
    place = "inf.npz holds inf in row 3, column 1 (counted from 0)"
    assert place in shell.fails("train", "inf.npz", "--out", "m")
    assert place in shell.fails("train", "t.npz", "--test", "inf.npz", "--out", "m")
    assert place in shell.fails("evaluate", "linear", "inf.npz")
    np.savez("few.npz", X=x[:3], y=y[:3])
    few = shell.fails("train", "few.npz")
    assert few.startswith(
        "cannot hold out 0.2 of 3 rows of few.npz, stratified; --test gives others"
    )
    assert not (shell.home / "m").exists()


def test_a_folder_that_cannot_be_written_is_an_error_before_the_work(shell, monkeypatch):
    def refuse(self, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    for command in (
        ("train", "digits", "--out", "m"),
        ("predict", "linear", "t.npz", "--out", "p.csv"),
        ("plot", "linear", "--out", "p.png"),
    ):
        found = shell(*command)
        assert (found.status, found.out) == (2, "")
        assert found.err.endswith("cannot be written: Permission denied\n")


def test_a_model_is_kept_whatever_happens_after_the_fit(shell, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xclf.cli._training.measures", full)
    found = shell("train", "t.npz", "--out", "m")
    assert found.status == 2
    assert "No space left on device" in found.err
    assert xclf.load("m").n_features_in_ == 4


def test_a_model_that_cannot_be_written_leaves_nothing(shell, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    found = shell("train", "t.npz", "--out", "m")
    assert found.status == 2
    assert "No space left on device" in found.err
    assert not (shell.home / "m").exists()


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (MemoryError("3 TiB"), 2, "out of memory: 3 TiB"),
        (ImportError("no such\nlibrary"), 2, "no such library"),
        (NotImplementedError(), 2, "NotImplementedError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_of_commands_are_one_line(shell, monkeypatch, error, status, message):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr("xclf.cli._training.read_split", fails)
    assert shell.fails("train", "digits", status=status) == message


def test_an_internal_error_keeps_its_traceback(shell, monkeypatch):
    monkeypatch.setattr("xclf.cli._training.read_split", lambda *_, **__: (None, None))
    with pytest.raises(AttributeError):
        run(["train", "digits"])


def test_a_closed_pipe(shell, monkeypatch, tmp_path):
    class Closed:
        """A pipe without a reader."""

        def __init__(self) -> None:
            self.file = (tmp_path / "pipe").open("w")

        def write(self, text: str) -> int:
            return len(text)

        def fileno(self) -> int:
            return self.file.fileno()

        def flush(self) -> None:
            raise BrokenPipeError

    closed = Closed()
    monkeypatch.setattr(sys, "stdout", closed)
    assert run(["version"]) == 1
    monkeypatch.undo()
    # Later output is discarded.
    os.write(closed.fileno(), b"late")
    closed.file.close()
    assert (tmp_path / "pipe").read_bytes() == b""


def test_shapes_of_pictures():
    assert parse_shape("48x64") == (48, 64, 1)
    assert parse_shape("48x64x3") == (48, 64, 3)
