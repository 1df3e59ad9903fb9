"""Sparse rows: softmax, hinge and sweeps on text, beside scikit-learn.

    python -m bench sparse --json FILE

Text is the standard library's sources by module, as TF-IDF of words and pairs, and power-law
counts.
Softmax: seconds until the objective is within --gap of its optimum, relative. xclf is watched, and
stopped there; it is also timed whole, at tol = gap, which ends with a bound in float64. Solvers of
scikit-learn take no callback: they run with max_iter ... 8, 12, 16, 24 ..., and count with the
first of these runs that reaches the goal, by itself; one that takes --times what xclf took is given
up. Two classes have no biases, as liblinear penalises them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ShuffleSplit

from bench.common.curves import Watch
from bench.common.measuring import OURS, progress, table
from bench.common.text import Text, power_law, python_sources
from xclf import SoftmaxClassifier, SVMClassifier, SweepCV

PROBLEMS = ("python", "power")
PARTS = ("softmax", "two", "sweep", "hinge")
# The first most number of iterations that is tried: no fewer have reached a goal.
_FIRST = {"lbfgs": 12, "newton-cg": 3, "saga": 4, "liblinear": 1}
_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny sizes, to see that it runs")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    add("--rows", type=int, nargs="+", default=None, help="of the text, resampled beyond its own")
    add("--strength", type=float, nargs="+", default=[1.0, 10.0], help="scikit-learn's C")
    add("--gap", type=float, default=1e-4, help="relative, above the optimum")
    add("--times", type=float, default=20.0, help="times xclf's seconds, for scikit-learn")
    add("--hinge-rows", type=int, default=2000)
    add("--sweep-rows", type=int, default=4000)
    add("--values", type=int, default=20, help="of reg, in the sweep")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the tables; returns an entry for each problem of each part."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.simplefilter("ignore", FutureWarning)
    _warm_up()
    results: dict[str, Any] = {}
    if "softmax" in args.parts:
        results["softmax"] = [
            _softmax(name, *text, strength, args)
            for name, text in _problems(args)
            for strength in args.strength
        ]
    if "two" in args.parts:
        x, y = python_sources(2, 200 if args.quick else None)
        results["two"] = [_softmax("python, two modules", x, y, c, args) for c in args.strength]
    if "sweep" in args.parts:
        results["sweep"] = _sweep(args)
    if "hinge" in args.parts:
        results["hinge"] = [_hinge(strength, args) for strength in args.strength]
    _show(results)
    return results


def _warm_up() -> None:
    """First calls import and start threads."""
    x, y = power_law(50, 200, 3)
    SoftmaxClassifier(1e-2).fit(x, y)
    LogisticRegression(max_iter=2).fit(x, y)


def _problems(args: argparse.Namespace) -> Iterator[tuple[str, Text]]:
    rows = args.rows or ([300] if args.quick else [None])
    for count in rows if "python" in args.problems else ():
        yield "python sources", python_sources(20, count)
    if "power" in args.problems:
        yield "power law", power_law(300 if args.quick else 20_000)


def objective(x: Any, y: np.ndarray, w: np.ndarray, b: np.ndarray, reg: float) -> float:
    """1/N sum_i (logsumexp(s_i) - s_iy) + reg * sum(W^2), of W and b for every class."""
    scores = np.asarray(x @ w.T) + b
    top = scores.max(axis=1)
    losses = np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top
    return float(np.mean(losses - scores[np.arange(len(y)), y]) + reg * np.sum(w * w))


def _whole(coef: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of each class, of two classes half of the difference each; a bias of 0
    for those that have none."""
    bias = np.atleast_1d(bias)
    if len(coef) > 1:
        return coef, bias
    return np.concatenate([-coef, coef]) / 2, np.concatenate([-bias, bias]) / 2


def _softmax(
    name: str, x: Any, y: np.ndarray, strength: float, args: argparse.Namespace
) -> dict[str, Any]:
    two = y.max() == 1
    reg = 1.0 / ((1 if two else 2) * strength * len(y))
    options = {"fit_intercept": not two}
    progress(f"{name} {x.shape}, C {strength:g}: the optimum")
    best = SoftmaxClassifier(reg, tol=1e-7, **options).fit(x, y)
    goal = best.objective_ * (1.0 + args.gap)
    progress(f"{name}, C {strength:g}: xclf")
    watch = Watch(goal, cap=600.0)
    watched = SoftmaxClassifier(reg, callbacks=[lambda e: watch.see(e.objective)], **options)
    watch.start()
    watched.fit(x, y)
    began = time.perf_counter()
    model = SoftmaxClassifier(reg, tol=args.gap, **options).fit(x, y)
    mine = {
        "seconds": watch.took,
        "iterations": len(watch.seconds),
        "whole_fit_seconds": time.perf_counter() - began,
        "certified_relative_gap": model.dual_gap_ / model.objective_,
    }
    progress(f"  {mine['seconds']:.2f} s to the goal, {mine['whole_fit_seconds']:.2f} s in all")
    entry = {
        "problem": name,
        "shape": f"{x.shape[0]} x {x.shape[1]}, {x.nnz} entries, {int(y.max()) + 1} classes",
        "C": strength,
        "objective": best.objective_,
        "certified_relative_gap": best.dual_gap_ / best.objective_,
        OURS: mine,
    }
    for solver in ("lbfgs", "newton-cg", "saga", *(["liblinear"] if two else [])):
        progress(f"{name}, C {strength:g}: {solver}")
        entry[solver] = _peer(solver, x, y, strength, reg, goal, args, mine["seconds"], options)
    return entry


def _peer(
    solver: str,
    x: Any,
    y: np.ndarray,
    strength: float,
    reg: float,
    goal: float,
    args: argparse.Namespace,
    ours: float,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The first run that reaches the goal, or what the last one came to."""
    found: dict[str, Any] = {}
    for most in (steps for steps in _STEPS if steps >= _FIRST[solver]):
        model = LogisticRegression(
            C=strength, solver=solver, tol=1e-14, max_iter=most, random_state=0, **options
        )
        began = time.perf_counter()
        model.fit(x, y)
        took = time.perf_counter() - began
        value = objective(x, y, *_whole(model.coef_, model.intercept_), reg)
        found = {
            "seconds": took,
            "iterations": int(np.max(model.n_iter_)),
            "relative_gap": value / (goal / (1.0 + args.gap)) - 1.0,
            "reached": value <= goal,
            "times_xclf": took / ours,
        }
        progress(f"  max_iter {most}: {took:.2f} s, gap {found['relative_gap']:.1e}")
        if value <= goal or took > args.times * ours:
            break
    return found


def _sweep(args: argparse.Namespace) -> dict[str, Any]:
    """Values of reg together, one after the other, and with scikit-learn's best solver."""
    x, y = python_sources(20, 300 if args.quick else args.sweep_rows)
    values = np.geomspace(0.1, 100.0, args.values if not args.quick else 3)
    split = ShuffleSplit(1, test_size=0.2, random_state=0)
    train, _ = next(split.split(x))
    regs = 0.5 / (values * len(train))
    progress(f"sweep of {len(regs)} values")
    began = time.perf_counter()
    search = SweepCV(SoftmaxClassifier(tol=args.gap), {"reg": regs}, cv=split, refit=False)
    search.fit(x, y)
    together = time.perf_counter() - began
    own, theirs = [], []
    for number in range(0, len(regs), 4):
        progress(f"sweep: value {number}, alone")
        began = time.perf_counter()
        SoftmaxClassifier(regs[number], tol=args.gap).fit(x[train], y[train])
        own.append(time.perf_counter() - began)
        began = time.perf_counter()
        # At tol 1e-3 saga ends about as close to the optimum as xclf's bound asks for.
        LogisticRegression(
            C=values[number], solver="saga", tol=1e-3, max_iter=100, random_state=0
        ).fit(x[train], y[train])
        theirs.append(time.perf_counter() - began)
    scale = len(regs) / len(own)
    return {
        "shape": f"{x.shape[0]} x {x.shape[1]}",
        "values": len(regs),
        "together_seconds": together,
        "one_by_one_seconds": sum(own) * scale,
        "saga_one_by_one_seconds": sum(theirs) * scale,
        "measured_alone": len(own),
    }


def _hinge(strength: float, args: argparse.Namespace) -> dict[str, Any]:
    """SVMClassifier to a certified gap of 1e-3, and LinearSVC(multi_class="crammer_singer")."""
    from sklearn.svm import LinearSVC

    x, y = python_sources(20, 200 if args.quick else args.hinge_rows)
    reg = 0.5 / (strength * len(y))
    progress(f"hinge, C {strength:g}")
    began = time.perf_counter()
    cap = 120.0
    model = SVMClassifier(
        reg, tol=1e-3, callbacks=[lambda event: time.perf_counter() - began > cap]
    ).fit(x, y)
    mine = {
        "seconds": time.perf_counter() - began,
        "certified_relative_gap": model.dual_gap_ / model.objective_,
        "converged": bool(model.converged_),
    }
    began = time.perf_counter()
    LinearSVC(multi_class="crammer_singer", C=strength).fit(x, y)
    took = time.perf_counter() - began
    peer = {"seconds": took, "times_xclf": took / mine["seconds"]}
    return {"C": strength, "rows": len(y), OURS: mine, "crammer_singer": peer}


def _show(results: dict[str, Any]) -> None:
    caption = "xclf in brackets: the whole fit, certified; peers in brackets: times xclf"
    for part in ("softmax", "two"):
        entries = results.get(part, [])
        names = ("lbfgs", "newton-cg", "saga", "liblinear")
        rows = [
            [
                f"{one['problem']} {one['shape'].split(',')[0]}, C {one['C']:g}",
                f"{one[OURS]['seconds']:.2f} ({one[OURS]['whole_fit_seconds']:.2f})",
                *(_cell(one.get(name)) for name in names),
            ]
            for one in entries
        ]
        if rows:
            table(f"{part}: seconds to the goal", ["problem", OURS, *names], rows, caption)
    if "sweep" in results:
        keys = ("together_seconds", "one_by_one_seconds", "saga_one_by_one_seconds")
        row = [f"{results['sweep'][key]:.1f} s" for key in keys]
        columns = ["values", "together", "one by one", "saga, one by one"]
        table("sweep", columns, [[str(results["sweep"]["values"]), *row]])
    for one in results.get("hinge", []):
        mine, peer = one[OURS], one["crammer_singer"]
        rows = [
            [OURS, f"{mine['seconds']:.1f}", f"{mine['certified_relative_gap']:.1e}"],
            ["crammer_singer", f"{peer['seconds']:.1f}", ""],
        ]
        table(f"hinge, C {one['C']:g}, {one['rows']} rows", ["", "seconds", "gap"], rows)


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    mark = "" if entry["reached"] else "not reached: "
    return f"{mark}{entry['seconds']:.2f} ({entry['times_xclf']:.1f})"
