"""Softmax loss and gradient over all rows, beside scikit-learn's and torch's, and one read of X.

    python -m bench loss_grad

The floor is one read of X at memory speed, by a thread for each core unless --one-thread: nothing
that needs the rows can be faster, unless X is in cache. `reads_of_x` in the results, and the last
column's brackets, say how many reads xclf takes.

Where numba is installed xclf multiplies few columns in compiled tiles: `products` in the results
says whether it did, and there is a column for xclf with BLAS in their place.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bench._data import gaussian, given
from bench._measure import (
    NOT_INSTALLED,
    OURS,
    BenchError,
    Call,
    Contender,
    add_one_thread,
    alternate,
    optional,
    show,
    summarise,
    thread_words,
    timing,
)
from xclf.kernels import one_hot
from xclf.objectives import Network, Objective, data_loss
from xclf.objectives._compiled import CompiledProducts
from xclf.rows import MASK_CLASSES, Rows, sum_over_rows
from xclf.training import Problem

#: rows, features, classes, dtype
SHAPES = (
    (50_000, 3072, 10, "float32"),
    (50_000, 3072, 10, "float64"),
    (60_000, 784, 10, "float32"),
    (60_000, 784, 100, "float32"),
    (20_000, 2048, 1000, "float32"),
)
QUICK = ((400, 30, 4, "float32"), (400, 30, 4, "float64"))
REG = 1e-4
BY_BLAS = "xclf by BLAS"
COLUMNS = [OURS, BY_BLAS, "scikit-learn", "torch", "read of X"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--data", metavar="PATH", help="time on these rows, in float32, instead")
    parser.add_argument("--repeats", type=int, default=9)
    add_one_thread(parser)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints the table; returns one entry per shape."""
    found = []
    if args.data is not None:
        problems = [("float32", *given(args.data, None))]
        shapes = [(*problems[0][1].shape, int(problems[0][2].max()) + 1, "float32")]
    else:
        shapes = list(QUICK if args.quick else SHAPES)
    threads = thread_words(args.one_thread)
    with timing(args.one_thread) as clock:
        for rows, features, classes, dtype in shapes:
            if args.data is not None:
                x, y = problems[0][1:]
            else:
                x, y = gaussian(rows, features, classes, np.dtype(dtype))
            shape = f"{rows} x {features} x {classes} {dtype}"
            times = _compare(x, y, classes, args.repeats, clock)
            found.append({"problem": shape, "threads": threads, **times})
            del x, y
    show(
        f"softmax loss and gradient, all rows, {threads}",
        [(entry["problem"], entry["seconds"]) for entry in found],
        COLUMNS,
    )
    return found


def _compare(
    x: np.ndarray, y: np.ndarray, classes: int, repeats: int, clock: Call
) -> dict[str, Any]:
    w = np.random.default_rng(1).standard_normal((classes, x.shape[1])) / np.sqrt(x.shape[1])
    threads = 1 if clock is time.process_time else os.cpu_count() or 1
    problem, theta = _problem(x, y, w)
    products = _sums(problem, theta, len(x)).products
    compiled = isinstance(products, CompiledProducts)
    contenders: dict[str, Contender] = {
        OURS: lambda: float(problem.value_and_grad(theta)[0]),
        BY_BLAS: _by_blas(problem, theta) if compiled else "the same",
        "scikit-learn": _sklearn(x, y, w, threads),
        "torch": _torch(x, y, w),
        "read of X": _read(x, threads),
    }
    losses = {
        name: call()
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
    return {
        "products": "compiled" if compiled else "BLAS",
        "losses": losses,
        "seconds": seconds,
        "reads_of_x": reads,
    }


def _problem(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[Problem, np.ndarray]:
    classes, features = w.shape
    network = Network((features, classes))
    theta = network.flatten([(w, np.zeros((classes, 1)))])
    labels = one_hot(np, y, classes) if classes <= MASK_CLASSES else y
    rows = Rows(x, labels, None, x.dtype.type)
    return Problem(Objective(network, data_loss("softmax"), REG), rows), theta


def _sums(problem: Problem, theta: np.ndarray, rows: int) -> Any:
    """One pass; for an unknown number of rows, 0, nothing is compiled."""
    return problem.objective.sums_at(theta, problem.rows.dtype, rows)


def _by_blas(problem: Problem, theta: np.ndarray) -> Call:
    def call() -> float:
        f = _sums(problem, theta, 0)
        sums = f.finish(sum_over_rows(f, problem.rows, problem.width(theta)))
        return float(problem.objective.complete(theta, sums, problem.total)[0])

    return call


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


def _torch(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> Contender:
    torch = optional("torch")
    if torch is None:
        return NOT_INSTALLED
    rows, labels = torch.from_numpy(x), torch.from_numpy(y)
    weight = torch.from_numpy(w.astype(x.dtype)).requires_grad_()
    bias = torch.zeros(len(w), dtype=weight.dtype, requires_grad=True)

    def call() -> float:
        scores = torch.nn.functional.linear(rows, weight, bias)
        loss = torch.nn.functional.cross_entropy(scores, labels) + REG * weight.square().sum()
        torch.autograd.grad(loss, (weight, bias))
        return float(loss.detach())

    return call


def _read(x: np.ndarray, threads: int) -> Call:
    parts = np.array_split(x.reshape(-1), threads)
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda part: float(part.max()), parts))
