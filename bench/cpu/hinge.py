"""Hinge fits: the exact solver beside liblinear's Crammer-Singer and beside tuned SGD.

Exact: SVMClassifier to a certified relative gap on some rows, against
LinearSVC(multi_class="crammer_singer") at its default tolerance on the same rows. That one
minimises another objective, the largest violation of a row instead of the sum of all, and is
liblinear's only multiclass hinge; it runs in a process of its own, which is ended when its time is
up. SGD: the lowest objective of several learning rates after --epochs epochs on all rows (momentum,
cosine schedule), and how long SVMClassifier takes to a lower one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.common.data import chosen, name_of, synthetic_images
from bench.common.measuring import OURS, BenchError, Call, progress, table
from bench.cpu.together import timed_fit, train_together
from xclf import SVMClassifier

REGS = (1e-2, 1e-3, 1e-4)
GAP = 1e-3
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
BATCH = 1000
_LEAST = 20.0  # seconds that liblinear always has
_ROWS = 8192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--hinge-reg", type=float, nargs="+", default=list(REGS))
    add("--hinge-rows", type=int, default=10_000, help="of the exact fits")
    add("--svm-times", type=float, default=3.0, help="times xclf's seconds, for liblinear")
    add("--epochs", type=int, default=100, help="of SGD, on all rows; 0 leaves it out")


def run(args: argparse.Namespace, clock: Call) -> dict[str, Any]:
    """Prints the table; returns the exact fits and those against SGD, an entry for each reg."""
    x, y = _rows(args)
    name = name_of(args) if args.data is not None else "synthetic images"
    few = min(len(x), args.hinge_rows)
    SVMClassifier(1.0, tol=0.5).fit(x[:100], y[:100])  # first calls import and start threads
    results: dict[str, Any] = {"problem": name, "shape": f"{x.shape[0]} x {x.shape[1]} float32"}
    results["exact"] = [_exact(x[:few], y[:few], reg, args, clock) for reg in args.hinge_reg]
    results["sgd"] = _against_sgd(x, y, args, clock) if args.epochs else []
    _show(results, args)
    return results


def objective(x: np.ndarray, y: np.ndarray, model: Any) -> float:
    """1/N sum_i sum_{j != y_i} max(0, s_ij - s_iy + 1) + reg * sum(W^2), in float64."""
    w = np.asarray(model.coef_, dtype=np.float64)
    total = 0.0
    for start in range(0, len(x), _ROWS):
        labels = y[start : start + _ROWS]
        scores = x[start : start + _ROWS].astype(np.float64) @ w.T + model.intercept_
        violations = scores - scores[np.arange(len(labels)), labels][:, None] + 1.0
        total += float(np.maximum(violations, 0.0).sum()) - len(labels)
    return total / len(x) + float(model.reg * (w**2).sum())


def _rows(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    if args.data is not None:
        return chosen(args)
    return synthetic_images(*((200, 8) if args.quick else (args.rows,)))


def _exact(
    x: np.ndarray, y: np.ndarray, reg: float, args: argparse.Namespace, clock: Call
) -> dict[str, Any]:
    progress(f"hinge, reg {reg:g}: xclf on {len(x)} rows")
    mine = _fitted(x, y, reg, args.cap, clock)
    cap = min(args.cap, max(_LEAST, args.svm_times * mine["seconds"]))
    progress(f"hinge, reg {reg:g}: liblinear (up to {cap:.0f} s)")
    theirs = crammer_singer(x, y, reg, cap)
    theirs["times_xclf"] = theirs["seconds"] / mine["seconds"]
    return {"reg": reg, "rows": len(x), OURS: mine, "crammer_singer": theirs}


def _fitted(
    x: np.ndarray, y: np.ndarray, reg: float, cap: float, clock: Call, goal: float = -np.inf
) -> dict[str, Any]:
    """SVMClassifier to the gap, or to below the objective `goal`, or until its time is up."""
    began = clock()
    model = SVMClassifier(
        reg,
        tol=GAP,
        callbacks=[lambda event: event.objective < goal or clock() - began > cap],
    )
    took, _ = timed_fit(model, x, y, clock)
    reached = objective(x, y, model)
    return {
        "seconds": took,
        "objective": reached,
        "certified_relative_gap": float(getattr(model, "dual_gap_", np.nan)) / reached,
        "converged": bool(model.converged_),
        "below_the_goal": reached < goal,
        "iterations": int(model.n_iter_),
        "accuracy": float(model.score(x, y)),
    }


def crammer_singer(x: np.ndarray, y: np.ndarray, reg: float, cap: float) -> dict[str, Any]:
    """liblinear's fit in a process of its own, ended after `cap` seconds."""
    script = Path(__file__).with_name("crammer_singer.py")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npz"
        np.savez(file, x=x, y=y)
        words = [sys.executable, str(script), str(file), repr(0.5 / (reg * len(x)))]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()  # "ready": the time begins
            try:
                said = process.communicate(timeout=cap)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                return {"seconds": cap, "finished": False}
    if not said:
        raise BenchError("liblinear's process ended without a result")
    return {"finished": True, **json.loads(said)}


def _against_sgd(
    x: np.ndarray, y: np.ndarray, args: argparse.Namespace, clock: Call
) -> list[dict[str, Any]]:
    """All rates and regs are trained together; then xclf, reg by reg, to below the best of them."""
    progress(f"hinge: {args.epochs} epochs of SGD on {len(x)} rows")
    estimator = SVMClassifier(
        solver="momentum",
        batch_size=min(BATCH, len(x)),
        max_iter=args.epochs,
        lr_schedule="cosine",
        n_iter_no_change=args.epochs,  # all epochs, whatever the objective does
        random_state=0,
    )
    grid = {"learning_rate": list(RATES), "reg": list(args.hinge_reg)}
    took, models, _ = train_together(estimator, grid, x, y, clock)
    results = []
    for reg in args.hinge_reg:
        tried = [(objective(x, y, one), one.learning_rate) for one in models if one.reg == reg]
        lowest, rate = min(tried)
        progress(f"hinge, reg {reg:g}: xclf on {len(x)} rows, to below {lowest:.6g}")
        sgd = {
            "epochs": args.epochs,
            "objective": lowest,
            "learning_rate": rate,
            "rates_tried": len(RATES),
            "seconds_of_all_rates_and_regs": took,
        }
        results.append(
            {
                "reg": reg,
                "rows": len(x),
                "sgd": sgd,
                OURS: _fitted(x, y, reg, args.cap, clock, lowest),
            }
        )
    return results


def _show(results: dict[str, Any], args: argparse.Namespace) -> None:
    table(
        f"hinge fit, {results['problem']}, to a certified gap of {GAP:g}",
        ("rows", "reg", "xclf, s", "certified gap", "liblinear, s"),
        map(_exact_cells, results["exact"]),
        "in brackets: times xclf's; liblinear's objective is another (Crammer-Singer)",
    )
    if results["sgd"]:
        table(
            f"hinge objective, {results['problem']}: {args.epochs} epochs of SGD",
            ("rows", "reg", "SGD", "its rate", "xclf", "xclf, s"),
            map(_sgd_cells, results["sgd"]),
        )


def _exact_cells(entry: dict[str, Any]) -> list[str]:
    mine, theirs = entry[OURS], entry["crammer_singer"]
    return [
        str(entry["rows"]),
        f"{entry['reg']:g}",
        f"{'' if mine['converged'] else '> '}{mine['seconds']:.2f}",
        f"{mine['certified_relative_gap']:.1e}",
        f"{'' if theirs['finished'] else '> '}{theirs['seconds']:.2f} ({theirs['times_xclf']:.1f})",
    ]


def _sgd_cells(entry: dict[str, Any]) -> list[str]:
    sgd, mine = entry["sgd"], entry[OURS]
    cells = [str(entry["rows"]), f"{entry['reg']:g}", f"{sgd['objective']:.6g}"]
    cells += [f"{sgd['learning_rate']:g}", f"{mine['objective']:.6g}", f"{mine['seconds']:.2f}"]
    return cells
