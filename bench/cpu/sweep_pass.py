"""A pass of many heads over the rows, beside the bare matrix products of the same shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from bench.common.internals import Chunk, flat, softmax_problem, sum_over_rows
from bench.common.measuring import OURS, Call, alternate, progress, summarise

_SQUARE = 3000  # rows and columns of the large product


def run(x: np.ndarray, y: np.ndarray, heads: int, repeats: int, clock: Call) -> dict[str, Any]:
    """Prints a line; returns rates in GFLOP/s and shares of the products' rate.

    products : W (heads * C, D) with chunks of rows, forward and back, by the same threads, in
        chunks of the same size, nothing else done;  square : one large product, BLAS's own threads
    """
    progress(f"a pass of {heads} heads")
    classes, features = int(y.max()) + 1, x.shape[1]
    rng = np.random.default_rng(0)
    w = rng.standard_normal((heads, classes, features)) / np.sqrt(features)
    theta, problem = flat(w, x), softmax_problem(x, y, classes, np.logspace(-6, 1, heads))
    stacked = w.reshape(heads * classes, features).astype(x.dtype)
    side = rng.standard_normal((min(_SQUARE, 3 * len(x)),) * 2, dtype=np.float32)

    def products(chunk: Chunk) -> tuple[np.ndarray]:
        scores = stacked @ chunk.x.T
        return ((scores @ chunk.x)[0, :1],)

    seconds = alternate(
        {
            OURS: lambda: problem.value_and_grad(theta),
            "products": lambda: sum_over_rows(products, problem.rows, problem.width(theta)),
            "square": lambda: side @ side,
        },
        repeats,
        clock=clock,
    )
    work = dict.fromkeys((OURS, "products"), 4.0 * x.size * heads * classes)
    work["square"] = 2.0 * len(side) ** 3
    times = summarise(seconds)
    rates = {name: work[name] / times[name]["median_s"] / 1e9 for name in work}
    results = {
        "heads": heads,
        "classes": classes,
        "seconds": times,
        "gflops": rates,
        "share_of_products": rates[OURS] / rates["products"],
        "share_of_square": rates[OURS] / rates["square"],
    }
    Console().print(
        f"a pass of {heads} heads x {classes} classes: {rates[OURS]:.0f} GFLOP/s, "
        f"{results['share_of_products']:.0%} of its bare products, "
        f"{results['share_of_square']:.0%} of a large square product's {rates['square']:.0f}"
    )
    return results
