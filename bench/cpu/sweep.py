"""Many models at once: SweepCV beside one fit after the other.

    python -m bench sweep --json FILE [--plot FILE.png]

    values     45 values of reg, 1e-6 .. 1e1, on all rows, beside scikit-learn's lbfgs (max_iter
               1000, tol 1e-4); objectives are computed apart, in float64, for every model
    cv         the same with 5 folds, 225 models
    minibatch  13 learning rates x 4 regs, 10 epochs, beside one after another here and in torch
    pass       loss and gradient of 45 models of 10 classes, beside the bare matrix products

Each part can run alone: --parts. scikit-learn and torch may run a share of their fits
(--sklearn-values, --peer-fits); the time of all is then an estimate, and marked as one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from bench.common import plotting
from bench.common.data import add_data, chosen, synthetic_images
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
from bench.common.softmax import Problem
from bench.cpu import sweep_minibatch, sweep_pass
from bench.cpu.together import timed_fit, train_together
from xclf import SoftmaxClassifier, SweepCV

PARTS = ("values", "cv", "minibatch", "pass")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny sizes, to see that it runs")
    add_data(parser, 60_000)
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--values", type=int, default=45, help="of reg")
    add("--cv", type=int, default=5, help="folds of the part cv")
    add("--cv-rows", type=int, help="rows of the part cv, and of what it is held against")
    add("--sklearn-values", type=int, help="scikit-learn fits so many of them; all by default")
    add("--tol", type=float, help="of xclf in the part `values`; its default by default")
    add("--peer-fits", type=int, default=6, help="of the 52 fits one after another")
    add("--repeats", type=int, default=2, help="of the sweeps; 5 times of the pass")
    add_one_thread(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the tables; returns an entry for each part."""
    if args.data is not None:
        x, y = chosen(args)
    else:
        x, y = synthetic_images(*((200, 8) if args.quick else (args.rows,)))
    if y.max() < 2:
        raise BenchError("--data holds two classes; the comparison needs three or more")
    if args.quick:
        args.values, args.cv = min(args.values, 5), min(args.cv, 3)
    shape = f"{x.shape[0]} x {x.shape[1]} x {int(y.max()) + 1} float32"
    results: dict[str, Any] = {"shape": shape, "threads": thread_words(args.one_thread)}
    with timing(args.one_thread) as clock:
        _sweep(x[:500], y[:500], [1.0, 1.0], clock)  # first calls import and start threads
        if "values" in args.parts:
            results["values"] = _values(x, y, args, clock)
        if "cv" in args.parts:
            results["cv"] = _folds(x, y, args, clock, results.get("values"))
        if "pass" in args.parts:
            results["pass"] = sweep_pass.run(x, y, args.values, 5 * args.repeats, clock)
        if "minibatch" in args.parts:
            rows = (x, y) if args.data is not None else None
            results["minibatch"] = sweep_minibatch.run(rows, args, clock)
    return results


def draw(results: dict[str, Any], path: Path) -> None:
    """Seconds against reg."""
    if "values" not in results:
        raise BenchError("--plot draws the part 'values'")
    plotting.sweep(results["values"], path)


def _sweep(
    x: np.ndarray, y: np.ndarray, regs: Iterable[float], clock: Call, tol: float | None = None
) -> tuple[float, list[Any], bool]:
    return train_together(SoftmaxClassifier(tol=tol), {"reg": list(regs)}, x, y, clock)


def _values(x: np.ndarray, y: np.ndarray, args: argparse.Namespace, clock: Call) -> dict[str, Any]:
    """xclf before each share of scikit-learn's fits."""
    regs = np.logspace(-6, 1, args.values)
    most = len(regs) if args.sklearn_values is None else min(args.sklearn_values, len(regs))
    picked = np.unique(np.linspace(0, len(regs) - 1, max(most, 2)).round().astype(int))
    seconds, peers, converged = [], [], True
    models: list[Any] = []
    for turn in range(args.repeats):
        progress(f"{len(regs)} values of reg: xclf, turn {turn + 1} of {args.repeats}")
        took, models, well = _sweep(x, y, regs.tolist(), clock, args.tol)
        seconds.append(took)
        converged = converged and well
        for k in picked[turn :: args.repeats].tolist():
            peers.append({"index": k, **_sklearn(x, y, float(regs[k]), clock)})
            one = peers[-1]
            progress(f"scikit-learn, reg {one['reg']:.2g}: {one['seconds']:.1f} s")
    peers.sort(key=lambda one: int(one["index"]))
    by_reg = {model.reg: model for model in models}
    ours = [by_reg[reg] for reg in regs.tolist()]
    reached = [_objective(x, y, model.reg, model.coef_, model.intercept_) for model in ours]
    for one in peers:
        one["relative_excess_of_xclf"] = reached[one["index"]] / one["objective"] - 1.0
    spent = [one["seconds"] for one in peers]
    total = float(np.interp(np.arange(len(regs)), [one["index"] for one in peers], spent).sum())
    results = {
        "regs": regs.tolist(),
        "xclf_tol": args.tol,
        "xclf_s": float(np.median(seconds)),
        "xclf_all_s": seconds,
        "xclf_all_converged": converged,
        "xclf_objectives": reached,
        "xclf_iterations": [int(model.n_iter_) for model in ours],
        "scikit_learn": peers,
        "scikit_learn_s": total,
        "scikit_learn_s_is_interpolated": len(peers) < len(regs),
        "times_xclf": total / float(np.median(seconds)),
        "largest_relative_excess_of_xclf": max(one["relative_excess_of_xclf"] for one in peers),
    }
    _show_values(results)
    return results


def _sklearn(x: np.ndarray, y: np.ndarray, reg: float, clock: Call) -> dict[str, Any]:
    model = LogisticRegression(C=1.0 / (2.0 * reg * len(x)), tol=1e-4, max_iter=1000)
    return {
        "reg": reg,
        "seconds": timed_fit(model, x, y, clock)[0],
        "iterations": int(model.n_iter_[0]),
        "objective": _objective(x, y, reg, model.coef_, model.intercept_),
    }


def _objective(x: np.ndarray, y: np.ndarray, reg: float, w: np.ndarray, b: np.ndarray) -> float:
    return Problem("sweep", x, y, reg).objective(w, b)


def _folds(
    x: np.ndarray,
    y: np.ndarray,
    args: argparse.Namespace,
    clock: Call,
    values: dict[str, Any] | None,
) -> dict[str, Any]:
    """All values on all folds, scores included, beside all values on the same rows."""
    if args.cv_rows is not None and args.cv_rows < len(x):
        x, y, values = x[: args.cv_rows], y[: args.cv_rows], None
    regs = np.logspace(-6, 1, args.values).tolist()
    progress(f"{len(regs)} values of reg on {len(x)} rows: xclf")
    base = values["xclf_s"] if values is not None else _sweep(x, y, regs, clock)[0]
    progress(f"{args.values} values of reg, {args.cv} folds: xclf")
    search = SweepCV(SoftmaxClassifier(), {"reg": regs}, refit=False, cv=args.cv)
    took, converged = timed_fit(search, x, y, clock)
    results = {
        "rows": len(x),
        "heads": args.values * args.cv,
        "xclf_s": took,
        "xclf_all_converged": converged,
        "xclf_s_without_folds": base,
        "times_without_folds": took / base,
    }
    Console().print(
        f"{results['heads']} models ({args.values} values x {args.cv} folds), {len(x)} rows: "
        f"{took:.1f} s, {took / base:.1f} times the {args.values} alone ({base:.1f} s)"
    )
    return results


def _show_values(results: dict[str, Any]) -> None:
    about = ", interpolated" if results["scikit_learn_s_is_interpolated"] else ""
    rows = [
        [
            f"{one['reg']:.2g}",
            f"{one['seconds']:.2f}",
            str(one["iterations"]),
            str(results["xclf_iterations"][one["index"]]),
            f"{one['relative_excess_of_xclf']:.1e}",
        ]
        for one in results["scikit_learn"]
    ]
    table(
        f"{len(results['regs'])} values of reg: xclf all in one, scikit-learn one by one",
        ("reg", "scikit-learn, s", "iterations", "xclf, iterations", "excess"),
        [*rows, ["all", f"{results['scikit_learn_s']:.1f}{about}", "", "", ""]],
        "excess: how far xclf's objective lies above scikit-learn's (below if negative)",
    )
    Console().print(
        f"{OURS}: {results['xclf_s']:.1f} s for all; scikit-learn takes "
        f"{results['times_xclf']:.1f} times as long{about}; largest excess "
        f"{results['largest_relative_excess_of_xclf']:.1e}"
    )
