"""The command as a process: its exit status, its streams, Ctrl-C and pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from process_cases import COMMAND, ENVIRONMENT

import xclf

LONG = ["train", "digits", "--device=cpu", "--model=two-layer", "--max-iter=1000000", "--tol=0"]
LONG += ["--n-iter-no-change=1000000"]


def start(home: Path, *arguments: str, **options) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=home, env=ENVIRONMENT, text=True, **{**pipes, **options}
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """(status, standard output, standard error); no process outlives the test."""
    try:
        out, err = process.communicate(timeout=60)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    assert "Traceback" not in err + (out or "")
    return process.returncode, out, err


def test_train_then_check_in_a_process_of_their_own(tmp_path):
    train = ("train", "digits", "--device=cpu", "--json", "--out=m")
    status, out, err = ended(start(tmp_path, *train))
    assert status == 0, err
    assert json.loads(out)["test"]["accuracy"] > 0.9
    assert "test accuracy 0.9" in err
    check = ("evaluate", "m", "digits", "--device=cpu", "--min-accuracy=1")
    status, out, err = ended(start(tmp_path, *check))
    assert status == 1
    assert "accuracy 0.9" in out
    assert err.startswith("xclf: accuracy 0.9")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_slip_is_one_line_with_status_2(tmp_path):
    status, out, err = ended(start(tmp_path, "train", "digit"))
    assert (status, out) == (2, "")
    assert err == "xclf: digit: no such file or folder; did you mean digits?\n"


def test_ctrl_c_keeps_the_best_model_so_far(tmp_path):
    process = start(tmp_path, *LONG, "--out=m")
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGINT)
    status, out, err = ended(process)
    assert (status, err) == (130, "xclf: interrupted\n")
    assert "interrupted; saved the best model so far, m\n" in out
    assert xclf.load(tmp_path / "m").n_iter_ >= 2
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_reader_who_leaves_is_no_error(tmp_path):
    read, write = os.pipe()
    process = start(tmp_path, *LONG, stdout=write)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.readline().startswith("data ")
    status, _, err = ended(process)
    assert (status, err) == (1, "")


def test_json_to_a_reader_who_has_left(tmp_path):
    read, write = os.pipe()
    os.close(read)
    train = ("train", "digits", "--device=cpu", "--max-iter=1", "--json")
    process = start(tmp_path, *train, stdout=write)
    os.close(write)
    status, _, err = ended(process)
    assert status == 1
    assert "test accuracy" in err.splitlines()[-1]
