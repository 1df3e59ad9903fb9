"""IDX files, as MNIST and Fashion-MNIST ship them."""

from __future__ import annotations

import gzip
import math
import re
from pathlib import Path

import numpy as np

from xclf.data._dataset import (
    BytesFile,
    DataError,
    Dataset,
    ReadOptions,
    check_memory,
    is_gzip,
    open_bytes,
    reading,
)

_IMAGES, _LABELS = 3, 1  # axes of an images file (N, H, W) and of a labels file (N,)
_BELOW = (".", "raw", "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw", "EMNIST/raw", "QMNIST/raw")
_ENDINGS = tuple(f"{dot}idx3-ubyte{gz}" for dot in "-." for gz in ("", ".gz"))
_TRAIN = re.compile(r"(.*?)train-images[-.]idx3-ubyte(\.gz)?")
_CONTENTS = {_IMAGES: "images (idx3)", _LABELS: "labels (idx1)"}
_BYTE = 0x08  # the IDX code of unsigned bytes, the only type these sets use
_BLOCK = 2**20
_SUFFIX = re.compile(r"[-.]idx\d-ubyte(\.gz)?$")


def read_idx_folder(folder: Path, options: ReadOptions) -> Dataset:
    """train-images and train-labels of a folder, with t10k-* in `.test` if the folder has them.

    Or those of torchvision's folder above (MNIST/raw), of EMNIST (emnist-letters-train-images...,
    whose images are transposed, as shipped) and of QMNIST.
    """
    home = _home(folder)
    names = [] if home is None else sorted(path.name for path in home.iterdir())
    prefixes = sorted({match[1] for match in map(_TRAIN.fullmatch, names) if match})
    if home is None or not prefixes:
        raise DataError(f"{folder}: no train-images-idx3-ubyte, with or without .gz")
    if len(prefixes) > 1:
        raise DataError(
            f"{folder}: holds several sets ({', '.join(prefixes)}); give a folder with one of "
            "them, or an images file"
        )
    images = _find(home, f"{prefixes[0]}train-images", _IMAGES)
    assert images is not None
    tests = (_find(home, f"{prefixes[0]}{part}-images", _IMAGES) for part in ("t10k", "test"))
    test_images = next(filter(None, tests), None)
    test = None if test_images is None else _read(test_images, options, need_labels=True)
    return _read(images, options, options.need_labels, str(folder), test)


def read_idx_file(path: Path, options: ReadOptions) -> Dataset:
    """One images file with the labels file beside it."""
    if "images" not in _SUFFIX.sub("", path.name):
        raise DataError(f"{path}: give the images file, or the folder that holds it")
    return _read(path, options, options.need_labels)


def is_idx_folder(path: Path) -> bool:
    """Whether a folder holds the images of an MNIST-style set."""
    return _home(path) is not None


def _home(folder: Path) -> Path | None:
    """The folder with the images, here or where torchvision puts them."""
    for below in (folder / name for name in _BELOW):
        if below.is_dir() and any(
            entry.name.endswith(_ENDINGS) and "-images" in entry.name and entry.is_file()
            for entry in below.iterdir()
        ):
            return below
    return None


def is_idx_file(path: Path) -> bool:
    """Whether the name of `path` is that of an IDX file of bytes, gz or not."""
    return _SUFFIX.search(path.name) is not None


def _find(folder: Path, stem: str, axes: int) -> Path | None:
    names = (f"{stem}{dot}idx{axes}-ubyte{gz}" for dot in "-." for gz in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read(
    images: Path,
    options: ReadOptions,
    need_labels: bool,
    source: str = "",
    test: Dataset | None = None,
) -> Dataset:
    """The rows of an images file, with the labels of the file named like it."""
    stem = _SUFFIX.sub("", images.name).replace("images", "labels")
    labels = _find(images.parent, stem, _LABELS)
    if labels is None and _qmnist_labels(images) is None and need_labels:
        expected = images.name.replace("images", "labels").replace("idx3", "idx1")
        raise DataError(f"{images.parent / expected}: no such file; the labels are expected there")
    x = _array(images, _IMAGES, options.max_memory)
    y = None if labels is None else _array(labels, _LABELS, options.max_memory).astype(np.int64)
    if (wide := _qmnist_labels(images)) is not None:
        y = _first_column(wide, options.max_memory)
    return Dataset(
        x=x.reshape(len(x), -1),
        y=y,
        source=source or str(images),
        image_shape=(x.shape[1], x.shape[2], 1),
        pixel_layout="channel_last",
        test=test,
    )


def _array(path: Path, axes: int, max_memory: int) -> np.ndarray:
    """The bytes of one IDX file in its shape: a memory map, or an array if the file is gzipped."""
    with reading(path):
        if not is_gzip(path):
            with path.open("rb") as file:
                shape = _header(file, path, axes)
                offset = file.tell()
            _check_length(path, shape, path.stat().st_size - offset)
            return np.memmap(path, np.uint8, "r", offset, shape)
        with gzip.open(path) as file:
            shape = _header(file, path, axes)
            length = math.prod(shape)
            check_memory(f"{path}", length, max_memory, "gunzip the file, which is then mapped")
            data = _read_up_to(file, length + 1)  # one more shows a file that is too long
            _check_length(path, shape, len(data))
            return np.frombuffer(data, np.uint8).reshape(shape)


def _qmnist_labels(images: Path) -> Path | None:
    """The labels file of QMNIST beside an images file: a table of integers."""
    stem = _SUFFIX.sub("", images.name).replace("images", "labels")
    names = (f"{stem}-idx2-int{gz}" for gz in ("", ".gz"))
    found = (images.parent / name for name in names)
    return next((path for path in found if path.is_file()), None)


def _first_column(path: Path, max_memory: int) -> np.ndarray:
    """The classes of QMNIST's labels, the first of some columns of 32-bit integers (N, 8)."""
    with reading(path), open_bytes(path) as file:
        start = file.read(12)
        if len(start) < 12 or start[:4] != b"\0\0\x0c\2":
            raise DataError(f"{path}: not an IDX table of integers (idx2-int)")
        rows, columns = np.frombuffer(start, ">u4")[1:].tolist()
        length = 4 * rows * columns
        check_memory(f"{path}", length, max_memory, "use fewer rows")
        data = _read_up_to(file, length + 1)
        if len(data) != length or not length:
            raise DataError(f"{path}: cut short or too long: its header says {rows} x {columns}")
        return np.frombuffer(data, ">i4").reshape(rows, columns)[:, 0].astype(np.int64)


def _header(file: BytesFile, path: Path, axes: int) -> tuple[int, ...]:
    """The shape from the header: two zero bytes, type, number of axes, one big-endian int each."""
    start = file.read(4)
    if not start:
        raise DataError(f"{path}: the file is empty")
    if len(start) < 4 or start[:2] != b"\0\0":
        raise DataError(f"{path}: starts with {start.hex()}, not an IDX file")
    if start[2] != _BYTE:
        raise DataError(f"{path}: IDX type 0x{start[2]:02x}; only bytes (0x08) are read")
    if start[3] != axes:
        actual = _CONTENTS.get(start[3], f"{start[3]} axes")
        raise DataError(f"{path}: holds {actual} where {_CONTENTS[axes]} are expected")
    sizes = file.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise DataError(f"{path}: cut short inside its header; download it again")
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    if 0 in shape:
        raise DataError(f"{path}: holds no data: its header says shape {shape}")
    return shape


def _check_length(path: Path, shape: tuple[int, ...], actual: int) -> None:
    expected = math.prod(shape)
    if actual != expected:
        raise DataError(
            f"{path}: {'cut short' if actual < expected else 'too long'}: its header says shape "
            f"{shape}, {expected:,} bytes, but {actual:,} follow; download it again"
        )


def _read_up_to(file: BytesFile, length: int) -> bytearray:
    """Up to `length` bytes, block by block: the length in a broken header is not allocated."""
    data = bytearray()
    while len(data) < length and (block := file.read(min(_BLOCK, length - len(data)))):
        data += block
    return data
