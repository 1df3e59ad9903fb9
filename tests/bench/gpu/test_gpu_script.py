"""bench/gpu.sh and the report of its results, without a GPU: a fake nvidia-smi, quick runs."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bench import gpu_report
from bench.__main__ import main

ROOT = Path(__file__).resolve().parents[2]

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def script(tmp_path):
    """Calls bench/gpu.sh on tmp_path / "out", with commands of its own in front of PATH."""

    def call(*stages, fakes, **settings):
        binaries = tmp_path / "bin"
        binaries.mkdir(exist_ok=True)
        for name, text in fakes.items():
            (binaries / name).write_text(f"#!/bin/sh\n{text}\n")
            (binaries / name).chmod(0o755)
        python = str(binaries / "python") if "python" in fakes else sys.executable
        return subprocess.run(
            ["bash", str(ROOT / "bench" / "gpu.sh"), str(tmp_path / "out"), *stages],
            env={
                **os.environ,
                "PYTEST_ADDOPTS": "",  # the tests that it runs are none of this run's
                "PATH": f"{binaries}:{os.environ['PATH']}",
                "PYTHON": python,
                **settings,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call


GPU = {"nvidia-smi": "echo GPU 0"}


@bash
def test_one_line_says_that_there_is_no_gpu(script):
    done = script(fakes={"nvidia-smi": "exit 9"})
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["gpu.sh: there is no GPU here (nvidia-smi lists none)"]


@bash
@pytest.mark.parametrize(
    ("stages", "settings", "said"),
    [
        (["nonsense"], {}, "unknown stage 'nonsense'"),
        ([], {"TIME": "10m"}, "TIME is a number of seconds, not '10m'"),
    ],
)
def test_wrong_usage_is_one_line(script, stages, settings, said):
    done = script(*stages, fakes=GPU, **settings)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


@bash
def test_an_unfinished_sweep_is_called_again(script, tmp_path):
    python = """
        if [ "$3" = gpu_report ]; then exit; fi
        echo "$@" >> %s
        while [ "$1" != --json ]; do shift; done
        if [ -e "$2" ]; then echo '"finished": true' > "$2"; exit; fi
        echo '"finished": false' > "$2"
    """
    calls = tmp_path / "calls"
    fakes = {**GPU, "python": python % calls}
    done = tmp_path / "out" / "sweep_tf32.done"
    for status, said in ((1, "call again to go on"), (0, "sweep_tf32: ok"), (0, "done before")):
        call = script("sweep_tf32", fakes=fakes, TIME="400")
        assert call.returncode == status, call.stdout + call.stderr
        assert said in call.stdout
        assert done.exists() is (status == 0)
    words = calls.read_text().splitlines()
    assert len(words) == 2
    for line in words:
        assert "gpu_sweep" in line
        assert "--precision tf32" in line
        # What is left of the call, less what the start and the check take.
        seconds = int(line.split("--call-seconds ")[1].split()[0])
        assert 340 <= seconds <= 355


@bash
def test_a_stage_that_would_not_end_in_time_is_left_to_the_next_call(script, tmp_path):
    fakes = {**GPU, "python": 'echo "$@" >> "$OUT/calls"'}
    done = script("sweep", "fit", "heads", fakes=fakes, TIME="60")
    assert done.stdout.count("call again") == 2
    assert (tmp_path / "out" / "heads.done").exists()
    assert not (tmp_path / "out" / "fit.done").exists()
    calls = (tmp_path / "out" / "calls").read_text()
    assert "gpu_heads" in calls
    assert "gpu_fit" not in calls


@bash
def test_a_failed_benchmark_is_tried_again_and_failed_tests_are_not(script, tmp_path):
    fakes = {**GPU, "python": "exit 1"}
    for _ in range(2):
        done = script("heads", "tests", fakes=fakes)
        assert done.returncode == 1
        assert "heads: exit 1, see heads.log" in done.stdout
    assert "tests: done before (exit 1)" in done.stdout
    assert not (tmp_path / "out" / "heads.done").exists()


@bash
def test_another_machine_installs_anew_and_does_nothing_else_again(script, tmp_path):
    fakes = {**GPU, "python": 'echo "$@" >> "$OUT/calls"'}
    for expected in (True, False):
        done = script("install", "heads", fakes=fakes)
        assert done.returncode == 0, done.stdout
        assert ("install: done before" in done.stdout) is not expected
    shutil.rmtree(tmp_path / "out" / "site")
    done = script("install", "heads", fakes=fakes)
    assert "install: exit 0" in done.stdout
    assert "heads: done before" in done.stdout


@bash
def test_quick_stages_end_in_one_archive(script, tmp_path):
    (tmp_path / "test_a.py").write_text(
        "def test_numpy():\n    pass\n\ndef test_other():\n    pass\n"
    )
    stages = ("tests", "ceilings", "tests_rest")
    settings = {"QUICK": "numpy", "PYTEST": str(tmp_path / "test_a.py"), "WORKERS": "1"}
    done = script(*stages, fakes=GPU, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in stages:
        assert f"{stage}: ok" in done.stdout
    with tarfile.open(tmp_path / "out" / "results.tar.gz") as packed:
        names = packed.getnames()
        report = packed.extractfile("results/report.md").read().decode()
    assert {"gpu_ceilings.json", "ceilings.log", "summary.txt", "tests/gpu.xml"} <= set(names)
    assert "2 tests, 0 failed, 0 skipped" in report
    assert "| GB/s |" in report


# --- the report --------------------------------------------------------------------------------


def document(work, name="NVIDIA H200", driver="580.1"):
    device = {"name": name, "driver": driver, "gpu": True}
    return {
        "command": "python -m bench",
        "date": "2026-11-21",
        "versions": {"numpy": "2.5.2", "cupy-cuda13x": "14.2.0", "scipy": "1.18"},
        "results": {"device": device, "work": work},
    }


def head(c, objective):
    return {"C": c, "objective_float64": objective}


@pytest.fixture
def folder(tmp_path):
    """Results as bench/gpu.sh leaves them."""
    made = tmp_path / "out"
    (made / "tests").mkdir(parents=True)
    seconds = {"xclf": {"median_s": 2e-5}, "torch CUDA graph": "RuntimeError: no"}
    step = {
        "problem": "step",
        "seconds": seconds,
        "measures": [
            {"measure": "time / torch eager", "value": 0.25, "at_most": 0.4, "reached": True},
            {"measure": "time / graph", "value": 1.25, "at_most": 1.0, "reached": False},
        ],
    }
    fit = {"problem": "fit", "strength": 1.0, "optimum": {"objective": 2.0}}
    sweep = {"problem": "sweep", "finished": True, "heads": [head(1.0, 2.002), head(10.0, 1.0)]}
    tf32 = {"problem": "sweep", "finished": False, "minutes": 3.5}
    tf32["heads"] = [head(1.0, 2.001), head(10.0, 1.1), head(100.0, None)]
    works = {"minibatch": [step], "fit": [fit], "sweep": [sweep], "sweep_tf32": [tf32]}
    works["loss_grad"] = [{"problem": "pass", "failed": "OutOfMemoryError: of 5 GB"}]
    for name, work in works.items():
        (made / f"gpu_{name}.json").write_text(json.dumps(document(work)))
    (made / "gpu_optima.json").write_text("{}")
    for name, failures in (("gpu", 1), ("rest", 0)):
        case = '<testcase classname="tests.test_a" name="test_b"><failure/></testcase>' * failures
        suite = f'<testsuite tests="7" failures="{failures}" errors="0" skipped="2">{case}'
        text = f"<testsuites>{suite}</testsuite></testsuites>"
        (made / "tests" / f"{name}.xml").write_text(text)
    return made


def test_report(folder, tmp_path, capsys):
    into = tmp_path / "into"
    into.mkdir()
    assert main(["gpu_report", str(folder), "--into", str(into)]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0] == "NVIDIA H200, driver 580.1, numpy 2.5.2, cupy-cuda13x 14.2.0, 2026-11-21"
    assert "14 tests, 1 failed, 4 skipped" in lines
    assert "| step | 0.02 | time / torch eager | 0.25 | at most 0.4 |" in lines
    assert "| step | 0.02 | time / graph | 1.25 | at most 1: missed |" in lines
    assert "- gpu_loss_grad, pass: OutOfMemoryError: of 5 GB" in lines
    assert "- gpu_minibatch, step, torch CUDA graph: RuntimeError: no" in lines
    assert "- gpu_sweep_tf32, sweep: goes on after 3.50 minutes" in lines
    assert "- failed test tests.test_a::test_b" in lines
    names = {path.name for path in into.iterdir()}
    day = "2026-11-21-nvidia-h200.json"
    assert names == {
        f"gpu_{what}-{day}"
        for what in ("minibatch", "fit", "sweep", "sweep-tf32", "loss_grad", "tests")
    }
    kept = json.loads((into / f"gpu_minibatch-{day}").read_text())
    assert kept == json.loads((folder / "gpu_minibatch.json").read_text())
    tests = json.loads((into / f"gpu_tests-{day}").read_text())["results"]
    assert (tests["tests"], tests["failed"]) == (14, ["tests.test_a::test_b"])


def test_report_compares_the_sweeps(folder):
    documents = {path.stem: json.loads(path.read_text()) for path in gpu_report._files(folder)}
    found = {
        (line["from"], line["measure"]): line["value"] for line in gpu_report._across(documents)
    }
    tf32 = "a TF32 head's objective over the float32 head's"
    gap = "relative gap of the head with C = 1, in float64"
    assert found == {
        ("gpu_sweep_tf32", f"{tf32}, at most"): pytest.approx(0.1),
        ("gpu_sweep_tf32", f"{tf32}, at least"): pytest.approx(2.001 / 2.002 - 1.0),
        ("gpu_sweep", gap): pytest.approx(1e-3),
        ("gpu_sweep_tf32", gap): pytest.approx(5e-4),
    }


def test_report_of_nothing_is_one_line(tmp_path, capsys):
    assert main(["gpu_report", str(tmp_path)]) == 2
    assert main(["gpu_report", str(tmp_path), "--into", str(tmp_path / "nowhere")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
