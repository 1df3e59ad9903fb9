"""A CuPy whose streams queue their work and do it late, in any order that events allow.

What a program enqueues on one stream is done in order; between streams only events order it. So a
forgotten event shows: a copy reads pinned memory that has been written to since, or an array is
read before, or after, the chunk that belongs there. `Machine` does the work, picking among the
streams that can go on by a seeded generator, as late as anything asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class Machine:
    """The streams of a device, and the generator that picks whose work is done next."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.streams: list[Stream] = []
        self.devices: list[int] = []
        self.fail_above: int | None = None
        self.default = Stream(self)

    def step(self) -> None:
        """Do one piece of work that may be done now."""
        ready = [s for s in self.streams if s.queue and s.queue[0].ready()]
        assert ready, "deadlock"
        ready[self.rng.integers(len(ready))].queue.pop(0).run()

    def drain(self, done: Callable[[], bool]) -> None:
        while not done():
            self.step()


class Stream:
    def __init__(self, machine: Machine, **_: Any) -> None:
        self.machine, self.queue = machine, []
        machine.streams.append(self)

    def add(self, run: Callable[[], Any], ready: Callable[[], bool] = lambda: True) -> None:
        self.queue.append(SimpleNamespace(run=run, ready=ready))

    def wait_event(self, event: Event) -> None:
        mark = event.last
        self.add(lambda: None, lambda: mark is None or mark["done"])

    def synchronize(self) -> None:
        self.machine.drain(lambda: not self.queue)


class Event:
    def __init__(self, machine: Machine, **_: Any) -> None:
        self.machine, self.last = machine, None

    def record(self, stream: Stream) -> None:
        mark = self.last = {"done": False}
        stream.add(lambda: mark.update(done=True))

    def synchronize(self) -> None:
        mark = self.last
        self.machine.drain(lambda: mark is None or mark["done"])


class Buffer:
    """An array on the device; `base` is its memory, which the host must not touch."""

    def __init__(self, machine: Machine, base: np.ndarray) -> None:
        self.machine, self.base = machine, base

    @property
    def nbytes(self) -> int:
        return self.base.nbytes

    def __getitem__(self, key: Any) -> Buffer:
        return Buffer(self.machine, self.base[key])

    def view(self, dtype: Any) -> Buffer:
        return Buffer(self.machine, self.base.view(dtype))

    def reshape(self, shape: Any) -> Buffer:
        return Buffer(self.machine, self.base.reshape(shape))

    def set(self, source: np.ndarray, stream: Stream) -> None:
        stream.add(lambda: np.copyto(self.base, source))

    def later(self) -> list[np.ndarray]:
        """A list for what queued work on the computing stream reads here, once it is done."""
        read: list[np.ndarray] = []
        self.machine.default.add(lambda: read.append(self.base.copy()))
        return read


class Device:
    def __init__(self, machine: Machine, number: int = 0) -> None:
        self.machine, self.id = machine, number

    def __enter__(self) -> None:
        self.machine.devices.append(self.id)

    def __exit__(self, *error: object) -> None:
        assert self.machine.devices.pop() == self.id


def modules(machine: Machine) -> dict[str, ModuleType]:
    """Modules for `import cupy` and `import cupyx`."""
    cupy, cupyx = ModuleType("cupy"), ModuleType("cupyx")

    def empty(shape: Any, dtype: Any) -> Buffer:
        memory = np.full(shape, 99, dtype)  # as that of a pool: used before
        if machine.fail_above is not None and memory.nbytes > machine.fail_above:
            raise MemoryError(f"out of memory allocating {memory.nbytes} bytes")
        return Buffer(machine, memory)

    cupy.empty = empty
    cupy.cuda = SimpleNamespace(
        Stream=lambda **options: Stream(machine, **options),
        Event=lambda **options: Event(machine, **options),
        get_current_stream=lambda: machine.default,
    )
    cupyx.empty_pinned = lambda shape, dtype: np.full(shape, 77, dtype)
    return {"cupy": cupy, "cupyx": cupyx}
