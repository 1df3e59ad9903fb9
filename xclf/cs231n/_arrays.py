"""Array helpers of the course: moves to the device of X, random batches, accuracy, files.

Random numbers of the course come from NumPy's legacy global stream on the host, so that a notebook
that calls `np.random.seed` repeats its figures whatever library X belongs to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from xclf import _array_api
from xclf._array_api import Array, namespace
from xclf._atomic_write import atomic_write


def beside(values: Any, like: Array, dtype: Any = None) -> Array:
    """`values` in the namespace and on the device of `like`; the same object if there already."""
    on_host = _array_api.is_host(like)
    if not on_host and _array_api.same_device(values, like):
        return values if dtype is None else namespace(like).astype(values, dtype, copy=False)
    host = np.asarray(_array_api.to_host(values) if _array_api.is_array(values) else values)
    if not on_host:
        return _array_api.from_host(host, like, dtype)
    return host if dtype is None else host.astype(dtype, copy=False)


def is_floating(array: Array) -> bool:
    """Whether the dtype of `array` is float32, float64 or another real floating one."""
    return bool(namespace(array).isdtype(array.dtype, "real floating"))


def same_float(x: Array, w: Array) -> tuple[Array, Array]:
    """x and w in one floating dtype, the wider of the two; integer x takes the dtype of w."""
    if x.dtype == w.dtype:
        return x, w
    xp = namespace(x, w)
    dtype = xp.result_type(x.dtype, w.dtype) if is_floating(x) else w.dtype
    return xp.astype(x, dtype, copy=False), xp.astype(w, dtype, copy=False)


def take_rows(array: Array, rows: np.ndarray) -> Array:
    """The rows of `array` whose numbers a host array lists, in its order."""
    if _array_api.is_host(array):
        return array[rows]  # np.take would copy the whole of an array that is not contiguous
    return namespace(array).take(array, _array_api.from_host(rows, array), axis=0)


def draw_rows(X: Array, y: Array, number: int) -> tuple[Array, Array]:
    """`number` rows of X and their labels, drawn with replacement from NumPy's global stream."""
    rows = np.random.choice(X.shape[0], number)
    return take_rows(X, rows), take_rows(y, rows)


def as_scalar(loss: Array) -> Any:
    """A loss that prints as a number: a NumPy scalar (which is a float) for NumPy, else 0-d."""
    return loss[()] if isinstance(loss, np.ndarray) else loss


def print_loss(step: int, num_iters: int, loss: Any) -> None:
    """Print every hundredth loss of a training loop."""
    if step % 100 == 0:
        print(f"iteration {step} / {num_iters}: loss {float(loss):f}")


def floats(losses: Iterable[Any]) -> list[float]:
    """Losses as Python floats, fetched from a device in one transfer."""
    losses = list(losses)
    if not losses or not all(map(_array_api.is_array, losses)) or _array_api.is_host(losses[0]):
        return [float(loss) for loss in losses]
    values: list[float] = _array_api.to_host(namespace(losses[0]).stack(losses)).tolist()
    return values


def predict_classes(scores: Array) -> Array:
    """(N,) integers: the class with the largest score in each row of (N, C)."""
    return namespace(scores).argmax(scores, axis=1)


def accuracy(predicted: Array, y: Array) -> float:
    """The share of rows whose predicted class is the true one; ValueError for other shapes."""
    classes, labels = _array_api.to_host(predicted), _array_api.to_host(y)
    if classes.shape != labels.shape:
        raise ValueError(f"y must have shape {classes.shape}, one label a row; got {labels.shape}")
    return float(np.mean(classes == labels))


def checked_labels(X: Array, y: Any) -> Array:
    """y beside X; ValueError unless it holds a class number, an integer from 0, for every row.

    Reads the smallest label on the host: called once before training, never per step.
    """
    y = beside(y, X)
    xp = namespace(y)
    if y.ndim != 1 or y.shape[0] != X.shape[0] or y.shape[0] == 0:
        raise ValueError(
            f"y must hold one label for each of the {X.shape[0]} rows of X, at least one; "
            f"got shape {tuple(y.shape)}"
        )
    if not xp.isdtype(y.dtype, "integral") or int(xp.min(y)) < 0:
        raise ValueError(f"y must hold class numbers, integers from 0; got dtype {y.dtype}")
    return y


def labels_beside(y: Any, x: Array, classes: int) -> Array:
    """y beside x; ValueError unless it holds a class number in [0, classes) for every row of x.

    A negative label would count from the last class: a loss, but of other classes.
    """
    y = beside(y, x)
    xp = namespace(y)
    if tuple(y.shape) != (x.shape[0],) or not xp.isdtype(y.dtype, "integral"):
        raise ValueError(
            f"y must hold one class number, an integer, for each of the {x.shape[0]} rows; "
            f"got dtype {y.dtype} and shape {tuple(y.shape)}"
        )
    outside = (y < 0) | (y >= classes)
    if bool(xp.any(outside)):
        row = int(xp.argmax(xp.astype(outside, xp.int8)))
        raise ValueError(
            f"y must hold class numbers from 0 to {classes - 1}; got {int(y[row])} in row {row}"
        )
    return y


def move_params(params: MutableMapping[str, Array], x: Array, dtype: Any = None) -> None:
    """Move parameters to the device of x; those that are there already stay the same objects.

    dtype : of the moved parameters; by default the floating dtype of x, so that float32 rows on a
            device do not meet the float64 of NumPy's random stream
    """
    if dtype is None and is_floating(x):
        dtype = x.dtype
    for name, values in params.items():
        if not _array_api.same_device(values, x):
            params[name] = beside(values, x, dtype)


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Array]) -> None:
    """Write arrays to `path` in NumPy's npz format, without pickle, whole or not at all."""
    host: dict[str, Any] = {name: _array_api.to_host(values) for name, values in arrays.items()}
    if any(values.dtype.hasobject for values in host.values()):
        raise ValueError("Object arrays cannot be saved: they would be pickled")
    with atomic_write(Path(path)) as part, part.open("wb") as file:
        np.savez(file, **host)


def load_arrays(path: str | os.PathLike[str], expected: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays `expected`, all of a file that `save_arrays` wrote; ValueError for other files."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, AttributeError, TypeError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"{path}: not a file of arrays that save() wrote (pickled files are not read)"
        ) from error
    if set(arrays) != set(expected):
        raise ValueError(f"{path}: holds {sorted(arrays)}, not {sorted(expected)}")
    return arrays
