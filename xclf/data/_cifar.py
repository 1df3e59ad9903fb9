"""CIFAR-10 and CIFAR-100 as their authors ship them, in binary or python batches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from xclf.data._dataset import DataError, Dataset, ReadOptions, count, listing, reading, size
from xclf.data._pickles import read_pickle

_PIXELS = 32 * 32 * 3


@dataclass(frozen=True)
class _Labels:
    """One of the labels of each image.

    name : of the choice;  byte : of a binary record;  key : in a python batch
    listing, names_key : of the names of its classes, a text file (binary), a key of `meta` (python)
    names : the classes where neither was unpacked
    """

    name: str
    byte: int
    key: str
    classes: int
    listing: str
    names_key: str
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Archive:
    """How one of the two sets is stored.

    meta : of the python batches
    labels : the first is the usual one; in a binary record they are bytes before the pixels
    """

    title: str
    train: tuple[str, ...]
    test: str
    folders: tuple[str, ...]
    meta: str
    labels: tuple[_Labels, ...]

    @property
    def batches(self) -> tuple[str, ...]:
        return (*self.train, self.test)

    def chosen(self, options: ReadOptions) -> tuple[_Labels, ...]:
        """The labels that `label` names. DataError for unknown ones, if they were meant for these
        data."""
        if len(self.labels) == 1 or options.label is None:
            return self.labels[:1]
        known = {own.name: own for own in self.labels}
        wanted = (options.label,) if isinstance(options.label, str) else options.label
        unknown = [name for name in wanted if name not in known]
        if not unknown:
            return tuple(known[name] for name in wanted)
        if options.missing_ok:
            return self.labels[:1]
        choices = " and ".join(f"{own.name} ({own.classes} classes)" for own in self.labels)
        raise DataError(f"{self.title} has no labels {unknown[0]!r}: its labels are {choices}")


_CIFAR10 = _Archive(
    title="CIFAR-10",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    folders=(".", "cifar-10-batches-bin", "cifar-10-batches-py"),
    meta="batches.meta",
    labels=(
        _Labels(
            *("label", 0, "labels", 10, "batches.meta.txt", "label_names"),
            names=(
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ),
        ),
    ),
)
_CIFAR100 = _Archive(
    title="CIFAR-100",
    train=("train",),
    test="test",
    folders=(".", "cifar-100-binary", "cifar-100-python"),
    meta="meta",
    labels=(
        _Labels("fine", 1, "fine_labels", 100, "fine_label_names.txt", "fine_label_names"),
        _Labels("coarse", 0, "coarse_labels", 20, "coarse_label_names.txt", "coarse_label_names"),
    ),
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
    return _read_folder(_CIFAR10, Path(folder), ReadOptions())


def read_cifar100(folder: Path, options: ReadOptions) -> Dataset:
    """The CIFAR-100 archive, as `read_cifar10` reads the other; its classes are the fine ones, or
    those that `options.label` names."""
    return _read_folder(_CIFAR100, folder, options)


def _read_folder(archive: _Archive, folder: Path, options: ReadOptions) -> Dataset:
    found = _find(archive, folder)
    assert found is not None
    home, suffix = found
    paths = [home / (name + suffix) for name in archive.batches]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{home}: missing {listing(missing)}; unpack the archive again")
    test = _read(archive, paths[-1:], options, source=str(paths[-1]))
    return _read(archive, paths[:-1], options, source=str(home), test=test)


def read_cifar_file(path: Path, options: ReadOptions) -> Dataset:
    """The rows of one batch, binary (.bin) or python, of either set."""
    archive = _CIFAR100 if path.stem in _CIFAR100.batches else _CIFAR10
    return _read(archive, [path], options, str(path))


def is_cifar10_folder(path: Path) -> bool:
    """Whether `path`, or one of the archive's folders in it, holds a CIFAR-10 batch."""
    return _find(_CIFAR10, path) is not None


def is_cifar100_folder(path: Path) -> bool:
    """Whether `path`, or one of the archive's folders in it, holds the whole of CIFAR-100."""
    found = _find(_CIFAR100, path)
    if found is None:
        return False
    home, suffix = found  # files called train and test may be anything: its list of names is there
    return (home / (_CIFAR100.labels[0].listing if suffix else _CIFAR100.meta)).is_file()


def is_cifar_file(path: Path) -> bool:
    """Whether the name of `path` is that of a batch: any .bin, data_batch_1, test_batch; or train
    and test beside CIFAR-100's `meta`."""
    if path.name in _CIFAR100.batches:
        return (path.parent / _CIFAR100.meta).is_file()
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
    options: ReadOptions,
    source: str,
    test: Dataset | None = None,
) -> Dataset:
    labels = archive.chosen(options)
    parts = [
        (_read_binary if path.suffix == ".bin" else _read_python)(archive, labels, path)
        for path in paths
    ]
    y = [np.concatenate([own[k] for _, own in parts]) for k in range(len(labels))]
    several, suffix = len(labels) > 1, paths[0].suffix
    home = paths[0].parent
    return Dataset(
        x=np.concatenate([x for x, _ in parts]),  # of maps, for binary files: one copy in memory
        y=np.stack(y, axis=1) if several else y[0],
        source=source,
        class_names=None if several else _class_names(archive, labels[0], home, suffix),
        image_shape=(32, 32, 3),
        pixel_layout="channel_first",
        task_names=tuple(own.name for own in labels) if several else None,
        label_names=tuple(own.name for own in archive.labels) if archive.labels[1:] else (),
        test=test,
    )


def _read_binary(
    archive: _Archive, labels: tuple[_Labels, ...], path: Path
) -> tuple[np.ndarray, list[np.ndarray]]:
    pixels = len(archive.labels)  # a byte each
    record = pixels + _PIXELS
    with reading(path):
        length = path.stat().st_size
        if length % record:
            raise DataError(
                f"{path}: {size(length)} is not a whole number of {record}-byte "
                f"{archive.title} records; the file is cut short, or not {archive.title}"
            )
        records = np.memmap(path, np.uint8, "r", shape=(length // record, record))
        y = [_labels(archive, own, path, records[:, own.byte]) for own in labels]
        return records[:, pixels:], y


def _read_python(
    archive: _Archive, labels: tuple[_Labels, ...], path: Path
) -> tuple[np.ndarray, list[np.ndarray]]:
    batch = read_pickle(path)
    for key in ("data", *(own.key for own in labels)):
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
    y = [_labels(archive, own, path, batch[own.key]) for own in labels]
    for own in y:
        if len(own) != len(x):
            raise DataError(f"{path}: {count(len(x), 'image')} but {count(len(own), 'label')}")
    return x, y


def _labels(archive: _Archive, labels: _Labels, path: Path, values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu" and values.ndim == 1:
        values = values.tolist()
    if type(values) not in (list, tuple) or not all(type(value) is int for value in values):
        raise DataError(f"{path}: {labels.key!r} is not a list of integers; not {archive.title}")
    if not all(0 <= value < labels.classes for value in values):
        raise DataError(
            f"{path}: labels outside 0..{labels.classes - 1}; corrupt, or not {archive.title}"
        )
    return np.array(values, dtype=np.int64)


def _class_names(
    archive: _Archive, labels: _Labels, home: Path, suffix: str
) -> tuple[str, ...] | None:
    """The names from the archive's own list; those known, if that list was not unpacked."""
    path = home / (labels.listing if suffix else archive.meta)
    if not path.is_file():
        return labels.names
    names: list[Any] = []
    if suffix:
        with reading(path):
            names += path.read_text(encoding="utf-8").split()
    else:
        listed = read_pickle(path).get(labels.names_key)
        names += listed if type(listed) is list else []
    if len(names) != labels.classes or not all(type(n) in (str, bytes) and n for n in names):
        raise DataError(
            f"{path}: does not hold {labels.classes} class names; unpack the archive again"
        )
    return tuple(name if type(name) is str else name.decode("latin-1") for name in names)
