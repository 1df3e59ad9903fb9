"""Rows on several devices: each works on its own, and the sums meet on one of them.

Streams, of which every thread has its own, only know of each other what they are told: all that a
device starts from is waited for before its thread begins, and all that it made before it ends.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

from xclf._array_api import (
    Array,
    device,
    finish,
    is_array,
    is_host,
    namespace,
    on_device,
    to_device,
)

Result = TypeVar("Result")


class _Shard(Protocol):
    @property
    def x(self) -> Array: ...
    def __len__(self) -> int: ...


class PerRow:
    """Numbers of all rows, rows last, kept where the rows are: on every device those of its own.

    parts : (..., n) for each of the devices; a single one where all rows are in one place. That one
        is read and written by index, as the array that it is.
    """

    def __init__(self, parts: Sequence[Array]) -> None:
        self.parts = list(parts)

    @classmethod
    def zeros(cls, shards: Sequence[_Shard], shape: tuple[int, ...], dtype: Any) -> PerRow:
        """(*shape, n) zeros beside the rows of each shard."""
        parts = []
        for shard in shards:
            with on_device(shard.x):
                size, place = (*shape, len(shard)), device(shard.x)
                parts.append(namespace(shard.x).zeros(size, dtype=dtype, device=place))
        return cls(parts)

    def shard(self, number: int) -> PerRow:
        """What is beside the rows of one device."""
        return PerRow([self.parts[number]])

    def map(self, f: Callable[..., Array], *others: PerRow) -> PerRow:
        """f of every part, and of the same rows' parts of the others, on its device."""
        made = []
        for part, *more in zip(self.parts, *(other.parts for other in others), strict=True):
            with on_device(part):
                made.append(f(part, *more))
        return PerRow(made)

    def __getitem__(self, key: Any) -> Array:
        (part,) = self.parts
        return part[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        (part,) = self.parts
        part[key] = value


def movable(f: object) -> bool:
    """Whether `moved` sees all that f holds: a closure would keep its arrays where they are."""
    return isinstance(f, functools.partial) or is_dataclass(f)


def moved(value: Any, like: Array, shard: int) -> Any:
    """`value` with every array in it on the device of `like`: in tuples, lists, dicts, partials
    and dataclasses, whatever their depth. Of a `PerRow` the part of that shard. The rest is shared,
    arrays on the host too."""
    move = functools.partial(moved, like=like, shard=shard)
    if isinstance(value, PerRow):
        return value.shard(shard)
    if is_array(value):
        return value if is_host(value) else to_device(value, like)
    if isinstance(value, functools.partial):
        return functools.partial(move(value.func), *move(value.args), **move(value.keywords))
    if is_dataclass(value) and not isinstance(value, type):
        held = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **{name: move(part) for name, part in held.items()})
    if isinstance(value, dict):
        return {key: move(part) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(move, value))
    if isinstance(value, tuple | list):
        return type(value)(map(move, value))
    return value


def on_each_device(
    work: Callable[[Any, Any], Result], f: Any, shards: Sequence[_Shard]
) -> Sequence[Result]:
    """work(f, shard) of every shard, each in a thread of its own, with f `moved` there."""
    functions = [moved(f, shard.x, k) for k, shard in enumerate(shards)]
    for shard in shards:
        finish(shard.x)

    def there(k: int) -> Result:
        with on_device(shards[k].x):
            found = work(functions[k], shards[k])
            finish(shards[k].x)
        return found

    pool = _pool(len(shards))
    running: list[Future[Result]] = []
    try:
        running += [pool.submit(there, k) for k in range(len(shards))]
        return [future.result() for future in running]
    finally:
        # An error, or Ctrl-C: nothing may go on writing to the caller's arrays.
        for future in running:
            future.cancel()
        wait(running)


def together(found: Sequence[list[Array]], like: Array) -> tuple[Array, ...]:
    """The sums of all shards added up, in their order, on the device of `like`."""
    totals = [to_device(part, like) for part in found[0]]
    with on_device(like):
        for sums in found[1:]:
            for place, part in enumerate(sums):
                totals[place] += to_device(part, like)
    return tuple(totals)


# Kept: every thread of its own makes CuPy's library handles anew.
@functools.cache
def _pool(shards: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(shards, thread_name_prefix="xclf-device")


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
