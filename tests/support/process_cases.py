"""The command as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "xclf"]
ENVIRONMENT = {
    **os.environ,
    "OPENBLAS_NUM_THREADS": "1",
    # What is there already stays: libraries may have been installed into a folder of their own.
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "PYTHONWARNINGS": "error",
}


def start(home: Path, *arguments: str, **options) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = ENVIRONMENT | options.pop("environment", {})
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=home, env=environment, text=True, **{**pipes, **options}
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
