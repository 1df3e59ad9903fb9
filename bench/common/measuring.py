"""What every benchmark shares: alternating timings, ratios and tables."""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

_START = time.perf_counter()

OURS = "xclf"
NOT_INSTALLED = "not installed"
_WIDTH = 150  # columns of a table that goes into a file

Call = Callable[[], Any]
#: A call, a reason why there is none, or a call that returns its own seconds (see `alternate`).
Contender = Call | str


class BenchError(ValueError):
    """A benchmark that cannot run; the message is one line."""


def optional(name: str) -> Any | None:
    """A module, or None where it is not installed or does not load."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):
        return None


def add_one_thread(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--one-thread",
        action="store_true",
        help="one thread each, and processor time instead of the clock: what a busy machine "
        "disturbs least",
    )


def thread_words(one_thread: bool) -> str:
    return "one thread" if one_thread else "all threads"


@contextmanager
def timing(one_thread: bool) -> Iterator[Call]:
    """The clock to time with. With one_thread, BLAS, OpenMP and torch have one thread each as long
    as it lasts, and the clock is the processor time of this process."""
    if not one_thread:
        yield time.perf_counter
        return
    torch, pools = optional("torch"), optional("threadpoolctl")
    if pools is None:
        raise BenchError("--one-thread needs threadpoolctl: pip install threadpoolctl")
    before = torch.get_num_threads() if torch is not None else 1
    with pools.threadpool_limits(1):
        if torch is not None:
            torch.set_num_threads(1)
        try:
            yield time.process_time
        finally:
            if torch is not None:
                torch.set_num_threads(before)


def alternate(
    contenders: Mapping[str, Contender],
    repeats: int,
    *,
    own_clock: bool = False,
    clock: Call = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every contender, `repeats` times, taking turns.

    Each is called once before, unmeasured. The order rotates from round to round, so that none
    always runs after the same other. With own_clock a call returns the seconds it measured.
    """
    calls = {name: call for name, call in contenders.items() if not isinstance(call, str)}
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = clock()
            result = calls[name]()
            took = clock() - start
            seconds[name].append(float(result) if own_clock else took)
    return seconds


def summarise(seconds: Mapping[str, list[float]], ours: str = OURS) -> dict[str, Any]:
    """By contender: median, quartiles, and the ratio of our median to theirs."""
    results: dict[str, Any] = {}
    base = statistics.median(seconds[ours]) if ours in seconds else math.nan
    for name, values in seconds.items():
        median = statistics.median(values)
        entry: dict[str, Any] = {
            "median_s": median,
            "fastest_s": min(values),
            "slowest_s": max(values),
            "repeats": len(values),
        }
        if name != ours and ours in seconds:
            pairs = [mine / theirs for mine, theirs in zip(seconds[ours], values, strict=True)]
            entry["ratio"] = base / median
            entry["median_of_ratios"] = statistics.median(pairs)
        results[name] = entry
    return results


def table(
    title: str, columns: Iterable[str], rows: Iterable[Iterable[str]], caption: str | None = None
) -> None:
    """Print a table: the first column to the left, the others to the right."""
    drawn = Table(title=title, caption=caption)
    for k, name in enumerate(columns):
        drawn.add_column(name, justify="right" if k else "left")
    for row in rows:
        drawn.add_row(*row)
    console = Console()
    (console if console.is_terminal else Console(width=_WIDTH)).print(drawn)


def show(title: str, entries: list[dict[str, Any]], columns: list[str]) -> None:
    """A table with a line for each problem; each contender's median in ms, and ours as a share."""
    table(
        title,
        ["problem", *columns],
        (
            [one["problem"], *(_cell(one["seconds"].get(name, NOT_INSTALLED)) for name in columns)]
            for one in entries
        ),
        "medians in ms; in brackets xclf's time as a share of it",
    )


def _cell(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    text = milliseconds(entry["median_s"])
    return f"{text} ({entry['ratio']:.2f})" if "ratio" in entry else text


def progress(text: str) -> None:
    """A line that says how far a long run is, apart from what it prints in the end."""
    minutes, seconds = divmod(int(time.perf_counter() - _START), 60)
    print(f"[{minutes:3d}:{seconds:02d}] {text}", file=sys.stderr, flush=True)


def milliseconds(seconds: float) -> str:
    """Three figures: '0.123', '12.3', '1230'."""
    value = 1e3 * seconds
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"
