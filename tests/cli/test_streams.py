"""What goes to which stream: --quiet, --verbose, defaults, standard input."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_cases import NAMES, blobs, write_csv, write_npz

import xclf
from xclf import _array_api

QUICK = ("--max-iter", "3")


def test_results_go_to_standard_output_and_all_else_does_not(shell):
    data = write_npz(shell.home / "t.npz")
    found = shell("train", data, *QUICK, "--out", "m")
    for text in ("data  ", "iteration 1/3", "warning: SoftmaxClassifier did not converge"):
        assert text in found.err
        assert text not in found.out
    for text in ("objective  ", "per class", "test accuracy"):
        assert text in found.out
        assert text not in found.err
    for command in (("predict", "m", data, "--out", "p.csv"), ("plot", "m")):
        assert shell(*command).out == ""


def test_quiet_prints_the_last_line_alone(shell):
    data = write_npz(shell.home / "t.npz")
    for command in (("train", data), ("sweep", data, "--reg", "1e-3,1e-2")):
        found = shell(*command, *QUICK, "--out", "m", "--quiet")
        assert found.out.startswith("test accuracy 0.")
        assert (found.out.count("\n"), found.err) == (1, "")
    found = shell("evaluate", "m", data, "-q")
    assert (found.out[:9], found.out.count("\n"), found.err) == ("accuracy ", 1, "")
    assert shell("predict", "m", data, "--out", "p.csv", "-q")[1:] == ("", "")
    assert shell.fails("evaluate", "m", "no.npz", "-q").startswith("no.npz: no such file")
    assert "exclude each other" in shell.fails("train", data, "-q", "-v")


def test_verbose_prints_every_step_and_json_beside_it(shell, monkeypatch):
    monkeypatch.setattr(_array_api, "cuda", lambda index=0: (None, "CuPy is not installed (why)"))
    data = write_npz(shell.home / "t.npz")
    plain = shell("train", data).err
    assert "iteration 4/" not in plain
    assert "CuPy" not in plain  # `xclf backends` says so
    found = shell("train", data, "-v", "--json")
    assert "iteration 4/" in found.err
    assert "CuPy is not installed (why)" in found.err
    assert "test accuracy" in found.err
    json.loads(found.out)
    assert "CuPy is not installed (why)" in shell.good("backends")


def test_defaults_from_a_file_and_the_environment(shell, monkeypatch):
    data = write_npz(shell.home / "t.npz")
    Path("xclf.toml").write_text(
        "seed = 5\nmax-iter = 4\n[train]\nmax_iter = 3\nstandardize = true\n"
    )

    def parameters(*options: str) -> dict:
        return json.loads(shell.good("train", data, "--json", *options))["parameters"]

    assert [parameters()[name] for name in ("max_iter", "standardize")] == [3, True]
    assert parameters()["random_state"] == 5
    monkeypatch.setenv("XCLF_MAX_ITER", "2")
    assert parameters()["max_iter"] == 2  # before the file
    assert parameters("--max-iter", "1")["max_iter"] == 1  # before both
    monkeypatch.setenv("XCLF_QUIET", "1")
    assert shell("train", data).err == ""
    monkeypatch.delenv("XCLF_QUIET")
    monkeypatch.setenv("XCLF_ACCELERATE", "off")  # another's
    Path("other.toml").write_text("reg = 0.5\n")
    monkeypatch.setenv("XCLF_CONFIG", "other.toml")
    assert [parameters()[name] for name in ("reg", "random_state")] == [0.5, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 5", "xclf.toml: there is no option 'sed'; did you mean seed?"),
        ("[trian]\nseed = 5", "xclf.toml: there is no command 'trian'; did you mean train?"),
        ("[train]\ncv = 5", "xclf.toml: there is no option of train 'cv'"),
        ("seed = ", "xclf.toml is not TOML: "),
        ("seed = 'x'", "--seed"),
    ],
)
def test_a_file_of_defaults_that_cannot_be_used(shell, text, message):
    Path("xclf.toml").write_text(text)
    assert message in shell.fails("train", "digits")


def test_a_file_of_defaults_that_is_not_there(shell, monkeypatch):
    monkeypatch.setenv("XCLF_CONFIG", "no.toml")
    assert "XCLF_CONFIG names no.toml, which is not there" in shell.fails("train", "digits")


def _stdin(monkeypatch, content: bytes) -> None:
    stream = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stream)


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "npz", "npy", "jsonl", "svm", "parquet"])
def test_data_on_standard_input(shell, monkeypatch, kind):
    import gzip

    import pyarrow
    import pyarrow.parquet

    x, y = np.round(blobs()[0], 3), blobs()[1]
    model = xclf.SoftmaxClassifier().fit(x, y)
    model.save("m")
    path = Path("t")
    table = pyarrow.table({f"c{k}": x[:, k] for k in range(4)} | {"label": y})
    lines = [f"{k} " + " ".join(f"{j + 1}:{v}" for j, v in enumerate(r)) for r, k in zip(x, y)]  # noqa: B905
    text = ["a,b,c,d,label", *(",".join(map(str, [*r, k])) for r, k in zip(x, y))]  # noqa: B905
    content = "\n".join(text).encode() + b"\n"
    if kind == "npz":
        np.savez("t.npz", X=x, y=y)
        content = Path("t.npz").read_bytes()
    elif kind == "npy":
        np.save("t.npy", x)
        content = Path("t.npy").read_bytes()
    elif kind == "parquet":
        pyarrow.parquet.write_table(table, path)
        content = path.read_bytes()
    else:
        content = {
            "csv": content,
            "tsv": content.replace(b",", b"\t"),
            "csv.gz": gzip.compress(content),
            "svm": "\n".join(lines).encode() + b"\n",
            "jsonl": "\n".join(map(json.dumps, table.to_pylist())).encode() + b"\n",
        }[kind]
    _stdin(monkeypatch, content)
    shell.good("predict", "m", "-", "--out", "p.npy")
    np.testing.assert_array_equal(np.load("p.npy"), model.predict(x))
    if kind != "npy":
        _stdin(monkeypatch, content)
        assert json.loads(shell.good("evaluate", "m", "-", "--json"))["data"] == "standard input"


def test_standard_input_that_cannot_be_read(shell, monkeypatch):
    _stdin(monkeypatch, b"")
    assert shell.fails("train", "-") == "standard input: the file is empty"
    _stdin(monkeypatch, b"a,b\n1,2\n")
    message = shell.fails("train", "-")
    assert message.startswith("standard input: which column is the label?")
    terminal = SimpleNamespace(buffer=None, isatty=lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert "pipe a file into it" in shell.fails("train", "-")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--C", "for scikit-learn's C and n rows reg = 1 / (2 * C * n)"),
        ("--weight-decay", "reg = weight_decay / 2"),
        ("--epochs", "max_iter counts"),
    ],
)
def test_options_of_other_libraries(shell, option, message):
    assert message in shell.fails("train", "digits", option, "1")


def test_pairs_of_files_that_are_there(shell):
    write_csv(shell.home / "x.csv", NAMES)
    x, y = blobs()
    np.save("x.npy", x)
    np.save("y.npy", y)
    assert "is rows and labels in files of one array" in shell.fails("train", "x.npy,x.csv")
    message = shell.fails("train", "x.npy,Y.npy")
    assert message == "x.npy,Y.npy: Y.npy: no such file or folder; did you mean y.npy?"
    assert "test accuracy" in shell.good("train", "x.npy, y.npy")


def test_without_arguments_it_says_what_to_type_first(shell):
    found = shell()
    assert found.status == 2
    text = " ".join((found.out + found.err).split())
    assert "Type first: xclf train digits" in text
    assert "xclf train TABLE.csv --label COLUMN --out MODEL" in text
    assert "xclf guide" in text
