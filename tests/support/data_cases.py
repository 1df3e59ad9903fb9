"""Data files for the tests of readers, of the shell and of the course: made here, all small."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xclf.data import DataError, load

CIFAR_NAMES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())  # noqa: SIM905
CIFAR_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
CIFAR_ROWS = 4  # in each batch: enough to tell rows, channels and batches apart


def refused(source: Any, message: str, **options: Any) -> str:
    """The one printable line with which `load` refuses a source."""
    with pytest.raises(DataError, match=message) as caught:
        load(source, **options)
    text = str(caught.value)
    assert text.isprintable()
    return text


def cifar_batch(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072) and labels of a batch; the first five batches have all ten classes."""
    number = CIFAR_BATCHES.index(name)
    x = np.random.default_rng(number).integers(0, 256, (CIFAR_ROWS, 3072), dtype=np.uint8)
    return x, (number + 3 * np.arange(CIFAR_ROWS)) % 10


def write_cifar(home: Path, *, python: bool = False) -> Path:
    """The archive's folder, in binary or python batches."""
    home.mkdir(parents=True, exist_ok=True)
    for name in CIFAR_BATCHES:
        x, y = cifar_batch(name)
        if python:
            batch = {b"data": x, b"labels": y.tolist(), b"filenames": [b"a.png"] * CIFAR_ROWS}
            (home / name).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            (home / f"{name}.bin").write_bytes(np.c_[y.astype(np.uint8), x].tobytes())
    if python:
        names = pickle.dumps({b"label_names": [name.encode() for name in CIFAR_NAMES]})
        (home / "batches.meta").write_bytes(names)
    else:  # as the archive has it
        (home / "batches.meta.txt").write_text("\n".join(CIFAR_NAMES) + "\n\n")
    return home
