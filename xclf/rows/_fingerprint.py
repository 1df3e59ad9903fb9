"""Fingerprints of rows: equal for equal rows, and for no others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from xclf._array_api import Array, to_host
from xclf._sparse import SparseMatrix
from xclf.rows._block_folds import SubsetRows
from xclf.rows._block_tasks import take_rows
from xclf.rows._blocks import MANY, BlockColumn, Blocks
from xclf.rows._stream import Streamed, slices
from xclf.rows._threads import in_threads

# Bytes that a thread hashes at a time.
_PIECE = 8 << 20


def fingerprint(x: Array | BlockColumn | SubsetRows) -> str:
    """SHA-256 of the dtype, the shape and the entries of x (N, ...), in parts, in threads.

    The same rows give the same text wherever they are: those of a device come to the host part by
    part; of streamed rows those on the host are read. Of rows in blocks it depends on the blocks
    too, as the last bits of a fit do.
    """
    if isinstance(x, SparseMatrix) and not isinstance(x, Blocks):
        own = [fingerprint(part) for part in (x.values, x.matrix.indices, x.matrix.indptr)]
        text = f"{x.shape}{own}"
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    if isinstance(x, Blocks):
        digests = x.engine.collect(_digest_group, None, [(group,) for group in x.groups], MANY)
        return f"sha256:{hashlib.sha256(repr((x.shape, list(digests))).encode()).hexdigest()}"
    if isinstance(x, SubsetRows):
        groups = zip(x.x.groups, x.subset.folds.column.parts, strict=True)
        found = x.x.engine.collect(_digest_subset, x.subset.numbers, list(groups), MANY)
        text = repr((x.shape, [own for own in found if own]))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    if isinstance(x, BlockColumn):
        held = [(part,) for part in x.parts]
        digests = x.engine.collect(_digest_columns, x.columns, held, MANY)
        return f"sha256:{hashlib.sha256(repr((x.shape, list(digests))).encode()).hexdigest()}"
    x = x.host if isinstance(x, Streamed) else x
    sample = to_host(x[:1, ...])
    each = max(1, sample.nbytes)
    parts = slices(int(x.shape[0]), max(1, _PIECE // each))

    def digest(where: slice) -> bytes:
        return hashlib.sha256(np.ascontiguousarray(to_host(x[where, ...])).data).digest()

    sha = hashlib.sha256(f"{sample.dtype.str}{tuple(map(int, x.shape))}".encode())
    for part in in_threads(digest, parts):
        sha.update(part)
    return f"sha256:{sha.hexdigest()}"


def _digest_group(_: None, blocks: Sequence[Array]) -> str:
    """That of all blocks of a group."""
    return repr([fingerprint(block) for block in blocks])


def _digest_subset(
    numbers: tuple[int, ...], blocks: Sequence[Array], folds: np.ndarray
) -> str | None:
    """That of the rows of a group that are in some folds, None without any."""
    rows = np.flatnonzero(np.isin(folds, numbers))
    return repr([fingerprint(take_rows(None, blocks, rows))]) if len(rows) else None


def _digest_columns(columns: int | list[int] | None, part: np.ndarray) -> str:
    return fingerprint(part if columns is None else part[columns])
