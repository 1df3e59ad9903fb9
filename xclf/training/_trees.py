"""Trees of dicts, lists, numbers and arrays as JSON with arrays beside it, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from xclf._array_api import Array, from_host, is_array, to_host


def pack(tree: Any, arrays: list[np.ndarray]) -> Any:
    """`tree` as JSON has it; its arrays are appended to `arrays`, those of a device as copies.

    tree : of dicts with names, lists, tuples, None, numbers, texts, arrays and NumPy scalars

    The order of an array's axes in memory is kept: products of another order round differently.
    """
    if isinstance(tree, dict):
        return {"dict": {name: pack(part, arrays) for name, part in tree.items()}}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [pack(part, arrays) for part in tree]}
    if isinstance(tree, np.generic):
        arrays.append(np.asarray(tree))
        return {"scalar": len(arrays) - 1}
    if is_array(tree):
        host = to_host(tree)
        axes = sorted(range(host.ndim), key=lambda axis: -abs(host.strides[axis]))
        arrays.append(host.transpose(axes))
        place = "host" if isinstance(tree, np.ndarray) else "device"
        return {place: len(arrays) - 1, "axes": axes}
    return tree


def unpack(packed: Any, arrays: list[np.ndarray], like: Array) -> Any:
    """The tree that `pack` took apart; arrays of a device go to that of `like`."""
    if not isinstance(packed, dict):
        return packed
    ((kind, value), *more) = packed.items()
    if kind == "dict":
        return {name: unpack(part, arrays, like) for name, part in value.items()}
    if kind in ("list", "tuple"):
        parts = [unpack(part, arrays, like) for part in value]
        return parts if kind == "list" else tuple(parts)
    if kind == "scalar":
        return arrays[value][()]
    host = arrays[value] if arrays[value].flags.writeable else arrays[value].copy()
    host = np.transpose(host, np.argsort(more[0][1])) if host.ndim > 1 else host
    return host if kind == "host" else from_host(host, like)
