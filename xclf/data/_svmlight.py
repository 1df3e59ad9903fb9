"""svmlight / libsvm text files, as dense rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_svmlight_file

from xclf.data._arrays import as_labels
from xclf.data._dataset import DataError, Dataset, ReadOptions, check_memory, count, reading


def read_svmlight(path: Path, options: ReadOptions) -> Dataset:
    """Rows (N, D) float64 and labels from a text file of lines `label index:value ...`.

    D is `n_features`, or the largest index in the file. Indices start at 0 if any is 0, else at 1
    (scikit-learn's "auto"). Format: https://www.csie.ntu.edu.tw/~cjlin/libsvm/
    """
    with reading(path):
        sparse, y = load_svmlight_file(str(path), dtype=np.float64)
        rows, used = sparse.shape
        columns = used if options.n_features is None else options.n_features
        if used > columns:
            raise DataError(
                f"{path}: has {count(used, 'column')}, more than the {columns:,} expected"
            )
        dense = f"{path}: {count(rows, 'row')} of {count(columns, 'column')}, dense"
        check_memory(dense, rows * columns * 8, options.max_memory, "use fewer rows")
        sparse.resize(rows, columns)
        return Dataset(x=sparse.toarray(), y=as_labels(y, str(path)), source=str(path))
