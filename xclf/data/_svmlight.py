"""svmlight / libsvm text files, as sparse rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse
from sklearn.datasets import load_svmlight_file

from xclf._sparse_input import canonical
from xclf.data._arrays import as_labels
from xclf.data._dataset import (
    BOM,
    BytesFile,
    DataError,
    Dataset,
    ReadOptions,
    check_memory,
    count,
    open_bytes,
    reading,
)

_ENTRY = 12  # bytes of an entry: a float64, and its column
_LINE = re.compile(rb"[-+0-9.eE]+(\s+qid:\d+)?(\s+\d+:[-+0-9.eEnaif]+)+\s*(#.*)?")


def read_svmlight(path: Path, options: ReadOptions) -> Dataset:
    """Sparse rows (N, D) in float64 and labels from a text file of lines `label index:value ...`.

    The first column has the index `index_base`: without that option 0 if the file uses 0, else 1.
    D is `n_features`, or what the largest index needs. The file may be compressed (gzip, bzip2).
    Format: https://www.csie.ntu.edu.tw/~cjlin/libsvm/
    """
    with reading(path):
        with open_bytes(path) as file:
            lines = _Lines(file, path, options.max_memory)
            sparse, y = load_svmlight_file(lines, dtype=np.float64, zero_based=True)
        lowest = int(sparse.indices.min()) if sparse.nnz else 1
        base = int(lowest > 0) if options.index_base is None else options.index_base
        if lowest < base:
            raise DataError(
                f"{path}: has the index 0, but the columns of the training data count from 1; "
                "write both files with the same first index"
            )
        rows, used = sparse.shape[0], int(sparse.indices.max()) + 1 - base if sparse.nnz else 0
        columns = max(used, 1) if options.n_features is None else options.n_features
        if used > columns:
            raise DataError(
                f"{path}: has {count(used, 'column')}, more than the {columns:,} expected"
            )
        weights = f"{path}: weights of {count(columns, 'column')}"
        check_memory(weights, columns * 8, options.max_memory, "use smaller indices")
        sparse.indices -= base
        sparse.resize(rows, columns)
        x = canonical(scipy.sparse.csr_array(sparse)).matrix
        return Dataset(x=x, y=as_labels(y, str(path)), source=str(path), index_base=base)


def is_svmlight_text(path: Path) -> bool:
    """Whether the first line of a file that is not blank or a comment has this format."""
    with reading(path), open_bytes(path) as file:
        lines = file.read(1 << 16).removeprefix(BOM).splitlines()
    first = next((line for line in lines if line.strip() and not line.startswith(b"#")), b"")
    return _LINE.fullmatch(first.strip()) is not None


class _Lines:
    """The lines of a file for the parser; `DataError` once they need more than `max_memory`."""

    def __init__(self, file: BytesFile, path: Path, max_memory: int) -> None:
        self.file, self.path, self.max_memory = file, path, max_memory
        self.read = file.read  # a parser takes for a file what has it

    def __iter__(self) -> Iterator[bytes]:
        values = 0
        for number, line in enumerate(self.file):
            values += max(1, line.count(b":"))
            if values * _ENTRY > self.max_memory:
                least = f"{self.path}: its first {count(number + 1, 'row')}"
                check_memory(least, values * _ENTRY, self.max_memory, "use fewer rows")
            yield line if number else line.removeprefix(BOM)
