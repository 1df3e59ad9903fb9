"""svmlight / libsvm text files, made dense where that fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_svmlight_file

from xclf.data._arrays import tidy_labels
from xclf.data._dataset import DataError, Dataset, count, reading, size


def read_svmlight(path: Path, max_memory: int, n_features: int | None = None) -> Dataset:
    """Rows (N, D) float64 and labels from a text file of `label index:value ...` lines.

    max_memory : bytes; DataError if the dense rows would take more
    n_features : D, where it is known: the file itself only shows the largest index used

    Indices start at 1 or 0: at 0 if any is 0 (scikit-learn's "auto").
    Format: https://www.csie.ntu.edu.tw/~cjlin/libsvm/
    """
    with reading(path):
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        sparse, y = load_svmlight_file(str(path), dtype=np.float64)
        rows, used = sparse.shape
        columns = used if n_features is None else n_features
        if used > columns:
            raise DataError(
                f"{path}: has {count(used, 'column')}, more than the {columns:,} expected"
            )
        needed = rows * columns * 8
        if needed > max_memory:
            raise DataError(
                f"{path}: {count(rows, 'row')} of {count(columns, 'column')} take {size(needed)} "
                f"dense, more than max_memory = {size(max_memory)}; raise it, or use fewer rows"
            )
        sparse.resize(rows, columns)
        return Dataset(x=sparse.toarray(), y=tidy_labels(y, str(path)), source=str(path))
