"""Softmax loss and gradient over all rows, beside scikit-learn's and torch's, and one read of X.

    python -m bench loss_grad

The floor is one read of X at memory speed, by a thread for each core unless --one-thread: nothing
that needs the rows can be faster, unless X is in cache. `reads_of_x` in the results, and the last
column's brackets, say how many reads xclf takes.

The column `formulas` is xclf without accelerators.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bench.common.data import Data, add_data, chosen, synthetic
from bench.common.device import Device
from bench.common.internals import REG, flat, softmax_problem
from bench.common.measuring import (
    OURS,
    BenchError,
    Call,
    Contender,
    add_one_thread,
    alternate,
    show,
    summarise,
    thread_words,
    timing,
)
from bench.common.torch_peers import loss_and_grad

#: rows, features, classes, dtype
SHAPES = (
    (50_000, 3072, 10, "float32"),
    (50_000, 3072, 10, "float64"),
    (60_000, 784, 10, "float32"),
    (60_000, 784, 100, "float32"),
    (20_000, 2048, 1000, "float32"),
)
QUICK = ((400, 30, 4, "float32"), (400, 30, 4, "float64"))
FORMULAS = "formulas"
COLUMNS = [OURS, FORMULAS, "scikit-learn", "torch", "read of X"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    add_data(parser, None)
    parser.add_argument("--repeats", type=int, default=9)
    add_one_thread(parser)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints the table; returns one entry per shape."""
    results = []
    threads = thread_words(args.one_thread)
    with timing(args.one_thread) as clock:
        for x, y in _problems(args):
            classes = int(y.max()) + 1
            shape = f"{len(x)} x {x.shape[1]} x {classes} {x.dtype}"
            times = _compare(x, y, classes, args.repeats, clock)
            results.append({"problem": shape, "threads": threads, **times})
            del x, y
    show(f"softmax loss and gradient, all rows, {threads}", results, COLUMNS)
    return results


def _problems(args: argparse.Namespace) -> Iterator[Data]:
    if args.data is not None:
        yield chosen(args)
        return
    for rows, features, classes, dtype in QUICK if args.quick else SHAPES:
        yield synthetic(rows, features, classes, np.dtype(dtype))


def _compare(
    x: np.ndarray, y: np.ndarray, classes: int, repeats: int, clock: Call
) -> dict[str, Any]:
    w = np.random.default_rng(1).standard_normal((classes, x.shape[1])) / np.sqrt(x.shape[1])
    threads = 1 if clock is time.process_time else os.cpu_count() or 1
    wide, theta = x.dtype == np.float64, flat(w, x)
    fast, plain = (
        softmax_problem(x, y, classes, REG, wide=wide, formulas=formulas)
        for formulas in (False, True)
    )
    contenders: dict[str, Contender] = {
        OURS: lambda: float(fast.value_and_grad(theta)[0]),
        FORMULAS: lambda: float(plain.value_and_grad(theta)[0]),
        "scikit-learn": _sklearn(x, y, w, threads),
        "torch": loss_and_grad(Device("numpy"), x, y, w, REG),
        "read of X": _read(x, threads),
    }
    losses = {
        name: float(call()[0]) if name == "torch" else call()
        for name, call in contenders.items()
        if not isinstance(call, str) and name != "read of X"
    }
    for name, loss in losses.items():
        if not np.isclose(loss, losses[OURS], rtol=1e-4):
            raise BenchError(f"{name} computes {loss}, xclf {losses[OURS]}: not the same problem")
    seconds: dict[str, Any] = summarise(alternate(contenders, repeats, clock=clock))
    floor = seconds["read of X"]["median_s"]
    reads = {name: entry["median_s"] / floor for name, entry in seconds.items()}
    seconds |= {name: why for name, why in contenders.items() if isinstance(why, str)}
    return {"losses": losses, "seconds": seconds, "reads_of_x": reads}


def _sklearn(x: np.ndarray, y: np.ndarray, w: np.ndarray, threads: int) -> Contender:
    try:
        from sklearn._loss.loss import HalfMultinomialLoss
        from sklearn.linear_model._linear_loss import LinearModelLoss
    except ImportError:
        return "its private loss has moved"
    loss = LinearModelLoss(base_loss=HalfMultinomialLoss(n_classes=len(w)), fit_intercept=True)
    coef = np.zeros((len(w), w.shape[1] + 1), dtype=x.dtype, order="F")
    coef[:, :-1] = w
    target = y.astype(x.dtype)
    return lambda: float(
        loss.loss_gradient(coef, x, target, l2_reg_strength=2.0 * REG, n_threads=threads)[0]
    )


def _read(x: np.ndarray, threads: int) -> Call:
    parts = np.array_split(x.reshape(-1), threads)
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda part: float(part.max()), parts))
