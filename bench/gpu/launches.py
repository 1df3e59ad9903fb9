"""Kernels and copies of a pass, of an iteration and of a step, counted by torch's profiler.

    python -m bench gpu_launches

The profiler sees every launch of the process, whichever library makes it, also those that a CUDA
graph replays. It needs a torch with CUDA; without one the entries say so.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bench.common.device import Device, attempt
from bench.common.internals import accelerators_on, net_training
from bench.common.measuring import Call, optional
from bench.gpu.entries import ON, QUICK_SHAPES, SHAPES, Entry, benchmark, goal
from bench.gpu.rows import host_labels, pass_over
from xclf import SoftmaxClassifier

_FEW, _MORE, _BATCH, _HIDDEN = 10, 30, 200, 100


def count(call: Call) -> Counter[str] | str:
    """Kernels, copies and fills of a call, by kind; a reason where there is no profiler."""
    call()
    torch = optional("torch")
    if torch is None or not torch.cuda.is_available():
        return "needs a torch with CUDA"
    profiler = torch.profiler
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    return Counter(filter(None, map(_kind, events)))


def _kind(event: dict[str, Any]) -> str | None:
    """kernel, Memcpy HtoD, Memcpy DtoH, ..., Memset; None for what is no work of a device."""
    if event.get("cat") == "kernel":
        return "kernel"
    if event.get("cat") in ("gpu_memcpy", "gpu_memset"):
        return " ".join(str(event["name"]).split()[:2])
    return None


def _add(entry: Entry, call: Call, each: int, less: Call | None = None) -> None:
    """Counts of a call, those of `less` taken off, over `each`."""
    counts, off = count(call), count(less) if less is not None else Counter()
    if isinstance(counts, str) or isinstance(off, str):
        entry["figures"] = {"counts": counts}
        return
    for kind in sorted(counts):
        goal(entry, kind, (counts[kind] - off[kind]) / each)


def _fit(x: Any, y: Any, iterations: int) -> Call:
    def call() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            SoftmaxClassifier(1e-5, tol=0.0, max_iter=iterations).fit(x, y)

    return call


def _work(device: Device, args: argparse.Namespace) -> list[Entry]:
    entries: list[Entry] = []
    rows, features, classes = (QUICK_SHAPES if args.quick else SHAPES)[0]
    rng = np.random.default_rng(0)
    x, y = device.normal(rows, features), host_labels(rows, classes)
    w = rng.standard_normal((classes, features)).astype(np.float32) / 50
    with attempt(entries, "a pass") as entry:
        _add(entry, pass_over(device, x, y, w), 1)
    with attempt(entries, "an iteration of L-BFGS") as entry:
        _add(entry, _fit(x, y, _MORE), _MORE - _FEW, _fit(x, y, _FEW))
    w1 = rng.standard_normal((_HIDDEN, features)).astype(np.float32) / 50
    w2 = rng.standard_normal((classes, _HIDDEN)).astype(np.float32) / 10
    training = net_training(x, device.asarray(y), w1, w2, rng.permutation(rows), _BATCH, 0.9)
    with attempt(entries, "a step of the net, as a fit takes it") as entry:
        _add(entry, training.epochs()[0], training.steps)
        entry.setdefault("figures", {})[ON] = accelerators_on()
    with attempt(entries, "a step of the net, by itself") as entry:
        _add(entry, training.single()[0], 1)
    return entries


add_arguments, run = benchmark("gpu_launches", _work)
