"""Fits on a cluster of Dask beside the same fits in one process.

    python -m bench dask --json FILE

    throughput  iterations of a softmax fit: workers of one thread each, beside one process with as
                many threads, and beside scikit-learn's lbfgs in it, on the same rows; by the
                clock, and by the processor time of all processes, which a busy machine disturbs
                less
    arithmetic  processor time of a pass over blocks that this process holds, beside rows in memory
    overhead    a pass over blocks that hold next to nothing
    beyond      a fit of rows five times the memory that its process may take, beside the speed of
                the disk and of the arithmetic (`beyond_memory`)
    large       a pass over 1,281,167 x 1024 float16 rows of 1000 classes, and what a whole fit
                would take (an estimate, and marked as one)
    scaling     tasks, bytes and depth of a pass on 16, 64 and 256 workers, counted on the graphs
                that such a cluster would be sent; nothing is timed

Blocks are made on the workers, by seeds.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from threadpoolctl import threadpool_limits

from bench.common.measuring import BenchError, optional, progress, table
from bench.cpu import beyond_memory
from bench.cpu.cluster_counts import counted
from xclf import SoftmaxClassifier
from xclf.accelerate.cpu import softmax_row_sums
from xclf.estimators import SharedRows
from xclf.kernels import one_hot
from xclf.objectives import FORMULAS, Network, Objective, loss_named
from xclf.rows import (
    BlockRows,
    Blocks,
    ClusterEngine,
    LocalEngine,
    Rows,
    _direct,
    join_blocks,
    sum_over_rows,
)
from xclf.training import Problem

PARTS = ("throughput", "arithmetic", "overhead", "beyond", "large", "scaling")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny sizes, to see that it runs")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--workers", type=int, default=2, help="processes of one thread each")
    add("--rows", type=int, default=400_000, help="of the part throughput, of 512 features")
    add("--large-rows", type=int, default=1_281_167, help="of the part large")
    add("--iterations", type=int, default=12, help="of the fits")
    add("--rounds", type=int, default=3, help="of the part throughput, taking turns")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the tables; returns an entry for each part."""
    if optional("distributed") is None:
        raise BenchError("needs Dask: pip install 'dask[array,distributed]'")
    results: dict[str, Any] = {"workers": args.workers, "threads_per_worker": 1}
    if "throughput" in args.parts:
        results["throughput"] = _throughput(args)
    if "arithmetic" in args.parts:
        results["arithmetic"] = _arithmetic(4000 if args.quick else 100_000)
    if "beyond" in args.parts:
        results["beyond"] = beyond_memory.measure(quick=args.quick)
    if {"overhead", "large"} & set(args.parts):
        with _cluster(args.workers) as client:
            if "overhead" in args.parts:
                results["overhead"] = _overhead(client, (2, 4) if args.quick else (4, 25, 100, 400))
            if "large" in args.parts:
                results["large"] = _large(args)
    if "scaling" in args.parts:
        results["scaling"] = counted((16, 64, 256))
    return results


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    import distributed

    options: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        distributed.LocalCluster(n_workers=workers, **options) as own,
        distributed.Client(own) as client,
    ):
        yield client


def _rows(n: int, features: int, classes: int, blocks: int, dtype: str) -> tuple[Any, np.ndarray]:
    """(X, y): overlapping clouds, X as an array of Dask whose blocks are made by their seeds."""
    import dask
    import dask.array as da

    y = np.arange(n) % classes
    ends = [n * k // blocks for k in range(blocks + 1)]
    parts = []
    for k in range(blocks):
        made = dask.delayed(_block)(k, ends[k], ends[k + 1] - ends[k], features, classes, dtype)
        shape = (ends[k + 1] - ends[k], features)
        parts.append(da.from_delayed(made, shape, np.dtype(dtype)))
    return da.concatenate(parts), y


def _block(seed: int, first: int, n: int, features: int, classes: int, dtype: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(-1 % 2**32).standard_normal((classes, features), np.float32)
    x = rng.standard_normal((n, features), np.float32)
    x += 0.1 * centres[np.arange(first, first + n) % classes]
    return x.astype(dtype, copy=False)


class Clock:
    """A callback with the time of every iteration, and the processor time of all processes."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.times: list[float] = []
        self.processor: list[float] = []

    def __call__(self, event: Any) -> None:
        self.times.append(time.perf_counter())
        own = [time.process_time()]
        if self.client is not None:
            own += self.client.run(time.process_time).values()
        self.processor.append(sum(own))

    def seconds(self) -> tuple[float, float]:
        """Of an iteration, the median of those after the second, which set up what later ones use;
        and of the processors, their mean."""
        steps = len(self.times) - 2
        processor = (self.processor[-1] - self.processor[1]) / steps
        return statistics.median(np.diff(self.times[1:]).tolist()), processor


def _fit(x: Any, y: np.ndarray, iterations: int, client: Any) -> tuple[float, float, float]:
    """(seconds of an iteration, of processors in it, of the whole fit)."""
    clock, start = Clock(client), time.perf_counter()
    model = SoftmaxClassifier(1e-4, max_iter=iterations, tol=0.0, callbacks=[clock])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not to converge
        model.fit(x, y)
    return *clock.seconds(), time.perf_counter() - start


def _throughput(args: argparse.Namespace) -> dict[str, Any]:
    n, blocks = (6000, 6) if args.quick else (args.rows, 100)
    lazy, y = _rows(n, 512, 10, blocks, "float32")
    x = lazy.compute(scheduler="threads")
    several, one = [], []
    args.rounds = 1 if args.quick else args.rounds
    with _cluster(args.workers) as client, threadpool_limits(args.workers):
        for turn in range(args.rounds):
            progress(f"throughput, round {turn + 1} of {args.rounds}")
            several.append(_fit(lazy, y, args.iterations, client))
            one.append(_fit(x, y, args.iterations, None))
    with threadpool_limits(args.workers):
        peer = _sklearn(x, y, args.iterations)
    pairs = [own[0] / there[0] for own, there in zip(one, several, strict=True)]
    result = {
        "rows": n,
        "features": 512,
        "classes": 10,
        "blocks": blocks,
        "iteration_on_workers_s": [own[0] for own in several],
        "iteration_in_one_process_s": [own[0] for own in one],
        "processor_on_workers_s": [own[1] for own in several],
        "processor_in_one_process_s": [own[1] for own in one],
        "fit_on_workers_s": [own[2] for own in several],
        "fit_in_one_process_s": [own[2] for own in one],
        "share_of_throughput": statistics.median(pairs),
        "share_by_processor_time": statistics.median(
            own[1] / there[1] for own, there in zip(one, several, strict=True)
        ),
        "sklearn_iteration_s": peer,
    }
    title = f"a softmax iteration, {n} x 512 x 10 float32, {blocks} blocks"
    table(
        title,
        ["", "median s", "throughput", "processor s", "by processor time"],
        [
            (
                f"{args.workers} workers",
                f"{_median(several, 0):.3f}",
                f"{result['share_of_throughput']:.0%}",
                f"{_median(several, 1):.3f}",
                f"{result['share_by_processor_time']:.0%}",
            ),
            (
                f"one process, {args.workers} threads",
                *(f"{_median(one, 0):.3f}", "100%", f"{_median(one, 1):.3f}", "100%"),
            ),
            ("scikit-learn's lbfgs", f"{peer:.3f}", "", "", ""),
        ],
    )
    return result


def _median(times: list[tuple[float, float, float]], place: int) -> float:
    return statistics.median(own[place] for own in times)


def _sklearn(x: np.ndarray, y: np.ndarray, iterations: int) -> float:
    """Seconds of an iteration of scikit-learn's lbfgs, line searches included."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0 / (2e-4 * len(x)), max_iter=iterations, tol=0.0)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
    return (time.perf_counter() - start) / max(1, int(model.n_iter_[0]))


def _arithmetic(n: int, features: int = 512, classes: int = 10) -> dict[str, Any]:
    """Loss and gradient by one thread, 25 blocks in groups of four."""
    x, y = _block(0, 0, n, features, classes, "float32"), np.arange(n) % classes
    parts = [part.copy() for part in np.array_split(x, 25)]
    groups = [parts[k : k + 4] for k in range(0, 25, 4)]
    counts = [sum(map(len, group)) for group in groups]
    blocks = Blocks(LocalEngine(), groups, counts, features, x.dtype, x[:0])
    rows = {
        "in memory": Rows(x, one_hot(np, y, classes), None, np.float32),
        "in blocks": BlockRows.of(blocks, y, None, np.float32, classes),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    with threadpool_limits(1):
        for _ in range(7):
            for name, own in rows.items():
                problem, theta = _problem(own, features, classes, 1e-2)
                start = time.process_time()
                problem.value_and_grad(theta)
                seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    share = medians["in memory"] / medians["in blocks"]
    table(
        f"processor time of a pass, one thread, {n} x {features} x {classes} float32",
        ["", "median s"],
        [*((name, f"{median:.4f}") for name, median in medians.items()), ("", f"{share:.0%}")],
    )
    return {"rows": n, "processor_s": seconds, "share": share}


def _overhead(client: Any, counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """A pass over groups of one row of 8 features, as messages and as a graph."""
    results = []
    for groups in counts:
        progress(f"overhead, {groups} groups")
        rows = _next_to_nothing(ClusterEngine(client), groups)
        f: Callable[..., Any] = partial(_first, np.zeros(5120, np.float32))
        result: dict[str, Any] = {"groups": groups}
        for name, most in (("messages", _direct.MOST_BYTES), ("graph", 0)):
            with mock.patch.object(_direct, "MOST_BYTES", most):
                clock = [_seconds(partial(sum_over_rows, f, rows), client) for _ in range(40)]
            own, processor = zip(*clock[2:], strict=True)
            result[f"{name}_quartiles_s"] = np.quantile(own, (0, 0.25, 0.5, 0.75)).tolist()
            result[f"{name}_processor_s"] = statistics.median(processor)
        results.append(result)
    table(
        "a pass over next to nothing, ms (fastest, median)",
        ["groups", "messages", "a graph", "5 ms + 0.3 ms a group", "processors of all, messages"],
        [
            (
                str(row["groups"]),
                *(
                    _fastest_and_median(row[f"{name}_quartiles_s"])
                    for name in ("messages", "graph")
                ),
                f"{5 + 0.3 * row['groups']:.1f}",
                f"{1e3 * row['messages_processor_s']:.1f}",
            )
            for row in results
        ],
    )
    return results


def _next_to_nothing(engine: ClusterEngine, groups: int) -> BlockRows:
    import dask

    x = np.ones((1, 8))
    delayed = [dask.delayed(join_blocks, pure=False)(None, x) for _ in range(groups)]
    held = engine.place(delayed, spread=True)
    engine.wait(held)
    blocks = Blocks(engine, held, [1] * groups, 8, x.dtype, x[:0])
    return BlockRows.of(blocks, np.zeros(groups, np.int64), None, np.float64, 2)


def _seconds(work: Callable[[], Any], client: Any) -> tuple[float, float]:
    """Of the clock, and of the processors of all processes."""

    def processors() -> float:
        return time.process_time() + float(sum(client.run(time.process_time).values()))

    before, start = processors(), time.perf_counter()
    work()
    own = time.perf_counter() - start
    return own, processors() - before


def _fastest_and_median(quartiles: list[float]) -> str:
    return f"{1e3 * quartiles[0]:.1f}, {1e3 * quartiles[2]:.1f}"


def _first(theta: np.ndarray, chunk: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(chunk.x[:, 0].sum()), theta.astype(np.float64)


def _large(args: argparse.Namespace) -> dict[str, Any]:
    """One evaluation of loss and gradient by the fit itself; the iterations of a fit are those that
    the default tolerance took on ImageNet-like features of this shape."""
    n, features, classes = (60_000, 64, 20) if args.quick else (args.large_rows, 1024, 1000)
    blocks = max(args.workers, n * features * 2 // (32 << 20))
    progress(f"large: {n} x {features} float16, {classes} classes, {blocks} blocks")
    lazy, y = _rows(n, features, classes, blocks, "float16")
    start = time.perf_counter()
    rows = SharedRows.of(lazy, SoftmaxClassifier())
    loaded = time.perf_counter() - start
    x = rows.placed.X
    seconds = [_pass(x, y, classes, scale) for scale in (0.0, 1e-3)]
    best = min(seconds)
    iterations = 100
    result = {
        "rows": n,
        "features": features,
        "classes": classes,
        "bytes": int(n * features * 2),
        "made_and_checked_s": loaded,
        "pass_s": seconds,
        "gflop_per_s": 4e-9 * n * features * classes / best,
        "fit_of_100_iterations_s": iterations * best,
        "fit_is": "an estimate: 100 times the faster pass",
    }
    table(
        f"a pass over {n} x {features} float16 x {classes} classes on {args.workers} workers",
        ["pass s", "GFLOP/s", "100 iterations (estimate)"],
        [(f"{best:.1f}", f"{result['gflop_per_s']:.0f}", f"{iterations * best / 60:.0f} min")],
    )
    return result


def _pass(x: Blocks, y: np.ndarray, classes: int, scale: float) -> float:
    rows = BlockRows.of(x, y, None, np.float32, classes)
    problem, theta = _problem(rows, x.shape[1], classes, scale)
    start = time.perf_counter()
    problem.value_and_grad(theta)
    return time.perf_counter() - start


def _problem(rows: Rows, features: int, classes: int, scale: float) -> tuple[Problem, np.ndarray]:
    """A softmax problem with the sums that fits use, and parameters."""
    operations = replace(FORMULAS, row_sums=softmax_row_sums)
    network = Network((features, classes), operations=operations)
    theta = scale * np.random.default_rng(0).standard_normal(network.size)
    return Problem(Objective(network, loss_named("softmax"), 1e-4), rows), theta
