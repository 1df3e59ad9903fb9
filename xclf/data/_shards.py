"""Several files as one data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from xclf.data._blocks import Piece, in_blocks, widened
from xclf.data._dataset import DataError, Dataset, ReadOptions, check_memory, count

_ADVICE = "use fewer files"


def parts_of(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(files to train on, files to test on): all and none, unless some are called train* and some
    test*."""
    train, test = ([p for p in paths if p.name.startswith(part)] for part in ("train", "test"))
    return (train, test) if train and test else (list(paths), [])


def joined(
    source: str | Path, reads: Sequence[Callable[[], Dataset]], options: ReadOptions
) -> Dataset:
    """The rows of all parts in one array.

    Each part is read twice, for its shape and for its rows, and none is kept: the rows are in
    memory once, and once more those of one part that is not mapped.
    """
    if options.blocks:
        return _in_blocks(source, reads)
    first = reads[0]()
    if scipy.sparse.issparse(first.x):
        return _stacked(source, reads)
    rows, dtype = 0, first.x.dtype
    for read in reads:
        part = read()
        _check_alike(source, first, part)
        rows, dtype = rows + len(part.x), np.result_type(dtype, part.x.dtype)
    columns = first.x.shape[1]
    check_memory(str(source), rows * columns * dtype.itemsize, options.max_memory, _ADVICE)
    x, labels, ids, start = np.empty((rows, columns), dtype), [], [], 0
    for read in reads:
        part = read()
        x[start : start + len(part.x)] = part.x
        start += len(part.x)
        labels.append(part.y)
        ids.append(part.ids)
    y = _labels(source, labels)
    return replace(first, x=x, y=y, source=str(source), test=None, ids=_ids(ids))


def _in_blocks(source: str | Path, reads: Sequence[Callable[[], Dataset]]) -> Dataset:
    """The rows of all parts, of which one is in memory at a time: labels and ids stay."""
    first = reads[0]()
    pieces, labels, ids = [], [], []
    for number, read in enumerate(reads):
        part = read() if number else first
        _check_alike(source, first, part)
        pieces.append(Piece.of(read, part))
        labels.append(part.y)
        ids.append(part.ids)
    beside: dict[str, Any] = {"y": _labels(source, labels), "ids": _ids(ids)}
    return in_blocks(first, pieces, source=str(source), test=None, **beside)


def _check_alike(source: str | Path, first: Dataset, part: Dataset) -> None:
    sparse = scipy.sparse.issparse(part.x)
    if sparse != scipy.sparse.issparse(first.x):
        raise DataError(f"{source}: some files hold sparse rows, others dense ones")
    narrow = not sparse and part.x.shape[1] != first.x.shape[1]
    if narrow or part.feature_names != first.feature_names:
        raise DataError(
            f"{part.source}: has {count(part.x.shape[1], 'column')}, {first.source} "
            f"{first.x.shape[1]}, or other names; files of one data set have the same"
        )
    if (part.y is None) != (first.y is None):
        raise DataError(f"{part.source}: of {source} some files have labels, others none")


def _stacked(source: str | Path, reads: Sequence[Callable[[], Dataset]]) -> Dataset:
    """The sparse rows of all parts, whose columns are those of the widest."""
    parts = [read() for read in reads]
    for part in parts:
        _check_alike(source, parts[0], part)
    # A file that never uses the index 0 seems to count from 1.
    bases = [part.index_base or 0 for part in parts]
    first = min(bases)
    shifts = [base - first for base in bases]
    columns = max(part.x.shape[1] + shift for part, shift in zip(parts, shifts, strict=True))
    x = scipy.sparse.vstack(
        [widened(part.x, columns, shift) for part, shift in zip(parts, shifts, strict=True)],
        format="csr",
    )
    base = None if parts[0].index_base is None else first
    y = _labels(source, [part.y for part in parts])
    return replace(parts[0], x=x, y=y, source=str(source), test=None, index_base=base)


def _ids(parts: list[np.ndarray | None]) -> np.ndarray | None:
    known = [one for one in parts if one is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _labels(source: str | Path, parts: list[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if len({part.dtype.kind for part in known}) > 1:
        raise DataError(f"{source}: labels are numbers in some files and text in others")
    return np.concatenate(known)
