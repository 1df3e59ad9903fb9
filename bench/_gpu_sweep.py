"""The ImageNet-probe sweep: 45 softmax models of one data set, trained together on the device, in
as many calls as it takes.

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

from bench._device import Device, attempt
from bench._gpu_fit import Data, power_law, sizes
from bench._measure import BenchError, progress
from xclf._xp import finish, to_host
from xclf.optim import LEAST_PAIRS
from xclf.rows import products
from xclf.training import FitResult, Monitor, Problem, fit_lbfgs

#: C of reg = 1 / (2 C N)
STRENGTHS = np.logspace(-6.0, 5.0, 45)
_TOL, _MOST = 1e-4, 200  # the library's own criterion, or so many passes
_QUICK = 5  # heads

# Ends of a fit that a further call goes on from.
_PAUSES = ("reached max_iter", "a callback stopped the fit", "interrupted")


@dataclass(frozen=True)
class _Counted(Problem):
    """A problem that counts its passes over the rows."""

    passes: list[int] = field(default_factory=lambda: [0])

    def value_and_grad(self, theta: Any) -> Any:
        self.passes[0] += 1
        return super().value_and_grad(theta)

    def keep(self, kept: np.ndarray) -> _Counted:
        return _Counted(self.objective.keep(kept), self.rows.keep(kept), self.passes)


class State:
    """Where the sweep stands, in a file.

    theta (K, P) float32, and for every head: objective, iterations, reason it ended or ""
    calls (3, calls): seconds, passes, heads
    """

    def __init__(self, file: Path | None, key: str, heads: int, size: int) -> None:
        self.file, self.key = file, key
        self.theta = np.zeros((heads, size), dtype=np.float32)
        self.objective = np.full(heads, np.nan)
        self.n_iter = np.zeros(heads, dtype=np.int64)
        self.converged = np.zeros(heads, dtype=bool)
        self.reason = np.full(heads, "", dtype="U80")
        self.calls = np.zeros((3, 0))
        if file is None or not file.is_file():
            return
        with np.load(file) as kept:
            if str(kept["key"]) != key:
                raise BenchError(f"{file.name} in the folder --state is of another sweep: {key}")
            for name in ("theta", *self._lists()):
                setattr(self, name, kept[name])

    @staticmethod
    def _lists() -> tuple[str, ...]:
        return ("objective", "n_iter", "converged", "reason", "calls")

    @property
    def running(self) -> np.ndarray:
        """Numbers of the heads that have not ended."""
        return np.flatnonzero(self.reason == "")

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
        if self.file is None:
            return
        partial = self.file.with_name(self.file.name + ".part")
        with partial.open("wb") as target:
            np.savez(
                target,
                key=self.key,
                theta=self.theta,
                **{name: getattr(self, name) for name in self._lists()},
            )
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
                    "objective": None if np.isnan(self.objective[k]) else float(self.objective[k]),
                    "n_iter": int(self.n_iter[k]),
                    "converged": bool(self.converged[k]),
                    "reason": str(self.reason[k]) or "goes on in the next call",
                }
                for k in range(len(regs))
            ],
        }


def run(place: Device, args: argparse.Namespace) -> list[dict[str, Any]]:
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
    free = place.free_bytes()
    if len(state.running) and needed > free and not args.quick:
        why = f"needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free: see --rows"
        return [{"problem": name, "failed": why}]
    found: list[dict[str, Any]] = []
    with attempt(found, name) as entry:
        if len(state.running):
            progress("making the rows")
            data = power_law(place, rows, features, classes)
            _go_on(data, state, regs, args, began + args.call_seconds)
        entry |= state.summary(strengths, regs)
        progress(
            f"{name}: {entry['minutes']:.2f} minutes, {entry['passes']} passes, "
            f"{len(state.running)} heads go on"
        )
    return found


def _go_on(
    data: Data, state: State, regs: np.ndarray, args: argparse.Namespace, until: float
) -> None:
    """Train the heads that have not ended, till the clock says `until`."""
    precision = None if args.precision == "float32" else args.precision
    running = state.running
    limit = _MOST - state.passes
    if args.call_passes is not None:
        limit = min(limit, args.call_passes)
    plain = data.problem(data.wide(regs[running]), precision=precision)
    problem = _Counted(plain.objective, plain.rows)
    theta = data.wide(state.theta[running])

    def enough(event: Any) -> bool:
        if event.step % 10 == 0:
            progress(f"iteration {event.step}, {problem.passes[0]} passes, {event.heads} heads")
        return bool(problem.passes[0] >= limit or time.perf_counter() >= until)

    with products(data.x, plain.rows.dtype, precision):
        finish(data.x)
        began = time.perf_counter()
        monitor = Monitor([enough], "iteration", _MOST)
        results = fit_lbfgs(problem, theta, tol=_TOL, max_iter=_MOST, monitor=monitor)
        finish(data.x)
        seconds = time.perf_counter() - began
    state.add(results, seconds, problem.passes[0])
