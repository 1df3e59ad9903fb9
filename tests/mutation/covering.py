"""Which tests run a line, and how long they take: measured once, kept outside the repository."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "objectives", "optim", "training")
#: The rooms' own tests, those of the rows that they pass over, and of what is built of all four.
TESTS = (*(f"tests/{room}" for room in ROOMS), "tests/rows", "tests/estimators", "tests/sweep")
#: On a cluster, other processes compute, without the mistake.
LEFT_OUT = ("tests/estimators/test_cluster.py", "tests/estimators/test_collections.py")
_IMPORTED = "lines that run when modules are imported"


def sources() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / "xclf" / room).glob("*.py"))]


def environment() -> dict[str, str]:
    """One thread for each process, as a copy of a process that has threads would not have them."""
    return os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Durations:
    """A plugin of pytest that adds up the seconds of every test that passes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.others: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        if not report.passed:
            self.others.add(report.nodeid)

    def passed(self) -> dict[str, float]:
        return {test: each for test, each in self.seconds.items() if test not in self.others}


@dataclass(frozen=True)
class Covering:
    """seconds : by test, of those that pass
    lines : by source file (relative to the repository) and line, the tests that run it
    imported : by source file, the lines that run outside of tests, when modules are imported
    new : test files that were measured now
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]
    imported: dict[str, set[int]]
    new: frozenset[str]

    def of(self, file: str, lines: range) -> list[str]:
        """The tests that run any of these lines, the fastest first."""
        known = self.lines.get(file, {})
        tests = {test for line in lines for test in known.get(line, ())}
        return sorted(tests & self.seconds.keys(), key=lambda test: (self.seconds[test], test))


def measure(folder: Path, jobs: int) -> Covering:
    """Read what an earlier run measured of these sources; run the tests that are new since."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / f"{_digest(sources())}.json"
    known: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    files = [path for each in TESTS for path in sorted((ROOT / each).rglob("test_*.py"))]
    names = {path.relative_to(ROOT).as_posix(): _digest([path]) for path in files}
    names = {name: digest for name, digest in names.items() if name not in LEFT_OUT}
    stale = [name for name, digest in names.items() if known.get(name, {}).get("digest") != digest]
    if stale:
        earlier = known.get(_IMPORTED, {})
        known.update(_run(stale, names, folder, jobs))
        for file, each in earlier.items():
            known[_IMPORTED][file] = sorted({*each, *known[_IMPORTED][file]})
        store.write_text(json.dumps(known))
    seconds: dict[str, float] = {}
    lines: dict[str, dict[int, list[str]]] = {}
    imported = {file: set(each) for file, each in known[_IMPORTED].items()}
    for name in names:
        seconds |= known[name]["seconds"]
        tests = known[name]["tests"]
        for file, by_line in known[name]["lines"].items():
            for line, numbers in by_line.items():
                found = lines.setdefault(file, {}).setdefault(int(line), [])
                found.extend(tests[number] for number in numbers)
    return Covering(seconds, lines, imported, frozenset(stale))


def _digest(paths: list[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def _run(stale: list[str], digests: dict[str, str], folder: Path, jobs: int) -> dict[str, Any]:
    from coverage import CoverageData

    data, seconds = folder / "coverage.sqlite", folder / "seconds.json"
    seconds.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.mutation.covering", str(jobs), str(seconds), *stale]
    subprocess.run(command, cwd=ROOT, env=environment() | {"COVERAGE_FILE": str(data)}, check=False)
    found: dict[str, Any] = {
        name: {"digest": digests[name], "seconds": {}, "tests": {}, "lines": defaultdict(dict)}
        for name in stale
    }
    found[_IMPORTED] = {}
    for test, each in json.loads(seconds.read_text()).items():
        found[test.partition("::")[0]]["seconds"][test] = each
    run = CoverageData(str(data))
    run.read()
    for source in sources():
        file = source.relative_to(ROOT).as_posix()
        by_line = run.contexts_by_lineno(str(source))
        found[_IMPORTED][file] = [line for line, contexts in by_line.items() if "" in contexts]
        for line, contexts in by_line.items():
            for test in {context.rpartition("|")[0] for context in contexts if context}:
                own = found[test.partition("::")[0]]
                number = own["tests"].setdefault(test, len(own["tests"]))
                own["lines"][file].setdefault(line, []).append(number)
    return found | {name: found[name] | {"tests": list(found[name]["tests"])} for name in stale}


def main(arguments: list[str]) -> None:
    """Run these test files with coverage by test: processes, FILE of seconds, the test files."""
    import pytest

    jobs, target, *files = arguments
    durations = Durations()
    rooms = [f"--cov=xclf/{room}" for room in ROOMS]
    options = ["-q", "-p", "no:cacheprovider", "--cov-context=test", "--cov-report=", *rooms]
    pytest.main([*options, "-n", jobs, *files], plugins=[durations])
    Path(target).write_text(json.dumps(durations.passed()))


if __name__ == "__main__":
    main(sys.argv[1:])
