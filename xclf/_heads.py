"""Floor 1: heads, the K models that train together, and how some of them are taken out.

Whatever holds one entry per head holds it along its first axis; `take_heads` is the one function
that knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from xclf._array_api import from_host, is_host, namespace


def take_heads(value: Any, kept: np.ndarray) -> Any:
    """`value` for the heads that host integers `kept` name, in that order.

    - an array with an axis: its entries along the first one; a number, a string, None and a 0-d
      array are shared by all heads, and returned as they are;
    - a tuple, list or dataclass: part by part;
    - an object with a method `take_heads`: what that returns.
    """
    if type(value) is np.ndarray:
        return value[kept] if value.ndim else value
    own = getattr(value, "take_heads", None)
    if own is not None:
        return own(kept)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value,
            **{f.name: take_heads(getattr(value, f.name), kept) for f in fields(value) if f.init},
        )
    if isinstance(value, tuple | list):
        parts = [take_heads(part, kept) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if not getattr(value, "ndim", 0):
        return value
    if is_host(value):
        return value[kept]
    return namespace(value).take(value, from_host(kept, value), axis=0)


def take_run(arrays: Sequence[Any], kept: np.ndarray) -> list[Any]:
    """`take_heads` of arrays that nobody writes to: views, where the heads are neighbours."""
    run = len(kept) and bool(np.all(np.diff(kept) == 1))
    part = slice(int(kept[0]), int(kept[-1]) + 1) if run else None
    return [take_heads(one, kept) if part is None else one[part, ...] for one in arrays]


def per_head(values: list[float], like: Any, dtype: Any) -> Any:
    """A number where all heads share it, else an array (K,) of that dtype beside `like`."""
    if all(value == values[0] for value in values):
        return values[0]
    return from_host(np.asarray(values), like, dtype)


def is_per_head(value: Any) -> bool:
    """Whether `value` is an array with an entry for every head, not a number for all of them."""
    return bool(getattr(value, "ndim", 0))
