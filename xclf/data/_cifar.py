"""CIFAR-10 as its authors ship it, binary or python batches."""

from __future__ import annotations

from os import PathLike

from xclf.data._dataset import Dataset


def read_cifar10(folder: str | PathLike[str]) -> Dataset:
    """CIFAR-10: 50,000 training rows, with the 10,000 test rows in `.test`.

    folder : the unpacked cifar-10-batches-bin or cifar-10-batches-py, or the folder that holds it

    Returns a Dataset: `x` (50000, 3072) uint8, each row 1,024 red, then green, then blue values of
    32 x 32 pixels, row-major ("channel_first"; `images()` gives (N, 32, 32, 3)); `y` (50000,) int64
    in 0..9; `class_names` the ten names; `test.x`, `test.y` the same for the test batch.

    Raises DataError, one line, for a missing, short or corrupt file. The python batches are pickles
    and are read without executing them.
    Format: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    raise NotImplementedError
