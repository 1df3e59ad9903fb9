"""`python -m tests.fuzz --minutes M --seed S`: random campaigns; status 1 if a promise broke."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.common.record import machine
from tests.fuzz import files, fits, kills, report, resumed, signals, sweeps
from tests.fuzz.cases import KINDS, Budget, Outcome, Tally
from tests.fuzz.problems import LOSSES

Case = tuple[int, str, Outcome, float]

#: Share of the time that each kind gets where its number of cases is not given.
SHARES = {
    "fits": 0.45,
    "sweeps": 0.1,
    "files": 0.2,
    "kills": 0.1,
    "disk": 0.05,
    "signals": 0.05,
    "resumed": 0.05,
}

#: Seconds between two lines of progress.
EVERY = 30.0

#: Cases of one worker that reads files.
BATCH = 5000


def one_by_one(
    run: Callable[[int], tuple[str, Outcome]], budget: Budget, wanted: Callable[[int], bool]
) -> Iterator[Case]:
    for index in filter(wanted, budget.indices()):
        start = time.monotonic()
        group, outcome = run(index)
        yield index, group, outcome, time.monotonic() - start


def in_batches(seed: int, budget: Budget, shrinking: bool) -> Iterator[Case]:
    for first in range(budget.first, budget.last, BATCH):
        batch = list(range(first, min(first + BATCH, budget.last)))
        for case in files.watched(seed, batch, shrinking):
            yield case
            if time.monotonic() > budget.until:
                return


def cases(
    kind: str, seed: int, budget: Budget, shrinking: bool = True, loss: str | None = None
) -> Iterator[Case]:
    """(index, group, outcome, seconds) of each case of one kind; of fits, those with this loss."""
    if kind == "files":
        return in_batches(seed, budget, shrinking)
    run: dict[str, Callable[[int], tuple[str, Outcome]]] = {
        "fits": lambda index: fits.run_case(seed, index, shrinking),
        "sweeps": lambda index: sweeps.run_case(seed, index),
        "kills": lambda index: kills.kill(seed, index),
        "disk": lambda index: kills.fill(seed, index),
        "signals": lambda index: signals.interrupt(seed, index),
        "resumed": lambda index: resumed.resume(seed, index),
    }

    def wanted(index: int) -> bool:
        return kind != "fits" or loss in (None, fits.draw(seed, index).options["loss"])

    return one_by_one(run[kind], budget, wanted)


def campaign(
    kind: str,
    seed: int,
    budget: Budget,
    shrinking: bool = True,
    watch: Callable[[Tally], None] | None = None,
    loss: str | None = None,
) -> Tally:
    """All cases of one kind; `watch` gets the counts so far every EVERY seconds.

    loss : None, or that of the fits that are wanted
    """
    tally, start = Tally(kind), time.monotonic()
    shown = start
    for index, group, outcome, seconds in cases(kind, seed, budget, shrinking, loss):
        tally.add(index, group, outcome, seconds)
        tally.seconds = time.monotonic() - start
        if watch is not None and time.monotonic() - shown > EVERY:
            shown = time.monotonic()
            watch(tally)
    return tally


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    result.add_argument("--minutes", type=float, default=1.0, help="of all kinds without a count")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    result.add_argument("--loss", choices=list(LOSSES), help="of fits, those with this loss only")
    result.add_argument("--case", type=int, help="repeat one case, of one kind")
    result.add_argument("--json", type=Path, help="write the counts and failures here")
    result.add_argument("--no-shrinking", action="store_true", help="show failures as they came")
    for kind in KINDS:
        result.add_argument(f"--{kind}", type=int, help=f"cases of {kind}, whatever their time")
    return result


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    before = machine()
    tallies: list[Tally] = []

    def keep(running: Tally | None = None) -> None:
        """What there is so far: a campaign that is stopped leaves its counts."""
        if running is not None:
            broken = len(running.failures)
            print(f"{running.kind}: {running.cases} cases, {broken} broken", file=sys.stderr)
        if given.json is not None:
            so_far = [*tallies, *([] if running is None else [running])]
            report.record(given.json, so_far, given.seed, before)

    shares = sum(SHARES[kind] for kind in given.only if getattr(given, kind) is None)
    for kind in given.only:
        last = getattr(given, kind)
        until = time.monotonic() + 60 * given.minutes * SHARES[kind] / (shares or 1.0)
        budget = Budget(0, sys.maxsize if last is None else last, float("inf") if last else until)
        if given.case is not None:
            budget = Budget(given.case, given.case + 1, float("inf"))
        tallies.append(campaign(kind, given.seed, budget, not given.no_shrinking, keep, given.loss))
        keep()
    report.show(tallies, given.seed)
    return int(any(tally.failures for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
