"""NumPy's own files: .npz archives and pairs of .npy, mapped instead of loaded where possible."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy

from xclf._array_api import native
from xclf.data._dataset import DataError, Dataset, PixelLayout, listing, reading, size

_CHANNELS = (1, 3, 4)


def read_npz(path: Path, x_name: str, y_name: str, need_labels: bool, max_memory: int) -> Dataset:
    """Rows and labels from an .npz archive, by name, and the held-out part if it has one.

    The held-out part is `X_test` and `y_test` (after the names given: with "train" in a name, the
    same with "test"), used if both are there. A member larger than `max_memory` bytes is mapped if
    it is stored uncompressed (np.savez), refused if not; a smaller one is mapped if aligned.
    """
    with reading(path):
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        with ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }

            def array(name: str) -> np.ndarray:
                return _member(path, archive, members[name], max_memory)

            for name in (x_name, y_name) if need_labels else (x_name,):
                if name not in members:
                    raise DataError(
                        f"{path}: no array {name!r}; it holds {listing(members)}; "
                        "name the rows X and the labels y (or pass x_name, y_name to load)"
                    )
            y = array(y_name) if y_name in members else None
            test = None
            x_test, y_test = held_out_name(x_name), held_out_name(y_name)
            if y is not None and x_test in members and y_test in members:
                test = dataset(array(x_test), array(y_test), f"{path} ({x_test}, {y_test})")
            return dataset(array(x_name), y, str(path), test)


def read_npy(x_path: Path, y_path: Path | None) -> Dataset:
    """Rows from one .npy, memory-mapped, and labels from another."""
    x = _mapped(x_path)
    y = None if y_path is None else _mapped(y_path)
    return dataset(x, y, str(x_path) if y_path is None else f"{x_path},{y_path}")


def read_npy_folder(folder: Path, x_name: str, y_name: str, need_labels: bool) -> Dataset:
    """X.npy and y.npy of a folder, and X_test.npy and y_test.npy if both are there."""

    def file(name: str) -> Path:
        return folder / f"{name}.npy"

    y_file = file(y_name)
    if not y_file.is_file():
        if need_labels:
            raise DataError(f"{y_file}: no such file; labels for {x_name}.npy are expected there")
        return read_npy(file(x_name), None)
    test = None
    x_test, y_test = file(held_out_name(x_name)), file(held_out_name(y_name))
    if x_test.is_file() and y_test.is_file():
        test = read_npy(x_test, y_test)
    return dataset(_mapped(file(x_name)), _mapped(y_file), str(folder), test)


def held_out_name(name: str) -> str:
    """The held-out twin of a name: X_test for X, x_test for x_train."""
    return name.replace("train", "test") if "train" in name else f"{name}_test"


def dataset(
    x: np.ndarray, y: np.ndarray | None, source: str, test: Dataset | None = None
) -> Dataset:
    """A Dataset of arrays that somebody saved: any shape of images, any type of label."""
    rows, image_shape, layout = tidy_rows(x, source)
    return Dataset(
        x=rows,
        y=None if y is None else tidy_labels(y, source),
        source=source,
        image_shape=image_shape,
        pixel_layout=layout,
        test=test,
    )


def tidy_rows(
    x: np.ndarray, where: str
) -> tuple[np.ndarray, tuple[int, int, int] | None, PixelLayout | None]:
    """(rows (N, D), image shape, layout) of a saved array.

    x : a table (N, D), or images (N, H, W), (N, H, W, C) or (N, C, H, W) with C one of 1, 3, 4

    Booleans become uint8; other dtypes stay, in native byte order. DataError for what is no number.
    """
    if x.dtype.kind not in "biuf":
        raise DataError(f"{where}: rows must be numbers, but the array has dtype {x.dtype}")
    if x.dtype.kind == "b":
        x = x.astype(np.uint8)
    x = native(x)
    shape = x.shape
    if len(shape) == 2:
        return x, None, None
    if 0 in shape or not 3 <= len(shape) <= 4:
        raise DataError(f"{where}: rows must be a table (N, D) or images, but have shape {shape}")
    rows = x.reshape(shape[0], math.prod(shape[1:]))
    if len(shape) == 3:
        return rows, (shape[1], shape[2], 1), "channel_last"
    if shape[3] in _CHANNELS:
        return rows, (shape[1], shape[2], shape[3]), "channel_last"
    if shape[1] in _CHANNELS:
        return rows, (shape[2], shape[3], shape[1]), "channel_first"
    raise DataError(
        f"{where}: images need 1, 3 or 4 channels first or last, but have shape {shape}"
    )


def tidy_labels(y: np.ndarray, where: str) -> np.ndarray:
    """`y` as (N,) int64 or str: whole numbers in any dtype become int64, bytes are read as UTF-8.

    DataError for a shape that is not one label per row, fractions, NaN, and empty strings.
    """
    y = np.array(native(y))  # in memory, whatever file it is mapped from
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(
            f"{where}: labels must be one per row (N,), but have shape {y.shape}; "
            "for one-hot rows take argmax(axis=1)"
        )
    if y.dtype.kind == "S":
        try:
            y = np.char.decode(y, "utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{where}: labels are bytes that are not UTF-8 text") from None
    if y.dtype.kind == "U":
        if (y == "").any():
            raise DataError(f"{where}: label {int((y == '').argmax()) + 1:,} is missing (empty)")
        return y
    if y.dtype.kind not in "biuf":
        raise DataError(f"{where}: labels must be integers or strings, but have dtype {y.dtype}")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise DataError(f"{where}: label {int((~np.isfinite(y)).argmax()) + 1:,} is missing (NaN)")
    if y.dtype.kind == "f" and (y != np.trunc(y)).any():
        raise DataError(f"{where}: labels are fractions; classes must be integers or strings")
    if y.size and (int(y.min()) < -(2**63) or int(y.max()) >= 2**63):
        raise DataError(f"{where}: labels do not fit 64-bit integers")
    return y.astype(np.int64)


def _mapped(path: Path) -> np.ndarray:
    with reading(path):
        with path.open("rb") as file:
            _header(file, path, path.stat().st_size)
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array


def _member(path: Path, archive: ZipFile, info: ZipInfo, max_memory: int) -> np.ndarray:
    where = f"{path} ({info.filename})"
    with archive.open(info) as file:
        shape, fortran, dtype = _header(file, where, info.file_size)
        skip, nbytes = file.tell(), math.prod(shape) * dtype.itemsize
        stored = info.compress_type == ZIP_STORED
        start = _start(path, info) + skip
        if nbytes and stored and (nbytes > max_memory or start % max(dtype.alignment, 1) == 0):
            while file.read(2**20):  # to the end, where zipfile compares the checksum
                pass
            return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
        if nbytes > max_memory:
            raise DataError(
                f"{where}: {size(nbytes)} unpacked, more than max_memory = {size(max_memory)}; "
                "raise it, or save with np.savez (uncompressed) or as .npy, which are mapped"
            )
    with archive.open(info) as file:
        return np.asarray(npy.read_array(file, allow_pickle=False))


def _start(path: Path, info: ZipInfo) -> int:
    """Where in the archive the bytes of a member begin: after its local header (zip, 4.3.7)."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        lengths = file.read(4)
    return (
        info.header_offset
        + 30
        + int.from_bytes(lengths[:2], "little")
        + int.from_bytes(lengths[2:], "little")
    )


def _header(
    file: IO[bytes], where: str | Path, length: int
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, Fortran order, dtype) of a .npy of `length` bytes; leaves `file` where data begin."""
    if length == 0:
        raise DataError(f"{where}: the file is empty")
    if file.read(6) != npy.MAGIC_PREFIX:
        raise DataError(f"{where}: not a .npy file; save it with np.save")
    version = tuple(file.read(2))
    if version == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = npy.read_array_header_2_0(file)
    else:
        raise DataError(f"{where}: .npy version {version} is not for arrays of numbers or strings")
    if dtype.hasobject:
        raise DataError(
            f"{where}: holds Python objects, which only a pickle could restore; "
            "save numbers, or labels with dtype=str"
        )
    expected, got = math.prod(shape) * dtype.itemsize, length - file.tell()
    if got < expected:
        raise DataError(f"{where}: cut short: {size(got)} of {size(expected)} of data are there")
    return shape, fortran, dtype
