"""What every GPU benchmark shares: its arguments, its ending, and the goals it is held to."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.common.device import Device
from bench.common.measuring import BenchError

#: rows, features, classes
SHAPES = ((50_000, 3072, 10), (1_280_000, 1024, 1000))
QUICK_SHAPES = ((2000, 64, 10),)
#: rows, features, classes, heads: some rows of the sweep
HEADS, QUICK_HEADS = (16_384, 1024, 1000, 45), (300, 16, 5, 3)

ON = "accelerators that are on"
Entry = dict[str, Any]
Work = Callable[[Device, argparse.Namespace], list[Entry]]
AddArguments = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], dict[str, Any]]


def benchmark(
    name: str, work: Work, *, repeats: int | None = None, fit: bool = False
) -> tuple[AddArguments, Run]:
    """The two functions of a benchmark whose `work` gives one entry for each problem.

    repeats : timings of each contender by default;  fit : whether it trains to an end
    """

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--quick", action="store_true", help="tiny sizes, to see that it runs")
        add(
            "--namespace",
            choices=("cupy", "numpy", "torch"),
            default="cupy",
            help="numpy or torch run the same code without a GPU, whose times they do not tell",
        )
        if repeats is not None:
            add("--repeats", type=int, default=repeats, help="timings of each contender")
        if fit:
            add("--rows", type=int, help="fewer rows, for less memory")
            add("--precision", choices=("float32", "tf32"), default="float32")
            add("--state", metavar="FOLDER", help="what the next call goes on from")

    def run(args: argparse.Namespace) -> dict[str, Any]:
        """Print the entries; the device, and one entry for each problem."""
        state = getattr(args, "state", None)
        if state is not None and not Path(state).is_dir():
            raise BenchError(f"--state {state}: the folder is not there")
        device = Device(args.namespace)
        about = device.about()
        results = work(device, args)
        show(f"{name}, {about['name']}", results)
        return {"device": about, "work": results}

    return add_arguments, run


def precision_of(args: argparse.Namespace) -> str | None:
    """As the library takes it: None for float32's own."""
    return None if args.precision == "float32" else str(args.precision)


def goal(
    entry: Entry,
    measure: str,
    value: float,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> None:
    """Writes down what was measured, what it is to reach, if anything, and whether it does."""
    line: dict[str, Any] = {"measure": measure, "value": value}
    if at_most is not None:
        line |= {"at_most": at_most, "reached": bool(value <= at_most)}
    if at_least is not None:
        line |= {"at_least": at_least, "reached": bool(value >= at_least)}
    entry.setdefault("measures", []).append(line)


def to_reach(line: dict[str, Any]) -> str:
    """In words: 'at most 1.4', or '' for a figure that is held to nothing."""
    for key, words in (("at_most", "at most"), ("at_least", "at least")):
        if key in line:
            return f"{words} {line[key]:g}"
    return ""


def show(title: str, entries: list[Entry]) -> None:
    """Plain lines, as they go into a log: milliseconds and xclf's share of them, then the rest."""
    print(title)
    for entry in entries:
        print(entry["problem"])
        if "failed" in entry:
            print(f"    FAILED: {entry['failed']}")
        for name, value in entry.get("seconds", {}).items():
            if isinstance(value, str):
                print(f"    {'-':>9}          {name}: {value}")
                continue
            ratio = f"{value['ratio']:.2f}" if "ratio" in value else ""
            print(f"    {1e3 * value['median_s']:9.4g} ms {ratio:>5}  {name}")
        for name, value in entry.get("figures", {}).items():
            print(f"    {name}: {figures(value)}")
        for line in entry.get("measures", []):
            print(f"    {line['measure']}: {figures(line['value'])}{_reached(line)}")


def _reached(line: dict[str, Any]) -> str:
    if "reached" not in line:
        return ""
    return f" ({to_reach(line)}: {'reached' if line['reached'] else 'NOT REACHED'})"


def figures(value: Any) -> str:
    """A number in three digits, text as it is, several with their names."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {figures(number)}" for name, number in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool | int | str) or value is None:
        return str(value)
    size = abs(value)
    if size and not 1e-2 <= size < 1e4:
        return f"{value:.2e}"
    return f"{value:.{1 if size >= 10.0 else 2}f}"


def fitting(
    device: Device, shapes: Sequence[tuple[int, ...]], entries: list[Entry]
) -> Iterator[tuple[int, ...]]:
    """The shapes (rows, features, classes) or (rows, features, classes, heads) that fit the device;
    the others leave a line that says so."""
    for shape in shapes:
        rows, features, *columns = shape
        why = no_memory(device, 4 * rows * (features + 4 * math.prod(columns)))
        if why is None:
            yield shape
        else:
            entries.append({"problem": " x ".join(map(str, shape)), "failed": why})


def no_memory(device: Device, needed: int) -> str | None:
    """Why so many bytes do not fit on the device, if they do not."""
    free = device.free_bytes()
    if needed <= free:
        return None
    return f"needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
