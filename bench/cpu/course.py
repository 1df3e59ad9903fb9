"""The course's losses, vectorised against the naive loops.

    python -m bench course

Both forms compute loss and gradient of the same problem; the table gives the median of the repeats
and how many times faster the vectorised form is. The course facade promises at least 20 at the
default size.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.common.measuring import alternate, table
from xclf.cs231n.classifiers.linear_svm import svm_loss_naive, svm_loss_vectorized
from xclf.cs231n.classifiers.softmax import softmax_loss_naive, softmax_loss_vectorized

PAIRS = {
    "svm": (svm_loss_naive, svm_loss_vectorized),
    "softmax": (softmax_loss_naive, softmax_loss_vectorized),
}
REG = 1e-5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The size of the problem, the course's by default, and the number of repeats."""
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--features", type=int, default=3073)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="of BLAS (all by default); on a busy machine fewer are faster",
    )
    parser.add_argument(
        "--repeats", type=int, default=7, help="of the naive form; 5 times of the other"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the table. Returns the arguments, and medians in seconds and their ratio by loss."""
    rng = np.random.default_rng(0)
    X = 50 * rng.standard_normal((args.rows, args.features))
    W = 1e-4 * rng.standard_normal((args.features, args.classes))
    y = rng.integers(0, args.classes, args.rows)
    results: dict[str, Any] = {"arguments": vars(args)}
    rows = []
    for name, (naive, vectorised) in PAIRS.items():
        with threadpool_limits(args.threads):
            slow = _median(partial(naive, W, X, y, REG), args.repeats)
            fast = _median(partial(vectorised, W, X, y, REG), 5 * args.repeats)
        results[name] = {"naive": slow, "vectorised": fast, "ratio": slow / fast}
        rows.append((name, f"{1e3 * slow:.1f}", f"{1e3 * fast:.2f}", f"{slow / fast:.1f}"))
    table("loss and gradient", ("loss", "naive, ms", "vectorised, ms", "times faster"), rows)
    return results


def _median(call: Callable[[], Any], repeats: int) -> float:
    return statistics.median(alternate({"it": call}, repeats)["it"])
