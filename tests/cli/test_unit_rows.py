"""Models of probes with --normalize: commands divide the rows that they read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from probe_cases import TEST, TRAIN
from sklearn.preprocessing import normalize

import xclf

MODEL, DATA = "p/model.safetensors", "train.npy,train-y.npy"


@pytest.fixture
def probed(shell):
    """A folder of results; rows differ in length, so that dividing them matters."""
    for name, (x, y) in (("train", TRAIN), ("test", TEST)):
        scale = np.random.default_rng(3).lognormal(0.0, 2.0, (len(x), 1))
        np.save(f"{name}.npy", scale * x)
        np.save(f"{name}-y.npy", y)
    options = ("--normalize", "--c", "1,10", "--standardize")
    out = shell.good("probe", DATA, *options, "--out", "p")
    assert "rows of Euclidean norm 1" in out
    return json.loads(Path("p/results.json").read_text())


def test_evaluate_and_predict(shell, probed):
    assert probed["protocol"]["normalize"] is True
    assert "divided by their Euclidean norm" in Path("p/report.html").read_text()
    printed = shell("evaluate", MODEL, DATA, "--json")
    held = json.loads(printed.out)
    assert "rows that the training held out" in held["remark"]
    assert held["accuracy"] == probed["metrics"][1]["accuracy"]

    x = np.load("test.npy")
    said = shell.said("predict", MODEL, "test.npy", "--out", "q.npy")
    assert "rows are divided by their Euclidean norm" in said
    labels = xclf.load(MODEL).predict(normalize(x))
    np.testing.assert_array_equal(np.load("q.npy"), labels)
    assert np.mean(labels != xclf.load(MODEL).predict(x)) > 0.05

    scipy.sparse.save_npz("rows.npz", scipy.sparse.csr_array(x))
    shell.said("predict", MODEL, "rows.npz", "--out", "s.npy")
    np.testing.assert_array_equal(np.load("s.npy"), labels)
    said = shell.said("evaluate", MODEL, "rows.npz,test-y.npy")
    assert f"accuracy {np.mean(labels == TEST[1]):.4f}" in said


def test_export_says_so(shell, probed):
    said = shell.said("export", MODEL, "--out", "head.safetensors")
    assert "trained on rows of Euclidean norm 1" in said


def test_rows_that_are_not_finite(shell, probed):
    x = np.load("test.npy")
    x[3, 1] = np.inf
    np.save("test.npy", x)
    error = shell.fails("evaluate", MODEL, "test.npy,test-y.npy")
    assert "holds inf in row 3, column 1" in error
