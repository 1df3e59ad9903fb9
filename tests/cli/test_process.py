"""The command as a process: its exit status, its streams, Ctrl-C and pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from process_cases import ENVIRONMENT, Copy, ended, start

import xclf

LONG = ["train", "digits", "--device=cpu", "--model=two-layer", "--max-iter=1000000", "--tol=0"]
LONG += ["--n-iter-no-change=1000000"]


def test_train_then_check_in_a_process_of_their_own(tmp_path):
    train = ("train", "digits", "--device=cpu", "--json", "--out=m")
    status, out, err = ended(start(tmp_path, *train))
    assert status == 0, err
    assert json.loads(out)["test"]["accuracy"] > 0.9
    assert err == ""
    check = ("evaluate", "m", "digits", "--device=cpu", "--min-accuracy=1")
    status, out, err = ended(Copy(tmp_path, *check))
    assert status == 1
    assert "accuracy 0.9" in out
    assert err.splitlines()[-1].startswith("xclf: accuracy 0.9")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_slip_is_one_line_with_status_2(tmp_path):
    status, out, err = ended(Copy(tmp_path, "train", "digit"))
    assert (status, out) == (2, "")
    assert err == "xclf: digit: no such file or folder; did you mean digits?\n"


def test_ctrl_c_keeps_the_best_model_so_far(tmp_path):
    process = Copy(tmp_path, *LONG, "--out=m")
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGINT)
    status, out, err = ended(process)
    assert (status, out) == (130, "")
    assert err.endswith("interrupted; saved the best model so far, m\nxclf: interrupted\n")
    assert xclf.load(tmp_path / "m").n_iter_ >= 2
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def with_module(home: Path, name: str, code: str, **options) -> subprocess.Popen[str]:
    """`train digits` where the import of a module runs this code, before the module itself."""
    home.joinpath(f"{name}.py").write_text(
        f"import signal, sys\n{code}\n"
        f"sys.path.remove({str(home)!r}); del sys.modules[__name__]\n"
        f"import {name}\n"
    )
    paths = os.pathsep.join([str(home), ENVIRONMENT["PYTHONPATH"]])
    command = ("train", "digits", "--device=cpu")
    return start(home, *command, environment={"PYTHONPATH": paths}, **options)


CTRL_C, SIGTERM = (f"signal.raise_signal(signal.{name})" for name in ("SIGINT", "SIGTERM"))


# The first import of the package, one of the middle, the shell's own, and one during the command.
@pytest.mark.parametrize(
    "name",
    [
        "array_api_compat",
        pytest.param("safetensors", marks=pytest.mark.long),
        pytest.param("typer", marks=pytest.mark.long),
    ],
)
def test_ctrl_c_during_the_imports_is_one_line(tmp_path, name):
    status, out, err = ended(with_module(tmp_path, name, CTRL_C))
    assert (status, out, err) == (130, "", "xclf: interrupted\n")


def test_sigterm_during_the_imports_is_one_line(tmp_path):
    status, out, err = ended(with_module(tmp_path, "array_api_compat", SIGTERM))
    assert (status, out, err) == (143, "", "xclf: terminated\n")


def test_sigterm_ends_processes_of_multiprocessing_silently(tmp_path):
    """Those of a cluster import the package with the command's arguments."""
    code = f"import sys; sys.argv[:] = ['xclf']; import signal, xclf; {SIGTERM}"
    start = "from multiprocessing.spawn import is_forking; "
    command = [sys.executable, "-c", start + code]
    found = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, timeout=60)
    assert (found.returncode, found.stderr) == (-signal.SIGTERM, b"")


SWALLOWED = """
def swallow():
    import xclf.cli._training as training
    real = training.read_split
    def read(*arguments, **options):
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            pass
        ENDING
    training.read_split = read
class Later:
    def find_spec(self, name, path, target=None):
        if name == "xclf.cli.train":
            sys.meta_path.remove(self)
            swallow()
sys.meta_path.insert(0, Later())
"""


@pytest.mark.long
@pytest.mark.parametrize("ending", ["return real(*arguments, **options)", "raise ValueError('5')"])
def test_a_ctrl_c_that_a_library_swallows(tmp_path, ending):
    """It is neither success nor another error."""
    code = SWALLOWED.replace("ENDING", ending)
    status, _, err = ended(with_module(tmp_path, "array_api_compat", code))
    assert (status, err.splitlines()[-1]) == (130, "xclf: interrupted")


@pytest.mark.long
def test_a_process_in_the_background_ignores_ctrl_c(tmp_path):
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    status, _, err = ended(with_module(tmp_path, "typer", CTRL_C, **ignore))
    assert status == 0, err


def test_a_reader_who_leaves_is_no_error(tmp_path):
    read, write = os.pipe()
    process = start(tmp_path, *LONG, stdout=write, stderr=subprocess.STDOUT)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.readline().startswith("data ")
    assert process.wait(60) == 1


def test_json_to_a_reader_who_has_left(tmp_path):
    read, write = os.pipe()
    os.close(read)
    train = ("train", "digits", "--device=cpu", "--max-iter=1", "--json")
    process = Copy(tmp_path, *train, out=write)
    os.close(write)
    status, _, err = ended(process)
    assert status == 1
    assert "did not converge" in err.splitlines()[-1]
