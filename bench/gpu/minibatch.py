"""A training step of the two-layer net on the device, beside torch's.

    python -m bench gpu_minibatch

All gather their batches from the same rows by the same indices, and make the same update (SGD with
momentum 0.9, penalty on the weights). `xclf` is an epoch as a fit runs it, by the number of its
steps; `xclf, step by step` launches each, and `xclf, formulas` does so without accelerators. torch
runs eagerly as people write it; its whole step
compiled into one graph; its whole step recorded as a CUDA graph, with the fused optimizer; and the
compiled step recorded. Before they are timed, all take the same few steps, and who does not come to
the weights that NumPy finds in float64 is not timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bench.common.device import Device, attempt, measure, reason
from bench.common.internals import (
    Training,
    accelerators_on,
    net_training,
    rows_of,
    to_host,
    turns,
)
from bench.common.measuring import OURS, Contender
from bench.common.torch_peers import Step, TorchSteps, shared, torch_device
from bench.gpu.entries import ON, Entry, benchmark, goal

#: features, hidden, classes, batch, rows that batches are drawn from
NETS = ((3072, 100, 10, 200, 50_000), (3072, 1024, 10, 4096, 204_800))
QUICK_NETS = ((20, 8, 3, 32, 512),)
PLAIN, FORMULAS = "xclf, step by step", "xclf, formulas"
MOMENTUM = 0.9
EAGER, COMPILED = "torch eager", "torch.compile"
GRAPH, BOTH = "torch CUDA graph", "torch.compile in a CUDA graph"
# Steps of the comparison, and how far weights may be from NumPy's: float32 products came to 1e-6 of
# it with the larger net. Steps without momentum are off by some 5e-5, and more with the smaller.
_FEW, _SAME = 4, 1e-5


def _work(device: Device, args: argparse.Namespace) -> list[Entry]:
    entries: list[Entry] = []
    for shape in QUICK_NETS if args.quick else NETS:
        features, hidden, classes, batch, _ = shape
        name = f"step of {features}-{hidden}-{classes}, batch {batch}, momentum, float32"
        with attempt(entries, name) as entry:
            _compare(device, entry, shape, args)
            _goals(entry, batch)
    return entries


@dataclass
class Race:
    """Who steps, how far each came from NumPy's weights, and who takes all steps in one call."""

    calls: dict[str, Contender] = field(default_factory=dict)
    apart: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, make: Callable[[], tuple[Contender, Any]], exact: np.ndarray) -> None:
        """`make` gives the call, and the first layer's weights after the first steps."""
        try:
            call, w1 = make()
            if isinstance(call, str):
                self.calls[name] = call
                return
            self.apart[name] = float(np.abs(to_host(w1).reshape(exact.shape) - exact).max())
        except Exception as error:
            if name == OURS:
                raise
            self.calls[name] = reason(error)
            return
        same = self.apart[name] <= _SAME
        self.calls[name] = call if same else f"not the same step: {self.apart[name]:.2g} off"


def _compare(
    device: Device, entry: Entry, shape: tuple[int, ...], args: argparse.Namespace
) -> None:
    features, hidden, classes, batch, pool = shape
    rng = np.random.default_rng(1)
    w1 = (rng.standard_normal((hidden, features)) / features**0.5).astype(np.float32)
    w2 = (rng.standard_normal((classes, hidden)) / hidden**0.5).astype(np.float32)
    order, y = rng.permutation(pool), rng.integers(0, classes, pool)
    x = device.normal(pool, features)
    training = net_training(x, device.asarray(y), w1, w2, order, batch, MOMENTUM)
    exact = _exact(training, y, w1, w2)

    race = Race()
    race.add(OURS, lambda: _epochs(training, w1.size), exact)
    race.add(PLAIN, lambda: _single(training, w1.size, False), exact)
    race.add(FORMULAS, lambda: _single(training, w1.size, True), exact)
    for name in (EAGER, COMPILED, GRAPH, BOTH):
        race.add(name, lambda name=name: _torch(name, device, training, y, w1, w2), exact)
    entry["seconds"] = measure(device, race.calls, args.repeats, training.steps, whole=(OURS,))
    entry["figures"] = {
        ON: accelerators_on(),
        "weights off NumPy's by at most": race.apart,
    }


def _exact(training: Training, y: np.ndarray, w1: np.ndarray, w2: np.ndarray) -> np.ndarray:
    """The first layer's weights after the first few steps, in float64 with NumPy."""
    few = training.order[: _FEW * training.batch]
    rows = training.rows
    x = to_host(rows.take(rows.numbers(few)).x).astype(np.float64)
    order = np.arange(len(few))
    on_host = net_training(x, y[few], w1, w2, order, training.batch, MOMENTUM)
    on_host = replace(
        on_host,
        rows=rows_of(x, y[few], len(w2), np.float64),
        start=on_host.start.astype(np.float64),
    )
    call, now = on_host.single(formulas=True)
    for _ in range(_FEW):
        call()
    return np.asarray(now[0][: w1.size]).reshape(w1.shape)


def _epochs(training: Training, size: int) -> tuple[Contender, Any]:
    """The few steps are an epoch of few batches, replayed if those of a whole epoch are."""
    few = replace(training, order=training.order[: _FEW * training.batch])
    call, now = few.epochs()
    call()
    return training.epochs()[0], now[0][:size]


def _single(training: Training, size: int, formulas: bool) -> tuple[Contender, Any]:
    call, now = training.single(formulas)
    for _ in range(_FEW):
        call()
    return call, now[0][:size]


def _torch(
    name: str, device: Device, training: Training, y: np.ndarray, w1: np.ndarray, w2: np.ndarray
) -> tuple[Contender, Any]:
    torch, where, why = torch_device(device)
    if why is not None:
        return why, None
    if name in (GRAPH, BOTH) and where != "cuda":
        return "needs a GPU", None
    labels = torch.from_numpy(y).to(where)
    steps = TorchSteps(torch, shared(torch, training.rows.x), labels, w1, w2, MOMENTUM)
    order = torch.from_numpy(training.order).to(where)
    step = _step(name, steps, order[: training.batch])
    batches = turns(order, training.batch)
    for _ in range(_FEW):
        step.take(next(batches))
    w = step.params[0].detach().cpu().numpy()
    return (lambda: step.take(next(batches))), w


def _step(name: str, steps: TorchSteps, index: Any) -> Step:
    # Without a GPU what is compiled is only traced: to see that it can be.
    backend = "inductor" if steps.where.startswith("cuda") else "aot_eager"
    if name == EAGER:
        return steps.eager()
    if name == GRAPH:
        return steps.recorded(steps.eager(fused=True), index)
    compiled = steps.compiled(backend)
    return compiled if name == COMPILED else steps.recorded(compiled, index)


def _goals(entry: Entry, batch: int) -> None:
    times = entry["seconds"]
    ours = times[OURS]["median_s"]
    theirs = {
        name: times[name]["median_s"]
        for name in (EAGER, COMPILED, GRAPH, BOTH)
        if not isinstance(times[name], str)
    }
    small = batch < 4096
    most = {EAGER: 0.4, GRAPH: 1.0} if small else {}
    for name, seconds in theirs.items():
        goal(entry, f"time / {name}", ours / seconds, at_most=most.get(name))
    if theirs:
        best = min(theirs.values())
        goal(entry, "time / the best torch variant", ours / best, at_most=None if small else 1.0)


add_arguments, run = benchmark("gpu_minibatch", _work, repeats=15)
