"""Readers and model files against mutated bytes, in a worker process that is watched."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

import xclf
from tests.fuzz.cases import Outcome
from tests.fuzz.hostile import Source, mutate, sources
from xclf.data import DataError, load
from xclf.estimators import ModelFileError

#: What a dense array may take, and what reading a file may add to the memory of the process.
MAX_MEMORY, MOST_MEMORY = 32 * 2**20, 256 * 2**20

#: Address space that a worker may add to what it has at its start.
MOST_ADDRESSES = 8 * 2**30

#: Seconds of processor time for one file, and seconds without an answer from a worker.
TIME_LIMIT, SILENCE = 5.0, 300.0

#: Names that only appear in payloads.
_FORBIDDEN = {
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.mkdir",
    "os.remove", "os.rename", "os.chmod", "subprocess.Popen", "pickle.find_class", "shutil.rmtree",
    "socket.connect", "socket.bind", "ctypes.dlopen", "code.__new__", "webbrowser.open",
}  # fmt: skip


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Watch:
    """An audit hook: what ran while a file was read that reading needs not."""

    def __init__(self) -> None:
        self.on, self.seen = False, ""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or self.seen:
            return
        if event in _FORBIDDEN:
            self.seen = f"{event}{arguments!r}"[:300]
        elif event == "exec" and not Path(arguments[0].co_filename).is_file():
            self.seen = f"exec of {arguments[0].co_filename}"
        elif event == "open" and int(arguments[2] or 0) & _WRITES:
            self.seen = f"open{arguments!r}"[:300]


def draw(seed: int, index: int) -> tuple[Source, random.Random, int]:
    r = random.Random(f"{seed} files {index}")
    kinds = sorted({source.kind for source in sources()})
    kind = r.choice(kinds)
    source = r.choice([one for one in sources() if one.kind == kind])
    return source, r, r.choice((0, 1, 1, 1, 2, 2, 3, 5, 10))


def files_of(seed: int, index: int, times: int | None = None) -> tuple[Source, dict[str, bytes]]:
    source, r, drawn = draw(seed, index)
    return source, mutate(source, r, drawn if times is None else times)


def read(source: Source, folder: Path) -> Outcome:
    """Load what lies in `folder`; what comes must be sound, or the error the documented one."""
    try:
        if source.model:
            model = xclf.load(folder / source.name)
            return _model(model)
        name = ",".join(str(folder / part) for part in source.name.split(","))
        data = load(name, max_memory=MAX_MEMORY, **source.options)
        return _data(data)
    except (DataError, ModelFileError) as error:
        one_line = "\n" not in str(error) or source.model
        return Outcome("refused") if one_line else Outcome("exception", f"lines: {error}")


def _model(model: Any) -> Outcome:
    rows = np.zeros((2, model.n_features_in_), np.float32)
    if len(model.predict(rows)) != 2 or model.decision_function(rows).shape[0] != 2:
        return Outcome("unsound data", "predictions of another length")
    repr(model)
    return Outcome("loaded")


def _data(data: Any) -> Outcome:
    kinds = {data.x.dtype.kind, *([] if data.y is None else [data.y.dtype.kind])}
    if data.x.ndim != 2 or 0 in data.x.shape or not data.x.dtype.isnative:
        return Outcome("unsound data", f"x of shape {data.x.shape}, {data.x.dtype}")
    if not kinds <= set("biufUO"):
        return Outcome("unsound data", f"dtypes {kinds}")
    held = data.x.data if scipy.sparse.issparse(data.x) else data.x
    if held.nbytes > MAX_MEMORY and not isinstance(held, np.memmap):
        return Outcome("memory", f"{held.nbytes} bytes")
    held.sum(dtype=np.float64)
    if scipy.sparse.issparse(data.x):
        data.x.check_format(full_check=True)
    return Outcome("loaded")


class _SlowError(BaseException):
    """A file that takes too long to read."""


def _slow(*_: object) -> None:
    raise _SlowError


def attempt(source: Source, files: dict[str, bytes], folder: Path, watch: Watch) -> Outcome:
    """Write the files and read them, within time and memory, watched."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watch.seen, watch.on = "", True
    signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = read(source, folder)
    except _SlowError:
        outcome = Outcome("hang", f"more than {TIME_LIMIT:g} s")
    except Exception as error:
        outcome = Outcome("exception", f"{type(error).__name__}: {error}"[:300])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        watch.on = False
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if watch.seen:
        outcome = Outcome("executed", watch.seen)
    elif grown > MOST_MEMORY:
        outcome = Outcome("memory", f"{grown >> 20} MiB more")
    for name in files:
        (folder / name).unlink()
    if stray := [path.name for path in folder.iterdir()]:
        outcome = Outcome("executed", f"files appeared: {stray}")
    return outcome


def worker(seed: int, indices: list[int], shrinking: bool) -> None:
    """Read the files of these cases; lines of JSON on standard output say which and what came."""
    signal.signal(signal.SIGPROF, _slow)
    with tempfile.TemporaryDirectory() as home:
        watch, folder = Watch(), Path(home)
        for source in sources():  # what the readers import, they import now
            with contextlib.suppress(Exception):
                attempt(source, source.files, folder, watch)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_ADDRESSES,) * 2)
        os.chdir(folder)
        for index in indices:
            start = time.monotonic()
            source, r, times = draw(seed, index)
            _say(index=index, group=source.kind)
            outcome = attempt(source, mutate(source, r, times), folder, watch)
            seconds = time.monotonic() - start
            if outcome.broken and shrinking:
                least = _fewest_mutations(seed, index, outcome.name, folder, watch)
                outcome = replace(outcome, snippet=snippet(seed, index, source, least))
            _say(
                index=index,
                name=outcome.name,
                detail=outcome.detail,
                snippet=outcome.snippet,
                seconds=seconds,
            )


def _say(**entries: Any) -> None:
    print(json.dumps(entries), flush=True)


def watched(
    seed: int, indices: list[int], shrinking: bool = True
) -> Iterator[tuple[int, str, Outcome, float]]:
    """(index, group, outcome, seconds) of each case; a worker that dies or hangs ends one case.

    Workers are processes of their own, not forks: Arrow has threads, which a fork would lose.
    """
    left, group = list(indices), ""
    while left:
        call = f"from tests.fuzz.files import worker; worker({seed}, {left}, {shrinking})"
        process = subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.PIPE)
        assert process.stdout is not None
        fate, group, started = "died", "", False
        try:
            for answer in _answers(process.stdout.fileno()):
                if answer is None:
                    fate = "hang"
                    break
                started, group = True, answer.get("group", group)
                if "name" in answer:
                    left.remove(answer["index"])
                    outcome = Outcome(answer["name"], answer["detail"], answer["snippet"])
                    yield answer["index"], group, outcome, answer["seconds"]
        finally:
            process.kill()
            status = process.wait()
            process.stdout.close()
        if not started:
            raise RuntimeError("the worker that reads files does not start")
        if left:  # what the worker was at
            index = left.pop(0)
            detail = f"the process ended with {status}" if fate == "died" else "no answer"
            yield index, group, Outcome(fate, detail, snippet(seed, index)), SILENCE


def _answers(pipe: int) -> Iterator[dict[str, Any] | None]:
    """Lines of JSON until the other end closes; None if it says nothing for too long."""
    pending = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], SILENCE)
        if not ready:
            yield None
            return
        block = os.read(pipe, 1 << 16)
        if not block:
            return
        *lines, pending = (pending + block).split(b"\n")
        yield from (json.loads(line) for line in lines)


def _fewest_mutations(seed: int, index: int, name: str, folder: Path, watch: Watch) -> int:
    """The fewest mutations of a case that still end as `name`."""
    most = draw(seed, index)[2]
    for times in range(most):
        source, files = files_of(seed, index, times)
        if attempt(source, files, folder, watch).name == name:
            return times
    return most


def snippet(seed: int, index: int, source: Source | None = None, times: int | None = None) -> str:
    """Lines that write the file of a case and read it."""
    source = draw(seed, index)[0] if source is None else source
    return (
        "from tests.fuzz.files import files_of\n"
        f"source, files = files_of({seed}, {index}, {times})  # {source.kind}: {source.name}\n"
        "for name, data in files.items():\n    open(name, 'wb').write(data)\n"
        + ("xclf.load" if source.model else "xclf.data.load")
        + f"({source.name!r})"
    )
