"""What each accelerator is worth: whole fits with it and without it, taking turns in one run.

    python -m bench accelerators --data digits cifar-10-batches-bin kmeans:cifar-10-batches-bin

`all` has every accelerator that can be used here on, `without NAME` all but that one, `formulas`
none. An accelerator stays if it makes some fit on real data at least 1.2 times as fast: that is the
median over the turns of the seconds without it, divided by those with all of the same turn. How far
objectives are apart says whether these are the same fits. With --namespace cupy the rows are on the
GPU, and CUDA's accelerators are timed.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import xclf
from bench.common.data import Data, add_data, chosen, name_of
from bench.common.device import Device
from bench.common.internals import only
from bench.common.measuring import (
    BenchError,
    Call,
    add_one_thread,
    alternate,
    progress,
    summarise,
    table,
    thread_words,
    timing,
)
from xclf import SoftmaxClassifier, SVMClassifier, SweepCV, TwoLayerClassifier

ALL, FORMULAS, WITHOUT = "all", "formulas", "without "
WORTH = 1.2
REG = 1e-4
FITS = ("softmax", "hinge", "softmax by momentum", "net by adam", "hinge net", "sweep")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_data(parser, None, nargs="+", default=["digits"])
    add("--fits", nargs="+", choices=FITS, default=list(FITS))
    add("--names", nargs="+", help="accelerators; by default all that can be used here")
    add("--repeats", type=int, default=3, help="fits of each contender")
    add("--iterations", type=int, default=30, help="at most, of full-batch fits")
    add("--epochs", type=int, default=3, help="of minibatch fits")
    add("--namespace", choices=("numpy", "cupy", "torch"), default="numpy")
    add("--quick", action="store_true", help="few rows, to see that it runs")
    add_one_thread(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints a table for each data set and one of the verdicts; returns both."""
    device, listed = Device(args.namespace), xclf.accelerators("all")
    usable = [one.name for one in listed if one.state != "unavailable"]
    if unknown := set(args.names or ()) - set(usable):
        raise BenchError(f"not usable here: {', '.join(sorted(unknown))}")
    names = args.names or usable
    contenders = {ALL: usable, FORMULAS: []}
    contenders |= {f"{WITHOUT}{name}": [one for one in usable if one != name] for name in names}
    if args.quick:
        args.rows = 200
    if len(args.data) > 1:
        args.data_name = None
    entries = []
    try:
        with timing(args.one_thread) as clock:
            for source in args.data:
                x, y = chosen(args, source)
                data = device.asarray(x), y
                for fit in args.fits:
                    progress(f"{name_of(args, source)}: {fit}")
                    model = _model(fit, args)
                    entry = _compare(device, data, model, contenders, args.repeats, clock)
                    entries.append({"problem": name_of(args, source), "fit": fit, **entry})
    finally:
        xclf.accelerators("default")
    verdicts = {name: _verdict(name, entries) for name in names}
    _show(entries, verdicts, thread_words(args.one_thread))
    states = [{"name": one.name, "state": one.state, "why": one.why} for one in listed]
    return {"accelerators": states, "fits": entries, "verdicts": verdicts}


def _model(fit: str, args: argparse.Namespace) -> Any:
    """A fit of so many iterations, whatever it comes to."""
    full: dict[str, Any] = {"tol": 0.0, "max_iter": args.iterations}
    epochs: dict[str, Any] = {
        "max_iter": args.epochs,
        "n_iter_no_change": args.epochs,
        "random_state": 0,
        "batch_size": 100,
    }
    models: dict[str, Any] = {
        "softmax": SoftmaxClassifier(REG, **full),
        "hinge": SVMClassifier(1e-2, **full),
        "softmax by momentum": SoftmaxClassifier(REG, solver="momentum", **epochs),
        "net by adam": TwoLayerClassifier(100, REG, solver="adam", **epochs),
        "hinge net": TwoLayerClassifier(100, REG, loss="hinge", solver="momentum", **epochs),
        "sweep": SweepCV(
            SoftmaxClassifier(**full), {"reg": np.logspace(-6, 0, 7).tolist()}, cv=3, refit=False
        ),
    }
    return models[fit]


def _compare(
    device: Device,
    data: Data,
    model: Any,
    contenders: dict[str, list[str]],
    repeats: int,
    clock: Call,
) -> dict[str, Any]:
    """Seconds of every contender, the objective that it came to, and ratios by contender."""
    objectives: dict[str, float] = {}

    def fitted(contender: str) -> None:
        with only(*contenders[contender]), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(*data)
        objectives[contender] = _objective(model)

    calls: dict[str, Call] = {name: partial(fitted, name) for name in contenders}
    on_gpu = device.name == "cupy"
    if on_gpu:
        calls = {name: device.timed(call) for name, call in calls.items()}
    seconds = alternate(calls, repeats, own_clock=on_gpu, clock=clock)
    ratios = {
        name: median(a / b for a, b in zip(values, seconds[ALL], strict=True))
        for name, values in seconds.items()
        if name != ALL
    }
    shape = f"{data[0].shape[0]} x {data[0].shape[1]} x {int(data[1].max()) + 1} float32"
    times = summarise(seconds, ours=ALL)
    return {"shape": shape, "seconds": times, "ratios": ratios, "objectives": objectives}


def _objective(model: Any) -> float:
    """Of a fit; of a search, the mean of its scores."""
    if isinstance(model, SweepCV):
        return float(np.mean(model.cv_results_["mean_test_score"]))
    return float(model.objective_)


def _verdict(name: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The fit that gains most, and whether that is enough."""
    best = max(entries, key=lambda entry: entry["ratios"][WITHOUT + name])
    ratio = best["ratios"][WITHOUT + name]
    where = f"{best['fit']}, {best['problem']}"
    return {"largest_ratio": ratio, "where": where, "stays": ratio >= WORTH}


def _show(entries: list[dict[str, Any]], verdicts: dict[str, Any], threads: str) -> None:
    table(
        f"whole fits, {threads}: seconds with all accelerators, and ratios of those without",
        ("problem", "fit", f"{ALL}, s", *entries[0]["ratios"], "objectives apart"),
        map(_cells, entries),
    )
    table(
        "accelerators",
        ("name", "largest ratio", "where", f"at least {WORTH}"),
        (
            (name, f"{one['largest_ratio']:.2f}", one["where"], "yes" if one["stays"] else "NO")
            for name, one in verdicts.items()
        ),
    )


def _cells(entry: dict[str, Any]) -> list[str]:
    values = list(entry["objectives"].values())
    apart = (max(values) - min(values)) / max(map(abs, values))
    return [
        f"{entry['problem']}, {entry['shape']}",
        entry["fit"],
        f"{entry['seconds'][ALL]['median_s']:.3f}",
        *(f"{ratio:.2f}" for ratio in entry["ratios"].values()),
        f"{apart:.0e}",
    ]
