"""IDX files, as MNIST and Fashion-MNIST ship them."""

from __future__ import annotations

import gzip
import math
import re
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np

from xclf.data._dataset import DataError, Dataset, reading, size

_IMAGES, _LABELS = 3, 1  # axes of an images file (N, H, W) and of a labels file (N,)
_BYTE = 0x08  # the IDX code of unsigned bytes, the only type these sets use
_PIECE = 2**20

BytesFile: TypeAlias = IO[bytes] | gzip.GzipFile

_KINDS = {_IMAGES: "images (idx3)", _LABELS: "labels (idx1)"}


def read_idx_folder(folder: Path, need_labels: bool, max_memory: int) -> Dataset:
    """train-images and train-labels of a folder, with t10k-* in `.test` if the folder has them."""
    images = _find(folder, "train-images", _IMAGES)
    if images is None:
        raise DataError(f"{folder}: no train-images-idx3-ubyte, with or without .gz")
    test_images = _find(folder, "t10k-images", _IMAGES)
    test = None
    if test_images is not None:
        test = _read(test_images, _find(folder, "t10k-labels", _LABELS), True, max_memory)
    labels = _find(folder, "train-labels", _LABELS)
    return _read(images, labels, need_labels, max_memory, test, source=str(folder))


def read_idx_file(path: Path, need_labels: bool, max_memory: int) -> Dataset:
    """One images file with the labels file beside it; no test part."""
    stem = re.sub(r"[-.]idx\d-ubyte(\.gz)?$", "", path.name)
    if "images" not in stem:
        raise DataError(f"{path}: give the images file, or the folder that holds it")
    labels = _find(path.parent, stem.replace("images", "labels"), _LABELS)
    return _read(path, labels, need_labels, max_memory)


def is_idx_folder(path: Path) -> bool:
    """Whether a folder holds the images of an MNIST-style set."""
    return any(_find(path, f"{part}-images", _IMAGES) for part in ("train", "t10k"))


def is_idx_file(path: Path) -> bool:
    """Whether the name of `path` is that of an IDX file of bytes, gz or not."""
    return re.search(r"[-.]idx\d-ubyte(\.gz)?$", path.name) is not None


def _find(folder: Path, stem: str, axes: int) -> Path | None:
    for name in (f"{stem}-idx{axes}-ubyte", f"{stem}.idx{axes}-ubyte"):
        for suffix in ("", ".gz"):
            if (folder / (name + suffix)).is_file():
                return folder / (name + suffix)
    return None


def _read(
    images: Path,
    labels: Path | None,
    need_labels: bool,
    max_memory: int,
    test: Dataset | None = None,
    source: str = "",
) -> Dataset:
    if labels is None and need_labels:
        wanted = images.name.replace("images", "labels").replace("idx3", "idx1")
        raise DataError(f"{images.parent / wanted}: no such file; the labels are expected there")
    x = _array(images, _IMAGES, max_memory)
    y = None if labels is None else _array(labels, _LABELS, max_memory).astype(np.int64)
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
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"  # by content: browsers unpack and keep the name
        if not zipped:
            length = path.stat().st_size
            with path.open("rb") as file:
                shape = _header(file, path, axes)
            offset = 4 + 4 * axes
            _check_length(path, shape, length - offset)
            return np.memmap(path, np.uint8, "r", offset, shape)
        with gzip.open(path) as file:
            shape = _header(file, path, axes)
            expected = math.prod(shape)
            if expected > max_memory:
                raise DataError(
                    f"{path}: {size(expected)} unpacked, more than max_memory = "
                    f"{size(max_memory)}; raise it, or gunzip the file, which is then mapped"
                )
            data = _take(file, expected + 1)
            _check_length(path, shape, len(data))
            return np.frombuffer(data, np.uint8).reshape(shape)


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
        found = _KINDS.get(start[3], f"{start[3]} axes")
        raise DataError(f"{path}: holds {found} where {_KINDS[axes]} are expected")
    sizes = file.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise DataError(f"{path}: cut short inside its header; download it again")
    shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * axes, 4))
    if 0 in shape:
        raise DataError(f"{path}: holds nothing: its header says shape {shape}")
    return shape


def _check_length(path: Path, shape: tuple[int, ...], got: int) -> None:
    expected = math.prod(shape)
    if got < expected:
        raise DataError(
            f"{path}: cut short: its header says shape {shape}, {expected:,} bytes, "
            f"but {got:,} follow; download it again"
        )
    if got > expected:
        raise DataError(
            f"{path}: longer than the {expected:,} bytes that its header says, shape {shape}; "
            "download it again"
        )


def _take(file: BytesFile, length: int) -> bytearray:
    """Up to `length` bytes, in pieces: a length that a broken header claims is not allocated."""
    data = bytearray()
    while len(data) < length and (piece := file.read(min(_PIECE, length - len(data)))):
        data += piece
    return data
