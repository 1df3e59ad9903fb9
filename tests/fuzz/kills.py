"""Writers that are killed at random moments, and disks that fill."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import random
import resource
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import xclf
from tests.fuzz.cases import Outcome
from xclf import cli

#: Seconds within which a writer is killed, and after which one that is not has hung.
LATEST, TIME_LIMIT = {"save": 0.01, "npy": 0.06, "csv": 0.06}, 60

KINDS = ("save", "npy", "csv")


@functools.cache
def models() -> tuple[xclf.SoftmaxClassifier, xclf.SoftmaxClassifier]:
    r = np.random.default_rng(0)
    x, y = r.normal(size=(60, 8)), np.arange(60) % 4
    return (
        xclf.SoftmaxClassifier(reg=1e-1).fit(x, y),
        xclf.SoftmaxClassifier(reg=1e-2).fit(np.tile(x, 4), y),
    )


def _writers(folder: Path, kind: str) -> tuple[Path, list[Callable[[], int]]]:
    """(target, two writers of different content): each returns 0, or the shell's status."""
    if kind == "save":
        target = folder / "m.safetensors"

        def save(model: xclf.SoftmaxClassifier) -> int:
            model.save(target)
            return 0

        return target, [functools.partial(save, model) for model in models()]
    target = folder / f"p.{kind}"
    commands = []
    for k, model in enumerate(models()):
        width = model.n_features_in_
        model.save(folder / f"model{k}")
        rows = np.random.default_rng(k).normal(size=(1000, width))
        np.save(folder / f"rows{k}.npy", rows)
        paths = [str(folder / f"model{k}"), str(folder / f"rows{k}.npy")]
        commands.append(["predict", *paths, "--device=cpu", "--proba", "--out", str(target)])
    return target, [functools.partial(_quiet, command) for command in commands]


def content(target: Path) -> bytes:
    """What a file says, or a ValueError: entries of a model file come in any order, under a digest
    that `load` compares."""
    data = target.read_bytes()
    return data if target.suffix != ".safetensors" else xclf.load(target).coef_.tobytes()


def _content(target: Path) -> bytes:
    try:
        return content(target)
    except ValueError as error:
        return str(error).encode()


def _quiet(command: list[str]) -> int:
    with contextlib.redirect_stdout(io.StringIO()):
        return cli.run(command)


def kill(seed: int, index: int) -> tuple[str, Outcome]:
    """Kill a process that writes two contents in turn: the file holds one of them, whole, and the
    next write leaves nothing beside it."""
    r = random.Random(f"{seed} kills {index}")
    kind = r.choices(KINDS, (8, 1, 1))[0]
    with TemporaryDirectory() as home:
        folder = Path(home)
        target, writers = _writers(folder, kind)
        contents = []
        for write in writers:
            assert write() == 0
            contents.append(content(target))
        before = {path.name for path in folder.iterdir()}
        if absent := r.random() < 0.2:
            target.unlink()
        child = _forever(writers)
        time.sleep(r.uniform(0, LATEST[kind]))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not (absent and not target.exists()) and _content(target) not in contents:
            return kind, Outcome("torn", f"{target.name}: {len(target.read_bytes())} bytes")
        stale = len({path.name for path in folder.iterdir()} - before)
        if stale > 1:
            return kind, Outcome("stale part", f"one process has left {stale} files")
        writers[0]()
        if more := {path.name for path in folder.iterdir()} - before:
            return kind, Outcome("stale part", f"after the next write: {sorted(more)}")
        if _content(target) != contents[0]:
            return kind, Outcome("torn", "by the write after a kill")
    return kind, Outcome("killed, part removed by the next write" if stale else "killed")


def _forever(writers: list[Callable[[], int]]) -> int:
    """A child that writes until it is killed; it has begun when this returns."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(into, b"x")
            while True:
                for write in writers:
                    write()
        os._exit(1)
    os.read(out, 1)
    os.close(out)
    os.close(into)
    return child


def fill(seed: int, index: int) -> tuple[str, Outcome]:
    """Write where files can grow no more than to a random size: the new content is there whole, or
    the old one is and the message says why."""
    r = random.Random(f"{seed} disk {index}")
    kind = r.choice(KINDS)
    with TemporaryDirectory() as home, warnings.catch_warnings():
        folder = Path(home)
        target, (write, other) = _writers(folder, kind)
        write()
        new, size = content(target), target.stat().st_size
        other()
        old = content(target)
        if absent := r.random() < 0.3:
            target.unlink()
        before = {path.name for path in folder.iterdir()} - {target.name}
        most = r.choice((0, 1, 100, r.randrange(size), size - 1, size, 2 * size))
        status, text = _limited(write, most)
        now = _content(target) if target.exists() else b""
        stray = {path.name for path in folder.iterdir()} - before - {target.name}
    where = f"{kind}, {most} of {size} bytes: status {status}, {text!r}"
    if stray:
        return kind, Outcome("stale part", f"{where}, left {sorted(stray)}")
    if now != (new if status == 0 else b"" if absent else old):
        return kind, Outcome("torn", where)
    if status not in (0, 2) or (status == 0) is (most < size):
        return kind, Outcome("wrong exit", where)
    if status == 2 and ("File too large" not in text or text.count("\n") > 1):
        return kind, Outcome("wrong exit", where)
    return kind, Outcome("written" if status == 0 else "refused")


def _limited(write: Callable[[], int], most: int) -> tuple[int, str]:
    """(status, message) of a writer in a process of its own, whose files end at `most` bytes."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        status, text = 3, io.StringIO()
        signal.alarm(TIME_LIMIT)
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            with contextlib.redirect_stderr(text):
                status = write()
        except OSError as error:
            status = 2
            text.write(str(error))
        except BaseException as error:
            text.write(f"{type(error).__name__}: {error}")
        os.write(into, text.getvalue().encode()[:60_000])
        os._exit(status)
    os.close(into)
    message = b""
    while block := os.read(out, 1 << 16):
        message += block
    os.close(out)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), message.decode()
