"""Rows on several devices: each works on its own, and the sums are added up on the first."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

from xclf._xp import Array, finish, is_array, on_device, to_device


class _Lane(Protocol):
    @property
    def x(self) -> Array: ...


def movable(f: object) -> bool:
    """Whether `moved` sees all that f holds: a closure would keep its arrays where they are."""
    return isinstance(f, functools.partial) or is_dataclass(f)


def moved(value: Any, like: Array) -> Any:
    """`value` with every array in it on the device of `like`: in tuples, lists, dicts, partials
    and dataclasses, whatever their depth. The rest is shared."""
    if is_array(value):
        return to_device(value, like)
    if isinstance(value, functools.partial):
        args, keywords = moved(value.args, like), moved(value.keywords, like)
        return functools.partial(moved(value.func, like), *args, **keywords)
    if is_dataclass(value) and not isinstance(value, type):
        held = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **{name: moved(part, like) for name, part in held.items()})
    if isinstance(value, dict):
        return {key: moved(part, like) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(part, like) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(moved(part, like) for part in value)
    return value


def in_lanes(
    total: Callable[[Any, Any], list[Array]], f: Any, lanes: Sequence[_Lane]
) -> tuple[Array, ...]:
    """The sum of total(f, lane) over the lanes, in their order, on the device of the first."""
    functions = [moved(f, lane.x) for lane in lanes]
    first = lanes[0].x

    def work(k: int) -> list[Array]:
        with on_device(lanes[k].x):
            sums = total(functions[k], lanes[k])
            finish(lanes[k].x)
        return sums

    found = list(_pool(len(lanes)).map(work, range(len(lanes))))
    totals = found[0]
    with on_device(first):
        for sums in found[1:]:
            for place, part in enumerate(sums):
                totals[place] += to_device(part, first)
    return tuple(totals)


# Kept: every thread of its own makes CuPy's library handles anew.
@functools.cache
def _pool(lanes: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(lanes, thread_name_prefix="xclf-device")


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
