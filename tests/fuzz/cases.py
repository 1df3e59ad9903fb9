"""What every kind of case shares: its random numbers, its outcome, time limits and counts."""

from __future__ import annotations

import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Kinds of cases, in the order in which they run. The place of a kind is part of its seeds.
KINDS = ("fits", "sweeps", "files", "kills", "disk", "signals", "resumed")

#: Outcomes that break a promise.
BROKEN = (
    "silent wrong",
    "wrong objective",
    "wrong bound",
    "wrong scores",
    "warning",
    "exception",
    "hang",
    "died",
    "executed",
    "memory",
    "unsound data",
    "torn",
    "stale part",
    "wrong exit",
)


@dataclass(frozen=True)
class Outcome:
    """How a case ended: a short name that is counted; for a broken promise what happened, and a
    snippet that repeats it."""

    name: str
    detail: str = ""
    snippet: str = ""

    @property
    def broken(self) -> bool:
        return self.name in BROKEN


@dataclass
class Tally:
    """Counts of one kind."""

    kind: str
    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0

    def add(self, index: int, group: str, outcome: Outcome, seconds: float) -> None:
        self.cases += 1
        self.outcomes[outcome.name] += 1
        self.groups[group] += 1
        self.slowest = max(self.slowest, seconds)
        if outcome.broken:
            self.failures.append(
                {
                    "case": index,
                    "group": group,
                    "outcome": outcome.name,
                    "detail": outcome.detail,
                    "snippet": outcome.snippet,
                }
            )

    def summary(self) -> dict[str, Any]:
        return {
            "cases": self.cases,
            "outcomes": dict(sorted(self.outcomes.items())),
            "groups": dict(sorted(self.groups.items())),
            "seconds": round(self.seconds, 1),
            "slowest_case_seconds": round(self.slowest, 2),
            "peak_memory_mib": round(peak_memory() / 2**20),
            "failures": self.failures,
        }


@dataclass(frozen=True)
class Budget:
    """Cases of a kind: the indices from `first` to before `last`, as long as there is time."""

    first: int
    last: int
    until: float

    def indices(self) -> Iterator[int]:
        for index in range(self.first, self.last):
            if time.monotonic() > self.until:
                return
            yield index


def generator(seed: int, kind: str, index: int) -> np.random.Generator:
    """The random numbers of one case: the same in every run, whichever cases run beside it."""
    return np.random.default_rng([seed, KINDS.index(kind), index])


class HangError(BaseException):
    """A case that takes too long; no handler of ordinary exceptions may catch it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """HangError in the block after `seconds` of processor time, or 20 times as many on the clock: a
    busy machine is no hang."""

    def end(*_: object) -> None:
        raise HangError

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, 1), (signal.ITIMER_REAL, signal.SIGALRM, 20))
    before = [signal.signal(number, end) for _, number, _ in timers]
    for timer, _, times in timers:
        signal.setitimer(timer, times * seconds)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def peak_memory() -> int:
    """The most bytes that this process, or a child that has ended, has held in memory."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in both) * 1024
