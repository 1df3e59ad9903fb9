"""DATA in the shell: reading it, and splitting it into rows to train on and rows to test on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from xclf.cli._console import UserError
from xclf.data import Dataset, load

# Rows checked at once: the data may be a memory map that is larger than memory.
_CHECKED_ROWS = 1 << 14


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows to test on; `how` says where the latter come from."""

    train: Dataset
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    how: str


def parse_bytes(text: str | None) -> int | None:
    """A size such as 500M, 4G or 1000000, in bytes (K, M, G, T are powers of 1024)."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:].upper()
    if unit.isdigit():
        number, unit = text, ""
    try:
        size = float(number) * 1024 ** (" KMGT".index(unit) if unit else 0)
    except ValueError:
        size = -1.0
    if not 0 < size < 2**62:
        raise UserError(f"--max-memory must be a size such as 500M or 4G, got {text!r}")
    return int(size)


def check_columns(names: Sequence[str] | None, trained: Sequence[str], source: str) -> None:
    """`UserError` if a table's columns are not those trained on, in their order."""
    if names is None:
        return  # not a table: columns have no names
    for place, (name, expected) in enumerate(zip(names, trained, strict=True), start=1):
        if name != expected:
            raise UserError(
                f"{source}: feature column {place} is {name!r}, the model was trained with "
                f"{expected!r} there: put the columns in that order"
            )


def read_split(
    source: str,
    *,
    test: str | None,
    test_size: float,
    seed: int,
    label: str | None,
    max_memory: int | None,
) -> Split:
    """Read `source`; test rows are those of `test`, or those it ships, or held-out ones."""
    data = load(source, label=label, max_memory=max_memory)
    held = data.test
    if test is not None:
        held = load(test, label=label, max_memory=max_memory, n_features=int(data.x.shape[1]))
        held = held if held.test is None else held.test
        if held.x.shape[1] != data.x.shape[1]:
            raise UserError(
                f"--test {test} has {held.x.shape[1]} features a row, {source} {data.x.shape[1]}"
            )
        if data.feature_names is not None:
            check_columns(held.feature_names, data.feature_names, test)
    assert data.y is not None
    classes = np.unique(data.y)
    if len(classes) < 2:
        raise UserError(
            f"{data.source} holds one class only, {classes.tolist()[0]!r}: a classifier needs two"
        )
    check_finite(data.x, data.source)
    if held is not None:
        assert held.y is not None
        check_known(held.y, classes, held.source)
        check_finite(held.x, held.source)
        return Split(data, data.x, data.y, held.x, held.y, held.source)
    if not 0.0 < test_size < 1.0:
        raise UserError(f"--test-size must be between 0 and 1, got {test_size:g}")
    try:
        x, x_test, y, y_test = train_test_split(
            data.x, data.y, test_size=test_size, stratify=data.y, random_state=seed
        )
    except ValueError as error:
        raise UserError(
            f"cannot hold out {test_size:g} of {len(data.y)} rows of {source}, stratified; "
            f"--test gives others to test on: {error}"
        ) from None
    return Split(data, x, y, x_test, y_test, f"{test_size:.0%} held out, stratified, seed {seed}")


def check_finite(x: np.ndarray, source: str, first: int = 0) -> None:
    """`UserError` naming the place of the first NaN or infinity in rows x, the `first` of them so.

    The estimators check too, but they see rows that were split and chunked, and number those.
    """
    if x.dtype.kind != "f":
        return
    for start in range(0, len(x), _CHECKED_ROWS):
        part = np.asarray(x[start : start + _CHECKED_ROWS])
        finite = np.isfinite(part)
        if not finite.all():
            row, column = (int(place) for place in np.argwhere(~finite)[0])
            raise UserError(
                f"{source} holds {part[row, column]} in row {first + start + row}, column {column} "
                "(counted from 0): every value must be finite"
            )


def check_known(y: np.ndarray, classes: np.ndarray, source: str) -> None:
    """`UserError` if labels `y` are not all among `classes`."""
    # Numbers and strings must not meet: NumPy would compare them as strings.
    alike = (y.dtype.kind in "biuf") == (classes.dtype.kind in "biuf")
    unseen = np.setdiff1d(y, classes) if alike else np.unique(y)
    if unseen.size:
        raise UserError(
            f"{source} holds labels that the model does not know: {unseen[:5].tolist()}; "
            f"it knows {classes[:20].tolist()}"
        )


def mirrored(data: Dataset, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows with their horizontal mirror images after them; `UserError` if rows are no images."""
    if data.image_shape is None:
        raise UserError(f"--mirror needs image data; {data.source} is not")
    height, width, channels = data.image_shape
    shape = (
        (len(x), channels, height, width)
        if data.pixel_layout == "channel_first"
        else (len(x), height, width, channels)
    )
    axis = 3 if data.pixel_layout == "channel_first" else 2
    flipped = np.flip(np.asarray(x).reshape(shape), axis=axis).reshape(x.shape)
    return np.concatenate([x, flipped]), np.concatenate([y, y])
