"""The report of the GPU's results."""

import json

import pytest

from bench.__main__ import main
from bench.gpu import report


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
    assert "- failed test gpu: tests.test_a::test_b" in lines
    names = {path.name for path in into.iterdir()}
    day = "2026-11-21-nvidia-h200.json"
    assert names == {
        f"gpu_{what}-{day}"
        for what in ("minibatch", "fit", "sweep", "sweep-tf32", "loss_grad", "tests")
    }
    kept = json.loads((into / f"gpu_minibatch-{day}").read_text())
    assert kept == json.loads((folder / "gpu_minibatch.json").read_text())
    tests = json.loads((into / f"gpu_tests-{day}").read_text())["results"]
    assert (tests["tests"], tests["failed"]) == (14, ["gpu: tests.test_a::test_b"])


def test_report_compares_the_sweeps(folder):
    documents = {path.stem: json.loads(path.read_text()) for path in report._files(folder)}
    found = {(line["from"], line["measure"]): line["value"] for line in report._across(documents)}
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
