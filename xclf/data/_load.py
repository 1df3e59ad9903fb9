"""One door for DATA: a name or a path, to a Dataset."""

from __future__ import annotations

import difflib
import os
from os import PathLike
from pathlib import Path

import numpy as np

from xclf.data._arrays import read_npy, read_npy_folder, read_npz
from xclf.data._cifar import (
    is_cifar10_file,
    is_cifar10_folder,
    read_cifar10,
    read_cifar10_file,
)
from xclf.data._dataset import DEFAULT_MEMORY, DataError, Dataset
from xclf.data._idx import is_idx_file, is_idx_folder, read_idx_file, read_idx_folder
from xclf.data._svmlight import read_svmlight
from xclf.data._tables import read_csv, read_parquet

_KINDS = (
    "digits, .npz, 'x.npy,y.npy', a CIFAR-10 or MNIST-style folder, .csv, .tsv, .parquet, "
    ".svmlight, .libsvm, .svm"
)
_UNPACK = (".zip", ".tar", ".tgz", ".tar.gz", ".7z")
_PICKLES = (".pkl", ".pickle", ".joblib")


def load(
    source: str | PathLike[str],
    *,
    label: str | None = None,
    x_name: str = "X",
    y_name: str = "y",
    max_memory: int | None = None,
    need_labels: bool = True,
    n_features: int | None = None,
) -> Dataset:
    """Reads DATA: rows (N, D), labels (N,) and what else the format tells.

    source : what is read goes by the name:
        "digits"               scikit-learn's 1,797 digits of 8 x 8, uint8 in 0..16
        .npz                   arrays `x_name`, `y_name`; held-out X_test, y_test if both are there
        .npy                   rows alone; "x.npy,y.npy" rows and labels; or a folder that holds
                               X.npy and y.npy (`x_name`, `y_name`), and X_test.npy, y_test.npy
        CIFAR-10               folder of batches, binary or python, or the one above; or one batch
        IDX                    a folder with train-images-idx3-ubyte and train-labels-idx1-ubyte
                               (and t10k-*), gz or not; or one images file
        .csv, .tsv, .parquet   a header line (or column names), a label column; .csv.gz, .tsv.gz
        .svmlight .libsvm .svm made dense
    label : label column of a table; by default the one called label, target, y or class
    max_memory : bytes of one dense array, 4 GiB by default; files that are mapped may be larger
    need_labels : False for rows to predict: without labels in the source `y` is None
    n_features : columns of an svmlight file, which itself only shows the largest index used

    Returns a Dataset. Images keep uint8, (N, H, W[, C]) arrays become rows; files of floats keep
    their dtype, CSV and svmlight text gives float64 (CSV: uint8 if all whole numbers in 0..255).

    Raises DataError, one line, for anything wrong with the source.
    """
    limit = DEFAULT_MEMORY if max_memory is None else max_memory
    if limit <= 0:
        raise DataError(f"max_memory must be a positive number of bytes, got {max_memory}")
    path, name = Path(source), os.fspath(source)
    if name == "digits":
        return _digits()
    if not path.exists():
        return _read_pair(name)
    if path.is_dir():
        return _read_folder(path, x_name, y_name, need_labels, limit)
    if path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv")):
        return read_csv(path, label, need_labels)
    if path.suffix.lower() == ".parquet":
        return read_parquet(path, label, need_labels)
    if path.suffix.lower() in (".svmlight", ".libsvm", ".svm"):
        return read_svmlight(path, limit, n_features)
    return _read_arrays(path, x_name, y_name, need_labels, limit)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Dataset(
        x=digits.data.astype(np.uint8),  # whole numbers, 0..16
        y=digits.target.astype(np.int64),
        source="digits",
        class_names=tuple(str(name) for name in digits.target_names),
        image_shape=(8, 8, 1),
        pixel_layout="channel_last",
    )


def _read_arrays(
    path: Path, x_name: str, y_name: str, need_labels: bool, max_memory: int
) -> Dataset:
    if is_cifar10_file(path):
        return read_cifar10_file(path)
    if is_idx_file(path):
        return read_idx_file(path, need_labels, max_memory)
    if path.suffix.lower() == ".npz":
        return read_npz(path, x_name, y_name, need_labels, max_memory)
    if path.suffix.lower() == ".npy":
        if need_labels:
            raise DataError(f"{path}: rows without labels; give both as '{path},LABELS.npy'")
        return read_npy(path, None)
    raise DataError(_unknown(path))


def _read_folder(
    path: Path, x_name: str, y_name: str, need_labels: bool, max_memory: int
) -> Dataset:
    if (path / f"{x_name}.npy").is_file():
        return read_npy_folder(path, x_name, y_name, need_labels)
    if is_cifar10_folder(path):
        return read_cifar10(path)
    if is_idx_folder(path):
        return read_idx_folder(path, need_labels, max_memory)
    raise DataError(
        f"{path}: no data set in this folder; looked for {x_name}.npy and {y_name}.npy, CIFAR-10 "
        "batches (data_batch_1.bin or data_batch_1) and train-images-idx3-ubyte"
    )


def _read_pair(name: str) -> Dataset:
    """Rows and labels of "x.npy,y.npy"; a comma elsewhere in a path is no matter."""
    first, comma, second = name.partition(".npy,")
    if not comma or not second.endswith(".npy"):
        raise DataError(_not_found(name, Path(name)))
    return read_npy(Path(first + ".npy"), Path(second))


def _not_found(name: str, path: Path) -> str:
    if not path.parent.is_dir():
        return f"{name}: no such file or folder"
    beside = [entry.name for entry in path.parent.iterdir()] + ["digits"]
    close = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; DATA can be {_KINDS}"
    return f"{name}: no such file or folder{hint}"


def _unknown(path: Path) -> str:
    name = path.name.lower()
    if name.endswith(_UNPACK):
        return f"{path}: unpack this archive first, then give the folder"
    if name.endswith(_PICKLES):
        return f"{path}: pickles are programs and are not read; save the arrays with np.savez"
    return f"{path}: this kind of file is not known; DATA can be {_KINDS}"
