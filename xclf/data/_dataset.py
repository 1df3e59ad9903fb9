"""What every reader returns, the exception it raises, and helpers that the readers share."""

from __future__ import annotations

import bz2
import gzip
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
from sklearn.model_selection import train_test_split

BytesFile: TypeAlias = IO[bytes] | gzip.GzipFile | bz2.BZ2File
SparseArray: TypeAlias = Any  # scipy.sparse.csr_array, whose entries have no type of their own
PixelLayout: TypeAlias = Literal["channel_first", "channel_last"]

DEFAULT_MEMORY = 4 * 2**30  # bytes of one dense array
BOM = b"\xef\xbb\xbf"  # what some editors begin UTF-8 text with


class DataError(ValueError):
    """A file that cannot be used; the message is one line: what is wrong, where, what to do."""

    def __init__(self, message: str) -> None:
        # Names in files may hold line breaks or terminal codes.
        super().__init__("".join(char if char.isprintable() else " " for char in message))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows and labels, as read.

    Parameters
    ----------
    x : ndarray or scipy.sparse.csr_array of shape (N, D)
        Numbers in native byte order, N and D at least 1; uint8 for images; may be a read-only
        memory map, or of `load(blocks=True)` an array of Dask. Sparse if the source is. NOT checked
        for NaN, which would read a mapped file whole: the estimators do it.
    y : ndarray of shape (N,) or (N, T), or None
        int64 or str; None if the source holds no labels. Column t has the labels of task t.
    source : str
        Name of what was read, for messages.
    class_names : tuple of str, optional
        The name of class k at position k, if the format has names.
    image_shape : tuple of int, optional
        (height, width, channels) with product D, if rows are images.
    pixel_layout : {"channel_first", "channel_last"}, optional
        The order of a row's pixels: (channels, height, width), as CIFAR ships it, or
        (height, width, channels).
    feature_names, task_names : tuple of str, optional
        One name per column of x, and of y (N, T), if the format has names.
    label_names : tuple of str
        Names of labels of which `load(label=...)` takes one or several, of data that are no table.
    ids : ndarray of shape (N,), optional
        Of a table read with `id`: that column, which is no feature.
    id_like : tuple of str
        Features of a table that look like numbers of rows rather than measurements.
    array_names : (str, str), optional
        Names of the arrays of rows and labels in a file of several.
    index_base : int, optional
        The index of the first column in an svmlight file, 0 or 1: pass it, and `n_features`, to
        `load` for other files of the same set.
    test : Dataset, optional
        The held-out part, if the source ships one (CIFAR test_batch, MNIST t10k, X_test).

    Raises
    ------
    DataError
        If these shapes do not fit each other.
    """

    x: np.ndarray | SparseArray
    y: np.ndarray | None
    source: str
    class_names: tuple[str, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    pixel_layout: PixelLayout | None = None
    feature_names: tuple[str, ...] | None = None
    task_names: tuple[str, ...] | None = None
    index_base: int | None = None
    test: Dataset | None = None
    ids: np.ndarray | None = None
    id_like: tuple[str, ...] = ()
    array_names: tuple[str, str] | None = None
    label_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or 0 in self.x.shape:
            raise DataError(
                f"{self.source}: needs at least one row and one column of numbers, "
                f"but the array has shape {self.x.shape}"
            )
        rows, columns = self.x.shape
        if self.y is not None and (len(self.y) != rows or not 1 <= self.y.ndim <= 2):
            raise DataError(
                f"{self.source}: {count(rows, 'row')} but {count(len(self.y), 'label')}; "
                "each row needs one label"
            )
        if self.image_shape is not None and math.prod(self.image_shape) != columns:
            raise DataError(
                f"{self.source}: images of {self.image_shape} do not fit rows of {columns} numbers"
            )
        if self.test is not None and self.test.x.shape[1] != columns:
            raise DataError(
                f"{self.test.source}: test rows have {count(self.test.x.shape[1], 'column')}, "
                f"training rows {columns}"
            )

    def images(self) -> np.ndarray:
        """View of the rows as images, (N, height, width, channels).

        Raises
        ------
        DataError
            If the rows are not images.
        """
        if self.image_shape is None:
            raise DataError(f"{self.source}: its rows are not known to be images")
        height, width, channels = self.image_shape
        if self.pixel_layout == "channel_first":
            return self.x.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        return self.x.reshape(-1, height, width, channels)

    def mirrored(self) -> Dataset:
        """The rows, then their left-to-right mirror images, with the labels repeated.

        Raises
        ------
        DataError
            If the rows are not images.
        """
        flipped = self.images()[:, :, ::-1]
        if self.pixel_layout == "channel_first":
            flipped = flipped.transpose(0, 3, 1, 2)
        x = np.concatenate([self.x, flipped.reshape(self.x.shape)])
        y, ids = (None if a is None else np.concatenate([a, a]) for a in (self.y, self.ids))
        return replace(self, x=x, y=y, ids=ids)

    def take(self, rows: np.ndarray) -> Dataset:
        """The rows of these numbers, in their order, without the held-out part."""
        y, ids = (None if a is None else a[rows] for a in (self.y, self.ids))
        return replace(self, x=self.x[rows], y=y, ids=ids, test=None)


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to train on and rows to test on.

    Parameters
    ----------
    train, test : Dataset
        The two parts, both with labels.
    origin : str
        Where the test rows come from, for messages.
    """

    train: Dataset
    test: Dataset
    origin: str

    @classmethod
    def hold_out(cls, data: Dataset, test_size: float, seed: int) -> Split:
        """Draw the share `test_size` of the rows for testing, stratified by label where each row
        has one.

        Raises
        ------
        ValueError
            If a class has too few rows for that.
        """
        count = int(data.x.shape[0])
        labels = data.y if data.y is None or data.y.ndim == 1 else None
        rows, held = train_test_split(
            np.arange(count), test_size=test_size, stratify=labels, random_state=seed
        )
        stratified = "" if labels is None else ", stratified"
        origin = f"{test_size:.0%} held out{stratified}, seed {seed}"
        if not hasattr(data.x, "to_delayed"):
            return cls(data.take(rows), data.take(held), origin)
        # Blocks are taken in their order; rows to test on are in memory.
        test = data.take(np.sort(held))
        values: Any = test.x
        return cls(data.take(np.sort(rows)), replace(test, x=values.compute()), origin)


@dataclass(frozen=True)
class ReadOptions:
    """The options of `load`, which documents them."""

    label: str | tuple[str, ...] | None = None
    x_name: str = "X"
    y_name: str = "y"
    max_memory: int = DEFAULT_MEMORY
    need_labels: bool = True
    n_features: int | None = None
    index_base: int | None = None
    several: bool = False
    drop: tuple[str, ...] = ()
    id: str | None = None
    missing_ok: bool = False
    blocks: bool = False


def count(number: int, noun: str) -> str:
    """'1 row', '1,797 rows'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Bytes in a readable unit: '512 bytes', '4.0 GiB'."""
    units = iter(("bytes", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while number >= 1024 and unit != "TiB":
        number, unit = number / 1024, next(units)
    return f"{number:.0f} bytes" if unit == "bytes" else f"{number:.1f} {unit}"


def listing(names: Iterable[object], limit: int = 12) -> str:
    """Names for a message: the first `limit`, each cut to 60 characters, and how many more."""
    texts = [str(name) for name in names]
    shown = ", ".join(name if len(name) <= 60 else name[:57] + "..." for name in texts[:limit])
    more = len(texts) - limit
    return f"{shown} and {more:,} more" if more > 0 else shown or "none"


def check_memory(array: str, nbytes: int, max_memory: int, advice: str) -> None:
    """DataError if an array, described for the message, takes more than `max_memory` bytes."""
    if nbytes > max_memory:
        raise DataError(
            f"{array}: {size(nbytes)} in memory, more than max_memory = {size(max_memory)}; "
            f"raise it, or {advice}"
        )


def is_gzip(path: Path) -> bool:
    """Whether the content of a file is gzipped: browsers unpack files and keep the name."""
    return _starts_with(path, b"\x1f\x8b")


def open_bytes(path: Path) -> BytesFile:
    """The content of a file, decompressed if it is gzip or bzip2, whatever its name."""
    if is_gzip(path):
        return gzip.open(path)
    return bz2.open(path) if _starts_with(path, b"BZh") else path.open("rb")


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an empty file, and whatever a library raises on a bad one, into a DataError."""
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except MemoryError as error:
        raise DataError(f"{path}: does not fit in memory") from error
    except Exception as error:  # a damaged file meets zlib.error, TokenError, ArrowException, ...
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(f"{path}: damaged, cut short or of another format: {reason}") from error
