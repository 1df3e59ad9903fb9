"""What every reader returns, and the one exception it raises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

PixelLayout: TypeAlias = Literal["channel_first", "channel_last"]

DEFAULT_MEMORY = 4 * 2**30  # bytes of one dense array that a reader may make without being asked


class DataError(ValueError):
    """A file that cannot be used; the message is one line: what was wrong, where, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """`text` on one line: names found in files may hold line breaks or terminal codes."""
    return "".join(char if char.isprintable() else " " for char in text)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows and labels, as read.

    x : (N, D) numeric NumPy array, native byte order, N and D at least 1; uint8 for images; may be
        a read-only memory map. Values are NOT checked for NaN (that would read a mapped file
        whole): the estimators do it.
    y : (N,) int64 or str, or None if the source holds no labels
    source : what was read, for people
    class_names : name of class k at position k, where the format ships names
    image_shape : (height, width, channels) with height * width * channels = D, if rows are images
    pixel_layout : how a row holds its pixels: "channel_first" is (channels, height, width), as
        CIFAR ships it, "channel_last" is (height, width, channels); None if rows are no images
    feature_names : one name per column, where the format has them
    test : the held-out part, where the source ships one (CIFAR test_batch, MNIST t10k, X_test)

    Raises DataError if these shapes do not fit each other.
    """

    x: np.ndarray
    y: np.ndarray | None
    source: str
    class_names: tuple[str, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    pixel_layout: PixelLayout | None = None
    feature_names: tuple[str, ...] | None = None
    test: Dataset | None = None

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or 0 in self.x.shape:
            raise DataError(
                f"{self.source}: needs at least one row and one column of numbers, "
                f"but the array has shape {self.x.shape}"
            )
        rows, columns = self.x.shape
        if self.y is not None and self.y.shape != (rows,):
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
        """The rows as pictures, (N, height, width, channels): a view, nothing is copied.

        Raises DataError if the rows are not images.
        """
        if self.image_shape is None:
            raise DataError(f"{self.source}: its rows are not known to be images")
        height, width, channels = self.image_shape
        if self.pixel_layout == "channel_first":
            return self.x.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        return self.x.reshape(-1, height, width, channels)


def count(number: int, noun: str) -> str:
    """'1 row', '1,797 rows'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Bytes for people: '512 bytes', '4.0 GiB'."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} bytes" if unit == "bytes" else f"{number:.1f} {unit}"


def listing(names: Any, limit: int = 12) -> str:
    """Names for a message: the first `limit`, each cut to a readable length, and how many more."""
    names = [str(name) for name in names]
    shown = ", ".join(name if len(name) <= 60 else name[:57] + "..." for name in names[:limit])
    more = len(names) - limit
    return f"{shown} and {more:,} more" if more > 0 else shown or "none"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what a library raises on a bad file into one DataError that names the file."""
    try:
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
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(f"{path}: damaged, cut short or of another format: {said}") from error
