"""Atomic writes: a file appears under its name complete, or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """The path of an empty file to write to, which replaces `path` at the end.

    On an error it is removed and `path` stays as it was. A file that is there keeps its mode, and a
    symbolic link its place: the file that it names is written. Parts that a killed process has not
    removed are. An OSError, a full disk say, names `path`.
    """
    target = path.resolve()
    part = temporary_path(target)
    try:
        remove_abandoned(path)
        with part.open("xb") as held:
            _lock(held)
            with contextlib.suppress(FileNotFoundError):
                part.chmod(stat.S_IMODE(target.stat().st_mode))
            yield part
            _flush(part)
            if sys.platform == "win32":
                held.close()
            part.replace(target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """OSError if `atomic_write` cannot write to `path`."""
    remove_abandoned(path)
    probe = temporary_path(path.resolve())
    try:
        probe.touch(exist_ok=False)
    finally:
        probe.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """A new hidden name in the folder of `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def _flush(part: Path) -> None:
    """Wait until the content is on the disk: after a power failure the name must not be empty."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())


def remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` that no process holds."""
    target = path.resolve()
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.part")
    with contextlib.suppress(OSError):
        for part in target.parent.iterdir():
            if name.fullmatch(part.name):
                with contextlib.suppress(OSError), part.open("rb") as file:
                    _lock(file)
                    part.unlink()


def _lock(file: IO[bytes]) -> None:
    """Hold a file until it is closed; OSError if another process does."""
    if sys.platform != "win32":  # which does not remove an open file
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
