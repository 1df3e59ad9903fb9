"""The parameter `device`: where to compute when that is not where X is."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from xclf import _xp
from xclf._xp import Array
from xclf.estimators._settings import in_full_batches
from xclf.rows import Split, Streamed, parse_bytes, split

# X is moved to a device once if it takes no more than this share of what is free there, or of
# max_memory; else its rows are sent in every pass.
_COMFORTABLE, _OF_BOUND = 0.6, 0.5

# Predictions are shared among devices where each has so much to receive.
_SHARE = 64 << 20


def shares_rows(model: Any) -> bool:
    """Whether a fit of `model` shares its rows among several devices, where its `device` names
    several: full-batch solvers do, a minibatch is too little work to share."""
    return _several(model.device) and in_full_batches(model)


def _several(device: str | Sequence[str] | None) -> bool:
    return device == "cuda:all" or (device is not None and not isinstance(device, str))


def put(
    X: Array,
    device: str | Sequence[str] | None,
    max_memory: Any,
    *,
    several: bool,
    tell: bool = True,
) -> tuple[Array, int]:
    """(X where `device` says to compute, bytes that it takes there).

    X in host memory is moved, or `Streamed` where it is too large. Any other X stays where it is;
    ValueError if that is not `device`.

    several : whether to use all of several devices, or the first one only
    tell : whether to warn of others that are not used
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
        if len(there) > 1 and tell:
            warnings.warn(
                f"minibatches are computed on one device, the first of device={device!r}: all of "
                "them are for full-batch solvers",
                UserWarning,
                stacklevel=4,  # the line that called fit
            )
        return _sent(Streamed(X, there[0].xp, there[0].device), most)
    lanes = split(X, there[0].xp, [spot.device for spot in there])
    sent = [_sent(x, most) for _, x in lanes]
    found = [(where, x) for (where, _), (x, _) in zip(lanes, sent, strict=True)]
    taken = sent[0][1]  # the rest fits where the first's share does
    return Split(X, there[0].xp, there[0].device, found), taken


def _sent(rows: Streamed, most: int | None) -> tuple[Array, int]:
    size = rows.shape[0] * rows.bytes_per_row
    free = _xp.free_memory(rows.xp, rows.device)
    limits = [_OF_BOUND * most] if most is not None else []
    limits += [_COMFORTABLE * free] if free is not None else []
    if size > min(limits, default=size):
        return rows, 0
    try:
        with _xp.on_device(rows):
            return rows.resident(), size
    except Exception as error:
        # What is free may lie in pieces, or be taken by another process in the meantime.
        if not _xp.out_of_memory(error):
            raise
    return rows, 0


def toward(X: Array, model_array: Array, device: Any) -> Array:
    """X for a model that `device` has put elsewhere: rows in host memory are sent to it, and so
    many that it is worth it to the other devices too."""
    if device is None or not _xp.is_host(X) or _xp.is_host(model_array):
        return X
    xp, home = _xp.namespace(model_array), _xp.device(model_array)
    share = X.nbytes // _SHARE
    if share > 1 and _several(device):
        others = [spot.device for spot in _xp.spots(device) if spot.xp is xp]
        if home in others:
            devices = [home, *(each for each in others if each != home)]
            return Split(X, xp, home, split(X, xp, devices[:share]))
    return Streamed(X, xp, home)


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
