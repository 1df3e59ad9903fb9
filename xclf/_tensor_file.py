"""Floor 1: safetensors files with a JSON text and a digest over all of it, written atomically.

JSON and raw numbers are all there is: nothing in a file can run code.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from xclf._atomic_write import atomic_write


class TensorFileError(ValueError):
    """A file that cannot be read: missing parts, altered, or of another kind."""


def write_tensors(path: Path, kind: str, body: str, arrays: dict[str, np.ndarray]) -> None:
    """Write `arrays` and the text `body`, under the name `kind` of the format."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"format": kind, "xclf": body, "sha256": _digest(body, arrays)}
    data = save(arrays, metadata=metadata)
    with atomic_write(path) as part:
        part.write_bytes(data)


def read_tensors(path: Path, kind: str, noun: str) -> tuple[str, dict[str, np.ndarray]]:
    """(body, arrays) of a file that `write_tensors` wrote; TensorFileError for any other, which
    `noun` names in messages."""
    article = "an" if noun[0] in "aeioux" else "a"
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise TensorFileError(
            f"{path} is not {article} {noun} file, or was cut short: {error}"
        ) from None
    if metadata.get("format") != kind or "xclf" not in metadata:
        raise TensorFileError(f"{path} is a safetensors file, but not {article} {noun}")
    if metadata.get("sha256") != _digest(metadata["xclf"], arrays):
        raise TensorFileError(f"{path} was altered after it was written: its digest does not match")
    return metadata["xclf"], arrays


def _digest(body: str, arrays: dict[str, np.ndarray]) -> str:
    sha = hashlib.sha256(body.encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"{name}{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
