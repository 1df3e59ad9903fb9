"""xclf export: files that other libraries read."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from estimator_cases import blobs
from safetensors import safe_open

import xclf
from xclf import cli

X, Y = blobs(40, 5, 3)
NAMES = np.array(["ash", "birch", "cedar"])[Y]


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = xclf.SoftmaxClassifier().fit(X, NAMES)
    model.save("m.safetensors")
    return model


def test_onnx(saved, tmp_path, capsys):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    assert cli.run(["export", "m.safetensors", "--out", "m.onnx"]) == 0
    assert capsys.readouterr().err == "wrote m.onnx\n"
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (labels,) = session.run(["label"], {"X": X})
    assert labels.tolist() == saved.predict(X).tolist()


def test_torch(saved):
    torch = pytest.importorskip("torch")
    assert cli.run(["export", "m.safetensors", "--out", "head.pt"]) == 0
    head = torch.nn.Linear(5, 3, dtype=torch.float64)
    head.load_state_dict(torch.load("head.pt", weights_only=True))
    with torch.no_grad():
        scores = head(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(scores, saved.decision_function(X), rtol=1e-12, atol=1e-12)


def test_safetensors_of_a_net_need_no_torch(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    net = xclf.TwoLayerClassifier(hidden=4, max_iter=2, random_state=0).fit(X, NAMES)
    net.save("net.safetensors")
    assert cli.run(["export", "net.safetensors", "weights.safetensors"]) == 0
    with safe_open("weights.safetensors", framework="numpy") as file:
        names = sorted(file.keys())
        weights = {name: file.get_tensor(name) for name in names}
        assert json.loads(file.metadata()["classes"]) == ["ash", "birch", "cedar"]
    assert names == ["0.bias", "0.weight", "2.bias", "2.weight"]
    np.testing.assert_array_equal(weights["0.weight"], net.weights_["w1"].T)
    np.testing.assert_array_equal(weights["2.bias"], net.weights_["b2"])
    assert cli.run(["export", "net.safetensors", "net.pt"]) == 2


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["m.safetensors", "m.txt"], "--out must end in .onnx, .pt, .safetensors, got 'm.txt'"),
        (["m.safetensors", "m.safetensors"], "is an input of this command"),
        (
            ["m.safetensors"],
            "needs one --out: the name of a .onnx, .pt or .safetensors",
        ),
        (["m.safetensors", "m.onnx", "--out", "m.onnx"], "export needs one --out"),
        (["no.safetensors", "--out", "m.onnx"], "no model file at no.safetensors"),
    ],
)
def test_bad_input(saved, arguments, says, tmp_path, capsys):
    assert cli.run(["export", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("library, out", [("onnx", "m.onnx"), ("torch", "m.pt")])
def test_a_missing_library(saved, library, out, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    assert cli.run(["export", "m.safetensors", out]) == 2
    assert f"needs {library}: pip install 'xclf[{library}]'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
