"""`-`: a data set on standard input."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from xclf.data._dataset import DataError, Dataset, open_bytes, reading
from xclf.data._svmlight import is_svmlight_text

NAME = "standard input"

# The first bytes of files whose names would say what they are.
_STARTS = {
    b"PK": ".npz",
    b"\x93NUMPY": ".npy",
    b"PAR1": ".parquet",
    b"ARROW1": ".feather",
    b"\x89HDF": ".h5",
    b"{": ".jsonl",
}


def read_stdin(read: Callable[[Path], Dataset]) -> Dataset:
    """What `read` makes of the bytes on standard input, kept in a file of the right name.

    What they are they say themselves; text is svmlight if its first line is, else CSV, with tabs
    where there are some in the first line.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise DataError("-: standard input is a terminal: pipe a file into it")
    with TemporaryDirectory() as home:
        path = Path(home) / "input"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        named = path
        try:
            named = path.rename(path.with_name("input" + _ending(path)))
            data = read(named)
        except DataError as error:
            text = str(error).replace(str(named), NAME).replace(str(path), NAME)
            raise DataError(text) from None
    test = None if data.test is None else replace(data.test, source=f"{NAME}, test")
    return replace(data, source=NAME, test=test)


def _ending(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(1 << 16)
    for magic, ending in _STARTS.items():
        if start.startswith(magic):
            return ending
    packed = {b"\x1f\x8b": ".gz", b"BZ": ".bz2"}.get(start[:2], "")
    if start and is_svmlight_text(path):
        return f".svmlight{packed}"
    with reading(path), open_bytes(path) as text:
        first = text.readline(1 << 16)
    return (".tsv" if b"\t" in first else ".csv") + packed
