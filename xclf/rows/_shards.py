"""Rows on several devices: each works on its own rows, and the sums are added up on one of them.

A device works through the queue of each thread in order, but queues do not wait for each other. So
whatever a shard starts from is complete before its thread begins, and its results before it ends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from xclf._array_api import (
    Array,
    device,
    finish,
    from_host,
    is_array,
    is_host,
    namespace,
    on_device,
    to_device,
    to_host,
)
from xclf.rows._threads import cancel, thread_pool

Result = TypeVar("Result")


class _Shard(Protocol):
    @property
    def x(self) -> Array: ...
    def __len__(self) -> int: ...


class PerRow:
    """Numbers of all rows, rows last, each on the device of its row.

    parts : (..., n) for each device. A single part is read and written by index like an array.
    """

    def __init__(self, parts: Sequence[Array]) -> None:
        self.parts = list(parts)

    @classmethod
    def zeros(cls, shards: Sequence[_Shard], shape: tuple[int, ...], dtype: Any) -> PerRow:
        """(*shape, n) zeros on the device of each shard."""
        parts = []
        for shard in shards:
            with on_device(shard.x):
                size, on = (*shape, len(shard)), device(shard.x)
                parts.append(namespace(shard.x).zeros(size, dtype=dtype, device=on))
        return cls(parts)

    def to_host(self) -> list[np.ndarray]:
        """The parts on the host, for `from_host`."""
        return [to_host(part) for part in self.parts]

    @classmethod
    def from_host(cls, parts: Sequence[np.ndarray], shards: Sequence[_Shard]) -> PerRow:
        """Parts on the host as those of the devices of `shards`."""
        moved = []
        for part, shard in zip(parts, shards, strict=True):
            with on_device(shard.x):
                moved.append(from_host(part, shard.x))
        return cls(moved)

    def map(self, f: Callable[..., Array], *others: PerRow) -> PerRow:
        """f of every part, and of the others' parts of the same rows, on its device."""
        results = []
        for part, *more in zip(self.parts, *(other.parts for other in others), strict=True):
            with on_device(part):
                results.append(f(part, *more))
        return PerRow(results)

    def __getitem__(self, key: Any) -> Array:
        (part,) = self.parts
        return part[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        (part,) = self.parts
        part[key] = value


def is_copyable(f: object) -> bool:
    """Whether `copy_to_shard` reaches the arrays that f holds; it cannot look into a closure."""
    return isinstance(f, functools.partial) or is_dataclass(f)


def copy_to_shard(value: Any, like: Array, shard: int) -> Any:
    """`value` with all arrays in it on the device of `like`, and the shard's part of a `PerRow`.

    Tuples, lists, dicts, partials and dataclasses are searched to any depth. Everything else is
    shared, as are arrays on the host.
    """

    def moved(part: Any) -> Any:
        if isinstance(part, PerRow):
            return PerRow([part.parts[shard]])
        if is_array(part):
            return part if is_host(part) else to_device(part, like)
        return None

    return rebuilt(value, moved)


def rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with change(part) in the place of every part of it for which that is not None.

    Tuples, lists, dicts, partials and dataclasses are searched to any depth.
    """
    changed = change(value)
    if changed is not None:
        return changed
    copy = functools.partial(rebuilt, change=change)
    if isinstance(value, functools.partial):
        return functools.partial(copy(value.func), *copy(value.args), **copy(value.keywords))
    if is_dataclass(value) and not isinstance(value, type):
        held = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **copy(held))
    if isinstance(value, dict):
        return {key: copy(part) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(copy, value))
    if isinstance(value, tuple | list):
        return type(value)(map(copy, value))
    return value


def on_each_device(
    work: Callable[[Any, Any], Result], f: Any, shards: Sequence[_Shard]
) -> Sequence[Result]:
    """work(f, shard) of every shard, in a thread each, with a copy of f on its device."""
    functions = [copy_to_shard(f, shard.x, k) for k, shard in enumerate(shards)]
    for shard in shards:
        finish(shard.x)

    def run(k: int) -> Result:
        with on_device(shards[k].x):
            result = work(functions[k], shards[k])
            finish(shards[k].x)
        return result

    pool = thread_pool(len(shards), "xclf-device")
    running: list[Future[Result]] = []
    try:
        running += [pool.submit(run, k) for k in range(len(shards))]
        return [future.result() for future in running]
    finally:
        cancel(running)


def add_up(sums: Sequence[list[Array]], like: Array) -> tuple[Array, ...]:
    """The sums of all shards, array by array, in their order, on the device of `like`."""
    totals = [to_device(part, like) for part in sums[0]]
    with on_device(like):
        for more in sums[1:]:
            for k, part in enumerate(more):
                totals[k] += to_device(part, like)
    return tuple(totals)
