"""A softmax fit to 1e-4 of its optimum, beside torch.optim.LBFGS on the same arrays.

    python -m bench gpu_fit [--precision tf32]

Seconds until the objective is within 1e-4 of the optimum, which is found once, in float64; with
--state FOLDER it is kept there. Where each fit ended is measured again in float64. `xclf` is the
public estimator, whole.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.common.curves import Watch, Weights, fit_watched, torch_descent
from bench.common.device import Device, attempt, tried
from bench.common.internals import Monitor, fit_lbfgs, to_host
from bench.common.measuring import OURS, BenchError, optional, progress, summarise
from bench.common.record import remembered
from bench.common.torch_peers import shared, torch_device, torch_precision
from bench.gpu.entries import Entry, benchmark, goal, no_memory, precision_of
from bench.gpu.rows import DeviceRows, sizes, synthetic_embeddings

TORCH = "torch LBFGS"
_GAP = 1e-4  # relative, to which the fits go
_TOL, _MOST = 1e-9, 1000  # of the fit in float64 that finds the optimum
_FAR = 1.2  # times the gap, within which float64 confirms what a fit saw in float32


def _work(device: Device, args: argparse.Namespace) -> list[Entry]:
    """Seconds to 1e-4 of the optimum, the library's public estimator and torch taking turns."""
    entries: list[Entry] = []
    rows, features, classes = sizes(args)
    reg = 1.0 / (2.0 * args.strength * rows)
    name = f"softmax fit, {rows} x {features} x {classes}, reg {reg:.3g}, {args.precision}"
    why = no_memory(device, 4 * rows * (features + 4 * classes))
    if why is not None:
        return [{"problem": name, "failed": f"{why}: see --rows"}]
    with attempt(entries, name) as entry:
        data = synthetic_embeddings(device, rows, features, classes)
        fitters = _ready(device, data, reg, args)
        best = entry["optimum"] = _optimum(data, reg, args)
        runs, times = _race(device, data, reg, best["objective"], fitters, args)
        entry |= {"goal": _GAP, "cap_s": args.cap, "strength": args.strength, "runs": runs}
        entry["seconds"] = times
        entry["figures"] = {
            f"final gap, {name}": max(one["final_gap"] for one in some)
            for name, some in runs.items()
            if not isinstance(some, str)
        }
        _compare(entry)
    return entries


#: Fits under a watch, which it starts once its data are in place.
_Fitter = Callable[[Watch], Weights]


def _ready(
    device: Device, data: DeviceRows, reg: float, args: argparse.Namespace
) -> dict[str, _Fitter | str]:
    """Who fits, each having run once: what is compiled at its first use is compiled."""
    precision = precision_of(args)
    _, _, why = torch_device(device)
    results: dict[str, _Fitter | str] = {
        OURS: lambda watch: _ours(data, reg, precision, watch),
        TORCH: why or (lambda watch: _torch(data, reg, precision, watch)),
    }
    for name, fitter in list(results.items()):
        if isinstance(fitter, str):
            continue
        device.free_bytes()
        first = functools.partial(fitter, Watch(goal=-np.inf, cap=0.0))
        if name == OURS:
            first()
        elif isinstance(why := tried(first), str):
            results[name] = why
    return results


def _race(
    device: Device,
    data: DeviceRows,
    reg: float,
    best: float,
    fitters: dict[str, _Fitter | str],
    args: argparse.Namespace,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(every run of each, medians); a reason where there is neither."""
    exact = data.problem(reg, wide=True, formulas=True)
    runs: dict[str, Any] = {
        name: fitter if isinstance(fitter, str) else [] for name, fitter in fitters.items()
    }
    for turn in range(args.turns):
        for name, fitter in fitters.items():
            if isinstance(fitter, str):
                continue
            device.free_bytes()
            progress(f"{name}, turn {turn + 1} of {args.turns}")
            watch = Watch(goal=best * (1.0 + _GAP), cap=args.cap)
            w, b = fitter(watch)
            theta = data.parameters(np.concatenate([w.reshape(-1), b.reshape(-1)]))
            reached = float(to_host(exact.value(theta)))
            runs[name].append(
                {
                    "seconds": watch.took,
                    "ended_by": watch.ended,
                    "evaluations" if name == TORCH else "iterations": len(watch.objectives),
                    "watched_gap": min(watch.objectives) / best - 1.0,
                    "final_gap": reached / best - 1.0,
                }
            )
    seconds = {
        name: [one["seconds"] for one in some]
        for name, some in runs.items()
        if not isinstance(some, str)
    }
    times: dict[str, Any] = summarise(seconds)
    return runs, times | {name: some for name, some in runs.items() if isinstance(some, str)}


def _compare(entry: Entry) -> None:
    """xclf's share of torch's seconds, if both came to the goal, or only xclf did: then at most
    that. Where float64 does not confirm the goal, there is none."""
    ended = {
        name: {one["ended_by"] for one in some}
        for name, some in entry["runs"].items()
        if not isinstance(some, str)
    }
    ours, theirs = ended[OURS], ended.get(TORCH)
    if theirs is None:
        return
    share = entry["seconds"][TORCH].pop("ratio")
    entry["seconds"][TORCH].pop("median_of_ratios")
    far = max(one["final_gap"] for one in entry["runs"][OURS])
    if ours != {"goal"} or "itself" in theirs or far > _FAR * _GAP:
        return
    entry["seconds"][TORCH]["ratio"] = share
    words = "to the same gap" if theirs == {"goal"} else "when it was stopped, short of the gap"
    goal(entry, f"time / torch.optim.LBFGS (strong_wolfe) {words}", share, at_most=0.33)


def _optimum(data: DeviceRows, reg: float, args: argparse.Namespace) -> dict[str, Any]:
    """Found in float64, once: kept in the folder `--state`, if there is one."""
    file = None if args.state is None else Path(args.state) / "gpu_optima.json"
    key = f"{tuple(data.x.shape)} x {data.classes} reg {reg!r} {args.namespace}"
    results: dict[str, Any] = remembered(file, key, lambda: _find(data, reg, args.optimum_cap))
    return results


def _find(data: DeviceRows, reg: float, cap: float) -> dict[str, Any]:
    """The gap's bound: at the best biases for its weights W the objective F stands at most
    sum(F'(W)^2) / (4 reg) above the optimum. How far the biases are from that, their gradient
    tells.
    """
    progress("finding the optimum, in float64")
    began = time.perf_counter()
    exact = data.problem(reg, wide=True, formulas=True)
    start = data.parameters(np.zeros((1, exact.objective.network.size)))
    monitor = Monitor([lambda event: event.elapsed >= cap], "iteration", _MOST)
    (result,) = fit_lbfgs(exact, start, tol=_TOL, max_iter=_MOST, monitor=monitor)
    _, grad = exact.value_and_grad(result.theta)
    (gradient,) = exact.objective.network.layers(grad)
    w, b = to_host(gradient.w), to_host(gradient.b)
    gap = float((w**2).sum()) / (4.0 * reg * result.objective)
    if gap > _GAP / 10.0:
        raise BenchError(f"no optimum found in {cap:g} s: see --optimum-cap")
    return {
        "objective": result.objective,
        "bound_of_relative_gap_in_the_weights": gap,
        "largest_gradient_of_a_bias": float(np.abs(b).max()),
        "iterations": result.n_iter,
        "ended": result.reason,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _ours(data: DeviceRows, reg: float, precision: str | None, watch: Watch) -> Weights:
    model = fit_watched(data.x, data.y, reg, watch, precision=precision)
    return to_host(model.coef_), to_host(model.intercept_)


def _torch(data: DeviceRows, reg: float, precision: str | None, watch: Watch) -> Weights:
    """On the same arrays, not copies of them."""
    torch: Any = optional("torch")
    x, y = shared(torch, data.x), shared(torch, data.y)
    with torch_precision(torch, precision):
        w, b = torch_descent(torch, x, y, data.classes, reg, watch)
    return w.cpu().numpy(), b.cpu().numpy()


_add_shared, run = benchmark("gpu_fit", _work, fit=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_shared(parser)
    parser.add_argument("--strength", type=float, default=1.0, help="C of reg = 1 / (2 C N)")
    parser.add_argument("--turns", type=int, default=2, help="fits of each contender")
    parser.add_argument("--cap", type=float, default=60.0, help="seconds that a fit may take")
    parser.add_argument(
        "--optimum-cap", type=float, default=150.0, help="seconds to find the optimum"
    )
