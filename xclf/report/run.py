"""Facts of a run: versions and machine, fingerprints of data, peak memory, the command."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xclf import _array_api, rows
from xclf._array_api import Array
from xclf._sparse import SparseMatrix, is_sparse
from xclf._sparse_input import canonical
from xclf._version import __version__
from xclf.rows import Blocks, SubsetRows

# Bytes of an array that are hashed at once: a file that is mapped may be larger than memory, and
# an array of a device is copied in parts.
_CHUNK = 2**24


def environment(like: Array | None = None) -> dict[str, str]:
    """Versions, the machine, and the library and device of the array `like` (NumPy by default)."""
    like = np.zeros(1) if like is None else like
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": version("scikit-learn"),
        "platform": platform.platform(),
        "processor": _processor(),
        "backend": _array_api.library(_array_api.namespace(like)),
        "device": str(_array_api.device(like)),
    }


def run_facts(
    kind: str, title: str, *, seed: int | None = None, like: Array | None = None
) -> dict[str, Any]:
    """The first block of `results.json`: what was run, when, with which command and versions.

    kind : "probe", "train", "sweep" or "evaluate";  like : an array of the device that was used
    """
    return {
        "format": 1,
        "kind": kind,
        "title": title,
        "xclf": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "seed": seed,
        "environment": environment(like),
    }


def fingerprint(x: Array, y: Any = None) -> str:
    """'sha256:' and the hash of rows and labels: equal for equal values, shapes and dtypes.

    Read and, from a device, copied in chunks of rows, so that nothing is in memory twice. The
    library, the byte order and the memory layout make no difference; for text as labels neither
    does the width of its dtype.
    """
    # Not `rows.fingerprint`, which hashes digests of parts, in threads, for checkpoints: results
    # and model files of earlier versions hold this one, by which equal data are known to be equal.
    state = hashlib.sha256()
    if is_sparse(x) or (isinstance(x, SparseMatrix) and not isinstance(x, Blocks)):
        x = x if isinstance(x, SparseMatrix) else canonical(x)
        own = (x.values, x.matrix.indices, x.matrix.indptr)
        state.update(repr((x.shape, [fingerprint(part) for part in own])).encode())
        x = np.zeros(0)
    if is_sparse(getattr(x, "_meta", None)):  # blocks of Dask
        state.update(_of_sparse_blocks(x).encode())
        x = np.zeros(0)
    for array in (x,) if y is None else (x, y):
        if isinstance(array, InParts):
            _hash_parts(state, array)
            continue
        values = array if _array_api.is_array(array) else np.asarray(array)
        if isinstance(values, np.ndarray) and values.dtype.kind in "OUST":
            _hash_text(state, values)
        else:
            _hash_numbers(state, values)
    return f"sha256:{state.hexdigest()}"


class InParts(NamedTuple):
    """Values (N, ...) that come part by part: the same as an array of them.

    parts : returns those of consecutive rows, host arrays
    """

    shape: tuple[int, ...]
    parts: Callable[[], Iterable[np.ndarray]]

    @property
    def ndim(self) -> int:
        return len(self.shape)


def _hash_parts(state: Any, values: InParts) -> None:
    for number, part in enumerate(values.parts()):
        text = part.dtype.kind in "OUST"
        if number == 0:
            kind = "text" if text else _little_endian(part).dtype.str
            state.update(f"{kind}{values.shape}".encode())
        if text:
            _add_text(state, part)
        else:
            state.update(np.ascontiguousarray(_little_endian(part)).data.cast("B"))


def peak_memory() -> int | None:
    """The most bytes of memory that this process has had; None where the system does not say."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def command_line(arguments: Sequence[str] | None = None) -> str | None:
    """The shell's command with these arguments; by default that of this process.

    None where the process is another program's, such as a notebook.
    """
    if arguments is None:
        program = Path(sys.argv[0])
        if program.stem != "xclf" and program.parent.name != "xclf":  # `python -m xclf`
            return None
        arguments = sys.argv[1:]
    return shlex.join(["xclf", *arguments])


def _hash_numbers(state: Any, array: Any) -> None:
    if isinstance(array, Blocks | SubsetRows):  # by the blocks, where these are
        state.update(rows.fingerprint(array).encode())
        return
    if hasattr(array, "to_delayed"):  # of Dask: each block is read once
        state.update(
            f"{np.zeros(0, array.dtype).dtype.newbyteorder('<').str}{array.shape}".encode()
        )
        for block in _blocks(array):
            state.update(np.ascontiguousarray(_little_endian(block)).data.cast("B"))
        return
    count = array.shape[0]
    first = _little_endian(_array_api.to_host(array[:1, ...]))
    state.update(f"{first.dtype.str}{tuple(array.shape)}".encode())
    step = max(1, _CHUNK // max(1, first.nbytes))
    for start in range(0, count, step):
        part = _array_api.to_host(array[start : min(start + step, count), ...])
        state.update(np.ascontiguousarray(_little_endian(part)).data.cast("B"))


def _blocks(array: Any) -> Iterator[Any]:
    """The blocks of an array of Dask, one at a time in this process."""
    return (block.compute() for block in array.to_delayed().ravel())


def _matrices(x: Any) -> Iterator[Any]:
    return (canonical(block).matrix for block in _blocks(x))


def _of_sparse_blocks(x: Any) -> str:
    """What sparse rows in memory add to a fingerprint, of those of an array of Dask."""
    sizes, dtypes, kinds = zip(
        *((own.nnz, own.data.dtype, own.indices.dtype) for own in _matrices(x)), strict=True
    )
    entries = sum(sizes)
    # That of the matrices put together.
    index = np.result_type(*kinds, np.int32 if max(entries, *x.shape) < 2**31 else np.int64)
    shapes = ((dtypes[0], entries), (index, entries), (index, x.shape[0] + 1))
    states = [hashlib.sha256(f"{dtype.str}{(size,)}".encode()) for dtype, size in shapes]
    states[2].update(np.zeros(1, index).tobytes())
    start = 0
    for own in _matrices(x):
        ends = own.indptr[1:].astype(index) + index.type(start)
        for state, part in zip(states, (own.data, own.indices.astype(index), ends), strict=True):
            state.update(_little_endian(part).tobytes())
        start += own.nnz
    return repr((x.shape, [f"sha256:{state.hexdigest()}" for state in states]))


def _little_endian(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _hash_text(state: Any, labels: np.ndarray) -> None:
    state.update(f"text{labels.shape}".encode())
    _add_text(state, labels)


def _add_text(state: Any, labels: np.ndarray) -> None:
    for label in labels.ravel().tolist():
        text = label if isinstance(label, bytes) else str(label).encode("utf-8", "surrogatepass")
        state.update(len(text).to_bytes(8, "little") + text)


def _processor() -> str:
    """The processor's name as the system knows it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
