"""Several files as one data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.sparse

from xclf.data._blocks import in_blocks
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
    first = reads[0]()
    if scipy.sparse.issparse(first.x):
        return _stacked(source, reads)
    rows, columns, dtype = 0, first.x.shape[1], first.x.dtype
    for read in reads:
        part = read()
        if part.x.shape[1] != columns or part.feature_names != first.feature_names:
            raise DataError(
                f"{part.source}: has {count(part.x.shape[1], 'column')}, {first.source} {columns}, "
                "or other names; files of one data set have the same"
            )
        if (part.y is None) != (first.y is None):
            raise DataError(f"{part.source}: of {source} some files have labels, others none")
        rows, dtype = rows + len(part.x), np.result_type(dtype, part.x.dtype)
    if options.blocks:
        parts = [(read, read()) for read in reads]
        y = _labels(source, [part.y for _, part in parts])
        return in_blocks(first, parts, y=y, source=str(source), test=None)
    check_memory(str(source), rows * columns * dtype.itemsize, options.max_memory, _ADVICE)
    x, labels, ids, start = np.empty((rows, columns), dtype), [], [], 0
    for read in reads:
        part = read()
        x[start : start + len(part.x)] = part.x
        start += len(part.x)
        labels.append(part.y)
        ids.append(part.ids)
    known = [one for one in ids if one is not None]
    names = np.concatenate(known) if len(known) == len(reads) else None
    y = _labels(source, labels)
    return replace(first, x=x, y=y, source=str(source), test=None, ids=names)


def _stacked(source: str | Path, reads: Sequence[Callable[[], Dataset]]) -> Dataset:
    """The sparse rows of all parts, whose columns are those of the widest."""
    parts = [read() for read in reads]
    columns = max(part.x.shape[1] for part in parts)
    for part in parts:
        part.x.resize(part.x.shape[0], columns)
    labels = [part.y for part in parts]
    if len({part is None for part in labels}) > 1:
        raise DataError(f"{source}: some files have labels, others none")
    x = scipy.sparse.vstack([part.x for part in parts], format="csr")
    return replace(parts[0], x=x, y=_labels(source, labels), source=str(source), test=None)


def _labels(source: str | Path, parts: list[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if len({part.dtype.kind for part in known}) > 1:
        raise DataError(f"{source}: labels are numbers in some files and text in others")
    return np.concatenate(known)
