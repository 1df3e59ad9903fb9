"""Atomic writes: a file appears under its name complete, or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def temporary_path(path: Path) -> Path:
    """A new hidden name in the folder of `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which replaces `path` at the end; on an error it is removed."""
    part = temporary_path(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
