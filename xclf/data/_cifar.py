"""CIFAR-10 as its authors ship it, in binary or python batches."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from xclf.data._dataset import DataError, Dataset, count, listing, reading, size
from xclf.data._pickles import read_pickle

_PIXELS = 32 * 32 * 3
_RECORD = 1 + _PIXELS  # one label byte, then the pixels
_CLASSES = 10
_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_FOLDERS = (".", "cifar-10-batches-bin", "cifar-10-batches-py")


def read_cifar10(folder: str | PathLike[str]) -> Dataset:
    """Read the CIFAR-10 archive: 50,000 training rows, with the 10,000 test rows in `.test`.

    Parameters
    ----------
    folder : str or path
        The unpacked cifar-10-batches-bin or cifar-10-batches-py, or the folder that holds it.

    Returns
    -------
    Dataset
        `x` (50000, 3072) uint8, each row 1,024 red, then green, then blue values of 32 x 32 pixels,
        row-major ("channel_first"; `images()` gives (N, 32, 32, 3)); `y` (50000,) int64 in 0..9;
        `class_names`; and the test batch as `test`.

    Raises
    ------
    DataError
        If a file is missing, short or corrupt.

    Notes
    -----
    The python batches are pickles and are read without executing them.
    Format: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    archive = _find(Path(folder))
    if archive is None:
        raise DataError(
            f"{folder}: no CIFAR-10 batches; give the folder that holds data_batch_1.bin (binary) "
            "or data_batch_1 (python)"
        )
    home, suffix = archive
    paths = [home / (name + suffix) for name in (*_TRAIN, _TEST)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{home}: missing {listing(missing)}; unpack the archive again")
    names = _class_names(home, suffix)
    test = _read(paths[-1:], names, source=str(paths[-1]))
    return _read(paths[:-1], names, source=str(home), test=test)


def read_cifar10_file(path: Path) -> Dataset:
    """The rows of one CIFAR-10 batch, binary (.bin) or python."""
    return _read([path], _class_names(path.parent, path.suffix), source=str(path))


def is_cifar10_folder(path: Path) -> bool:
    """Whether `path`, or one of the archive's folders in it, holds a CIFAR-10 batch."""
    return _find(path) is not None


def is_cifar10_file(path: Path) -> bool:
    """Whether the name of `path` is that of a batch: any .bin, data_batch_1, test_batch."""
    return path.suffix == ".bin" or bool(re.fullmatch(r"data_batch_\d+|test_batch", path.name))


def _find(path: Path) -> tuple[Path, str] | None:
    """(folder, suffix of its batches); binary before python where both are there."""
    for suffix in (".bin", ""):
        for below in _FOLDERS:
            home = path / below
            if any((home / (name + suffix)).is_file() for name in (*_TRAIN, _TEST)):
                return home, suffix
    return None


def _read(
    paths: list[Path], names: tuple[str, ...], source: str, test: Dataset | None = None
) -> Dataset:
    parts = [_read_binary(path) if path.suffix == ".bin" else _read_python(path) for path in paths]
    return Dataset(
        x=np.concatenate([x for x, _ in parts]),  # of maps, for binary files: one copy in memory
        y=np.concatenate([y for _, y in parts]),
        source=source,
        class_names=names,
        image_shape=(32, 32, 3),
        pixel_layout="channel_first",
        test=test,
    )


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with reading(path):
        length = path.stat().st_size
        if length % _RECORD:
            raise DataError(
                f"{path}: {size(length)} is not a whole number of {_RECORD}-byte CIFAR-10 records; "
                "the file is cut short, or not CIFAR-10"
            )
        records = np.memmap(path, np.uint8, "r", shape=(length // _RECORD, _RECORD))
        return records[:, 1:], _labels(path, records[:, 0])


def _read_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    batch = read_pickle(path)
    for key in ("data", "labels"):
        if key not in batch:
            raise DataError(
                f"{path}: no {key!r} in this batch, which holds {listing(batch)}; not CIFAR-10"
            )
    x = batch["data"]
    if not (isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.ndim == 2):
        raise DataError(f"{path}: 'data' is not a table of bytes; not CIFAR-10")
    if x.shape[1] != _PIXELS or len(x) == 0:
        raise DataError(f"{path}: 'data' has shape {x.shape}, not (N, {_PIXELS}); not CIFAR-10")
    y = _labels(path, batch["labels"])
    if len(y) != len(x):
        raise DataError(f"{path}: {count(len(x), 'image')} but {count(len(y), 'label')}")
    return x, y


def _labels(path: Path, values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu" and values.ndim == 1:
        values = values.tolist()
    if type(values) is not list or not all(type(value) is int for value in values):
        raise DataError(f"{path}: 'labels' is not a list of integers; not CIFAR-10")
    if not all(0 <= value < _CLASSES for value in values):
        raise DataError(f"{path}: labels outside 0..{_CLASSES - 1}; corrupt, or not CIFAR-10")
    return np.array(values, dtype=np.int64)


def _class_names(home: Path, suffix: str) -> tuple[str, ...]:
    """The ten names from the archive's own list; CIFAR-10's, if that list was not unpacked."""
    path = home / ("batches.meta.txt" if suffix else "batches.meta")
    if not path.is_file():
        return _NAMES
    names: list[Any] = []
    if suffix:
        with reading(path):
            names += path.read_text(encoding="utf-8").split()
    else:
        listed = read_pickle(path).get("label_names")
        names += listed if type(listed) is list else []
    if len(names) != _CLASSES or not all(type(name) in (str, bytes) and name for name in names):
        raise DataError(f"{path}: does not hold {_CLASSES} class names; unpack the archive again")
    return tuple(name if type(name) is str else name.decode("latin-1") for name in names)
