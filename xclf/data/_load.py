"""`load`: the reader for a source, by its name."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from xclf.data._arrays import (
    mapped,
    read_npy,
    read_npy_folder,
    read_npz,
    read_sparse_rows,
    rows_and_labels,
)
from xclf.data._arrow import read_feather, read_json_lines
from xclf.data._blocks import Piece, in_blocks
from xclf.data._cifar import (
    is_cifar10_folder,
    is_cifar100_folder,
    is_cifar_file,
    read_cifar10,
    read_cifar100,
    read_cifar_file,
)
from xclf.data._columns import check_column_options, check_options_used
from xclf.data._csv import read_csv
from xclf.data._dataset import DEFAULT_MEMORY, DataError, Dataset, ReadOptions
from xclf.data._idx import is_idx_file, is_idx_folder, read_idx_file, read_idx_folder
from xclf.data._parquet import read_parquet, read_shards
from xclf.data._shards import joined, parts_of
from xclf.data._stdin import read_stdin
from xclf.data._svmlight import is_svmlight_text, read_svmlight
from xclf.data._tensors import from_torch, read_single, read_tensors
from xclf.rows import parse_bytes

_SOURCES = (
    "digits, .npz, 'x.npy,y.npy', a CIFAR or MNIST-style folder, .csv, .tsv, .jsonl, .parquet, "
    ".feather, .safetensors, .pt, .h5, .svmlight, .libsvm, .svm, or a folder or pattern of these"
)

Reader: TypeAlias = Callable[[Path, ReadOptions], Dataset]


def load(
    source: Any,
    *,
    label: str | Sequence[str] | None = None,
    x_name: str = "X",
    y_name: str = "y",
    max_memory: int | str | None = None,
    need_labels: bool = True,
    n_features: int | None = None,
    index_base: int | None = None,
    several: bool = False,
    drop: str | Sequence[str] | None = None,
    id: str | None = None,
    missing_ok: bool = False,
    blocks: bool = False,
) -> Dataset:
    """Read rows (N, D), labels (N,) and names from a data source.

    Parameters
    ----------
    source : str or path, or a data set of PyTorch
        Of a `torch.utils.data.Dataset` the items are pairs (features, label). The name of a file
        decides how it is read:

        - "digits": scikit-learn's 1,797 digits of 8 x 8, uint8 in 0..16
        - "-": one of the files below on standard input
        - .npz: arrays `x_name`, `y_name`; held-out X_test, y_test if both are there; or a sparse
          matrix, as `scipy.sparse.save_npz` writes it, its labels in a file beside it:
          "x.npz,y.npy"
        - .npy: rows alone; "x.npy,y.npy" rows and labels, of .npy, .pt, .safetensors and .h5, also
          as patterns, "x_*.npy,y_*.npy", or as two folders of shards; or a folder that holds X.npy
          and y.npy (`x_name`, `y_name`), and X_test.npy, y_test.npy
        - .safetensors, .pt (tensors alone), .h5: arrays `x_name`, `y_name`, as in .npz
        - CIFAR-10, CIFAR-100: the folder of batches, binary or python, or the one above; or one
          batch
        - IDX: a folder with train-images-idx3-ubyte and train-labels-idx1-ubyte (and t10k-*), gz
          or not; torchvision's folder above; EMNIST, QMNIST; or one images file
        - .csv, .tsv, .csv.gz, .tsv.gz, .jsonl, .parquet, .feather, .arrow: columns with names, one
          of them the label; but for text, columns may hold lists, such as embeddings
        - a folder of such files, or a pattern such as "data/*.parquet": their rows in the order of
          the names; if some are called train* and some test*, the latter are the held-out part
        - .svmlight, .libsvm, .svm, or lines `label index:value ...` under a name of no other kind,
          compressed (.gz, .bz2) or not: rows are sparse
    label : str or sequence of str, optional
        Label column of a table; by default the one called label, target, y or class. Names of
        several columns, one for each task, give labels (N, T). Of CIFAR-100 "fine" (by default),
        "coarse", or both.
    x_name, y_name : str
        Names of the arrays in files of arrays. Without them usual ones, such as features and
        labels or x_train and y_train, are found if one pair fits.
    max_memory : int or str, optional
        Bytes of one dense array, such as "500MB"; by default 4 GiB. Mapped files may be larger.
    need_labels : bool
        False for rows to predict: without labels in the source `y` is None.
    n_features : int, optional
        Columns of an svmlight file, which itself only shows the largest index used.
    index_base : int, optional
        The index of its first column, 0 or 1; by default 0 if the file uses 0, else 1. Files that
        belong together need the same: pass the `index_base` of the training data.
    several : bool
        Whether arrays of labels may be (N, T), of T tasks.
    drop : str or sequence of str, optional
        Columns of a table that are no features.
    id : str, optional
        A column of a table that names its rows: no feature; it is in `ids`.
    missing_ok : bool
        Whether a table may lack the columns of `drop` and `id` and, without `need_labels`, of
        `label`, and names of columns and arrays may be given for data that have none.
    blocks : bool
        Whether x is to be an array of Dask, which reads a file of several, or a part of a mapped
        one, where and when its rows are needed: estimators take it (guide, "Rows on a cluster").
        Labels, and test rows that come with the data, are in memory.

    Returns
    -------
    Dataset
        Images keep uint8, (N, H, W[, C]) arrays become rows; files of floats keep their dtype, but
        bfloat16 becomes float32; CSV and svmlight text gives float64 (CSV: uint8 if all whole
        numbers in 0..255).

    Raises
    ------
    DataError
        For any problem with the source, for a column that two options name, and for names that
        are no use for such data.
    """
    try:
        limit = parse_bytes(max_memory) or DEFAULT_MEMORY
    except ValueError:
        raise DataError(
            f"max_memory must be a number of bytes or a size such as '500MB', got {max_memory!r}"
        ) from None
    if index_base not in (None, 0, 1):
        raise DataError(f"index_base must be 0 or 1, got {index_base!r}")
    names = label if label is None or isinstance(label, str) else tuple(label)
    given = (names, x_name, y_name, limit, need_labels, n_features, index_base, several)
    dropped = (drop,) if isinstance(drop, str) else tuple(drop or ())
    options = ReadOptions(*given, drop=dropped, id=id, missing_ok=missing_ok, blocks=blocks)
    check_column_options(options)
    data = _read(source, options)
    check_options_used(options, data)
    return data


def _read(source: Any, options: ReadOptions) -> Dataset:
    if not isinstance(source, str | PathLike):
        if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
            return from_torch(source, options)
        raise DataError(
            f"DATA is {_SOURCES}, or a data set of PyTorch, got {type(source).__name__}"
        )
    data = _read_named(os.fspath(source), options)
    if options.blocks and not hasattr(data.x, "to_delayed"):  # a single file
        read = partial(_read_named, os.fspath(source), replace(options, blocks=False))
        return in_blocks(data, [Piece.of(read, data)])
    return data


def _read_named(name: str, options: ReadOptions) -> Dataset:
    path = Path(name)
    if name == "digits":
        return _digits()
    if name == "-":
        return read_stdin(lambda path: _read_file(path, options))
    if path.is_dir():
        return _read_folder(path, options)
    if path.exists():
        return _read_file(path, options)
    if pair := _pair(name):
        return _read_pair(*pair, options)
    if glob.has_magic(name) and (found := _glob(name)):
        return _read_many(path, found, options)
    raise DataError(_not_found(name, path))


def check_there(source: str) -> None:
    """Raises DataError if there is nothing that `load` would read."""
    if source in ("digits", "-") or Path(source).exists():
        return
    for name in _pair(source) or (source,):
        if not (Path(name).exists() or (glob.has_magic(name) and _glob(name))):
            raise DataError(_not_found(name, Path(name)))


def _pair(name: str) -> tuple[str, str] | None:
    """The names of rows and labels in "rows,labels", files or folders; any other comma belongs to
    a path."""
    for ending in _SINGLE:
        first, comma, second = name.partition(f"{ending},")
        if comma and second.endswith(tuple(_SINGLE)):
            # A space behind the comma is no part of a name, unless there is such a file.
            return first + ending, second if Path(second).exists() else second.strip()
    for at in (at for at, letter in enumerate(name) if letter == ","):
        parts = name[:at], name[at + 1 :].strip()
        folders = [bool(part) and Path(part).is_dir() for part in parts]
        if any(folders) and all(
            folder or part.endswith(tuple(_SINGLE))
            for part, folder in zip(parts, folders, strict=True)
        ):
            return parts
    return None


def _read_pair(x_name: str, y_name: str, options: ReadOptions) -> Dataset:
    """Rows from one file and labels from another, or from as many of each."""
    xs, ys = map(_parts, (x_name, y_name))
    if not xs or len(xs) != len(ys):
        raise DataError(
            f"{x_name},{y_name}: needs as many files of labels as of rows, found {len(xs)} of rows "
            f"and {len(ys)} of labels"
        )
    each = replace(options, blocks=False)
    parts = [partial(_read_two, x, y, each) for x, y in zip(xs, ys, strict=True)]
    return parts[0]() if len(parts) == 1 else joined(f"{x_name},{y_name}", parts, options)


def _read_two(x: Path, y: Path, options: ReadOptions) -> Dataset:
    for path in (x, y):
        if not path.exists():
            raise DataError(f"{x},{y}: {_not_found(str(path), path)}")
    rows, labels = _single(x, options), _single(y, options)
    return rows_and_labels(rows, labels, f"{x},{y}", several=options.several)


def _single(path: Path, options: ReadOptions) -> Any:
    if path.suffix == ".npy":
        return mapped(path, options.max_memory)
    if path.suffix == ".npz":
        return read_sparse_rows(path, options)
    return read_single(path, options)


def _parts(name: str) -> list[Path]:
    """The files of a half of a pair: those of a pattern or a folder, or the file itself."""
    path = Path(name)
    if path.is_dir() and not name.endswith(_SINGLE):
        found = next(filter(None, (_shards(path, ending) for ending in _SINGLE)), None)
        if found is None:
            raise DataError(f"{path}: no files of one array each ({', '.join(_SINGLE)}) in it")
        return found
    return _glob(name) if glob.has_magic(name) else [path]


def _shards(folder: Path, ending: str) -> list[Path]:
    return [one for one in sorted(folder.glob(f"*{ending}")) if one.is_file()]


def _glob(pattern: str) -> list[Path]:
    return [Path(entry) for entry in sorted(glob.glob(pattern))]  # noqa: PTH207


def _read_many(source: Path, paths: list[Path], options: ReadOptions) -> Dataset:
    """The rows of several files, in the order of their names."""
    if len(paths) == 1:
        return _read_file(paths[0], options)
    if all(path.suffix == ".parquet" for path in paths) and not options.blocks:
        return read_shards(source, paths, options)  # of strings one dictionary, checked at once
    train, test = parts_of(paths)
    each = replace(options, blocks=False)
    data = joined(source, [partial(_read_file, path, each) for path in train], options)
    if not test:
        return data
    need = replace(each, need_labels=True)
    name = f"{source} ({test[0].name} ...)"
    return replace(data, test=joined(name, [partial(_read_file, p, need) for p in test], need))


def _read_folder(path: Path, options: ReadOptions) -> Dataset:
    if (arrays := read_npy_folder(path, options)) is not None:
        return arrays
    if is_cifar10_folder(path):
        return read_cifar10(path)
    if is_cifar100_folder(path):
        return read_cifar100(path, options)
    if is_idx_folder(path):
        return read_idx_folder(path, options)
    for endings in (".parquet", ".npz", ".safetensors", ".pt", ".h5", ".feather", ".jsonl", ".csv"):
        if shards := _shards(path, endings):
            return _read_many(path, shards, options)
    if _holds_images(path):
        raise DataError(
            f"{path}: a folder of image files, which are not read: save their features or pixels, "
            "a row an image, with np.savez(FILE, X=X, y=y); CIFAR and MNIST-style sets are read as "
            "they come"
        )
    raise DataError(
        f"{path}: no data set in this folder; looked for {options.x_name}.npy and "
        f"{options.y_name}.npy, CIFAR-10 batches (data_batch_1.bin or data_batch_1), "
        "train-images-idx3-ubyte and several files of one kind, such as *.parquet"
    )


def _holds_images(folder: Path) -> bool:
    """Whether the first files of a folder, or of its first folders, are images."""
    folders = [folder, *islice((one for one in folder.iterdir() if one.is_dir()), 4)]
    files = (file for one in folders for file in islice(one.iterdir(), 100))
    return any(file.suffix.lower() in _IMAGES for file in files)


def _read_file(path: Path, options: ReadOptions) -> Dataset:
    if is_cifar_file(path):
        return read_cifar_file(path, options)
    if is_idx_file(path):
        return read_idx_file(path, options)
    name = path.name.lower()
    for endings, read in _READERS.items():
        if name.endswith(endings):
            return read(path, options)
    if is_svmlight_text(path):
        return read_svmlight(path, options)
    if name.endswith((".zip", ".tar", ".tgz", ".tar.gz", ".7z")):
        raise DataError(f"{path}: unpack this archive first, then give the folder")
    if name.endswith((".pkl", ".pickle", ".joblib")):
        raise DataError(
            f"{path}: pickles are programs and are not read; save the arrays with np.savez"
        )
    raise DataError(f"{path}: this kind of file is not known; DATA can be {_SOURCES}")


# The endings of file names, and their reader. Batches of CIFAR-10 and IDX files have names instead.
_READERS: dict[tuple[str, ...], Reader] = {
    (".csv", ".tsv", ".csv.gz", ".tsv.gz"): read_csv,
    (".parquet", ".pq"): read_parquet,
    (".feather", ".arrow"): read_feather,
    tuple(
        ending + packed
        for ending in (".svmlight", ".libsvm", ".svm")
        for packed in ("", ".gz", ".bz2")
    ): read_svmlight,
    (".npz",): read_npz,
    (".npy",): read_npy,
    (".safetensors", ".pt", ".pth", ".h5", ".hdf5"): read_tensors,
    (".jsonl", ".ndjson"): read_json_lines,
}
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
# Of files that hold a single array, of which two are a pair.
_SINGLE = (".npy", ".npz", ".pt", ".pth", ".safetensors", ".h5", ".hdf5")


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


def _files_with_commas(name: str) -> list[str]:
    """The files that a name with commas lists, if they are all there."""
    parts = [part.strip() for part in name.split(",")]
    return parts if len(parts) > 1 and all(Path(part).exists() for part in parts) else []


def _not_found(name: str, path: Path) -> str:
    if not path.parent.is_dir():
        return f"{name}: no such file or folder"
    if parts := _files_with_commas(name):
        return (
            f"{name}: a pair is rows and labels in files of one array each "
            f"({', '.join(_SINGLE)}), not {' and '.join(parts)}; a table or an .npz file alone "
            "holds both"
        )
    beside = [entry.name for entry in path.parent.iterdir()] + ["digits"]
    lower = {one.lower(): one for one in beside}
    close = difflib.get_close_matches(path.name.lower(), lower, n=1)
    hint = f"did you mean {lower[close[0]]}?" if close else f"DATA can be {_SOURCES}"
    return f"{name}: no such file or folder; {hint}"
