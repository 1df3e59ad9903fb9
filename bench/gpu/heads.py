"""A minibatch step of 52 heads, beside one of a single head.

    python -m bench gpu_heads

Both as a fit runs them, by the number of steps in an epoch, and launch by launch. The heads have
rates, momenta and strengths of their own.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from bench.common.device import Device, attempt, measure
from bench.common.internals import (
    RATE,
    REG,
    Momentum,
    Rows,
    Training,
    accelerators_on,
    from_host,
    namespace,
    objective,
    rows_of,
)
from bench.common.measuring import OURS, Contender
from bench.gpu.entries import ON, Entry, benchmark, goal

#: heads, pool of rows, features, classes, batch
HEADS, QUICK_HEADS = (52, 50_000, 3072, 10, 1000), (4, 200, 12, 3, 50)
ONE = "one head"
_EACH = ", step by step"


def _work(device: Device, args: argparse.Namespace) -> list[Entry]:
    entries: list[Entry] = []
    heads, pool, features, classes, batch = QUICK_HEADS if args.quick else HEADS
    name = f"step of {heads} heads, {features} x {classes}, batch {batch}, momentum, float32"
    with attempt(entries, name) as entry:
        rng = np.random.default_rng(1)
        x, y = device.normal(pool, features), device.asarray(rng.integers(0, classes, pool))
        rows = rows_of(x, y, classes, namespace(x).float32)
        order = rng.permutation(pool)
        w = rng.standard_normal((heads * classes, features)) / features**0.5
        flat = device.asarray(w.astype(np.float32))
        index = device.asarray(order[:batch])
        few = rows.take(index).x
        every = _training(device, rows, classes, heads, order, batch)
        one = _training(device, rows, classes, 1, order, batch)
        calls: dict[str, Contender] = {
            OURS: every.epochs()[0],
            ONE: one.epochs()[0],
            OURS + _EACH: every.single()[0],
            ONE + _EACH: one.single()[0],
            "two products of the heads": lambda: (flat @ few.T) @ few,
            "rows gathered": lambda: rows.take(index),
        }
        times = measure(device, calls, args.repeats, every.steps, whole=(OURS, ONE))
        entry["seconds"] = times
        entry["figures"] = {ON: accelerators_on()}
        medians = {name: one["median_s"] for name, one in times.items()}
        goal(entry, "ratio of step times", medians[OURS] / medians[ONE], at_most=4.0)
        plain = medians[OURS + _EACH] / medians[ONE + _EACH]
        goal(entry, "ratio of step times" + _EACH, plain)
    return entries


def _training(
    device: Device, rows: Rows, classes: int, heads: int, order: np.ndarray, batch: int
) -> Training:
    """Of all heads at once, each with its rate, its momentum and its reg."""
    size = classes * (int(rows.x.shape[1]) + 1)
    shape = (size,) if heads == 1 else (heads, size)
    theta = device.asarray(np.zeros(shape, np.float32))

    def each(values: np.ndarray) -> Any:
        if heads == 1:
            return float(values.ravel()[0])
        return from_host(values.astype(np.float32), theta)

    column = (heads, 1)
    rate = each(np.linspace(RATE, RATE / 10.0, heads).reshape(column))
    rule = Momentum(each(np.linspace(0.9, 0.5, heads).reshape(column)))
    reg = each(np.linspace(REG, REG / 10.0, heads))
    model = objective((int(rows.x.shape[1]), classes), reg)
    return Training(model, rule, rows, theta, order, batch, rate)


add_arguments, run = benchmark("gpu_heads", _work, repeats=15)
