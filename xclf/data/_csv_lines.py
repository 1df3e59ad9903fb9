"""CSV by Python's own reader, where neither pyarrow nor pandas is installed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np

from xclf.data._dataset import BytesFile, DataError

_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLAGS = {"True": True, "true": True, "False": False, "false": False}


def read_lines(
    path: Path,
    file: BytesFile,
    separator: str,
    names: Sequence[str],
    text: Container[int],
    missing: Container[str],
    advice: str,
) -> list[np.ndarray]:
    """The columns below the first line, those at the positions `text` as strings.

    missing : what stands for a missing value;  advice : for lines of another length
    """
    rows = []
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=separator, strict=True)
        next(reader, None)
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise DataError(
                    f"{path}: Expected {len(names)} columns, got {len(row)} in line "
                    f"{reader.line_num}; {advice}"
                )
            rows.append([None if value in missing else value for value in row])
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return [_column(values, position in text) for position, values in enumerate(columns)]


def _column(values: Sequence[str | None], text: bool) -> np.ndarray:
    """Values as whole numbers, numbers with NaN for gaps, booleans; else objects, None for gaps."""
    known = [value for value in values if value is not None]
    if not text and known:
        whole = len(known) == len(values)
        if whole and all(map(_INTEGER.fullmatch, known)):
            return np.array([int(value) for value in known])
        if all(value in _FLAGS for value in known):
            flags = [None if value is None else _FLAGS[value] for value in values]
            return np.array(flags, bool if whole else object)
        try:
            if not any("_" in value for value in known):  # which Python allows in numbers
                return np.array([np.nan if v is None else float(v) for v in values])
        except ValueError:
            pass
    if not text and not known:
        return np.full(len(values), np.nan)
    column = np.empty(len(values), object)
    column[:] = values
    return column
