"""What every benchmark shares: alternating timings, ratios, tables, and the record of a run."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_START = time.perf_counter()

OURS = "xclf"
NOT_INSTALLED = "not installed"

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
    found: dict[str, Any] = {}
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
        found[name] = entry
    return found


def show(title: str, rows: list[tuple[str, dict[str, Any]]], columns: list[str]) -> None:
    """A table: one line per problem; each contender's median in ms, and ours as a share of it."""
    table = Table(title=title, caption="medians in ms; in brackets xclf's time as a share of it")
    table.add_column("problem")
    for name in columns:
        table.add_column(name, justify="right")
    for problem, entries in rows:
        table.add_row(problem, *(_cell(entries.get(name, NOT_INSTALLED)) for name in columns))
    Console().print(table)


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


def versions() -> dict[str, str]:
    """Python and the libraries that matter here; those that are missing are left out."""
    found = {"python": platform.python_version()}
    names = ("numpy", "scipy", "scikit-learn", "torch", "array-api-compat", "numba")
    for name in (*names, "cupy-cuda12x", "cupy-cuda13x"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    found["xclf"] = str(importlib.import_module("xclf").__version__)
    return found


def thread_pools() -> list[dict[str, Any]]:
    """BLAS and OpenMP libraries in this process, and how many threads each uses."""
    tool = optional("threadpoolctl")
    if tool is None:
        return []
    keep = ("user_api", "internal_api", "prefix", "version", "num_threads", "architecture")
    return [{key: pool.get(key) for key in keep} for pool in tool.threadpool_info()]


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, and how busy the machine was."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = None
    with suppress(ValueError, OSError, AttributeError):
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    load = None
    with suppress(OSError, AttributeError):
        load = [round(value, 2) for value in os.getloadavg()]
    return {
        "cpu": _cpu(),
        "cores": cores,
        "memory_gib": memory,
        "system": platform.system(),
        "load_average": load,
    }


def _cpu() -> str:
    with suppress(OSError):
        fields = {}
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
        if "model name" in fields:
            family, model = fields.get("cpu family", "?"), fields.get("model", "?")
            return f"{fields['model name']} (family {family}, model {model})"
    return platform.processor() or platform.machine()


_PATHS = ("--data", "--json", "--plot", "--optima", "--state")


def command(arguments: list[str]) -> str:
    """The command that made a result, with placeholders for the files of this machine."""
    words = ["python", "-m", "bench"]
    hide = False
    for word in arguments:
        option, equals, _ = word.partition("=")
        if hide:
            words.append(words[-1].removeprefix("--").upper())
        elif option in _PATHS and equals:
            words.append(f"{option}={option.removeprefix('--').upper()}")
        else:
            words.append(word)
        hide = word in _PATHS
    return " ".join(words)


def record(path: str | Path, arguments: list[str], results: Any, before: dict[str, Any]) -> None:
    """Write one run as JSON, whole or not at all."""
    document = {
        "command": command(arguments),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "thread_pools": thread_pools(),
        "machine": {**before, "load_average_after": machine()["load_average"]},
        "results": results,
    }
    target = Path(path)
    partial = target.with_name(target.name + ".part")
    partial.write_text(json.dumps(document, indent=2) + "\n")
    partial.replace(target)
