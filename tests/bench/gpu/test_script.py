"""bench/gpu.sh without a GPU: a fake nvidia-smi, quick runs."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

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
        done = script("heads", "tests_off", fakes=fakes)
        assert done.returncode == 1
        assert "heads: exit 1, see heads.log" in done.stdout
    assert "tests_off: done before (exit 1)" in done.stdout
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
@pytest.mark.long
def test_quick_stages_end_in_one_archive(script, tmp_path):
    (tmp_path / "test_a.py").write_text(
        "def test_numpy():\n    pass\n\ndef test_other():\n    pass\n"
    )
    stages = ("tests_on", "ceilings", "tests_rest")
    settings = {"QUICK": "numpy", "PYTEST": str(tmp_path / "test_a.py"), "WORKERS": "1"}
    done = script(*stages, fakes=GPU, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in stages:
        assert f"{stage}: ok" in done.stdout
    with tarfile.open(tmp_path / "out" / "results.tar.gz") as packed:
        names = packed.getnames()
        report = packed.extractfile("results/report.md").read().decode()
    assert {"gpu_ceilings.json", "ceilings.log", "summary.txt", "tests/on.xml"} <= set(names)
    assert "2 tests, 0 failed, 0 skipped" in report
    assert "| GB/s |" in report


@bash
def test_what_says_whether_it_is_right_comes_in_order(script, tmp_path):
    fakes = {**GPU, "python": 'echo "$@" >> "$OUT/calls"'}
    done = script("info", "checks_off", "launches", "heads", fakes=fakes, TIME="60")
    assert done.stdout.count("call again") == 1
    assert (tmp_path / "out" / "info.done").exists()
    for behind in ("launches", "heads"):
        assert not (tmp_path / "out" / f"{behind}.done").exists()


@bash
def test_accelerators_are_off_first_and_then_on(script, tmp_path):
    fakes = {**GPU, "python": 'echo "$XCLF_ACCELERATE" "$@" | tr "\\n" " " >> "$OUT/calls"'}
    script("first", "tests_off", "tests_on", "checks_off", "checks", "heads", fakes=fakes)
    calls = (tmp_path / "out" / "calls").read_text()
    wanted = [
        "off -m xclf backends",
        "off -m bench gpu_checks",
        "off -c ",
        "all -c ",
        "off -m bench gpu_checks",
        "all -m bench gpu_checks",
        "all -m bench gpu_heads",
    ]
    places = [-1]
    for words in wanted:
        places.append(calls.index(words, places[-1] + 1))
    assert "gpu_first.json --only fits_as_numpy" in calls


@bash
@pytest.mark.parametrize("there", [True, False])
def test_kernels_run_under_the_sanitizer_where_it_is(script, tmp_path, there):
    tools = {"compute-sanitizer": 'echo "$NO_POOL $FILES $@" > "$OUT/sanitized"; exit 99'}
    done = script("racecheck", fakes={**GPU, **(tools if there else {})}, CUDA_HOME="nowhere")
    sanitized = tmp_path / "out" / "sanitized"
    assert sanitized.exists() is there
    if there:
        assert sanitized.read_text().startswith("1 tests/accelerate --tool racecheck")
        assert "racecheck: exit 99" in done.stdout
    else:
        assert "skipped: compute-sanitizer is not installed here" in done.stdout
    assert (tmp_path / "out" / "racecheck.done").exists()


@bash
def test_a_check_that_does_not_hold_is_in_the_summary(script, tmp_path):
    fakes = {**GPU, "python": "echo '    bytes: 3 (at most 0: NOT REACHED)'"}
    script("checks", fakes=fakes)
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert "checks: ok" in summary
    assert "bytes: 3 (at most 0: NOT REACHED)" in summary
