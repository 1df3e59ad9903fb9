"""Learning rates x regs of a minibatch softmax: all together, one after another, and in torch."""

from __future__ import annotations

import argparse
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console

from bench.common.data import synthetic
from bench.common.measuring import NOT_INSTALLED, OURS, Call, optional, progress
from bench.cpu.together import timed_fit, train_together
from xclf import SoftmaxClassifier

RATES = tuple(np.logspace(-4, -1, 13).tolist())
REGS = tuple(np.logspace(-6, -3, 4).tolist())
EPOCHS, BATCH, MOMENTUM = 10, 1000, 0.9


def run(
    rows: tuple[np.ndarray, np.ndarray] | None, args: argparse.Namespace, clock: Call
) -> dict[str, Any]:
    """Prints a line; returns seconds together, and of a share of the fits one after another.

    rows : x, y, or None for random ones of CIFAR-10's size
    """
    if rows is None:
        rows = synthetic(*((200, 30, 4) if args.quick else (50_000, 3072, 10)))
    x, y = rows[0], np.asarray(rows[1])
    grid = list(itertools.product(RATES, REGS))
    picked = np.linspace(0, len(grid) - 1, min(args.peer_fits, len(grid))).round().astype(int)
    _together(x[:500], y[:500], clock)
    seconds: dict[str, list[float]] = {OURS: [], "one by one": [], "torch": []}
    models: dict[Any, Any] = {}
    apart = 0.0
    for turn in range(args.repeats):
        progress(f"{len(grid)} minibatch fits together, turn {turn + 1} of {args.repeats}")
        took, models = _together(x, y, clock)
        seconds[OURS].append(took)
        for k in picked[turn :: args.repeats].tolist():
            progress(f"one minibatch fit, here and in torch: rate {grid[k][0]:.1e}")
            rate, reg = grid[k]
            single = _model(rate, reg, len(x))
            seconds["one by one"].append(timed_fit(single, x, y, clock)[0])
            apart = max(apart, _difference(single, models[grid[k]]))
            seconds["torch"] += _torch(x, y, rate, reg, clock)
    results = _summary(seconds, len(grid), x, apart)
    _show(results)
    return results


def _summary(
    seconds: dict[str, list[float]], fits: int, x: np.ndarray, apart: float
) -> dict[str, Any]:
    together = float(np.median(seconds[OURS]))
    results: dict[str, Any] = {
        "shape": f"{x.shape[0]} x {x.shape[1]} float32",
        "fits": fits,
        "epochs": EPOCHS,
        "batch": min(BATCH, len(x)),
        "xclf_s": together,
        "xclf_all_s": seconds[OURS],
        "largest_relative_difference_to_single_fits": apart,
    }
    for name in ("one by one", "torch"):
        if not seconds[name]:
            results[name] = NOT_INSTALLED
            continue
        total = fits * float(np.mean(seconds[name]))
        results[name] = {
            "fits_timed": len(seconds[name]),
            "fits_s": seconds[name],
            "all_s": total,
            "all_s_is_scaled": len(seconds[name]) < fits,
            "times_xclf": total / together,
        }
    return results


def _model(rate: float, reg: float, rows: int) -> SoftmaxClassifier:
    return SoftmaxClassifier(
        reg,
        solver="momentum",
        momentum=MOMENTUM,
        learning_rate=rate,
        batch_size=min(BATCH, rows),
        max_iter=EPOCHS,
        random_state=0,
    )


def _together(x: np.ndarray, y: np.ndarray, clock: Call) -> tuple[float, dict[Any, Any]]:
    grid = {"learning_rate": list(RATES), "reg": list(REGS)}
    took, models, _ = train_together(_model(1e-3, 1e-6, len(x)), grid, x, y, clock)
    return took, {(model.learning_rate, model.reg): model for model in models}


def _difference(one: Any, other: Any) -> float:
    """The largest difference of two models' weights, relative to the largest weight."""
    return float(np.abs(one.coef_ - other.coef_).max() / np.abs(one.coef_).max())


def _torch(x: np.ndarray, y: np.ndarray, rate: float, reg: float, clock: Call) -> list[float]:
    """Seconds of the same fit as a torch loop; empty without torch."""
    torch = optional("torch")
    if torch is None:
        return []
    rows, labels = torch.from_numpy(x), torch.from_numpy(y)
    w = torch.zeros((int(y.max()) + 1, x.shape[1]), requires_grad=True)
    b = torch.zeros(len(w), requires_grad=True)
    groups = [{"params": [w], "weight_decay": 2.0 * reg}, {"params": [b]}]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM)
    generator = torch.Generator().manual_seed(0)

    def fit(*_: Any) -> None:
        for _ in range(EPOCHS):
            for index in torch.randperm(len(rows), generator=generator).split(BATCH):
                optimizer.zero_grad(set_to_none=True)
                scores = torch.nn.functional.linear(rows[index], w, b)
                torch.nn.functional.cross_entropy(scores, labels[index]).backward()
                optimizer.step()

    return [timed_fit(SimpleNamespace(fit=fit), x, y, clock)[0]]


def _show(results: dict[str, Any]) -> None:
    console = Console()
    console.print(
        f"{results['fits']} minibatch fits, {results['shape']}, {results['epochs']} epochs, batch "
        f"{results['batch']}: together {results['xclf_s']:.2f} s"
    )
    for name, words in (("one by one", "xclf one after another"), ("torch", "torch")):
        entry = results[name]
        if isinstance(entry, str):
            console.print(f"  {words}: {entry}")
            continue
        scaled = f", scaled from {entry['fits_timed']} fits" if entry["all_s_is_scaled"] else ""
        console.print(f"  {words}: {entry['all_s']:.1f} s, {entry['times_xclf']:.1f} times{scaled}")
