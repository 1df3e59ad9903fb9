"""The ImageNet-probe sweep: 45 softmax models of one data set, trained together on the device, in
as many calls as it takes.

    python -m bench gpu_sweep --state FOLDER [--precision tf32]

The minutes are those of the fit alone, rows on the device, each head to 1e-4 of its optimum by the
library's own estimate, or 200 passes. Where the heads ended is then measured in float64: the
objective, and a bound of its distance from the optimum, which strong regularisation makes tight.

A call goes on from the parameters that the one before left in a file. The curvature that L-BFGS had
learnt is not kept: every call after the first takes a few passes more, which count.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.common.device import Device, attempt
from bench.common.internals import (
    LEAST_PAIRS,
    FitResult,
    Monitor,
    Problem,
    finish,
    fit_lbfgs,
    product_precision,
    to_host,
)
from bench.common.measuring import BenchError, progress
from bench.gpu.entries import Entry, benchmark, goal, no_memory, precision_of
from bench.gpu.rows import DeviceRows, sizes, synthetic_embeddings

#: C of reg = 1 / (2 C N)
STRENGTHS = np.logspace(-6.0, 5.0, 45)
_TOL, _MOST = 1e-4, 200  # the library's own criterion, or so many passes
_MINUTES = {"float32": 10.0, "tf32": 4.0}
_QUICK = 5  # heads
_AT_ONCE = 9  # heads that are measured in float64 together

# Of a state, what its file holds.
_KEPT = ("theta", "objective", "n_iter", "converged", "reason", "exact", "bound", "calls")

# Ends of a fit that a further call goes on from.
_PAUSES = ("reached max_iter", "a callback stopped the fit", "interrupted")


@dataclass(frozen=True)
class _Counted(Problem):
    """A problem that counts its passes over the rows: a class curvature, which is a forward product
    and one as large as the backward product, is one too."""

    passes: list[int] = field(default_factory=lambda: [0])

    def value_and_grad(self, theta: Any) -> Any:
        self.passes[0] += 1
        return super().value_and_grad(theta)

    def curvature(self, theta: Any) -> Any:
        self.passes[0] += 1
        return super().curvature(theta)

    def take_heads(self, kept: np.ndarray) -> _Counted:
        return _Counted(self.objective.take_heads(kept), self.rows.take_heads(kept), self.passes)


class State:
    """Where the sweep stands, in a file.

    theta (K, P) float32, and for every head: objective, iterations, reason it ended or ""; once
    all have ended their objectives in float64, and bounds of how far they are from the optima
    calls (3, calls): seconds, passes, heads
    """

    def __init__(self, file: Path | None, key: str, heads: int, size: int) -> None:
        self.file, self.key = file, key
        self.theta = np.zeros((heads, size), dtype=np.float32)
        self.objective, self.exact, self.bound = np.full((3, heads), np.nan)
        self.n_iter, self.converged = np.zeros(heads, np.int64), np.zeros(heads, bool)
        self.reason, self.calls = np.full(heads, "", dtype="U80"), np.zeros((3, 0))
        if file is None or not file.is_file():
            return
        with np.load(file) as kept:
            if str(kept["key"]) != key:
                raise BenchError(f"{file.name} in the folder --state is of another sweep: {key}")
            self.__dict__ |= {name: kept[name] for name in _KEPT}

    @property
    def running(self) -> np.ndarray:
        """Numbers of the heads that have not ended."""
        return np.flatnonzero(self.reason == "")

    @property
    def checked(self) -> bool:
        """Whether all have ended and were measured in float64."""
        return not np.isnan(self.exact).any()

    @property
    def passes(self) -> int:
        return int(self.calls[1].sum())

    def add(self, results: list[FitResult], seconds: float, passes: int) -> None:
        """What a call has come to; kept in the file."""
        running = self.running
        self.calls = np.hstack([self.calls, [[seconds], [passes], [len(running)]]])
        for k, result in zip(running.tolist(), results, strict=True):
            self.theta[k] = to_host(result.theta)
            self.objective[k], self.converged[k] = result.objective, result.converged
            self.n_iter[k] += result.n_iter
            if not result.reason.startswith(_PAUSES):
                self.reason[k] = result.reason
            elif self.passes >= _MOST:
                self.reason[k] = f"{_MOST} passes"
        self._keep()

    def check(self, data: DeviceRows, regs: np.ndarray) -> None:
        """Objectives F in float64, and bounds of their distance from the optima.

        With best biases that is at most sum(F'(W)^2) / (4 reg), F being strongly convex in W.
        """
        for start in range(0, len(regs), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            reg = data.parameters(regs[some])
            problem = data.problem(reg, wide=True, formulas=True)
            value, grad = problem.value_and_grad(data.parameters(self.theta[some]))
            (gradient,) = problem.objective.network.layers(grad)
            self.exact[some] = to_host(value)
            squares = to_host((gradient.w * gradient.w).sum((1, 2)))
            self.bound[some] = squares / (4.0 * regs[some])
        self._keep()

    def _keep(self) -> None:
        if self.file is None:
            return
        partial = self.file.with_name(self.file.name + ".part")
        with partial.open("wb") as target:
            np.savez(target, key=self.key, **{name: getattr(self, name) for name in _KEPT})
        partial.replace(self.file)

    def summary(self, strengths: np.ndarray, regs: np.ndarray) -> dict[str, Any]:
        seconds, passes, heads = self.calls.tolist()
        calls = zip(seconds, passes, heads, strict=True)
        return {
            "finished": not len(self.running),
            "minutes": sum(seconds) / 60.0,
            "passes": self.passes,
            "calls": [{"seconds": s, "passes": int(p), "heads": int(h)} for s, p, h in calls],
            "heads": [
                {
                    "C": float(strengths[k]),
                    "reg": float(regs[k]),
                    "objective": _number(self.objective[k]),
                    "objective_float64": _number(self.exact[k]),
                    "bound_of_relative_gap": _number(self.bound[k] / self.exact[k]),
                    "n_iter": int(self.n_iter[k]),
                    "converged": bool(self.converged[k]),
                    "reason": str(self.reason[k]) or "goes on in the next call",
                }
                for k in range(len(regs))
            ],
        }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _work(device: Device, args: argparse.Namespace) -> list[Entry]:
    """One call: as far as its time and its passes go."""
    began = time.perf_counter()
    rows, features, classes = sizes(args)
    strengths = STRENGTHS[:: len(STRENGTHS) // _QUICK] if args.quick else STRENGTHS
    regs = 1.0 / (2.0 * strengths * rows)
    name = f"sweep of {len(regs)} reg, {rows} x {features} x {classes}, {args.precision}"
    folder = None if args.state is None else Path(args.state)
    file = None if folder is None else folder / f"gpu_sweep-{args.precision}.npz"
    size = classes * (features + 1)
    state = State(file, f"{name}, {args.namespace}", len(regs), size)
    # Rows with their chunks; a dozen vectors in float64 and the fewest pairs in float32, per head.
    needed = 4 * rows * (features + 4) + (3 << 30) + len(regs) * size * (96 + 8 * LEAST_PAIRS)
    why = no_memory(device, needed)
    if not state.checked and why is not None and not args.quick:
        return [{"problem": name, "failed": f"{why}: see --rows"}]
    entries: list[Entry] = []
    with attempt(entries, name) as entry:
        if not state.checked:
            progress("making the rows")
            data = synthetic_embeddings(device, rows, features, classes)
            if len(state.running):
                _go_on(data, state, regs, args, began + args.call_seconds)
            if not len(state.running):
                progress("measuring where the heads ended, in float64")
                device.free_bytes()
                state.check(data, regs)
        entry |= state.summary(strengths, regs)
        entry["figures"] = {"passes": entry["passes"], "converged": int(state.converged.sum())}
        if entry["finished"]:
            most = _MINUTES[args.precision]
            goal(entry, f"minutes in {args.precision}", entry["minutes"], at_most=most)
        progress(
            f"{name}: {entry['minutes']:.2f} minutes, {entry['passes']} passes, "
            f"{len(state.running)} heads go on"
        )
    return entries


def _go_on(
    data: DeviceRows, state: State, regs: np.ndarray, args: argparse.Namespace, until: float
) -> None:
    """Train the heads that have not ended, till the clock says `until`."""
    precision = precision_of(args)
    running = state.running
    limit = _MOST - state.passes
    if args.call_passes is not None:
        limit = min(limit, args.call_passes)
    plain = data.problem(data.parameters(regs[running]), precision=precision)
    problem = _Counted(plain.objective, plain.rows)
    theta = data.parameters(state.theta[running])

    def enough(event: Any) -> bool:
        if event.step % 10 == 0:
            progress(f"iteration {event.step}, {problem.passes[0]} passes, {event.heads} heads")
        return bool(problem.passes[0] >= limit or time.perf_counter() >= until)

    with product_precision(data.x, plain.rows.dtype, precision):
        finish(data.x)
        began = time.perf_counter()
        monitor = Monitor([enough], "iteration", _MOST)
        results = fit_lbfgs(problem, theta, tol=_TOL, max_iter=_MOST, monitor=monitor)
        finish(data.x)
        seconds = time.perf_counter() - began
    state.add(results, seconds, problem.passes[0])


_add_shared, run = benchmark("gpu_sweep", _work, fit=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_shared(parser)
    parser.add_argument("--call-seconds", type=float, default=450.0, help="at most, in one call")
    parser.add_argument("--call-passes", type=int, help="at most, in one call")
