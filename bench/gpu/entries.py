"""What every GPU benchmark shares: its ending, the goals it is held to, and the work it times."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench._device import Device
from bench._measure import BenchError
from xclf._array_api import accumulator, device, namespace
from xclf.kernels import one_hot
from xclf.objectives import Network, Objective, _fused, _one_read, data_loss
from xclf.rows import MASK_CLASSES, Rows
from xclf.training import Problem

REG, RATE = 1e-4, 1e-2
#: rows, features, classes
SHAPES = ((50_000, 3072, 10), (1_280_000, 1024, 1000))
QUICK_SHAPES = ((2000, 64, 10),)
#: rows, features, classes, heads: some rows of the sweep
HEADS, QUICK_HEADS = (16_384, 1024, 1000, 45), (300, 16, 5, 3)

Entry = dict[str, Any]
Work = Callable[[Device, argparse.Namespace], list[Entry]]


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument(
        "--namespace",
        choices=("cupy", "numpy", "torch"),
        default="cupy",
        help="numpy or torch run the same code without a GPU: their times say nothing about one",
    )


def add_repeats(parser: argparse.ArgumentParser, repeats: int) -> None:
    parser.add_argument("--repeats", type=int, default=repeats, help="timings of each contender")


def add_fit(parser: argparse.ArgumentParser) -> None:
    """What a fit and the sweep share."""
    parser.add_argument("--rows", type=int, help="fewer rows, for less memory")
    parser.add_argument("--precision", choices=("float32", "tf32"), default="float32")
    parser.add_argument("--state", metavar="FOLDER", help="what the next call goes on from")


def complete(name: str, args: argparse.Namespace, work: Work) -> dict[str, Any]:
    """Does the work and prints its table; the device, and one entry for each problem."""
    state = getattr(args, "state", None)
    if state is not None and not Path(state).is_dir():
        raise BenchError(f"--state {state}: the folder is not there")
    place = Device(args.namespace)
    about = place.about()
    found = work(place, args)
    show(f"{name}, {about['name']}", found)
    return {"device": about, "work": found}


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


def show(title: str, found: list[Entry]) -> None:
    """Plain lines, as they go into a log: milliseconds and xclf's share of them, then the rest."""
    print(title)
    for entry in found:
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
            print(f"    {line['measure']}: {figures(line['value'])}{_convergence(line)}")


def _convergence(line: dict[str, Any]) -> str:
    if "reached" not in line:
        return ""
    return f" ({to_reach(line)}: {'reached' if line['reached'] else 'NOT REACHED'})"


def figures(value: Any) -> str:
    """A number in three digits, text as it is, several with their names."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {figures(number)}" for name, number in value.items())
    if isinstance(value, bool | int | str) or value is None:
        return str(value)
    size = abs(value)
    if size and not 1e-2 <= size < 1e4:
        return f"{value:.2e}"
    return f"{value:.{1 if size >= 10.0 else 2}f}"


def fitting(
    place: Device, shapes: Sequence[tuple[int, ...]], found: list[Entry]
) -> Iterator[tuple[int, ...]]:
    """The shapes (rows, features, classes) or (rows, features, classes, heads) that fit the device;
    the others leave a line that says so."""
    for shape in shapes:
        rows, features, *columns = shape
        needed = 4 * rows * (features + 4 * math.prod(columns))
        free = place.free_bytes()
        if needed > free:
            why = f"needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
            found.append({"problem": " x ".join(map(str, shape)), "failed": why})
            continue
        yield shape


def labels_for(y: Any, classes: int) -> Any:
    """As fits keep them: a mask for few classes, else integers."""
    return one_hot(namespace(y), y, classes) if classes <= MASK_CLASSES else y


def softmax_problem(
    x: Any, y: Any, classes: int, reg: Any, *, wide: bool = False, precision: str | None = None
) -> Problem:
    """The linear model on x, with y (N,) integers where x is; products in float32, or (wide) in
    float64."""
    xp = namespace(y)
    dtype = xp.float64 if wide else xp.float32
    rows = Rows(x, labels_for(y, classes), None, dtype, precision=precision)
    network = Network((int(x.shape[1]), classes))
    return Problem(Objective(network, data_loss("softmax"), reg), rows)


def parameters(place: Device, w: np.ndarray) -> Any:
    """Flat parameters of weights w (*heads, C, D), biases zero, in the dtype that fits keep them
    in."""
    like = place.asarray(np.zeros(1, np.float32))
    xp = namespace(like)
    heads = w.shape[:-2]
    flat = np.concatenate([w.reshape(*heads, -1), np.zeros((*heads, w.shape[-2]))], axis=-1)
    return xp.astype(place.asarray(flat), accumulator(xp, device(like)))


@contextlib.contextmanager
def without(*kernels: Any) -> Iterator[None]:
    """As long as it lasts these modules' CUDA kernels, of `KERNELS`, are not used."""
    before = [kernel._trust.lost for kernel in kernels]
    for kernel in kernels:
        kernel._trust.lost = True
    try:
        yield
    finally:
        for kernel, lost in zip(kernels, before, strict=True):
            kernel._trust.lost = lost


#: What computes scores, loss and gradient at once, and what computes losses of scores.
KERNELS = (_one_read, _fused)


def loss_by(place: Device) -> str:
    """What computes losses on the device, once they have been computed there."""
    if place.name != "cupy":
        return "formula: no CuPy"
    lost = [kernel.__name__.rpartition("_")[2] for kernel in KERNELS if kernel._trust.lost]
    return f"kernels, but {lost} failed, and warned why" if lost else "kernels"
