"""The command as a process of its own."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

from kill_cases import child

from xclf import cli

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
    """A new interpreter, which takes seconds to import what it needs."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = ENVIRONMENT | options.pop("environment", {})
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=home, env=environment, text=True, **{**pipes, **options}
    )


class Copy:
    """The command in a copy of this process, which has imported everything: as a `Popen`.

    out : where standard output goes, instead of into a pipe of this class; the caller's to close
    most_bytes : the size at which a file can grow no more
    """

    def __init__(
        self,
        home: Path,
        *arguments: str,
        out: int | None = None,
        most_bytes: int | None = None,
    ) -> None:
        read, write = os.pipe() if out is None else (None, out)
        read_err, err = os.pipe()
        self.pid = child(lambda: _command(home, arguments, write, err, most_bytes))
        os.close(err)
        if read is not None:
            os.close(write)
        self.stdout = io.StringIO() if read is None else os.fdopen(read)
        self.stderr = os.fdopen(read_err)
        self.returncode = 0

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 60.0) -> tuple[str, str]:
        """(standard output, the rest of standard error) of a process that ends."""
        found: list[str] = []
        reader = threading.Thread(target=lambda: found.append(self.stderr.read()))
        late = threading.Timer(timeout, self.kill)
        late.start()
        reader.start()
        with self.stdout:
            out = self.stdout.read()
        reader.join()
        self.stderr.close()
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        late.cancel()
        return out, found[0]


def _command(
    home: Path, arguments: tuple[str, ...], out: int, err: int, most_bytes: int | None
) -> NoReturn:
    atexit._clear()  # those of the tests
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    os.chdir(home)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, 1 << 10)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    sys.argv = [str(ROOT / "xclf" / "__main__.py"), *arguments]
    cli.main()
    raise AssertionError("the command goes on")


def ended(process: subprocess.Popen[str] | Copy) -> tuple[int, str, str]:
    """(status, standard output, standard error); no process outlives the test."""
    try:
        out, err = process.communicate(timeout=60)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()
        raise
    assert "Traceback" not in err + (out or "")
    return process.returncode, out, err
