"""The shell under Ctrl-C and SIGTERM at random moments."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import xclf
from tests.fuzz.cases import Outcome

#: Seconds until a process must have begun, and must have ended.
TIME_LIMIT = 120.0

TRAIN = ["train", "digits", "--device=cpu", "--model=two-layer", "--out=m", "--seed=0"]
COMMANDS = {
    "train for ever": [*TRAIN, "--max-iter=1000000", "--tol=0", "--n-iter-no-change=1000000"],
    "train": [*TRAIN, "--max-iter=3"],
}


def interrupt(seed: int, index: int) -> tuple[str, Outcome]:
    """Send a signal to a command: one line and 130 or 143, and never a torn model."""
    r = random.Random(f"{seed} signals {index}")
    name = r.choice(list(COMMANDS))
    number = r.choice((signal.SIGINT, signal.SIGINT, signal.SIGTERM))
    group = f"{name}, {number.name}"
    root = str(Path(xclf.__file__).parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with TemporaryDirectory() as home:
        process = subprocess.Popen(
            [sys.executable, "-m", "xclf", *COMMANDS[name]],
            cwd=home,
            env=os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            _wait_for_imports(process.pid)
            time.sleep(r.uniform(0, 5))
            process.send_signal(number)
            _, err = process.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return group, Outcome("hang", f"no end {TIME_LIMIT:g} s after {number.name}")
        files = sorted(path.name for path in Path(home).iterdir())
        where = f"{group}: status {process.returncode}, {err!r}, files {files}"
        if "m" in files:
            try:
                xclf.load(Path(home) / "m")
            except ValueError as error:
                return group, Outcome("torn", f"{where}: {error}")
    return group, _judged(number, process.returncode, err, files, where)


def _judged(number: int, status: int, err: str, files: list[str], where: str) -> Outcome:
    late = status == 0 and "xclf: " not in err and files == ["m"]  # it had ended by then
    if late:
        return Outcome("had ended")
    wanted = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}[number]
    said = [line for line in err.splitlines() if line.startswith("xclf: ")]
    torn = "Traceback" in err or not err.endswith(f"xclf: {wanted[1]}\n")
    if torn or status != wanted[0] or len(said) != 1:
        return Outcome("wrong exit", where)
    return Outcome("stale part", where) if set(files) - {"m"} else Outcome("ended")


def _wait_for_imports(pid: int) -> None:
    """Until the process has begun with the package: before, the interpreter's own start decides."""
    end = time.monotonic() + TIME_LIMIT
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if "numpy" in Path(f"/proc/{pid}/maps").read_text():
                return
        time.sleep(0.01)
