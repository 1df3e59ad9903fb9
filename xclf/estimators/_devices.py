"""The parameter `device`: where to compute when that is not where X is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from xclf import _array_api
from xclf._array_api import Array
from xclf._sparse import SparseMatrix
from xclf._warnings import warn_caller
from xclf.estimators._settings import uses_full_batches
from xclf.rows import (
    Blocks,
    Sharded,
    Streamed,
    fingerprint,
    parse_bytes,
    sent_sparse,
    shard_rows,
)

# X is moved to a device once if it takes no more than this share of what is free there, or of
# max_memory; else its rows are sent in every pass.
_COMFORTABLE, _OF_BOUND = 0.6, 0.5

# Predictions are shared among devices where each has so much to receive.
_SHARE = 64 << 20


@dataclass(frozen=True)
class PlacedRows:
    """X, checked, where it is computed with.

    taken : bytes that are taken beside a fit: of a device's memory, by X where it was moved there;
        by the labels of several tasks
    """

    X: Array
    taken: int = 0

    @property
    def dtype(self) -> Any:
        """In which products run: float64 for float64 data, float32 for all else."""
        xp = _array_api.namespace(self.X)
        return xp.float64 if self.X.dtype == xp.float64 else xp.float32

    @property
    def counted(self) -> Array:
        """X as memory is planned for it: of rows in blocks the share of one process."""
        return self.X.counted if isinstance(self.X, Blocks) else self.X

    @cached_property
    def fingerprint(self) -> str:
        """That of X."""
        return fingerprint(self.X)


def shares_rows(model: Any) -> bool:
    """Whether a fit of `model` shares its rows among several devices, where its `device` names
    several: full-batch solvers do, a minibatch is too little work to share."""
    return _several(model.device) and uses_full_batches(model)


def _several(device: str | Sequence[str] | None) -> bool:
    return device == "cuda:all" or (device is not None and not isinstance(device, str))


def place_rows(
    model: Any, X: Array, *, several: bool | None = None, warn: bool = True
) -> PlacedRows:
    """X on the device that the model's `device` names.

    X in host memory is moved, or `Streamed` where it is too large. Any other X stays where it is;
    ValueError if that is not `device`.

    several : whether to use all of several devices, or the first one only; by default what the
        model's solver does
    warn : whether to warn of devices that are not used
    """
    device, most = model.device, parse_bytes(model.max_memory)
    if device is None or not _array_api.is_host(X):
        if device not in (None, "auto"):
            _check_there(X, device)
        return PlacedRows(X, X.taken if isinstance(X, Blocks) else 0)
    there = _array_api.resolve_devices(device)
    if there[0].xp is None:
        return PlacedRows(X)
    if isinstance(X, SparseMatrix):
        own = sent_sparse(X, there[0].xp, there[0].device)
        return PlacedRows(own, own.nbytes)
    several = shares_rows(model) if several is None else several
    if len(there) == 1 or not several:
        if len(there) > 1 and warn:
            warn_caller(
                f"minibatches are computed on one device, the first of device={device!r}: all of "
                "them are for full-batch solvers"
            )
        return PlacedRows(*_sent(Streamed(X, there[0].xp, there[0].device), most))
    shards = shard_rows(X, there[0].xp, [each.device for each in there])
    sent = [_sent(x, most) for _, x in shards]
    moved = [(where, x) for (where, _), (x, _) in zip(shards, sent, strict=True)]
    taken = sent[0][1]  # the rest fits where the first's share does
    return PlacedRows(Sharded(X, there[0].xp, there[0].device, moved), taken)


def _sent(rows: Streamed, most: int | None) -> tuple[Array, int]:
    size = rows.shape[0] * rows.bytes_per_row
    free = _array_api.free_memory(rows.xp, rows.device)
    limits = [_OF_BOUND * most] if most is not None else []
    limits += [_COMFORTABLE * free] if free is not None else []
    if size > min(limits, default=size):
        return rows, 0
    try:
        with _array_api.on_device(rows):
            return rows.resident(), size
    except Exception as error:
        # What is free may lie in pieces, or be taken by another process in the meantime.
        if not _array_api.out_of_memory(error):
            raise
    return rows, 0


def to_model_device(X: Any, model_array: Array, device: Any) -> Array:
    """X for a model that `device` has put elsewhere: rows in host memory are sent to it, and so
    many that it is worth it to the other devices too."""
    if device is None or not _array_api.is_host(X) or _array_api.is_host(model_array):
        return X
    xp, home = _array_api.namespace(model_array), _array_api.device(model_array)
    if isinstance(X, SparseMatrix):
        return sent_sparse(X, xp, home)
    share: int = X.nbytes // _SHARE
    if share > 1 and _several(device):
        others = [each.device for each in _array_api.resolve_devices(device) if each.xp is xp]
        if home in others:
            devices = [home, *(other for other in others if other != home)]
            return Sharded(X, xp, home, shard_rows(X, xp, devices[:share]))
    return Streamed(X, xp, home)


def _check_there(X: Array, device: str | Sequence[str]) -> None:
    """ValueError unless X, no NumPy array, lives on `device`."""
    if isinstance(device, str) and _array_api.is_on(X, device):
        return
    raise ValueError(
        f"X is {_array_api.describe_device(X)} and device={device!r}: device moves rows in host "
        "memory (NumPy) only; move X yourself, or leave device at None to compute where X is"
    )
