"""Whole fits on a GPU, and what they are made of: heads together, rows that stay on the host.

    python -m bench gpu_fit       a softmax fit to 1e-4 of its optimum, beside torch's LBFGS
    python -m bench gpu_heads     a minibatch step of 52 heads, beside one of a single head
    python -m bench gpu_sweep     45 values of reg to 1e-4 or 200 passes; goes on in the next call
    python -m bench gpu_stream    a pass over host rows, beside the bus and resident rows

As in `bench.gpu`: CUDA events or clocks that are read when a figure has come to the host; what
cannot be measured says why; `--namespace numpy` shows that it runs. `--state FOLDER` keeps the
optimum of gpu_fit, and the parameters of gpu_sweep (180 MB), from call to call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import _gpu_fit, _gpu_sweep
from bench._device import Device, attempt, measure
from bench._measure import OURS, BenchError, Call, Contender
from bench.gpu import RATE, REG, show
from xclf._xp import device, from_host, namespace, to_host
from xclf.kernels import one_hot
from xclf.objectives import Objective, Stack, data_loss
from xclf.optim import Momentum
from xclf.rows import MASK_CLASSES, Rows, Streamed
from xclf.training import Problem, minibatch_step

#: heads, pool of rows, features, classes, batch
HEADS, QUICK_HEADS = (52, 50_000, 3072, 10, 1000), (4, 200, 12, 3, 50)
#: rows, features, classes, dtype of the rows
STREAMS = (
    (200_000, 3072, 10, "float32"),
    (200_000, 3072, 10, "uint8"),
    (1_280_000, 1024, 1000, "float32"),
)
QUICK_STREAMS = ((700, 16, 4, "float32"), (700, 16, 4, "uint8"))
_PIECE = 64 << 20  # bytes of one pinned copy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--namespace", choices=("cupy", "numpy", "torch"), default="cupy")
    parser.add_argument("--repeats", type=int, default=9, help="of steps and passes")
    parser.add_argument("--rows", type=int, help="of a fit and the sweep: fewer, for less memory")
    parser.add_argument("--precision", choices=("float32", "tf32"), default="float32")
    parser.add_argument("--state", metavar="FOLDER", help="what the next call goes on from")
    fit = parser.add_argument_group("gpu_fit")
    fit.add_argument("--strength", type=float, default=1.0, help="C of reg = 1 / (2 C N)")
    fit.add_argument("--turns", type=int, default=2, help="fits of each contender")
    fit.add_argument("--cap", type=float, default=60.0, help="seconds that a fit may take")
    fit.add_argument("--optimum-cap", type=float, default=150.0, help="seconds to find the optimum")
    sweep = parser.add_argument_group("gpu_sweep")
    sweep.add_argument("--call-seconds", type=float, default=450.0, help="at most, in one call")
    sweep.add_argument("--call-passes", type=int, help="at most, in one call")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the table; returns the device and one entry per problem."""
    if args.state is not None and not Path(args.state).is_dir():
        raise BenchError(f"--state {args.state}: the folder is not there")
    place = Device(args.namespace)
    works: dict[str, Callable[[Device, argparse.Namespace], list[dict[str, Any]]]] = {
        "gpu_fit": _gpu_fit.run,
        "gpu_heads": _heads,
        "gpu_sweep": _gpu_sweep.run,
        "gpu_stream": _streams,
    }
    about = place.about()
    found = works[args.name](place, args)
    show(f"{args.name}, {about['name']}", found)
    return {"device": about, "work": found}


def _heads(place: Device, args: argparse.Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    heads, pool, features, classes, batch = QUICK_HEADS if args.quick else HEADS
    steps = 2 if args.quick or place.name != "cupy" else 50
    name = f"{heads} heads, {features} x {classes}, batch {batch}, momentum"
    with attempt(found, name) as entry:
        rng = np.random.default_rng(1)
        x, y = place.normal(pool, features), place.asarray(rng.integers(0, classes, pool))
        rows = Rows(x, one_hot(namespace(x), y, classes), None, namespace(x).float32)
        order = rng.permutation(pool)
        w = rng.standard_normal((heads * classes, features)) / features**0.5
        flat = place.asarray(w.astype(np.float32))
        index = place.asarray(order[:batch])
        few = rows.take(index).x
        calls: dict[str, Contender] = {
            OURS: _steps(place, rows, classes, heads, order, batch),
            "one head": _steps(place, rows, classes, 1, order, batch),
            "two products of the heads": lambda: (flat @ few.T) @ few,
            "rows gathered": lambda: rows.take(index),
        }
        entry["seconds"] = measure(place, calls, args.repeats, steps)
        entry["times_one_head"] = entry["seconds"]["one head"]["ratio"]
    return found


def _steps(
    place: Device, rows: Rows, classes: int, heads: int, order: np.ndarray, batch: int
) -> Call:
    """A step of all heads at once, each with its rate, its momentum and its reg."""
    stack = Stack((int(rows.x.shape[1]), classes))
    shape = (stack.size,) if heads == 1 else (heads, stack.size)
    theta = place.asarray(np.zeros(shape, np.float32))

    def each(values: np.ndarray) -> Any:
        return (
            from_host(values.astype(np.float32), theta) if heads > 1 else float(values.ravel()[0])
        )

    column = (heads, 1)
    rate = each(np.linspace(RATE / 10.0, RATE, heads).reshape(column))
    rule = Momentum(each(np.linspace(0.5, 0.9, heads).reshape(column)))
    reg = each(np.linspace(REG / 10.0, REG, heads))
    objective = Objective(stack, data_loss("softmax"), reg)
    now = [theta, rule.init(theta)]
    index = rows.numbers(order)
    starts = range(0, len(order) - batch + 1, batch)
    turn = [0]

    def call() -> None:
        start = starts[turn[0] % len(starts)]
        turn[0] += 1
        some = index[start : start + batch]
        now[:] = minibatch_step(objective, rule, rows, now[0], now[1], some, rate)

    return call


def _streams(place: Device, args: argparse.Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for rows, features, classes, dtype in QUICK_STREAMS if args.quick else STREAMS:
        with attempt(found, f"a pass of {rows} x {features} x {classes} {dtype} rows") as entry:
            host, y = _host_rows(place, rows, features, dtype), _labels(rows, classes)
            w = np.random.default_rng(2).standard_normal((classes, features)) / 50.0
            calls: dict[str, Contender] = {
                OURS: _pass(place, _streamed(place, host), y, w),
                "resident": _resident(place, host, y, w),
                "pinned copy": _copies(place, host.nbytes),
            }
            times = entry["seconds"] = measure(place, calls, args.repeats)
            entry["gb_per_s"] = {
                name: host.nbytes / one["median_s"] / 1e9
                for name, one in times.items()
                if not isinstance(one, str)
            }
            _set_share(entry, times)
            del host, calls
    return found


def _set_share(entry: dict[str, Any], times: dict[str, Any]) -> None:
    """Our share of the speed of whichever is slower, the bus or the pass over resident rows."""
    limits = {
        name: times[name]["median_s"]
        for name in ("resident", "pinned copy")
        if not isinstance(times[name], str)
    }
    slower = max(limits, key=lambda name: limits[name])
    entry["limited_by"] = slower
    entry["share_of_limit"] = limits[slower] / times[OURS]["median_s"]


def _host_rows(place: Device, rows: int, features: int, dtype: str) -> np.ndarray:
    if dtype == "uint8":
        return np.random.default_rng(0).integers(0, 256, (rows, features), dtype=np.uint8)
    out = np.empty((rows, features), np.float32)
    for k, start in enumerate(range(0, rows, 1 << 17)):
        stop = min(start + (1 << 17), rows)
        out[start:stop] = to_host(place.normal(stop - start, features, k))
    return out


def _labels(rows: int, classes: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes, rows)


def _streamed(place: Device, host: np.ndarray) -> Streamed:
    like = place.asarray(np.zeros(1, np.float32))
    return Streamed(host, namespace(like), device(like))


def _pass(place: Device, x: Any, y: np.ndarray, w: np.ndarray) -> Call:
    """Objective and gradient over all rows: what an iteration of a full-batch fit costs."""
    classes, features = w.shape
    stack = Stack((features, classes))
    theta = place.asarray(np.concatenate([w.reshape(-1), np.zeros(classes)]))
    xp, labels = namespace(theta), place.asarray(y)
    if classes <= MASK_CLASSES:
        labels = one_hot(xp, labels, classes)
    rows = Rows(x, labels, None, xp.float32)
    problem = Problem(Objective(stack, data_loss("softmax"), REG), rows)
    return lambda: problem.value_and_grad(theta)


def _resident(place: Device, host: np.ndarray, y: np.ndarray, w: np.ndarray) -> Contender:
    needed, free = host.nbytes + (4 << 30), place.free_bytes()
    if needed > free:
        return f"needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
    return _pass(place, _streamed(place, host).resident(), y, w)


def _copies(place: Device, size: int) -> Call:
    """As many bytes from pinned memory, a piece after the other, nothing else done."""
    piece = min(_PIECE, size)
    lengths = [piece] * (size // piece) + ([size % piece] if size % piece else [])
    if place.name != "cupy":
        source = np.zeros(piece, np.uint8)
        target = np.empty_like(source)

        def plain() -> None:
            for length in lengths:
                np.copyto(target[:length], source[:length])

        return plain
    import cupyx

    cupy = place.module
    pinned = cupyx.empty_pinned((piece,), np.uint8)
    pinned.fill(0)
    buffer = cupy.empty((piece,), cupy.uint8)

    def call() -> None:
        stream = cupy.cuda.get_current_stream()
        for length in lengths:
            buffer[:length].set(pinned[:length], stream=stream)

    return call
