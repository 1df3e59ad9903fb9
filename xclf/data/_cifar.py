"""CIFAR-10 and CIFAR-100 as their authors ship them, in binary or python batches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from xclf.data._dataset import DataError, Dataset, count, listing, reading, size
from xclf.data._pickles import read_pickle

_PIXELS = 32 * 32 * 3


@dataclass(frozen=True)
class _Archive:
    """How one of the two sets is stored.

    label_bytes : of a binary record, before its pixels; the last is the class
    names : the classes where the archive's own list (binary, python) was not unpacked
    """

    title: str
    train: tuple[str, ...]
    test: str
    folders: tuple[str, ...]
    label_bytes: int
    label_key: str
    classes: int
    lists: tuple[str, str]
    names_key: str
    names: tuple[str, ...] | None

    @property
    def batches(self) -> tuple[str, ...]:
        return (*self.train, self.test)


_CIFAR10 = _Archive(
    title="CIFAR-10",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    folders=(".", "cifar-10-batches-bin", "cifar-10-batches-py"),
    label_bytes=1,
    label_key="labels",
    classes=10,
    lists=("batches.meta.txt", "batches.meta"),
    names_key="label_names",
    names=(
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
)
_CIFAR100 = _Archive(
    title="CIFAR-100",
    train=("train",),
    test="test",
    folders=(".", "cifar-100-binary", "cifar-100-python"),
    label_bytes=2,
    label_key="fine_labels",
    classes=100,
    lists=("fine_label_names.txt", "meta"),
    names_key="fine_label_names",
    names=None,
)


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
    if _find(_CIFAR10, Path(folder)) is None:
        raise DataError(
            f"{folder}: no CIFAR-10 batches; give the folder that holds data_batch_1.bin (binary) "
            "or data_batch_1 (python)"
        )
    return _read_folder(_CIFAR10, Path(folder))


def read_cifar100(folder: Path) -> Dataset:
    """The CIFAR-100 archive, as `read_cifar10` reads the other; its classes are the fine ones."""
    return _read_folder(_CIFAR100, folder)


def _read_folder(archive: _Archive, folder: Path) -> Dataset:
    found = _find(archive, folder)
    assert found is not None
    home, suffix = found
    paths = [home / (name + suffix) for name in archive.batches]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{home}: missing {listing(missing)}; unpack the archive again")
    names = _class_names(archive, home, suffix)
    test = _read(archive, paths[-1:], names, source=str(paths[-1]))
    return _read(archive, paths[:-1], names, source=str(home), test=test)


def read_cifar_file(path: Path) -> Dataset:
    """The rows of one batch, binary (.bin) or python, of either set."""
    archive = _CIFAR100 if path.stem in _CIFAR100.batches else _CIFAR10
    return _read(archive, [path], _class_names(archive, path.parent, path.suffix), str(path))


def is_cifar10_folder(path: Path) -> bool:
    """Whether `path`, or one of the archive's folders in it, holds a CIFAR-10 batch."""
    return _find(_CIFAR10, path) is not None


def is_cifar100_folder(path: Path) -> bool:
    """Whether `path`, or one of the archive's folders in it, holds the whole of CIFAR-100."""
    found = _find(_CIFAR100, path)
    if found is None:
        return False
    home, suffix = found  # files called train and test may be anything: its list of names is there
    return (home / _CIFAR100.lists[not suffix]).is_file()


def is_cifar_file(path: Path) -> bool:
    """Whether the name of `path` is that of a batch: any .bin, data_batch_1, test_batch; or train
    and test beside CIFAR-100's `meta`."""
    if path.name in _CIFAR100.batches:
        return (path.parent / _CIFAR100.lists[1]).is_file()
    return path.suffix == ".bin" or bool(re.fullmatch(r"data_batch_\d+|test_batch", path.name))


def _find(archive: _Archive, path: Path) -> tuple[Path, str] | None:
    """(folder, suffix of its batches); binary before python where both are there."""
    for suffix in (".bin", ""):
        for below in archive.folders:
            home = path / below
            if any((home / (name + suffix)).is_file() for name in archive.batches):
                return home, suffix
    return None


def _read(
    archive: _Archive,
    paths: list[Path],
    names: tuple[str, ...] | None,
    source: str,
    test: Dataset | None = None,
) -> Dataset:
    parts = [
        (_read_binary if path.suffix == ".bin" else _read_python)(archive, path) for path in paths
    ]
    return Dataset(
        x=np.concatenate([x for x, _ in parts]),  # of maps, for binary files: one copy in memory
        y=np.concatenate([y for _, y in parts]),
        source=source,
        class_names=names,
        image_shape=(32, 32, 3),
        pixel_layout="channel_first",
        test=test,
    )


def _read_binary(archive: _Archive, path: Path) -> tuple[np.ndarray, np.ndarray]:
    record = archive.label_bytes + _PIXELS
    with reading(path):
        length = path.stat().st_size
        if length % record:
            raise DataError(
                f"{path}: {size(length)} is not a whole number of {record}-byte "
                f"{archive.title} records; the file is cut short, or not {archive.title}"
            )
        records = np.memmap(path, np.uint8, "r", shape=(length // record, record))
        pixels = archive.label_bytes
        return records[:, pixels:], _labels(archive, path, records[:, pixels - 1])


def _read_python(archive: _Archive, path: Path) -> tuple[np.ndarray, np.ndarray]:
    batch = read_pickle(path)
    for key in ("data", archive.label_key):
        if key not in batch:
            raise DataError(
                f"{path}: no {key!r} in this batch, which holds {listing(batch)}; not "
                f"{archive.title}"
            )
    x = batch["data"]
    if not (isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.ndim == 2):
        raise DataError(f"{path}: 'data' is not a table of bytes; not {archive.title}")
    if x.shape[1] != _PIXELS or len(x) == 0:
        raise DataError(
            f"{path}: 'data' has shape {x.shape}, not (N, {_PIXELS}); not {archive.title}"
        )
    y = _labels(archive, path, batch[archive.label_key])
    if len(y) != len(x):
        raise DataError(f"{path}: {count(len(x), 'image')} but {count(len(y), 'label')}")
    return x, y


def _labels(archive: _Archive, path: Path, values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu" and values.ndim == 1:
        values = values.tolist()
    if type(values) not in (list, tuple) or not all(type(value) is int for value in values):
        raise DataError(
            f"{path}: {archive.label_key!r} is not a list of integers; not {archive.title}"
        )
    if not all(0 <= value < archive.classes for value in values):
        raise DataError(
            f"{path}: labels outside 0..{archive.classes - 1}; corrupt, or not {archive.title}"
        )
    return np.array(values, dtype=np.int64)


def _class_names(archive: _Archive, home: Path, suffix: str) -> tuple[str, ...] | None:
    """The names from the archive's own list; those known, if that list was not unpacked."""
    path = home / archive.lists[not suffix]
    if not path.is_file():
        return archive.names
    names: list[Any] = []
    if suffix:
        with reading(path):
            names += path.read_text(encoding="utf-8").split()
    else:
        listed = read_pickle(path).get(archive.names_key)
        names += listed if type(listed) is list else []
    if len(names) != archive.classes or not all(type(n) in (str, bytes) and n for n in names):
        raise DataError(
            f"{path}: does not hold {archive.classes} class names; unpack the archive again"
        )
    return tuple(name if type(name) is str else name.decode("latin-1") for name in names)
