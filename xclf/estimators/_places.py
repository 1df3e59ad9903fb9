"""The parameter `device`: where to compute when that is not where X is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xclf import _xp
from xclf._xp import Array
from xclf.estimators._settings import FULL_BATCH
from xclf.rows import Split, Streamed, parse_bytes

# X is moved to a device once if it takes no more than this share of what is free there, or of
# max_memory; else its rows are sent in every pass.
_COMFORTABLE, _OF_BOUND = 0.6, 0.5


def shares_rows(model: Any) -> bool:
    """Whether a fit of `model` can share its rows among several devices: its sums over rows are
    then those of `RowSums`, which can be copied to each. The hinge's work on arrays of all rows,
    and a minibatch is too little work to share."""
    solver = model._auto_solver if model.solver == "auto" else model.solver
    return bool(model._loss_name == "softmax" and solver in FULL_BATCH)


def put(
    X: Array, device: str | Sequence[str] | None, max_memory: Any, *, several: bool
) -> tuple[Array, int]:
    """(X where `device` says to compute, bytes that it takes there).

    X in host memory is moved, or `Streamed` where it is too large. Any other X stays where it is;
    ValueError if that is not `device`.

    several : whether to use all of several devices, or the first one only
    """
    if device is None:
        return X, 0
    if not _xp.is_host(X):
        if device != "auto":
            _check_there(X, device)
        return X, 0
    there = _xp.spots(device)
    most = parse_bytes(max_memory)
    if there[0].xp is None:
        return X, 0
    if len(there) == 1 or not several:
        return _sent(Streamed(X, there[0].xp, there[0].device), most)
    split = Split(X, there[0].xp, [spot.device for spot in there[: len(X)]])
    sent = [_sent(x, most) for _, x in split.lanes]
    split.lanes = [(where, x) for (where, _), (x, _) in zip(split.lanes, sent, strict=True)]
    return split, sent[0][1]  # the rest fits where the first device's share does


def _sent(rows: Streamed, most: int | None) -> tuple[Array, int]:
    size = rows.shape[0] * rows.bytes_per_row
    free = _xp.free_memory(rows.xp, rows.device)
    limits = [_OF_BOUND * most] if most is not None else []
    limits += [_COMFORTABLE * free] if free is not None else []
    if size > min(limits, default=size):
        return rows, 0
    with _xp.on_device(rows):
        return rows.resident(), size


def toward(X: Array, model_array: Array, device: Any) -> Array:
    """X for a model that `device` has put elsewhere: rows in host memory are sent to it."""
    if device is None or not _xp.is_host(X) or _xp.is_host(model_array):
        return X
    return Streamed(X, _xp.namespace(model_array), _xp.device(model_array))


def _check_there(X: Array, device: str | Sequence[str]) -> None:
    """ValueError unless X, no NumPy array, lives on `device`."""
    place, name = _xp.device(X), device if isinstance(device, str) else ",".join(device)
    head, _, number = name.partition(":")
    kind = str(getattr(place, "type", "cpu" if "cpu" in str(place).lower() else "cuda"))
    index = getattr(place, "id", getattr(place, "index", None)) or 0
    if name in _xp.SPOTS:
        if _xp.SPOTS[name][1] == place:
            return
    elif head == kind and (not number or number == str(index)):
        return
    raise ValueError(
        f"X is {_xp.place(X)} and device={device!r}: device moves rows in host memory (NumPy) "
        "only; move X yourself, or leave device at None to compute where X is"
    )
