"""The memory that a fit may take beyond X, and its shares."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field

import numpy as np

from xclf._warnings import warn_caller

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?) ?([kmgt]?)(i?b)?", re.IGNORECASE)


def parse_bytes(size: int | str | None) -> int | None:
    """The number of bytes of an integer or a string such as "500MB" or "2.5 GiB"; None stays None.

    K, M, G and T are powers of 1024, with B, with iB or with neither. Raises ValueError for
    anything else, and unless positive.
    """
    if size is None:
        return None
    count = -1.0
    if isinstance(size, int | np.integer) and not isinstance(size, bool):
        count = float(size)
    elif isinstance(size, str) and (match := _SIZE.fullmatch(size.strip())):
        count = float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " ")
    if not 1 <= count < 2**62:
        raise ValueError(f"not a size in bytes: {size!r}")
    return int(count)


def in_words(size: float) -> str:
    """A number of bytes as text, rounded up: '12.4 MB'. Units are those of `parse_bytes`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1024:
            break
        size, unit = size / 1024, "TB"
    return f"{size:.0f} bytes" if unit == "bytes" else f"{-(-size * 10 // 1) / 10:.1f} {unit}"


@dataclass
class MemoryBudget:
    """Memory for the parts of a fit whose size is free: chunks of rows, curvature pairs, an
    eigenbasis. All rows and problems of a fit share one.

    size : bytes for all of them together; None: no bound but each part's own
    chunk : bytes that a chunk may take since one did not fit, see `halve`; None before
    """

    size: int | None = None
    chunk: int | None = None
    warned: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def for_chunks(self, workers: int) -> int:
        """Bytes of one chunk of each worker, where there is a bound."""
        return 0 if self.size is None else self.size // (4 * workers)

    def for_pairs(self, wanted: int) -> int:
        """Bytes for curvature pairs, at most `wanted`."""
        return wanted if self.size is None else min(wanted, self.size // 4)

    def for_basis(self) -> float:
        """Bytes for computing an eigenbasis, beside the pairs."""
        return float("inf") if self.size is None else 0.8 * self.size

    def halve(self, rows: int, bytes_per_row: int, error: BaseException) -> int:
        """The rows of a chunk after one of `rows` rows did not fit. Warns once a fit; raises
        MemoryError, with the bytes needed, if `rows` is 1.
        """
        if rows <= 1:
            raise MemoryError(
                f"a single row does not fit into memory: it takes about "
                f"{in_words(bytes_per_row)} with its intermediate arrays ({error})"
            ) from error
        fewer = rows // 2
        with self._lock:  # several devices may be short of memory at a time
            self.chunk = min(self.chunk or fewer * bytes_per_row, fewer * bytes_per_row)
            warned, self.warned = self.warned, True
        if not warned:
            warn_caller(
                f"out of memory in a chunk of {rows} rows: going on with {fewer} rows at a time",
                RuntimeWarning,
            )
        return fewer
