"""The GPU's benchmarks run without one, at tiny sizes, and go on where they were. No time is
asserted."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import _device, _gpu_fit, _gpu_sweep, _measure, gpu_fits
from bench.__main__ import main

ROOT = Path(__file__).resolve().parents[1]


def run(tmp_path, *words):
    target = tmp_path / "out.json"
    assert main([*words, "--json", str(target)]) == 0
    return json.loads(target.read_text())


@pytest.mark.parametrize("name", ["gpu_ceilings", "gpu_loss_grad", "gpu_minibatch"])
def test_gpu_benchmarks_run_on_numpy(name, tmp_path):
    found = run(tmp_path, name, "--quick", "--repeats", "2", "--namespace", "numpy")
    assert found["results"]["device"]["gpu"] is False
    assert found["results"]["work"]
    for entry in found["results"]["work"]:
        assert "failed" not in entry, entry


HERE = ["numpy"] + (["torch"] if _measure.optional("torch") is not None else [])


@pytest.mark.parametrize("namespace", HERE)
def test_gpu_fit_meets_its_goal(namespace, tmp_path, capsys):
    words = ["gpu_fit", "--quick", "--turns", "2", "--namespace", namespace, "--cap", "1000"]
    words += ["--strength", "0.1", "--state", str(tmp_path)]
    found = run(tmp_path, *words)
    assert "--state STATE" in found["command"]
    assert str(tmp_path) not in json.dumps(found)
    (entry,) = found["results"]["work"]
    assert "failed" not in entry, entry
    assert entry["optimum"]["ended"] == "converged"
    assert 0.0 <= entry["optimum"]["bound_of_relative_gap_in_the_weights"] < 1e-6
    assert entry["optimum"]["largest_slope_of_a_bias"] < 1e-6
    for name, some in entry["runs"].items():
        if isinstance(some, str):
            assert (name, some) == ("torch LBFGS", "not installed")
            continue
        assert len(some) == 2
        for one in some:
            assert one["ended_by"] == "goal"
            assert one["final_gap"] == pytest.approx(one["watched_gap"], abs=1e-5)
            assert -1e-6 < one["final_gap"] < 1.1e-4
    assert ("share_of_torch" in entry) == isinstance(entry["runs"]["torch LBFGS"], list)
    capsys.readouterr()
    run(tmp_path, *words)
    assert "finding the optimum" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gpu_fit", "gpu_sweep"])
def test_tf32_without_a_gpu_leaves_the_reason(name, tmp_path):
    words = [name, "--quick", "--namespace", "numpy", "--precision", "tf32"]
    (entry,) = run(tmp_path, *words)["results"]["work"]
    assert "needs a CUDA GPU" in entry["failed"]


def test_a_peer_that_cannot_run_leaves_its_reason(tmp_path, monkeypatch):
    def no_room(*_):
        raise MemoryError("no room\nfor this")

    monkeypatch.setattr(_gpu_fit, "torch_place", lambda place: (None, "", None))
    monkeypatch.setattr(_gpu_fit, "_torch", no_room)
    words = ["gpu_fit", "--quick", "--turns", "1", "--namespace", "numpy"]
    (entry,) = run(tmp_path, *words)["results"]["work"]
    assert entry["seconds"]["torch LBFGS"] == "MemoryError: no room"
    assert "share_of_torch" not in entry
    assert entry["runs"]["xclf"][0]["ended_by"] == "goal"


def test_an_optimum_that_was_not_found_is_not_raced_to(tmp_path):
    words = ["gpu_fit", "--quick", "--namespace", "numpy", "--optimum-cap", "0"]
    (entry,) = run(tmp_path, *words, "--state", str(tmp_path))["results"]["work"]
    assert "see --optimum-cap" in entry["failed"]
    assert not (tmp_path / "gpu_optima.json").exists()


@pytest.mark.parametrize("theirs", ["goal", "cap"])
def test_share_of_torch(theirs):
    runs = {"xclf": [{"ended_by": "goal"}], "torch LBFGS": [{"ended_by": theirs}]}
    seconds = _measure.summarise({"xclf": [1.0], "torch LBFGS": [4.0]})
    entry = {"runs": runs, "seconds": seconds}
    _gpu_fit._compare(entry)
    assert entry["share_of_torch"] == 0.25
    assert entry["share_of_torch_is_an_upper_bound"] is (theirs == "cap")
    entry = {"runs": {**runs, "xclf": [{"ended_by": "cap"}]}, "seconds": {}}
    entry["seconds"] = _measure.summarise({"xclf": [1.0], "torch LBFGS": [4.0]})
    _gpu_fit._compare(entry)
    assert "share_of_torch" not in entry
    assert "ratio" not in entry["seconds"]["torch LBFGS"]


@pytest.mark.parametrize("namespace", HERE)
@pytest.mark.parametrize("name", ["gpu_heads", "gpu_stream"])
def test_gpu_heads_and_streams(name, namespace, tmp_path):
    words = [name, "--quick", "--repeats", "2", "--namespace", namespace]
    for entry in run(tmp_path, *words)["results"]["work"]:
        assert "failed" not in entry, entry
        assert all(one["repeats"] == 2 for one in entry["seconds"].values())
        if name == "gpu_heads":
            assert entry["times_one_head"] > 0.0
            continue
        limit = entry["seconds"][entry["limited_by"]]["median_s"]
        slowest = max(entry["seconds"][key]["median_s"] for key in ("resident", "pinned copy"))
        assert limit == slowest
        assert entry["share_of_limit"] == limit / entry["seconds"]["xclf"]["median_s"]


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_streamed_and_resident_passes_are_the_same_pass(dtype):
    place = _device.Device("numpy")
    host = gpu_fits._host_rows(place, 300, 7, dtype)
    y, w = gpu_fits._labels(300, 4), np.random.default_rng(0).standard_normal((4, 7)) / 9.0
    streamed = gpu_fits._pass(place, gpu_fits._streamed(place, host), y, w)()
    resident = gpu_fits._resident(place, host, y, w)()
    for one, other in zip(streamed, resident, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("namespace", HERE)
def test_gpu_sweep_goes_on_where_it_was(namespace, tmp_path, capsys):
    words = ["gpu_sweep", "--quick", "--namespace", namespace]
    (whole,) = run(tmp_path, *words)["results"]["work"]
    assert whole["finished"]
    assert all(head["converged"] for head in whole["heads"])
    assert "minutes" in capsys.readouterr().out
    parts = [*words, "--state", str(tmp_path), "--call-passes", "6"]
    for call in range(1, 40):
        (part,) = run(tmp_path, *parts)["results"]["work"]
        assert len(part["calls"]) == call
        assert part["passes"] == sum(one["passes"] for one in part["calls"])
        if part["finished"]:
            break
        assert any(head["reason"] == "goes on in the next call" for head in part["heads"])
    assert part["finished"]
    assert call > 1
    for one, other in zip(whole["heads"], part["heads"], strict=True):
        assert one["reg"] == other["reg"]
        assert other["converged"]
        assert other["objective"] == pytest.approx(one["objective"], rel=2e-4)
    # One more call has nothing to do; another sweep is not mixed with this one.
    (again,) = run(tmp_path, *parts)["results"]["work"]
    assert again == part
    capsys.readouterr()
    assert main([*parts, "--rows", "300"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_gpu_sweep_ends_at_its_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(_gpu_sweep, "_MOST", 3)
    words = ["gpu_sweep", "--quick", "--namespace", "numpy", "--state", str(tmp_path)]
    (entry,) = run(tmp_path, *words)["results"]["work"]
    assert entry["finished"]
    assert entry["passes"] == 3
    assert {head["reason"] for head in entry["heads"]} <= {"3 passes", "converged"}
    assert "3 passes" in {head["reason"] for head in entry["heads"]}


def test_the_power_law_is_made_from_seeds(monkeypatch):
    place = _device.Device("numpy")
    data = _gpu_fit.power_law(place, 500, 20, 5)
    again = _gpu_fit.power_law(place, 500, 20, 5)
    np.testing.assert_array_equal(data.x, again.x)
    np.testing.assert_array_equal(data.y, again.y)
    assert set(data.y.tolist()) == set(range(5))
    values = np.linalg.eigvalsh(np.cov(data.x.T))[::-1]
    slope = np.polyfit(np.log(np.arange(1, 21)), np.log(values), 1)[0]
    assert -2.6 < slope < -1.6  # spread falls as 1 / j, variance as its square
    monkeypatch.setattr(_gpu_fit, "_CHUNK", 100)
    chunks = _gpu_fit.power_law(place, 500, 20, 5).x
    assert len(np.unique(chunks, axis=0)) == 500  # every chunk has a seed of its own


@pytest.mark.skipif(_measure.optional("cupy") is not None, reason="CuPy is there")
def test_without_cupy_one_clear_line(capsys):
    assert main(["gpu_ceilings", "--quick"]) == 2
    error = capsys.readouterr().err
    assert "cupy is not installed" in error
    assert len(error.splitlines()) == 1


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


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_gpu_script_calls_an_unfinished_sweep_again(tmp_path):
    fakes = {
        "nvidia-smi": "echo GPU 0",
        "python": """
            while [ "$1" != --json ]; do shift; done
            if [ -e "$2" ]; then echo '"finished": true' > "$2"; exit; fi
            echo '"finished": false' > "$2\"""",
    }
    for name, text in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHON": str(tmp_path / "python"),
    }
    words = ["bash", str(ROOT / "bench" / "gpu.sh"), str(tmp_path / "out"), "sweep_tf32"]
    done = tmp_path / "out" / "sweep_tf32.done"
    for status, said in ((1, "call again to go on"), (0, "sweep_tf32: ok"), (0, "done before")):
        call = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert call.returncode == status, call.stdout + call.stderr
        assert said in call.stdout
        assert done.exists() is (status == 0)
