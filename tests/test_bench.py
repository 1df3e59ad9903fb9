"""The benchmarks run, at tiny sizes, and record what made their numbers. No time is asserted."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import _measure, minibatch
from bench.__main__ import NAMES, main

ROOT = Path(__file__).resolve().parents[1]


def run(tmp_path, *words):
    target = tmp_path / "out.json"
    assert main([*words, "--json", str(target)]) == 0
    return json.loads(target.read_text())


@pytest.mark.parametrize("name", ["loss_grad", "minibatch", "fit"])
def test_a_benchmark_runs_and_is_recorded(name, tmp_path, capsys):
    found = run(tmp_path, name, "--quick", "--repeats", "2")
    assert "xclf" in capsys.readouterr().out
    assert found["command"] == f"python -m bench {name} --quick --repeats 2 --json JSON"
    assert {"python", "numpy", "scikit-learn", "xclf"} <= set(found["versions"])
    assert {"cpu", "cores", "memory_gib", "load_average"} <= set(found["machine"])
    for entry in found["results"]:
        assert entry["seconds"]["xclf"]["repeats"] == 2
        assert entry["seconds"]["scikit-learn"]["ratio"] > 0.0
    assert str(tmp_path) not in json.dumps(found)


@pytest.mark.parametrize("name", ["minibatch", "fit", "loss_grad"])
def test_given_data(name, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "rows.npz"
    np.savez(path, X=rng.integers(0, 255, (120, 12)).astype(np.uint8), y=rng.integers(0, 3, 120))
    found = run(tmp_path, name, "--data", str(path), "--quick", "--repeats", "1")
    assert "--data DATA" in found["command"]
    assert "120 x 12" in json.dumps(found["results"])
    assert str(tmp_path) not in json.dumps(found)


def test_missing_data_is_one_line(capsys):
    assert main(["minibatch", "--data", "nowhere.npz", "--quick"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_one_thread(tmp_path):
    found = run(tmp_path, "minibatch", "--quick", "--repeats", "1", "--one-thread")
    assert found["results"][0]["threads"] == "one thread"


@pytest.mark.parametrize("name", ["gpu_ceilings", "gpu_loss_grad", "gpu_minibatch"])
def test_gpu_benchmarks_run_on_numpy(name, tmp_path):
    found = run(tmp_path, name, "--quick", "--repeats", "2", "--namespace", "numpy")
    assert found["results"]["device"]["gpu"] is False
    assert found["results"]["work"]
    for entry in found["results"]["work"]:
        assert "failed" not in entry, entry


@pytest.mark.skipif(_measure.optional("cupy") is not None, reason="CuPy is there")
def test_without_cupy_one_clear_line(capsys):
    assert main(["gpu_ceilings", "--quick"]) == 2
    error = capsys.readouterr().err
    assert "cupy is not installed" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("words", [["nonsense"], [], ["fit", "--nonsense"]])
def test_wrong_usage_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    if words == ["nonsense"]:
        said = capsys.readouterr().err
        assert "unknown benchmark 'nonsense'" in said
        assert "loss_grad, minibatch, fit" in said


def test_without_torch_its_column_says_so(tmp_path, monkeypatch, capsys):
    real = _measure.optional
    monkeypatch.setattr(minibatch, "optional", lambda name: None if name == "torch" else real(name))
    found = run(tmp_path, "minibatch", "--quick", "--repeats", "1", "--batches", "32")
    assert found["results"][0]["seconds"]["torch"] == "not installed"
    assert "not installed" in capsys.readouterr().out


def test_turns_are_taken_and_medians_compared():
    calls = []
    slow, fast = (lambda name=name: calls.append(name) for name in ("slow", "fast"))
    seconds = _measure.alternate({"xclf": fast, "other": slow, "gone": "not installed"}, 4)
    assert set(seconds) == {"xclf", "other"}
    rounds = ["fast", "slow", "slow", "fast"]
    assert calls == ["fast", "slow", *rounds, *rounds]
    found = _measure.summarise({"xclf": [1.0, 2.0, 3.0], "other": [4.0, 4.0, 2.0]})
    assert found["other"]["ratio"] == 0.5
    assert found["other"]["median_of_ratios"] == 0.5
    assert found["xclf"]["median_s"] == 2.0


def test_every_name_is_a_module_with_the_two_functions():
    for module, _ in NAMES.values():
        path = ROOT / (module.replace(".", "/") + ".py")
        text = path.read_text()
        assert "def run(args" in text
        assert "def add_arguments(parser" in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_gpu_script_says_in_one_line_that_there_is_no_gpu(tmp_path):
    binaries = tmp_path / "bin"
    binaries.mkdir()
    fake = binaries / "nvidia-smi"
    fake.write_text("#!/bin/sh\nexit 9\n")
    fake.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
    }
    done = subprocess.run(
        ["bash", str(ROOT / "bench" / "gpu.sh"), str(tmp_path / "out")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["gpu.sh: there is no GPU here (nvidia-smi lists none)"]
