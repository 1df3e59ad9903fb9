"""A pass over rows that stay in host memory, beside the bus and beside resident rows.

    python -m bench gpu_stream

`pinned copy` sends as many bytes from pinned memory and does nothing else; `rows pinned` only
writes the rows to pinned memory, which is what the host has to do. A pass is objective and
gradient: what an iteration of a full-batch fit costs.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from bench._device import Device, attempt, measure
from bench._gpu import (
    REG,
    Entry,
    add_common,
    add_repeats,
    complete,
    goal,
    parameters,
    softmax_problem,
)
from bench._measure import OURS, Call, Contender
from xclf._xp import device, namespace, to_host
from xclf.rows import Streamed
from xclf.rows._stream import CHUNK, _copy

#: rows, features, classes, dtype of the rows
STREAMS = (
    (200_000, 3072, 10, "float32"),
    (200_000, 3072, 10, "uint8"),
    (1_280_000, 1024, 1000, "float32"),
)
QUICK_STREAMS = ((700, 16, 4, "float32"), (700, 16, 4, "uint8"))
_PIECE = 64 << 20  # bytes of one pinned copy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common(parser)
    add_repeats(parser, 9)


def run(args: argparse.Namespace) -> dict[str, Any]:
    return complete("gpu_stream", args, _work)


def _work(place: Device, args: argparse.Namespace) -> list[Entry]:
    found: list[Entry] = []
    for rows, features, classes, dtype in QUICK_STREAMS if args.quick else STREAMS:
        with attempt(found, f"a pass of {rows} x {features} x {classes} {dtype} rows") as entry:
            host, y = host_rows(place, rows, features, dtype), _labels(rows, classes)
            w = np.random.default_rng(2).standard_normal((classes, features)) / 50.0
            calls: dict[str, Contender] = {
                OURS: pass_over(place, streamed(place, host), y, w),
                "resident": resident(place, host, y, w),
                "pinned copy": pinned_copies(place, host.nbytes),
                "rows pinned": _pinned_rows(place, host),
            }
            times = entry["seconds"] = measure(place, calls, args.repeats)
            entry["figures"] = {
                "gb_per_s": {
                    name: host.nbytes / one["median_s"] / 1e9
                    for name, one in times.items()
                    if not isinstance(one, str)
                }
            }
            _set_share(entry, times)
            del host, calls
    return found


def _set_share(entry: Entry, times: dict[str, Any]) -> None:
    """Our share of the speed of whichever is slower, the bus or the pass over resident rows."""
    limits = {
        name: times[name]["median_s"]
        for name in ("resident", "pinned copy")
        if not isinstance(times[name], str)
    }
    slower = max(limits, key=lambda name: limits[name])
    entry["limited_by"] = slower
    words = "resident speed" if slower == "resident" else "host-to-device bandwidth"
    goal(entry, f"share of {words}", limits[slower] / times[OURS]["median_s"], at_least=0.8)


def host_rows(place: Device, rows: int, features: int, dtype: str) -> np.ndarray:
    if dtype == "uint8":
        return np.random.default_rng(0).integers(0, 256, (rows, features), dtype=np.uint8)
    out = np.empty((rows, features), np.float32)
    for k, start in enumerate(range(0, rows, 1 << 17)):
        stop = min(start + (1 << 17), rows)
        out[start:stop] = to_host(place.normal(stop - start, features, k))
    return out


def _labels(rows: int, classes: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes, rows)


def streamed(place: Device, host: np.ndarray) -> Streamed:
    like = place.asarray(np.zeros(1, np.float32))
    return Streamed(host, namespace(like), device(like))


def pass_over(place: Device, x: Any, y: np.ndarray, w: np.ndarray) -> Call:
    """Objective and gradient over all rows."""
    problem, theta = softmax_problem(x, place.asarray(y), len(w), REG), parameters(place, w)
    return lambda: problem.value_and_grad(theta)


def resident(place: Device, host: np.ndarray, y: np.ndarray, w: np.ndarray) -> Contender:
    needed, free = host.nbytes + (4 << 30), place.free_bytes()
    if needed > free:
        return f"needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
    return pass_over(place, streamed(place, host).resident(), y, w)


def pinned_copies(place: Device, size: int) -> Call:
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


def _pinned_rows(place: Device, host: np.ndarray) -> Call:
    """Every chunk written to one pinned buffer, as the channel to the device does it."""
    size = max(1, CHUNK // (host.shape[1] * host.itemsize))
    length = min(size, len(host)) * host.shape[1] * host.itemsize
    if place.name == "cupy":
        import cupyx

        memory = cupyx.empty_pinned((length,), np.uint8)
    else:
        memory = np.empty(length, np.uint8)
    buffer = memory.view(host.dtype).reshape(-1, host.shape[1])

    def call() -> None:
        for start in range(0, len(host), size):
            part = slice(start, min(start + size, len(host)))
            _copy(host, part, buffer[: part.stop - part.start])

    return call
