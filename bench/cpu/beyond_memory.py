"""A fit of rows five times the memory of its process, beside the disk and the arithmetic.

The part `beyond` of `python -m bench dask`. Files of rows are written once; a process of its own,
whose memory is bounded (RLIMIT_DATA), then times in turns

    disk        all files, one after the other: read into one buffer, or mapped, and a byte of each
                page read, whichever takes less time
    arithmetic  a pass over rows in memory, of a tenth of all: ten times that
    pass        an iteration of the fit, whose rows are read anew in each

either with the files on the disk alone (`cold`: the system is asked to forget them before each) or
where the system has them in memory (`warm`); of the latter two the processor time too.
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.common.measuring import BenchError, progress, table
from xclf import SoftmaxClassifier, data
from xclf.accelerate.cpu import softmax_row_sums
from xclf.estimators import _collections
from xclf.kernels import one_hot
from xclf.objectives import FORMULAS, Network, Objective, loss_named
from xclf.rows import LocalEngine, Rows
from xclf.training import Problem

_FEATURES, _CLASSES, _TENTH = 256, 10, 10
_ITERATIONS = 5


def measure(*, quick: bool) -> dict[str, Any]:
    """Prints the table; returns seconds of each round, and what share of the limit a pass makes."""
    files, rows, rounds = (10, 8000, 1) if quick else (20, 40_000, 3)
    if not hasattr(os, "posix_fadvise"):
        raise BenchError("the part beyond needs a system that forgets files when asked to: Linux")
    with TemporaryDirectory() as home:
        for k in range(files):
            _write(Path(home), k, rows)
        os.sync()  # what is not on the disk yet is not forgotten
        size = files * rows * _FEATURES * 4
        progress(f"beyond: {size >> 20} MB of rows in a process that may take a fifth of it")
        words = [sys.executable, "-m", "bench.cpu.beyond_memory", home, str(size // 5), str(rounds)]
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"the bounded process failed: {done.stderr.strip().splitlines()[-1:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    own = {"rows": files * rows, "features": _FEATURES, "classes": _CLASSES, "bytes": size}
    result = own | {"memory": size // 5} | result
    lines = []
    for name, seconds in result["seconds"].items():
        disk, arithmetic, each = (statistics.median(seconds[part]) for part in _PARTS)
        share = max(disk, arithmetic) / each
        result[f"share_{name}"] = share
        used = [statistics.median(seconds[part]) for part in _PROCESSOR]
        result[f"share_of_processor_{name}"] = used[0] / used[1]
        times = (f"{s:.2f}" for s in (disk, arithmetic, each))
        lines.append((name, *times, f"{share:.0%}", f"{used[0] / used[1]:.0%}"))
    title = f"{size >> 20} MB of rows within {size // 5 >> 20} MB: a pass, median s"
    table(title, ["files", *_PARTS, "of the slower one's speed", "of it arithmetic"], lines)
    return result


_PARTS = ("disk", "arithmetic", "pass")
_PROCESSOR = ("arithmetic_processor", "pass_processor")


def _write(home: Path, k: int, rows: int) -> None:
    rng, y = np.random.default_rng(k), np.arange(rows) % _CLASSES
    centres = np.random.default_rng(-1 % 2**32).standard_normal((_CLASSES, _FEATURES), np.float32)
    np.save(home / f"x{k:02}.npy", rng.standard_normal((rows, _FEATURES), np.float32) + centres[y])
    np.save(home / f"y{k:02}.npy", y)


def _forget(paths: Sequence[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(paths: Sequence[Path], buffer: memoryview, forgotten: Sequence[Path]) -> float:
    """Seconds for all files, the faster way."""
    _forget(forgotten)
    start = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    read = time.perf_counter() - start
    _forget(forgotten)
    start = time.perf_counter()
    for path in paths:
        np.memmap(path, np.uint8, "r")[:: mmap.PAGESIZE].max()
    return min(read, time.perf_counter() - start)


def _arithmetic(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Seconds of a pass over ten times these rows, by the clock and of the processor."""
    rows = Rows(x, one_hot(np, y, _CLASSES), None, np.float32)
    operations = replace(FORMULAS, row_sums=softmax_row_sums)  # those of fits on a processor
    network = Network((_FEATURES, _CLASSES), operations=operations)
    problem = Problem(Objective(network, loss_named("softmax"), 1e-4), rows)
    theta = 1e-2 * np.random.default_rng(0).standard_normal(network.size)
    start, used = time.perf_counter(), time.process_time()
    problem.value_and_grad(theta)
    return _TENTH * (time.perf_counter() - start), _TENTH * (time.process_time() - used)


class _Counted(LocalEngine):
    """The engine of fits, which counts the passes."""

    passes = 0

    def sums(self, *args: Any) -> Any:
        _Counted.passes += 1
        return super().sums(*args)


class _Clock:
    """A callback with the seconds of a pass in each iteration, which may take several; asks the
    system to forget files between them, which is not counted."""

    def __init__(self, forgotten: Sequence[Path]) -> None:
        self.forgotten, self.passes = forgotten, 0
        self.start = self.used = 0.0
        self.seconds: list[tuple[float, float]] = []

    def __call__(self, event: Any) -> bool:
        passes = max(1, _Counted.passes - self.passes)
        seconds, used = time.perf_counter() - self.start, time.process_time() - self.used
        self.seconds.append((seconds / passes, used / passes))
        _forget(self.forgotten)
        self.start, self.used = time.perf_counter(), time.process_time()
        self.passes = _Counted.passes
        return len(self.seconds) == _ITERATIONS


def _fit(pattern: str, memory: int, forgotten: Sequence[Path]) -> list[tuple[float, float]]:
    """Seconds, by the clock and of the processor, of passes after the second iteration, which set
    up what later ones use."""
    rows = data.load(pattern, blocks=True)
    clock = _Clock(forgotten)
    model = SoftmaxClassifier(1e-4, tol=0.0, max_memory=memory, callbacks=[clock])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not to converge
        model.fit(rows.x, rows.y)
    return clock.seconds[2:]


def _bounded(home: Path, memory: int, rounds: int) -> dict[str, Any]:
    """In the bounded process."""
    import resource

    import dask

    _collections.LocalEngine = _Counted  # type: ignore[misc]
    dask.config.set(scheduler="synchronous")  # each thread has a buffer of BLAS, of 32 MB and more
    paths, buffer = sorted(home.glob("x*.npy")), memoryview(bytearray(8 << 20))
    few = len(paths) // _TENTH
    x = np.concatenate([np.load(path) for path in paths[:few]])
    y = np.concatenate([np.load(path) for path in sorted(home.glob("y*.npy"))[:few]])
    every = f"{home}/x*.npy,{home}/y*.npy"
    # Threads have started then, with their buffers.
    _fit(f"{home}/x0[0-2].npy,{home}/y0[0-2].npy", memory, [])
    _arithmetic(x, y)
    status = Path("/proc/self/status").read_text()
    taken = 1024 * int(status.partition("VmData:")[2].split()[0])
    resource.setrlimit(resource.RLIMIT_DATA, (taken + memory,) * 2)
    kinds = {"cold": paths, "warm": []}
    seconds: dict[str, dict[str, list[float]]] = {
        name: {part: [] for part in (*_PARTS, *_PROCESSOR)} for name in kinds
    }
    for _ in range(rounds):
        for name, forgotten in kinds.items():
            own = seconds[name]
            if not forgotten:
                _read(paths, buffer, [])
            own["disk"].append(_read(paths, buffer, forgotten))
            _forget(forgotten)
            for part, both in (
                ("arithmetic", [_arithmetic(x, y) for _ in range(5)]),
                ("pass", _fit(every, memory, forgotten)),
            ):
                clock, used = zip(*both, strict=True)
                own[part].append(statistics.median(clock))
                own[f"{part}_processor"].append(statistics.median(used))
    return {"seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(_bounded(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
