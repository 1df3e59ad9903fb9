"""Rows that stay in host memory, beside the bus and beside resident rows: a pass, and an epoch.

    python -m bench gpu_stream

`pinned copy` sends as many bytes from pinned memory and does nothing else; `rows pinned` and `rows
gathered` only write the rows to pinned memory, which is what the host has to do. A pass is
objective and gradient: what an iteration of a full-batch fit costs. An epoch is one of minibatches,
of rows in a random order; `one batch after the other` is the same without any overlap, and the
resident one may be replayed from a CUDA graph.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from bench.common.device import Device, attempt, measure
from bench.common.internals import (
    CHUNK,
    REG,
    Momentum,
    Training,
    begin_copy,
    finish_copy,
    softmax_problem,
)
from bench.common.measuring import OURS, Call, Contender
from bench.gpu.entries import Entry, benchmark, goal, no_memory
from bench.gpu.rows import host_labels, host_rows, pass_over, streamed

#: rows, features, classes, dtype of the rows, size of minibatches
STREAMS = (
    (200_000, 3072, 10, "float32", 4096),
    (200_000, 3072, 10, "uint8", 4096),
    (1_280_000, 1024, 1000, "float32", None),
)
QUICK_STREAMS = ((700, 16, 4, "float32", 64), (700, 16, 4, "uint8", None))
RESIDENT, COPY = "resident", "pinned copy"
_EPOCHS = 5  # timed, at most
_PIECE = 64 << 20  # bytes of one pinned copy


def _work(device: Device, args: argparse.Namespace) -> list[Entry]:
    entries: list[Entry] = []
    for rows, features, classes, dtype, batch in QUICK_STREAMS if args.quick else STREAMS:
        shape = f"{rows} x {features} x {classes} {dtype} rows"
        with attempt(entries, f"a pass of {shape}") as entry:
            host, y = host_rows(device, rows, features, dtype), host_labels(rows, classes)
            _pass(device, entry, host, y, classes, args.repeats)
            if batch is not None:
                with attempt(entries, f"an epoch of {shape}, batch {batch}") as entry:
                    _epoch(device, entry, host, y, classes, batch, min(args.repeats, _EPOCHS))
            del host
    return entries


def _pass(
    device: Device, entry: Entry, host: np.ndarray, y: np.ndarray, classes: int, repeats: int
) -> None:
    w = np.random.default_rng(2).standard_normal((classes, host.shape[1])) / 50.0
    calls: dict[str, Contender] = {
        OURS: pass_over(device, streamed(device, host), y, w),
        RESIDENT: resident(device, host, y, w),
        COPY: pinned_copies(device, host.nbytes),
        "rows pinned": _pinned_rows(device, host),
    }
    times = entry["seconds"] = measure(device, calls, repeats)
    _set_share(entry, times, host.nbytes)


def _epoch(
    device: Device,
    entry: Entry,
    host: np.ndarray,
    y: np.ndarray,
    classes: int,
    batch: int,
    repeats: int,
) -> None:
    order = np.random.default_rng(3).permutation(len(host) - len(host) % batch)
    there = _resident_rows(device, host)
    sent = _training(device, streamed(device, host), y, classes, order, batch)
    calls: dict[str, Contender] = {
        OURS: sent.epochs()[0],
        RESIDENT: there
        if isinstance(there, str)
        else _training(device, there, y, classes, order, batch).epochs()[0],
        "one batch after the other": _in_turn(sent),
        COPY: pinned_copies(device, host.nbytes),
        "rows gathered": _pinned_rows(device, host, order, batch),
    }
    times = entry["seconds"] = measure(device, calls, repeats)
    _set_share(entry, times, host[:1].nbytes * len(order))


def _training(
    device: Device, x: Any, y: np.ndarray, classes: int, order: np.ndarray, batch: int
) -> Training:
    """A minibatch fit of the linear model, from zero."""
    problem = softmax_problem(x, device.asarray(y), classes, REG)
    start = device.asarray(np.zeros(problem.objective.network.size, np.float32))
    return Training(problem.objective, Momentum(0.9), problem.rows, start, order, batch)


def _in_turn(training: Training) -> Call:
    """An epoch whose batches are gathered, sent and computed with, each after the one before."""
    step = training.single()[0]

    def call() -> None:
        for _ in range(training.steps):
            step()

    return call


def _set_share(entry: Entry, times: dict[str, Any], size: int) -> None:
    """Our share of the speed of whichever is slower, the bus or the work on resident rows; `size`
    bytes of rows are sent."""
    seconds = {name: one["median_s"] for name, one in times.items() if not isinstance(one, str)}
    entry["figures"] = {"gb_per_s": {name: size / one / 1e9 for name, one in seconds.items()}}
    limits = {name: seconds[name] for name in (RESIDENT, COPY) if name in seconds}
    slower = max(limits, key=lambda name: limits[name])
    entry["limited_by"] = slower
    words = "resident speed" if slower == RESIDENT else "host-to-device bandwidth"
    goal(entry, f"share of {words}", limits[slower] / seconds[OURS], at_least=0.8)


def resident(device: Device, host: np.ndarray, y: np.ndarray, w: np.ndarray) -> Contender:
    rows = _resident_rows(device, host)
    return rows if isinstance(rows, str) else pass_over(device, rows, y, w)


def _resident_rows(device: Device, host: np.ndarray) -> Any:
    """The rows on the device, or why they are not there."""
    why = no_memory(device, host.nbytes + (4 << 30))
    if why is not None:
        return why
    return streamed(device, host).resident()


def pinned_copies(device: Device, size: int) -> Call:
    """As many bytes from pinned memory, a piece after the other, nothing else done."""
    piece = min(_PIECE, size)
    lengths = [piece] * (size // piece) + ([size % piece] if size % piece else [])
    if device.name != "cupy":
        source = np.zeros(piece, np.uint8)
        target = np.empty_like(source)

        def plain() -> None:
            for length in lengths:
                np.copyto(target[:length], source[:length])

        return plain
    import cupyx

    cupy = device.module
    pinned = cupyx.empty_pinned((piece,), np.uint8)
    pinned.fill(0)
    buffer = cupy.empty((piece,), cupy.uint8)

    def call() -> None:
        stream = cupy.cuda.get_current_stream()
        for length in lengths:
            buffer[:length].set(pinned[:length], stream=stream)

    return call


def _pinned_rows(
    device: Device, host: np.ndarray, order: np.ndarray | None = None, batch: int = 0
) -> Call:
    """Every chunk, or every batch of an order, written to one pinned buffer, as the channel to the
    device does it."""
    many = len(host) if order is None else len(order)
    size = batch or max(1, CHUNK // (host.shape[1] * host.itemsize))
    length = min(size, many) * host.shape[1] * host.itemsize
    if device.name == "cupy":
        import cupyx

        memory = cupyx.empty_pinned((length,), np.uint8)
    else:
        memory = np.empty(length, np.uint8)
    buffer = memory.view(host.dtype).reshape(-1, host.shape[1])

    def call() -> None:
        for start in range(0, many, size):
            part = slice(start, min(start + size, many))
            which = part if order is None else order[part]
            finish_copy(begin_copy(host, which, buffer[: part.stop - part.start]))

    return call


add_arguments, run = benchmark("gpu_stream", _work, repeats=9)
