"""Files of named arrays: .safetensors, .pt of PyTorch, HDF5; PyTorch's data sets in memory."""

from __future__ import annotations

import json
import math
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from xclf._extras import needs
from xclf.data._arrays import by_name, rows_and_labels, widened
from xclf.data._arrow import library
from xclf.data._dataset import DataError, Dataset, ReadOptions, check_memory, reading
from xclf.data._names import options_for, require

#: The arrays of an open file: each name, and what reads it.
Arrays: TypeAlias = Mapping[str, Callable[[], np.ndarray]]

# Names of safetensors' dtypes.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
}
_SAVE_PT = "save tensors alone: torch.save({'X': rows, 'y': labels}, file)"
_MAP = "convert it to .npy, which is mapped"


def read_tensors(path: Path, options: ReadOptions) -> Dataset:
    """The arrays `x_name` and `y_name` of a file, and the held-out part if it has one.

    A file that holds a single array holds rows without labels.
    """
    with reading(path), opened(path, options) as arrays:
        if len(arrays) == 1 and not options.need_labels:
            (read,) = arrays.values()
            return rows_and_labels(read(), None, str(path))
        given, options = options, options_for(path, arrays, options)
        require(path, arrays, options)
        return by_name(path, arrays, lambda name: arrays[name](), options, given)


def read_single(path: Path, options: ReadOptions) -> np.ndarray:
    """The one array of a file."""
    with reading(path), opened(path, options) as arrays:
        if len(arrays) != 1:
            raise DataError(f"{path}: holds {len(arrays)} arrays; one of a pair holds one")
        (read,) = arrays.values()
        return read()


@contextmanager
def opened(path: Path, options: ReadOptions) -> Iterator[Arrays]:
    """The arrays of a file, read on demand while it is open."""
    if path.suffix.lower() == ".safetensors":
        yield _safetensors(path, options.max_memory)
    elif path.suffix.lower() in (".pt", ".pth"):
        yield _torch_tensors(path, options.max_memory)
    else:
        if (h5py := library("h5py")) is None:
            raise DataError(f"{path}: {needs('reading HDF5', 'h5py')}")
        with h5py.File(path, "r") as file:
            yield _hdf5_arrays(path, file, options.max_memory)


def from_torch(dataset: Any, options: ReadOptions) -> Dataset:
    """Rows and labels of a `torch.utils.data.Dataset` whose items are (features, label)."""
    source = type(dataset).__name__
    tensors = getattr(dataset, "tensors", None)
    if isinstance(tensors, tuple) and len(tensors) == 2:
        x, y = (_from_tensor(source, one) for one in tensors)
        return rows_and_labels(x, y, source, several=options.several)
    rows, labels = None, np.empty(0)
    for number in range(len(dataset)):
        item = dataset[number]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"{source}: item {number} is not a pair (features, label)")
        x, y = (_from_tensor(source, part) for part in item)
        if rows is None:
            shape = (len(dataset), *x.shape)
            check_memory(source, math.prod(shape) * x.itemsize, options.max_memory, "take fewer")
            rows, labels = np.empty(shape, x.dtype), np.empty((len(dataset), *y.shape), y.dtype)
        if x.shape != rows.shape[1:] or y.shape != labels.shape[1:]:
            raise DataError(
                f"{source}: item {number} has features {x.shape} and a label {y.shape}, the first "
                f"{rows.shape[1:]} and {labels.shape[1:]}"
            )
        rows[number], labels[number] = x, y
    if rows is None:
        raise DataError(f"{source}: has no items")
    return rows_and_labels(rows, labels, source, several=options.several)


def _safetensors(path: Path, max_memory: int) -> Arrays:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:  # checks the header against the file
        names = list(file.keys())
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))

    def read(name: str) -> np.ndarray:
        dtype, shape = header[name]["dtype"], tuple(header[name]["shape"])
        if dtype not in _DTYPES:
            raise DataError(f"{path} ({name}): dtype {dtype} is not read; save float32 or float16")
        kind, first = np.dtype(_DTYPES[dtype]), 8 + length + header[name]["data_offsets"][0]
        if not math.prod(shape):
            return np.empty(shape, kind)
        array = np.memmap(path, kind, "r", first, shape)
        if dtype == "BF16":
            return widened(array, f"{path} ({name})", max_memory)
        return array if first % kind.alignment == 0 else np.array(array)

    return {name: _bound(read, name) for name in names}


def _torch_tensors(path: Path, max_memory: int) -> Arrays:
    """Tensors of a .pt file: one, a pair (rows, labels), or a dict of them."""
    if (torch := library("torch")) is None:
        raise DataError(f"{path}: {needs('reading .pt', 'torch')}, or save .safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loaded = _loaded(torch, path, max_memory)
        except pickle.UnpicklingError:
            raise DataError(
                f"{path}: holds more than tensors, which only running a program could restore, or "
                f"is damaged; {_SAVE_PT}"
            ) from None
    if isinstance(loaded, torch.Tensor):
        loaded = {"X": loaded}
    if isinstance(loaded, tuple | list) and len(loaded) == 2:
        loaded = dict(zip(("X", "y"), loaded, strict=True))
    if not isinstance(loaded, dict):
        raise DataError(f"{path}: holds a {type(loaded).__name__}; {_SAVE_PT}")
    tensors = {str(k): one for k, one in loaded.items() if isinstance(one, torch.Tensor)}

    def read(name: str) -> np.ndarray:
        tensor, where = tensors[name], f"{path} ({name})"
        if not tensor.is_contiguous():  # a view may repeat what is stored once
            check_memory(where, tensor.numel() * tensor.element_size(), max_memory, _MAP)
        if tensor.dtype == torch.bfloat16:
            check_memory(where, 4 * tensor.numel(), max_memory, "save float16")
        return _from_tensor(where, tensor)

    return {name: _bound(read, name) for name in tensors}


def _loaded(torch: Any, path: Path, max_memory: int) -> Any:
    """What a .pt file holds, mapped; those of old versions of PyTorch are read whole."""
    with path.open("rb") as file:
        archive = file.read(4) == b"PK\x03\x04"
    if not archive:
        check_memory(str(path), path.stat().st_size, max_memory, "save it with a newer PyTorch")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)


def _from_tensor(source: str, part: Any) -> np.ndarray:
    """A tensor, array or number as an array; bfloat16 becomes float32."""
    if not hasattr(part, "detach"):
        return np.asarray(part)
    try:
        tensor = part.detach().cpu()
        return np.asarray((tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy())
    except (TypeError, RuntimeError) as error:
        raise DataError(f"{source}: a tensor that NumPy has no form for: {error}") from None


def _hdf5_arrays(path: Path, file: Any, max_memory: int) -> Arrays:
    """Data sets by their paths in the file. Links to other files are not followed."""
    found: dict[str, Any] = {}

    def visit(name: str, entry: Any) -> None:
        if hasattr(entry, "shape") and entry.shape is not None:
            found[name] = entry

    file.visititems(visit)

    def read(name: str) -> np.ndarray:
        entry, where = found[name], f"{path} ({name})"
        if entry.is_virtual or entry.external:
            raise DataError(f"{where}: its numbers are in other files; copy them into one")
        text = library("h5py").check_string_dtype(entry.dtype) is not None
        nbytes = math.prod(entry.shape) * entry.dtype.itemsize
        start = entry.id.get_offset()
        if start is not None and nbytes and not text and start % entry.dtype.alignment == 0:
            return np.memmap(path, entry.dtype, "r", start, entry.shape)
        check_memory(where, nbytes, max_memory, _MAP)
        return np.asarray(entry.asstr()[()]).astype(str) if text else np.asarray(entry[()])

    return {name: _bound(read, name) for name in found}


def _bound(read: Callable[[str], np.ndarray], name: str) -> Callable[[], np.ndarray]:
    return lambda: read(name)
