"""NumPy's own files: .npz archives and pairs of .npy, memory-mapped where possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import IO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import scipy.sparse
from numpy.lib import format as npy

from xclf._array_api import native
from xclf.data._dataset import (
    DataError,
    Dataset,
    PixelLayout,
    ReadOptions,
    SparseArray,
    check_memory,
    reading,
    size,
)
from xclf.data._names import held_out_names, in_words, labels_for, options_for, require
from xclf.data._sparse_files import is_sparse_archive, sparse_rows

_CHANNELS = (1, 3, 4)


def read_npz(path: Path, options: ReadOptions) -> Dataset:
    """The arrays `x_name` and `y_name` of an .npz archive, and the held-out part if it has one.

    Without those options a pair of other usual names will do, such as features and labels.

    A member larger than `max_memory` bytes is mapped if it is stored uncompressed (np.savez),
    refused if not; a smaller one is mapped if aligned.
    """
    with reading(path), ZipFile(path) as archive:
        members = {
            info.filename.removesuffix(".npy"): info
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }
        if is_sparse_archive(members):
            return _sparse(path, archive, members, options)
        given, options = options, options_for(path, members, options)
        require(path, members, options)
        return by_name(
            path,
            members,
            lambda name: _member(path, archive, members[name], options.max_memory),
            options,
            given,
        )


def read_sparse_rows(path: Path, options: ReadOptions) -> SparseArray:
    """The matrix of an .npz that `scipy.sparse.save_npz` wrote, or the one array of another."""
    with reading(path), ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

        def member(name: str) -> np.ndarray:
            return _member(path, archive, members[name], options.max_memory)

        if is_sparse_archive(members):
            return sparse_rows(path, members, member)
        if len(members) != 1:
            raise DataError(f"{path}: holds {len(members)} arrays; one of a pair holds one")
        return member(next(iter(members)))


def _sparse(
    path: Path, archive: ZipFile, members: dict[str, ZipInfo], options: ReadOptions
) -> Dataset:
    """A sparse matrix, with labels if the archive has them beside it."""

    def member(name: str) -> np.ndarray:
        return _member(path, archive, members[name], options.max_memory)

    options = replace(options, y_name=labels_for(members, options))
    y = member(options.y_name) if options.y_name in members else None
    if y is None and options.need_labels:
        raise DataError(f"{path}: rows without labels; give both as '{path},LABELS.npy'")
    rows = sparse_rows(path, members, member)
    data = rows_and_labels(rows, y, str(path), several=options.several)
    return replace(data, array_names=("", options.y_name))


def _npy_names(folder: Path) -> set[str]:
    """The names, without .npy, of the NumPy files of a folder."""
    return {path.stem for path in folder.glob("*.npy") if path.is_file()}


def read_npy_folder(folder: Path, given: ReadOptions) -> Dataset | None:
    """The files `x_name`.npy and `y_name`.npy of a folder, or those with usual names, and its
    held-out part if it has one; None for a folder that has no such rows."""
    options = options_for(None, names := _npy_names(folder), given)
    if options.x_name not in names:
        return None
    y_file = folder / f"{options.y_name}.npy"
    if options.need_labels and options.y_name not in names:
        raise DataError(
            f"{y_file}: no such file; labels for {options.x_name}.npy are expected there"
        )
    return by_name(
        folder,
        names,
        lambda name: mapped(folder / f"{name}.npy", options.max_memory),
        options,
        given,
    )


def read_npy(path: Path, options: ReadOptions) -> Dataset:
    """Rows without labels from a .npy, memory-mapped."""
    if options.need_labels:
        raise DataError(f"{path}: rows without labels; give both as '{path},LABELS.npy'")
    return rows_and_labels(mapped(path, options.max_memory), None, str(path))


def by_name(
    path: Path,
    names: Collection[str],
    read: Callable[[str], np.ndarray],
    options: ReadOptions,
    given: ReadOptions,
) -> Dataset:
    """Rows, labels if they are among `names`, and the held-out part if both its arrays are.

    The held-out part has the same names with "train" replaced by "test", or "test" added.
    given : the options of `load`, before names were found
    """
    x_name, y_name = options.x_name, options.y_name
    test = None
    for x_test, y_test in zip(*map(held_out_names, (x_name, y_name)), strict=False):
        if test is not None or not {y_name, x_test, y_test} <= set(names):
            continue
        name = f"{path} ({x_test}, {y_test})"
        test = rows_and_labels(read(x_test), read(y_test), name, several=options.several)
    y = read(y_name) if y_name in names else None
    source = in_words(path, options, given)
    data = rows_and_labels(read(x_name), y, source, test, several=options.several)
    return replace(data, array_names=(x_name, y_name))


def rows_and_labels(
    x: np.ndarray | SparseArray,
    y: np.ndarray | None,
    source: str,
    test: Dataset | None = None,
    *,
    several: bool = False,
) -> Dataset:
    """A data set from arrays as they were saved.

    several : whether labels may have several columns
    """
    rows, image_shape, layout = _as_rows(x, source)
    return Dataset(
        x=rows,
        y=None if y is None else as_labels(y, source, several),
        source=source,
        image_shape=image_shape,
        pixel_layout=layout,
        test=test,
    )


def _as_rows(
    x: np.ndarray | SparseArray, source: str
) -> tuple[np.ndarray | SparseArray, tuple[int, int, int] | None, PixelLayout | None]:
    """(rows (N, D), image shape, layout) of a saved array.

    x : a table (N, D), or images (N, H, W), (N, H, W, C) or (N, C, H, W) with C one of 1, 3, 4

    Booleans become uint8; other dtypes stay, in native byte order. DataError for other dtypes.
    """
    if scipy.sparse.issparse(x):
        return x, None, None
    if x.dtype.kind not in "biuf":
        raise DataError(f"{source}: rows must be numbers, but the array has dtype {x.dtype}")
    x = native(x.astype(np.uint8) if x.dtype.kind == "b" else x)
    shape = x.shape
    if len(shape) == 2:
        return x, None, None
    if 0 in shape or not 3 <= len(shape) <= 4:
        raise DataError(f"{source}: rows must be a table (N, D) or images, but have shape {shape}")
    rows = x.reshape(shape[0], -1)
    if len(shape) == 3:
        return rows, (shape[1], shape[2], 1), "channel_last"
    if shape[3] in _CHANNELS:
        return rows, (shape[1], shape[2], shape[3]), "channel_last"
    if shape[1] in _CHANNELS:
        return rows, (shape[2], shape[3], shape[1]), "channel_first"
    raise DataError(
        f"{source}: images need 1, 3 or 4 channels first or last, but have shape {shape}"
    )


def as_labels(y: np.ndarray, source: str, several: bool = False) -> np.ndarray:
    """`y` as (N,), or (N, T), int64 or str: whole numbers of any dtype become int64, bytes are
    UTF-8 text.

    DataError for a shape that is not one label per row, fractions, NaN, and empty strings.
    """
    y = np.array(native(y))  # in memory, whatever file it is mapped from
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 and not (several and y.ndim == 2 and y.shape[1]):
        raise DataError(
            f"{source}: labels must be one per row (N,), but have shape {y.shape}; "
            "for one-hot rows take argmax(axis=1), for several tasks xclf probe"
        )
    if y.dtype.kind == "S":
        try:
            y = np.char.decode(y, "utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{source}: labels are bytes that are not UTF-8 text") from None
    kind = y.dtype.kind
    if kind not in "biufU":
        raise DataError(f"{source}: labels must be integers or strings, but have dtype {y.dtype}")
    missing = y == "" if kind == "U" else ~np.isfinite(y)
    if missing.any():
        name = "empty" if kind == "U" else "NaN"
        row = int(np.nonzero(missing)[0][0])
        raise DataError(f"{source}: label {row + 1:,} is missing ({name})")
    if kind == "U":
        return y
    if kind == "f" and (y != np.trunc(y)).any():
        raise DataError(f"{source}: labels are fractions; classes must be integers or strings")
    if y.size and (int(y.min()) < -(2**63) or int(y.max()) >= 2**63):
        raise DataError(f"{source}: labels do not fit 64-bit integers")
    return y.astype(np.int64)


def mapped(path: Path, max_memory: int) -> np.ndarray:
    """The array of a .npy, memory-mapped."""
    with reading(path):
        with path.open("rb") as file:
            _header(file, path, path.stat().st_size)
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return _numbers(array, str(path), max_memory)


def widened(bits: np.ndarray, name: str, max_memory: int) -> np.ndarray:
    """float32 of bfloat16's bits (uint16), which are its upper half."""
    check_memory(name, 4 * bits.size, max_memory, "save it as float16, which is mapped")
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _numbers(array: np.ndarray, name: str, max_memory: int) -> np.ndarray:
    """The array; of bfloat16, for which NumPy has no name but "two bytes", float32."""
    if array.dtype.kind == "V" and array.dtype.names is None and array.dtype.itemsize == 2:
        return widened(array.view(np.uint16), name, max_memory)
    return array


def _member(path: Path, archive: ZipFile, info: ZipInfo, max_memory: int) -> np.ndarray:
    name = f"{path} ({info.filename})"
    with archive.open(info) as file:
        shape, fortran, dtype = _header(file, name, info.file_size)
        nbytes = math.prod(shape) * dtype.itemsize
        start = _data_offset(path, info) + file.tell()
        aligned = start % max(dtype.alignment, 1) == 0
        if nbytes and info.compress_type == ZIP_STORED and (nbytes > max_memory or aligned):
            while file.read(2**20):  # to the end, where zipfile compares the checksum
                pass
            there = np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
            return _numbers(there, name, max_memory)
    check_memory(name, nbytes, max_memory, "save with np.savez or as .npy, which are mapped")
    with archive.open(info) as file:
        return _numbers(npy.read_array(file, allow_pickle=False), name, max_memory)


def _data_offset(path: Path, info: ZipInfo) -> int:
    """Where in the archive the bytes of a member begin: after its local header (zip, 4.3.7)."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
    return info.header_offset + 30 + int(lengths.sum())


def _header(
    file: IO[bytes], name: str | Path, length: int
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, Fortran order, dtype) of a .npy of `length` bytes; `file` is then at its data."""
    if length == 0:
        raise DataError(f"{name}: the file is empty")
    if file.read(6) != npy.MAGIC_PREFIX:
        raise DataError(f"{name}: not a .npy file; save it with np.save")
    version = tuple(file.read(2))
    if version == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = npy.read_array_header_2_0(file)
    else:
        raise DataError(f"{name}: .npy version {version} is not for arrays of numbers or strings")
    if dtype.hasobject:
        raise DataError(
            f"{name}: holds Python objects, which only a pickle could restore; "
            "save numbers, or labels with dtype=str"
        )
    if dtype.itemsize == 0:  # of which a file of any size holds any number
        raise DataError(
            f"{name}: holds strings without characters ({dtype.str}); save other labels"
        )
    expected, actual = math.prod(shape) * dtype.itemsize, length - file.tell()
    if actual < expected:
        raise DataError(f"{name}: cut short: {size(actual)} of {size(expected)} of data are there")
    return shape, fortran, dtype
