"""Single fits: seconds against the gap to the optimum, beside scikit-learn, torch and liblinear.

    python -m bench fit [--data PATH --data-name CIFAR-10] --json FILE --plot FILE.png

Softmax: each contender runs under a watch, which notes time and objective after every iteration
and ends the fit at the goal. A peer may take so many times what xclf took (--times, --torch-times)
and --cap seconds; xclf runs before each peer. The optimum comes from a long fit in float64 with a
proven lower bound, kept in the file of --optima; that is no part of the times.

Hinge: see `bench/cpu/hinge.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import plotting
from bench.common.curves import Fitter, Watch, fitters, ours
from bench.common.data import (
    Data,
    add_data,
    chosen,
    name_of,
    synthetic,
    synthetic_embeddings,
    synthetic_images,
)
from bench.common.measuring import (
    OURS,
    BenchError,
    Call,
    add_one_thread,
    progress,
    table,
    thread_words,
    timing,
)
from bench.common.softmax import Problem, with_optimum
from bench.cpu import hinge

REGS = (1e-3, 1e-5, 1e-7)
PROBLEMS = ("data", "images", "embeddings")
PARTS = ("softmax", "hinge")
_POINTS = 200  # of a curve, in the results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny sizes, to see that it runs")
    add_data(parser, 50_000)
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    add("--reg", type=float, nargs="+", default=list(REGS), help="of the softmax fits")
    add("--gap", type=float, default=1e-4, help="relative, above the optimum")
    add("--cap", type=float, default=120.0, help="seconds that a peer may take")
    add("--times", type=float, default=9.0, help="times xclf's seconds, for scikit-learn")
    add("--torch-times", type=float, default=4.0, help="times xclf's seconds, for torch")
    add("--optima", metavar="FILE", type=Path, help="optima found before; new ones go there")
    add("--optima-only", action="store_true", help="find the optima, and time nothing")
    hinge.add_arguments(parser)
    add_one_thread(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the tables; returns an entry for each problem and reg of each part."""
    results: dict[str, Any] = {"threads": thread_words(args.one_thread)}
    with timing(args.one_thread) as clock:
        if "softmax" in args.parts:
            results["softmax"] = _softmax(args, clock)
        if "hinge" in args.parts and not args.optima_only:
            results["hinge"] = hinge.run(args, clock)
    return results


def draw(results: dict[str, Any], path: Path) -> None:
    """Time against gap, a panel for each problem and reg."""
    plotting.curves(results.get("softmax", []), path)


def _softmax(args: argparse.Namespace, clock: Call) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    _warm_up(clock)
    for name, (x, y) in _rows(args):
        for reg in args.reg:
            problem = with_optimum(Problem(name, x, y, reg, args.gap), args.optima)
            entry = {
                "problem": name,
                "shape": problem.shape,
                "reg": reg,
                "gap": args.gap,
                "objective": problem.best,
                "certified_relative_gap": (problem.best - problem.floor) / problem.best,
            }
            if not args.optima_only:
                entry["contenders"] = _compare(problem, args, clock, len(results))
            results.append(entry)
    if not args.optima_only:
        _show(results, args)
    return results


def _rows(args: argparse.Namespace) -> Iterator[tuple[str, Data]]:
    """The problems asked for, each made when its turn comes."""
    for name in args.problems:
        if name == "data" and args.data is not None:
            data = chosen(args)
            if data[1].max() < 2:
                raise BenchError("--data holds two classes; the comparison needs three or more")
            yield name_of(args), data
        elif name == "images":
            yield "synthetic images", synthetic_images(*((200, 8) if args.quick else (60_000,)))
        elif name == "embeddings":
            shape = (300, 12, 4) if args.quick else (100_000, 512, 100)
            yield "synthetic embeddings", synthetic_embeddings(*shape)


def _warm_up(clock: Call) -> None:
    """First calls import modules and start threads."""
    problem = Problem("warm up", *synthetic(500, 20, 3), 1e-3, best=0.0)
    for fitter in fitters().values():
        if not isinstance(fitter, str):
            fitter(problem, Watch(0.0, 0.05, clock))


def _compare(problem: Problem, args: argparse.Namespace, clock: Call, turn: int) -> dict[str, Any]:
    """Every contender's curve: xclf before each peer, the peers in turns."""
    everyone = fitters()
    peers = [name for name in everyone if name != OURS]
    peers = peers[turn % len(peers) :] + peers[: turn % len(peers)]
    mine: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    for name in peers:
        fitter = everyone[name]
        if isinstance(fitter, str):
            results[name] = fitter
            continue
        mine.append(_watched(OURS, ours, problem, Watch(problem.goal, args.cap, clock)))
        times = args.torch_times if name == "torch" else args.times
        cap = min(args.cap, max(times * mine[-1]["watched_s"], 0.5))
        results[name] = _watched(name, fitter, problem, Watch(problem.goal, cap, clock))
    if not mine:
        mine.append(_watched(OURS, ours, problem, Watch(problem.goal, args.cap, clock)))
    mine.sort(key=lambda entry: float(entry["watched_s"]))
    first = {**mine[-1], "all_s": [entry["watched_s"] for entry in mine]}
    for entry in results.values():
        if not isinstance(entry, str):
            _set_ratio(entry, [one["watched_s"] for one in mine], first["ended_by"] == "goal")
    return {OURS: first, **results}


def _watched(name: str, fitter: Fitter, problem: Problem, watch: Watch) -> dict[str, Any]:
    progress(f"{problem.name}, reg {problem.reg:g}: {name} (up to {watch.cap:.0f} s)")
    weights = fitter(problem, watch)
    gaps = np.minimum.accumulate(np.asarray(watch.objectives)) / problem.best - 1.0
    keep = np.unique(np.linspace(0, len(gaps) - 1, min(_POINTS, len(gaps))).round().astype(int))
    return {
        "ended_by": watch.ended,
        "watched_s": watch.took,
        "watched_gap": float(gaps[-1]),
        "final_gap": problem.objective(*weights) / problem.best - 1.0,  # in float64, apart
        "steps": len(gaps),
        "curve": [[round(watch.seconds[k], 4), float(gaps[k])] for k in keep.tolist()],
    }


def _set_ratio(entry: dict[str, Any], mine: list[float], reached: bool) -> None:
    """How many times as long as xclf; at least so many where the peer was stopped before. One that
    ended by itself before the goal has none."""
    if reached and entry["ended_by"] != "itself":
        entry["times_xclf"] = entry["watched_s"] / float(np.median(mine))
        entry["times_xclf_is_a_lower_bound"] = entry["ended_by"] == "cap"


def _show(results: list[dict[str, Any]], args: argparse.Namespace) -> None:
    names = list(results[0]["contenders"])
    table(
        f"softmax fit to {args.gap:g} of the optimum, seconds, {thread_words(args.one_thread)}",
        ["problem", "reg", *names],
        (
            [
                f"{entry['problem']}, {entry['shape']}",
                f"{entry['reg']:g}",
                *(_cell(entry["contenders"][name]) for name in names),
            ]
            for entry in results
        ),
        "in brackets: times xclf's median; > and the gap so far where stopped before, "
        "'never' where the method ended by itself",
    )


def _cell(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    text = f"{entry['watched_s']:.2f}"
    if "times_xclf" in entry:
        text += f" ({entry['times_xclf']:.1f})"
    if entry["ended_by"] == "goal":
        return text
    sign = ">" if entry["ended_by"] == "cap" else "never,"
    return f"{sign} {text} at {entry['watched_gap']:.0e}"
