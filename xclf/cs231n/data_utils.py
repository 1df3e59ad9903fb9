"""CIFAR-10 for the notebooks: images and labels in NumPy arrays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from xclf.data import Dataset, read_cifar10

__all__ = ["get_CIFAR10_data", "load_CIFAR10"]

_HANDOUT_FOLDER = "cs231n/datasets/cifar-10-batches-py"


def load_CIFAR10(  # noqa: N802
    ROOT: str | os.PathLike[str],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All of CIFAR-10, from python batches or from the binary layout.

    ROOT : the folder with the batches; FileNotFoundError if it is missing

    Returns X_train (50000, 32, 32, 3) float64 in 0..255, y_train (50000,) int64, and X_test, y_test
    with 10000 rows. Takes 1.5 GB.
    """
    (X_train, y_train), (X_test, y_test) = map(_images, _read(ROOT))
    X_train, X_test = (X.astype(np.float64, order="C") for X in (X_train, X_test))
    return X_train, y_train, X_test, y_test


def get_CIFAR10_data(  # noqa: N802
    num_training: int = 49000,
    num_validation: int = 1000,
    num_test: int = 1000,
    subtract_mean: bool = True,
    *,
    root: str | os.PathLike[str] | None = None,
) -> dict[str, np.ndarray]:
    """The split of the course: the first rows train, the next validate, and the first test rows.

    subtract_mean : takes the mean training picture off all three parts
    root : the folder with the batches; else the environment variable CIFAR10_DIR, else
           'cs231n/datasets/cifar-10-batches-py', where the course's download script puts it

    Returns X_train (num_training, 3, 32, 32) float64, y_train (num_training,) int64, and X_val,
    y_val, X_test, y_test. Raises FileNotFoundError if the folder is missing, ValueError for parts
    that are larger than the data.
    """
    train, test = _read(root or os.environ.get("CIFAR10_DIR") or _HANDOUT_FOLDER)
    parts = {
        "train": (train, 0, num_training),
        "val": (train, num_training, num_training + num_validation),
        "test": (test, 0, num_test),
    }
    data = {}
    for name, (source, start, stop) in parts.items():
        if not 0 <= start <= stop <= len(source.x):
            raise ValueError(f"{name}: rows {start} to {stop} of {len(source.x)} do not exist")
        images, labels = _images(source, slice(start, stop))
        data[f"X_{name}"] = images.transpose(0, 3, 1, 2).astype(np.float64, order="C")
        data[f"y_{name}"] = labels
    if subtract_mean:
        mean = np.mean(data["X_train"], axis=0)
        for name in parts:
            data[f"X_{name}"] -= mean
    return data


def _read(root: str | os.PathLike[str]) -> tuple[Dataset, Dataset]:
    if not Path(root).is_dir():
        raise FileNotFoundError(
            f"no folder {os.fspath(root)!r} with CIFAR-10 batches: name it with root=... or the "
            "environment variable CIFAR10_DIR"
        )
    train = read_cifar10(root)
    assert train.test is not None
    return train, train.test


def _images(source: Dataset, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3), a view of bytes, and a copy of their labels."""
    assert source.y is not None
    return source.images()[rows], np.array(source.y[rows])
