"""What the device can do at all: copies, and the bare matrix products of the other benchmarks.

    python -m bench gpu_ceilings

Bandwidth counts bytes read and bytes written, of a copy on the device. `host to device` is a copy
from pinned memory, and counts bytes once. The eigenvectors are those of a class curvature, which
the preconditioner of a fit wants of every head. A direction of L-BFGS reads all its pairs twice,
which is held against copies that move as many bytes.
"""

from __future__ import annotations

import argparse

import numpy as np

from bench.common.device import Device, attempt, measure
from bench.common.internals import Memory, eigh, namespace, product_precision
from bench.common.measuring import Call, Contender
from bench.gpu.entries import HEADS, QUICK_SHAPES, SHAPES, Entry, benchmark, fitting, goal
from bench.gpu.stream import pinned_copies

# The products of the sweep, on the rows of a chunk.
_SWEEP = (HEADS[0], HEADS[1], HEADS[2] * HEADS[3])
_PINNED = 1 << 30
_PAIRS = (9, 20)  # heads, and pairs of each


def _work(device: Device, args: argparse.Namespace) -> list[Entry]:
    entries: list[Entry] = []
    size = (1 << 20) if args.quick else 1 << 28
    with attempt(entries, f"copy of {4 * size / 2**30:.3g} GiB") as entry:
        source, target = (device.normal(size >> 10, 1 << 10, seed) for seed in (0, 1))
        _copies(device, entry, lambda: device.copy_into(target, source), 2 * 4 * size, args.repeats)
    source = target = None
    sent = _PINNED >> 10 if args.quick else _PINNED
    with attempt(entries, f"host to device, {sent / 2**30:.3g} GiB pinned") as entry:
        _copies(device, entry, pinned_copies(device, sent), sent, args.repeats)
    size = 20 if args.quick else HEADS[2]
    with attempt(entries, f"eigenvectors of {size} x {size}, float64") as entry:
        matrix = np.cov(np.random.default_rng(0).standard_normal((size, 2 * size)))
        here = device.asarray(matrix)
        calls: dict[str, Contender] = {"here": lambda: eigh(here), "NumPy": lambda: eigh(matrix)}
        entry["seconds"] = measure(device, calls, min(args.repeats, 5))
        goal(entry, "ms", 1e3 * entry["seconds"]["here"]["median_s"])
    for heads in (1, _PAIRS[0]):
        size = 1 << 10 if args.quick else HEADS[2] * (HEADS[1] + 1)
        with attempt(entries, f"direction of {heads} heads, {_PAIRS[1]} pairs of {size}") as entry:
            _direction(device, entry, heads, size, args.repeats)
    shapes = QUICK_SHAPES if args.quick else (*SHAPES, _SWEEP)
    for shape in fitting(device, shapes, entries):
        for precision in (None, "tf32"):
            name = " x ".join(map(str, shape))
            with attempt(entries, f"products of {name}, {precision or 'float32'}") as entry:
                _products(device, entry, shape, precision, args.repeats)
    return entries


def _copies(device: Device, entry: Entry, call: Call, moved: int, repeats: int) -> None:
    entry["seconds"] = measure(device, {"copy": call}, repeats)
    goal(entry, "GB/s", moved / entry["seconds"]["copy"]["median_s"] / 1e9)


def _direction(device: Device, entry: Entry, heads: int, size: int, repeats: int) -> None:
    memory = Memory(_PAIRS[1] + 1)
    xp = namespace(device.normal(1, 1))
    memory.scale = xp.ones((heads, 1), dtype=xp.float32)
    good = xp.ones((heads,), dtype=xp.bool)
    for k in range(_PAIRS[1]):  # one slot stays free, as in a fit that has just begun
        s = device.normal(heads, size, k)
        memory.add(s, s, good)
    grad = device.normal(heads, size, _PAIRS[1])
    source = device.normal(heads * _PAIRS[1], size)
    target = device.module.empty(tuple(source.shape), dtype=source.dtype)
    calls: dict[str, Contender] = {
        "direction": lambda: memory.direction(grad, lambda v: v),
        "copy": lambda: device.copy_into(target, source),
    }
    times = entry["seconds"] = measure(device, calls, repeats)
    # Four products read s or y of all pairs; a copy of one of these reads and writes it.
    share = times["direction"]["median_s"] / (2.0 * times["copy"]["median_s"])
    goal(entry, "time / reading all pairs twice", share)


def _products(
    device: Device, entry: Entry, shape: tuple[int, ...], precision: str | None, repeats: int
) -> None:
    """The layouts that the library uses: scores class first, the gradient of weights from rows."""
    rows, features, classes = shape
    x, w = device.normal(rows, features), device.normal(classes, features, 1)
    scores = w @ x.T
    calls: dict[str, Contender] = {"scores": lambda: w @ x.T, "gradient": lambda: scores @ x}
    with product_precision(x, namespace(x).float32, precision):
        entry["seconds"] = measure(device, calls, repeats)
    operations = 2.0 * rows * features * classes
    for name in calls:
        goal(entry, f"TFLOP/s, {name}", operations / entry["seconds"][name]["median_s"] / 1e12)


add_arguments, run = benchmark("gpu_ceilings", _work, repeats=15)
