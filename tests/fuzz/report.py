"""The table of counts, the failures, and the record of a campaign."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.common.record import machine, thread_pools, versions, write_json
from tests.fuzz.cases import BROKEN, Tally


def table(tallies: list[Tally]) -> Table:
    result = Table("kind", "cases", "outcomes", "broken", "a second", "slowest", title="fuzz")
    for tally in tallies:
        broken = sum(tally.outcomes[name] for name in BROKEN)
        result.add_row(
            tally.kind,
            f"{tally.cases:,}",
            "\n".join(f"{count:,} {name}" for name, count in tally.outcomes.most_common()),
            str(broken),
            f"{tally.cases / max(tally.seconds, 1e-9):.1f}",
            f"{tally.slowest:.1f} s",
        )
    return result


def show(tallies: list[Tally], seed: int, most: int = 20) -> None:
    """Print the counts, and of each kind the first failures with the snippet that repeats them."""
    console = Console()
    for tally in tallies:
        for failure in tally.failures[:most]:
            console.print(
                f"\n{tally.kind} --case {failure['case']} --seed {seed} ({failure['group']}): "
                f"{failure['outcome']}: {failure['detail']}\n{failure['snippet']}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if len(tally.failures) > most:
            console.print(f"\n{len(tally.failures) - most} more failures of {tally.kind}")
    console.print(table(tallies))


def record(path: Path, tallies: list[Tally], seed: int, before: dict[str, Any]) -> None:
    """The campaign as JSON, whole or not at all."""
    words = [word for word in sys.argv[1:] if word != str(path)]
    write_json(
        path,
        {
            "command": " ".join(["python -m tests.fuzz", *words, "JSON"]),
            "seed": seed,
            "date": time.strftime("%Y-%m-%d"),
            "versions": versions(),
            "thread_pools": thread_pools(),
            "machine": {**before, "load_average_after": machine()["load_average"]},
            "results": {tally.kind: tally.summary() for tally in tallies},
        },
    )
