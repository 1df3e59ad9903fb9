"""Softmax fits on the device: rows with a power-law spectrum, and the library beside torch."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from bench._curves import Watch, Weights, torch_descent
from bench._device import Device, attempt
from bench._measure import OURS, BenchError, optional, progress, summarise
from bench.gpu import torch_place
from xclf import SoftmaxClassifier
from xclf._xp import accumulator, device, from_host, namespace, to_host
from xclf.kernels import one_hot
from xclf.objectives import Objective, Stack, data_loss
from xclf.rows import MASK_CLASSES, Rows
from xclf.training import Monitor, Problem, fit_lbfgs

SHAPE, QUICK = (1_280_000, 1024, 1000), (400, 20, 5)
TORCH = "torch LBFGS"
_GAP = 1e-4  # relative, to which the fits go
_TOL, _MOST = 1e-9, 1000  # of the fit in float64 that finds the optimum
_CHUNK = 1 << 16  # rows that are made at a time
_FOR_EVER = 100_000  # iterations: the goal or the clock ends a fit


@dataclass(frozen=True)
class Data:
    """x (N, D) float32 and labels y (N,) int64, on the device."""

    x: Any
    y: Any
    classes: int

    @property
    def widths(self) -> tuple[int, int]:
        return int(self.x.shape[1]), self.classes

    def problem(self, reg: Any, *, wide: bool = False, precision: str | None = None) -> Problem:
        """In float32, or (wide) in float64."""
        xp = namespace(self.x)
        labels = one_hot(xp, self.y, self.classes) if self.classes <= MASK_CLASSES else self.y
        rows = Rows(self.x, labels, None, xp.float64 if wide else xp.float32, precision=precision)
        return Problem(Objective(Stack(self.widths), data_loss("softmax"), reg), rows)

    def wide(self, values: np.ndarray) -> Any:
        """On the device, in the dtype that the estimators keep parameters in."""
        return from_host(values, self.x, accumulator(namespace(self.x), device(self.x)))


def sizes(args: argparse.Namespace) -> tuple[int, int, int]:
    """Rows, features, classes."""
    rows, features, classes = QUICK if args.quick else SHAPE
    return args.rows or rows, features, classes


def power_law(place: Device, rows: int, features: int, classes: int) -> Data:
    """Rows whose spectrum falls as a power law, as embeddings' do, with labels of a noisy linear
    teacher. Made where they stay, chunk by chunk, each from its own seed."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((features, features)))[0]
    spread = np.arange(1, features + 1) ** -1.0
    spread *= np.sqrt(features) / np.linalg.norm(spread)
    teacher = rng.standard_normal((features, classes)) * (3.0 / np.sqrt(features))
    mix = place.asarray((spread[:, None] * basis.T).astype(np.float32))
    w = place.asarray(teacher.astype(np.float32))
    xp = namespace(mix)
    x = xp.empty((rows, features), dtype=xp.float32)
    y = xp.empty((rows,), dtype=xp.int64)
    for k, start in enumerate(range(0, rows, _CHUNK)):
        stop = min(start + _CHUNK, rows)
        part = place.normal(stop - start, features, 2 * k + 1) @ mix
        noise = place.normal(stop - start, classes, 2 * k + 2)
        x[start:stop, :] = part
        y[start:stop] = xp.argmax(part @ w + 1.28 * noise, axis=1)
    return Data(x, y, classes)


def run(place: Device, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds to 1e-4 of the optimum, the library's public estimator and torch taking turns."""
    found: list[dict[str, Any]] = []
    rows, features, classes = sizes(args)
    reg = 1.0 / (2.0 * args.strength * rows)
    name = f"softmax fit, {rows} x {features} x {classes}, reg {reg:.3g}, {args.precision}"
    needed, free = 4 * rows * (features + 4 * classes), place.free_bytes()
    if needed > free:
        why = f"needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free: see --rows"
        return [{"problem": name, "failed": why}]
    with attempt(found, name) as entry:
        data = power_law(place, rows, features, classes)
        fitters = _ready(place, data, reg, args)
        best = entry["optimum"] = _optimum(data, reg, args)
        runs, times = _race(place, data, reg, best["objective"], fitters, args)
        entry |= {"goal": _GAP, "cap_s": args.cap, "runs": runs}
        entry["seconds"] = times
        _compare(entry)
    return found


#: Fits under a watch, which it starts once its data are in place.
_Fitter = Callable[[Watch], Weights]


def _ready(
    place: Device, data: Data, reg: float, args: argparse.Namespace
) -> dict[str, _Fitter | str]:
    """Who fits, each having run once: what is compiled at its first use is compiled."""
    precision = None if args.precision == "float32" else args.precision
    _, _, why = torch_place(place)
    found: dict[str, _Fitter | str] = {
        OURS: lambda watch: _ours(data, reg, precision, watch),
        TORCH: why or (lambda watch: _torch(data, reg, precision, watch)),
    }
    for name, fitter in list(found.items()):
        if isinstance(fitter, str):
            continue
        place.free_bytes()
        if name == OURS:
            fitter(Watch(goal=-np.inf, cap=0.0))
            continue
        with attempt([], name) as entry:
            fitter(Watch(goal=-np.inf, cap=0.0))
        if "failed" in entry:
            found[name] = entry["failed"]
    return found


def _race(
    place: Device,
    data: Data,
    reg: float,
    best: float,
    fitters: dict[str, _Fitter | str],
    args: argparse.Namespace,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(every run of each, medians); a reason where there is neither."""
    exact = data.problem(reg, wide=True)
    runs: dict[str, Any] = {
        name: fitter if isinstance(fitter, str) else [] for name, fitter in fitters.items()
    }
    for turn in range(args.turns):
        for name, fitter in fitters.items():
            if isinstance(fitter, str):
                continue
            place.free_bytes()
            progress(f"{name}, turn {turn + 1} of {args.turns}")
            watch = Watch(goal=best * (1.0 + _GAP), cap=args.cap)
            w, b = fitter(watch)
            theta = data.wide(np.concatenate([w.reshape(-1), b.reshape(-1)]))
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


def _compare(entry: dict[str, Any]) -> None:
    """xclf's share of torch's seconds, if both came to the goal, or only xclf did: then at most."""
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
    if ours != {"goal"} or "itself" in theirs:
        return
    entry["share_of_torch"] = share
    entry["share_of_torch_is_an_upper_bound"] = theirs != {"goal"}
    entry["seconds"][TORCH]["ratio"] = share


def _optimum(data: Data, reg: float, args: argparse.Namespace) -> dict[str, Any]:
    """Found in float64, once: kept in the folder `--state`, if there is one."""
    file = None if args.state is None else Path(args.state) / "gpu_optima.json"
    known: dict[str, Any] = {}
    if file is not None and file.is_file():
        known = json.loads(file.read_text())
    key = f"{int(data.x.shape[0])} x {data.widths} reg {reg!r} {args.namespace}"
    if key not in known:
        progress("finding the optimum, in float64")
        known[key] = _find(data, reg, args.optimum_cap)
        if known[key]["bound_of_relative_gap_in_the_weights"] > _GAP / 10.0:
            raise BenchError(f"no optimum found in {args.optimum_cap:g} s: see --optimum-cap")
        if file is not None:
            partial = file.with_name(file.name + ".part")
            partial.write_text(json.dumps(known, indent=2) + "\n")
            partial.replace(file)
    found: dict[str, Any] = known[key]
    return found


def _find(data: Data, reg: float, cap: float) -> dict[str, Any]:
    """The gap's bound: at the best biases for its weights W the objective F stands at most
    sum(F'(W)^2) / (4 reg) above the optimum. How far the biases are from that, their slope tells.
    """
    began = time.perf_counter()
    exact = data.problem(reg, wide=True)
    start = data.wide(np.zeros((1, exact.objective.stack.size)))
    monitor = Monitor([lambda event: event.elapsed >= cap], "iteration", _MOST)
    (result,) = fit_lbfgs(exact, start, tol=_TOL, max_iter=_MOST, monitor=monitor)
    _, grad = exact.value_and_grad(result.theta)
    (slope,) = exact.objective.stack.layers(grad)
    w, b = to_host(slope.w), to_host(slope.b)
    return {
        "objective": result.objective,
        "bound_of_relative_gap_in_the_weights": float((w**2).sum())
        / (4.0 * reg * result.objective),
        "largest_slope_of_a_bias": float(np.abs(b).max()),
        "iterations": result.n_iter,
        "ended": result.reason,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _ours(data: Data, reg: float, precision: str | None, watch: Watch) -> Weights:
    """The public estimator, whole: checks, labels, preconditioner and all."""
    model = SoftmaxClassifier(
        reg,
        tol=0.0,
        max_iter=_FOR_EVER,
        callbacks=[lambda event: watch.see(event.objective)],
        precision=precision,
    )
    watch.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(data.x, data.y)
    return to_host(model.coef_), to_host(model.intercept_)


def _torch(data: Data, reg: float, precision: str | None, watch: Watch) -> Weights:
    """On the same arrays, not copies of them."""
    torch: Any = optional("torch")
    x, y = torch.from_dlpack(data.x), torch.from_dlpack(data.y)
    with _torch_products(torch, precision):
        w, b = torch_descent(torch, x, y, data.classes, reg, watch)
    return w.cpu().numpy(), b.cpu().numpy()


@contextmanager
def _torch_products(torch: Any, precision: str | None) -> Any:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision is None else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
