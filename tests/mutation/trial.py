"""Tests of one mutant in a copy of this process, which has imported everything but `xclf`."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from tests.mutation.covering import ROOT

#: Slow to import, and free of state that a copy of the process would miss.
_LIBRARIES = (
    "numpy scipy.sparse scipy.linalg scipy.optimize scipy.special sklearn.linear_model sklearn.svm "
    "sklearn.model_selection sklearn.pipeline sklearn.utils.estimator_checks sklearn.datasets "
    "torch array_api_strict array_api_compat.torch array_api_compat.numpy mpmath pandas rich typer "
    "hypothesis hypothesis.extra.numpy safetensors.numpy threadpoolctl pytest _pytest.assertion"
)
_MEMORY = 12 << 30
BROKEN, _UNKNOWN = 99, 4
_TICK = 0.01


class Outcome(NamedTuple):
    """killed : "" (survived), "failed", "error" (pytest could not run them) or "time"
    test : the first that failed; why : its last line"""

    killed: str
    test: str = ""
    why: str = ""


def warm_up(folder: Path) -> None:
    """Import what all copies need; `folder` keeps compiled tests."""
    os.chdir(ROOT)
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(folder / "compiled")
    for name in _LIBRARIES.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


class First:
    """A plugin of pytest that notes the first failure."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.target.exists():
            lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
            why = lines[0].removeprefix("E").strip() if lines else ""
            self.target.write_text(json.dumps([report.nodeid, why]))


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports one module of the repository from a changed tree."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        self.name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self.path, self.tree = ROOT / file, tree

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def get_source(self, fullname: str) -> str:
        return self.path.read_text()

    def get_code(self, fullname: str) -> Any:
        return compile(self.tree, str(self.path), "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        return self.path.name == "__init__.py"


def run(file: str, tree: ast.Module, tests: list[str], limit: float) -> Outcome:
    """Run these tests up to the first that fails, in a copy of this process.

    limit : seconds of processor time, after which the copy is ended
    """
    if any(name.partition(".")[0] == "xclf" for name in sys.modules):
        raise RuntimeError("xclf is imported: its mutant would not be")
    with tempfile.TemporaryDirectory() as folder:
        first, output = Path(folder) / "first.json", Path(folder) / "output"
        child = os.fork()
        if child == 0:
            end_with(limit, lambda: _tested(file, tree, tests, first, output))
        outcome = ended(child, limit, first, output)
        if outcome.why.startswith(f"{_UNKNOWN}: ") and any("::" in test for test in tests):
            # The mistake is in a test's name, as the parameters are: not a failure.
            return run(file, tree, sorted({test.partition("::")[0] for test in tests}), limit)
        return outcome


def end_with(limit: float, run: Callable[[], int]) -> NoReturn:
    """Be a copy that runs this within `limit` seconds, and ends with the status that it returns;
    BROKEN where it raises."""
    code = BROKEN
    try:
        _limited(limit)
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _limited(seconds: float) -> None:
    """Make this copy the head of a group that has so much processor time and memory."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (end, end + 5))


def ended(child: int, limit: float, first: Path, output: Path | None = None) -> Outcome:
    """The outcome of a copy, whose group is ended with it."""
    code = _wait(child, 60 + 6 * limit)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if code is None or code in (-signal.SIGXCPU, -signal.SIGKILL):
        if code is None:
            os.waitpid(child, 0)
        return Outcome("time", "", f"over {limit:.0f} s")
    if code == 0:
        return Outcome("")
    text = output.read_text()[-600:] if output else ""
    if code == BROKEN:
        raise RuntimeError(f"pytest did not run: {text}")
    if first.exists():
        return Outcome("failed", *json.loads(first.read_text()))
    return Outcome("error", "", f"{code}: {text}")


def _tested(file: str, tree: ast.Module, tests: list[str], first: Path, out: Path) -> int:
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(1, 2)
    sys.meta_path.insert(0, _Mutated(file, tree))
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist"]
    # Plugins of pytest were imported before it starts.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    options.append(f"--basetemp={first.parent / 'tests'}")
    return int(pytest.main([*options, *tests], plugins=[First(first)]))


def _wait(child: int, seconds: float) -> int | None:
    """The exit status, or None. Time in which this process is stopped does not count."""
    for _ in range(int(seconds / _TICK)):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_TICK)
    return None
