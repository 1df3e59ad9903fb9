"""What every module of the course needs: arrays moved beside X, rows drawn, arrays in files.

Random numbers of the course come from NumPy's legacy global stream on the host, so that a notebook
that calls `np.random.seed` repeats its figures whatever library X belongs to.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from xclf import _array_api
from xclf._array_api import Array, namespace


def beside(values: Any, like: Array, dtype: Any = None) -> Array:
    """`values` in the namespace and on the device of `like`; the same object if there already."""
    if _array_api.is_host(like):
        host = np.asarray(_array_api.to_host(values) if _array_api.is_array(values) else values)
        return host if dtype is None else host.astype(dtype, copy=False)
    if _array_api.same_device(values, like):
        return values if dtype is None else namespace(like).astype(values, dtype, copy=False)
    host = _array_api.to_host(values) if _array_api.is_array(values) else np.asarray(values)
    return _array_api.from_host(host, like, dtype)


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


def plain(loss: Array) -> Any:
    """A loss as notebooks print it: a NumPy scalar (which is a float) for NumPy, else 0-d."""
    return loss[()] if isinstance(loss, np.ndarray) else loss


def floats(losses: Iterable[Any]) -> list[float]:
    """Losses as Python floats, fetched from a device in one transfer."""
    losses = list(losses)
    if (
        not losses
        or any(not _array_api.is_array(loss) for loss in losses)
        or _array_api.is_host(losses[0])
    ):
        return [float(loss) for loss in losses]
    stacked: list[float] = _array_api.to_host(namespace(losses[0]).stack(losses)).tolist()
    return stacked


def accuracy(predicted: Array, y: Array) -> float:
    """The share of rows whose predicted class is the true one; ValueError if they do not pair."""
    classes, labels = _array_api.to_host(predicted), _array_api.to_host(y)
    if classes.shape != labels.shape:
        raise ValueError(f"y must have shape {classes.shape}, one label a row; got {labels.shape}")
    return float(np.mean(classes == labels))


def check_rows(X: Array, y: Array) -> None:
    """ValueError unless y holds one class number, an integer from 0, for every row of X.

    Reads the smallest label on the host: called once before training, never per step.
    """
    xp = namespace(y)
    if y.ndim != 1 or y.shape[0] != X.shape[0] or y.shape[0] == 0:
        raise ValueError(
            f"y must hold one label for each of the {X.shape[0]} rows of X, at least one; "
            f"got shape {tuple(y.shape)}"
        )
    if not xp.isdtype(y.dtype, "integral") or int(xp.min(y)) < 0:
        raise ValueError(f"y must hold class numbers, integers from 0; got dtype {y.dtype}")


def settle(params: MutableMapping[str, Array], x: Array, dtype: Any = None) -> None:
    """Moves parameters to where x is, once; those that are there already stay the same objects.

    dtype : of the moved parameters; by default the floating dtype of x, so that float32 rows on a
            device are not met by the float64 that NumPy's random stream gives.
    """
    if dtype is None and is_floating(x):
        dtype = x.dtype
    for name, values in params.items():
        if not _array_api.same_device(values, x):
            params[name] = beside(values, x, dtype)


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Array]) -> None:
    """Writes arrays to `path` in NumPy's npz format, without pickle; all of the file or none."""
    host = {name: _array_api.to_host(values) for name, values in arrays.items()}
    target = Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            _write_npz(file, host)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _write_npz(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """What np.savez writes; it can be told to refuse pickles only from NumPy 2.2 on."""
    with ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values, allow_pickle=False)


def load_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a file that `save_arrays` wrote; ValueError for any other. Runs no pickle."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, AttributeError, TypeError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"{path}: not a file of arrays that save() wrote (pickled files are not read)"
        ) from error
