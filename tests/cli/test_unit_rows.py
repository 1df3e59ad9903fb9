"""Models of probes with --normalize divide rows by their norms, in commands, Python and exports."""

from __future__ import annotations

import json
import pickle
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


def scores(x, *, unit=True):
    """Of the saved model, from its weights."""
    model = xclf.load(MODEL)
    return (normalize(x) if unit else x) @ model.coef_.T + model.intercept_


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
    labels = np.argmax(scores(x), axis=1)
    np.testing.assert_array_equal(np.load("q.npy"), labels)
    assert np.mean(labels != np.argmax(scores(x, unit=False), axis=1)) > 0.05

    scipy.sparse.save_npz("rows.npz", scipy.sparse.csr_array(x))
    shell.said("predict", MODEL, "rows.npz", "--out", "s.npy")
    np.testing.assert_array_equal(np.load("s.npy"), labels)
    said = shell.said("evaluate", MODEL, "rows.npz,test-y.npy")
    assert f"accuracy {np.mean(labels == TEST[1]):.4f}" in said


def test_export_says_so(shell, probed):
    said = shell.said("export", MODEL, "--out", "head.safetensors")
    assert "weights for rows of Euclidean norm 1" in said


def test_in_python(shell, probed, backend):
    x = np.load("test.npy")
    x[0] = 0.0  # rows of zeros stay
    model = xclf.load(MODEL, like=backend.asarray(x[:1]))
    got = backend.to_host(model.decision_function(backend.asarray(x)))
    # One product of 1e-16 * D * |x| |w| either way; |x| is 1.
    np.testing.assert_allclose(got, scores(x), atol=1e-12 * np.abs(scores(x)).max())
    model.save("again.safetensors")
    again = xclf.load("again.safetensors")
    np.testing.assert_array_equal(again.predict(x), np.argmax(scores(x), axis=1))
    parts = (x, normalize(x))
    ways = [xclf.load(MODEL).set_params(standardize=False) for _ in parts]
    coef = [own.partial_fit(rows, TEST[1]).coef_ for own, rows in zip(ways, parts, strict=True)]
    np.testing.assert_allclose(*coef, rtol=1e-6)
    again.fit(x, TEST[1])  # of rows as they come
    plain = x @ again.coef_.T + again.intercept_
    np.testing.assert_allclose(again.decision_function(x), plain, rtol=1e-9)


def test_in_other_libraries(shell, probed):
    x = np.load("test.npy")
    x[0], x[1], x[2] = 0.0, 1e-300, 1e200  # squares of the last two are 0 and infinite
    largest = np.abs(x).max(axis=1, keepdims=True)
    model, want = xclf.load(MODEL), scores(x / np.where(largest > 0, largest, 1.0))
    sklearn = pickle.loads(pickle.dumps(model.to_sklearn()))
    np.testing.assert_allclose(sklearn.decision_function(x[3:]), want[3:], atol=1e-10)
    torch = pytest.importorskip("torch")
    module = model.to_torch()
    assert isinstance(module, torch.nn.Linear)
    assert list(module.state_dict()) == ["weight", "bias"]
    got = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(got, want, atol=1e-10)
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    assert "norm" not in shell.said("export", MODEL, "--out", "head.onnx")
    session = runtime.InferenceSession("head.onnx", providers=["CPUExecutionProvider"])
    label, _, got = session.run(None, {"X": x})
    np.testing.assert_allclose(got, want, atol=1e-10)
    np.testing.assert_array_equal(label, np.argmax(want, axis=1))


def test_of_several_tasks(tmp_path):
    x, y = TRAIN
    x = x * np.random.default_rng(3).lognormal(0.0, 2.0, (len(x), 1))
    columns = np.stack([y, (y > 1).astype(int)], axis=1)
    result = xclf.probe((x, columns), C=[1.0], test=0, normalize=True)
    result.model.estimators_[1].save(tmp_path / "one.safetensors")
    result.model.save(tmp_path / "all.safetensors")
    both, one = xclf.load(tmp_path / "all.safetensors"), xclf.load(tmp_path / "one.safetensors")
    for model in (result.model, both):
        for k, part in enumerate(model.estimators_):
            w, b = part.coef_, part.intercept_
            want = normalize(x) @ w.T + b
            got = model.decision_function(x)[k]
            want = want[:, 0] if want.shape[1] == 1 else want
            np.testing.assert_allclose(got, want, atol=1e-10)
    np.testing.assert_array_equal(one.predict(x), both.predict(x)[:, 1])


def test_rows_that_are_not_finite(shell, probed):
    x = np.load("test.npy")
    x[3, 1] = np.inf
    np.save("test.npy", x)
    error = shell.fails("evaluate", MODEL, "test.npy,test-y.npy")
    assert "holds inf in row 3, column 1" in error
