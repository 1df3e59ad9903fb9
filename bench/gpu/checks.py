"""What must hold on a device before anything is timed there.

    python -m bench gpu_checks [--only NAME...]

Each check is a function that returns a record: figures, and measures with what they are held to.
Run it without accelerators first (XCLF_ACCELERATE=off), then with them (XCLF_ACCELERATE=all).
"""

from __future__ import annotations

import _thread
import argparse
import gc
import signal
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from bench.common.device import Device, attempt
from bench.common.internals import (
    Problem,
    accelerators_on,
    as_parameters,
    only,
    softmax_problem,
    to_host,
)
from bench.gpu.entries import ON, Entry, benchmark, goal
from bench.gpu.rows import (
    DeviceRows,
    host_labels,
    host_rows,
    pass_over,
    streamed,
    synthetic_embeddings,
)
from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier

REG = 1e-3
#: By size: rows, features, classes. "bytes" has more than 2^31 values, which 32 bits cannot count.
SIZES = {
    "large": (1_280_000, 1024, 1000),
    "small": (50_000, 3072, 10),
    "narrow": (1 << 20, 64, 100),
    "bytes": (700_000, 3072, 10),
}
QUICK = {
    "large": (400, 20, 5),
    "small": (300, 12, 4),
    "narrow": (500, 8, 6),
    "bytes": (300, 12, 4),
}
_STREAMED, _FITS, _INTERRUPTS = 20, 50, 20
_LIMIT = 128 << 20  # bytes beyond what is in use, in a small pool
_KEPT = 8 << 20  # bytes that a driver may keep for itself


class Setup:
    """The device, and rows of each size on it."""

    def __init__(self, device: Device, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.sizes = QUICK if quick else SIZES

    def rows(self, size: str) -> DeviceRows:
        return synthetic_embeddings(self.device, *self.sizes[size])

    def count(self, many: int) -> int:
        return 2 if self.quick else many

    def models(self, **settings: Any) -> dict[str, Any]:
        """Short fits of each estimator and solver; of enough steps for a recording to be worth
        it."""
        few: dict[str, Any] = {"max_iter": 12, **settings}
        batch = 10 if self.quick else 100
        epochs: dict[str, Any] = {"max_iter": 3, "random_state": 0, "batch_size": batch, **settings}
        return {
            "softmax": SoftmaxClassifier(REG, **few),
            "hinge": SVMClassifier(REG, **few),
            "softmax by adam": SoftmaxClassifier(REG, solver="adam", **epochs),
            "net by momentum": TwoLayerClassifier(100, REG, solver="momentum", **epochs),
        }

    def side_stream(self) -> AbstractContextManager[Any]:
        """A stream of the user's that waits for no other."""
        if self.device.name != "cupy":
            return nullcontext()
        stream: AbstractContextManager[Any] = self.device.module.cuda.Stream(non_blocking=True)
        return stream

    def synchronize(self) -> None:
        if self.device.name == "cupy":
            self.device.module.cuda.get_current_stream().synchronize()


def fitted(model: Any, x: Any, y: Any) -> np.ndarray:
    """All parameters of a fit, on the host."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
    net = hasattr(model, "weights_")
    parts = model.weights_.values() if net else (model.coef_, model.intercept_)
    return np.concatenate([to_host(part).reshape(-1) for part in parts])


def apart(entry: Entry, what: str, results: Any, other: Any, most: float) -> None:
    """The largest difference of two arrays, as a share of the largest entry."""
    one, two = np.asarray(to_host(results)), np.asarray(to_host(other))
    goal(entry, what, float(np.abs(one - two).max() / np.abs(two).max()), at_most=most)


def passes_apart(
    entry: Entry, results: Any, other: Any, loss: float, gradient: float, where: str = ""
) -> None:
    apart(entry, f"relative difference of the losses{where}", results[0], other[0], loss)
    apart(entry, f"relative difference of the gradients{where}", results[1], other[1], gradient)


def some_parameters(problem: Problem, like: Any) -> Any:
    size = problem.objective.network.size
    return as_parameters(np.random.default_rng(3).standard_normal(size) / 30.0, like)


def fits_as_numpy(setup: Setup) -> Entry:
    """Fits in float64 as NumPy's: steps of an optimiser multiply what rounding makes of one."""
    entry: Entry = {}
    data = setup.rows("small")
    x, y = to_host(data.x)[:2000, :64].astype(np.float64), to_host(data.y)[:2000]
    for name, model in setup.models().items():
        host = fitted(model, x, y)
        apart(
            entry,
            f"relative difference, {name}",
            fitted(model, setup.device.asarray(x), y),
            host,
            1e-6,
        )
    return entry


def pass_as_numpy(setup: Setup) -> Entry:
    """Products in float64 in another order: N u of the sums of absolute values, 1e-11 and less."""
    entry: Entry = {}
    data = setup.rows("small")
    problem = data.problem(REG, wide=True)
    theta = some_parameters(problem, data.x)
    x, y = to_host(data.x), to_host(data.y)
    exact = softmax_problem(x, y, data.classes, REG, wide=True, formulas=True)
    host = exact.value_and_grad(to_host(theta))
    passes_apart(entry, problem.value_and_grad(theta), host, 1e-11, 1e-11)
    return entry


def pass_as_formulas(setup: Setup) -> Entry:
    """In float32 both round: each row's gradient by a few units, summed over rows in any order."""
    entry: Entry = {}
    data = setup.rows("large")
    problem = data.problem(REG)
    theta = some_parameters(problem, data.x)
    plain = data.problem(REG, formulas=True).value_and_grad(theta)
    passes_apart(entry, problem.value_and_grad(theta), plain, 1e-6, 1e-4)
    return entry


def fits_repeat(setup: Setup) -> Entry:
    """The same fit twice, parameters compared as bits."""
    entry: Entry = {}
    large, small = setup.rows("large"), setup.rows("small")
    for name, model in setup.models().items():
        data = large if name == "softmax" else small
        first, second = (fitted(model, data.x, data.y) for _ in range(2))
        differ = int((first.view(np.uint8) != second.view(np.uint8)).sum())
        goal(entry, f"bytes that differ, {name}", differ, at_most=0)
    return entry


def memory_returns(setup: Setup) -> Entry:
    """Device memory after many recorded fits, once the pool's free blocks are given back."""
    entry: Entry = {}
    data = setup.rows("small")
    for name in ("softmax by adam", "softmax"):
        model = setup.models()[name]
        fitted(model, data.x, data.y)
        gc.collect()
        before = setup.device.free_bytes()
        for _ in range(setup.count(_FITS)):
            fitted(model, data.x, data.y)
        gc.collect()
        kept = before - setup.device.free_bytes()
        goal(entry, f"bytes kept by {setup.count(_FITS)} fits, {name}", kept, at_most=_KEPT)
    entry["figures"] = {ON: accelerators_on()}
    return entry


def recorded_as_plain(setup: Setup) -> Entry:
    """Three epochs with a rate that varies, recorded or not. In float64: rounding cannot hide a
    number of another step, which is off by far more."""
    entry: Entry = {}
    data = setup.rows("small")
    x = setup.device.asarray(to_host(data.x)[:20_000, :256].astype(np.float64))
    y = to_host(data.y)[:20_000]
    for name in ("softmax by adam", "net by momentum"):
        model = setup.models(lr_schedule="cosine")[name]
        results = fitted(model, x, y)
        with only():
            apart(entry, f"relative difference, {name}", results, fitted(model, x, y), 1e-6)
    entry["figures"] = {ON: accelerators_on()}
    return entry


def many_bytes(setup: Setup) -> Entry:
    """Rows of uint8 whose values 32 bits cannot count: a pass over all as those over two halves,
    and rows picked from the end."""
    entry: Entry = {}
    rows, features, classes = setup.sizes["bytes"]
    xp = setup.device.module
    block = setup.device.asarray(host_rows(setup.device, min(rows, 1 << 14), features, "uint8"))
    x = xp.empty((rows, features), dtype=xp.uint8)
    for k, start in enumerate(range(0, rows, len(block))):
        stop = min(start + len(block), rows)
        x[start:stop] = block[: stop - start] // (k % 7 + 1)
    y = setup.device.asarray(host_labels(rows, classes))
    whole = softmax_problem(x, y, classes, REG)
    theta = some_parameters(whole, block) / 255.0
    half = rows // 2
    parts = [(half, slice(half)), (rows - half, slice(half, None))]
    results = [
        (n, softmax_problem(x[part], y[part], classes, REG).value_and_grad(theta))
        for n, part in parts
    ]
    mean = [sum(n / rows * values[k] for n, values in results) for k in range(2)]
    passes_apart(entry, whole.value_and_grad(theta), mean, 1e-5, 1e-4)
    last = np.arange(rows - 5, rows)
    picked = to_host(whole.rows.take(whole.rows.numbers(last)).raw)
    differ = int((picked.reshape(5, -1) != to_host(x[-5:])).sum())
    goal(entry, "values that differ in the last rows", differ, at_most=0)
    return entry


def streamed_as_resident(setup: Setup) -> Entry:
    """The same chunks in other sizes, 20 times, also inside a stream that waits for no other."""
    entry: Entry = {}
    rows, features, classes = setup.sizes["small"]
    host, y = host_rows(setup.device, rows, features, "float32"), host_labels(rows, classes)
    w = np.random.default_rng(1).standard_normal((classes, features)) / 50.0
    rows_sent = streamed(setup.device, host)
    inside, outside = (
        pass_over(setup.device, rows_sent.resident(), y, w),
        pass_over(setup.device, rows_sent, y, w),
    )
    first = inside()
    for where, stream in (("", nullcontext()), (", in a side stream", setup.side_stream())):
        setup.synchronize()
        with stream:
            results = [outside() for _ in range(setup.count(_STREAMED))]
            setup.synchronize()
            passes_apart(entry, results[0], first, 1e-6, 1e-4, where)
            differ = sum(int((to_host(one[1]) != to_host(results[0][1])).sum()) for one in results)
        goal(entry, f"entries that differ when streamed again{where}", differ, at_most=0)
    return entry


def small_pool(setup: Setup) -> Entry:
    """A pass in little memory: its chunks are halved, and it comes to the same."""
    entry: Entry = {}
    data = setup.rows("narrow")
    problem = data.problem(REG)
    theta = some_parameters(problem, data.x)
    whole = problem.value_and_grad(theta)
    setup.device.free_bytes()
    pool = setup.device.module.get_default_memory_pool() if setup.device.name == "cupy" else None
    if pool is not None:
        pool.set_limit(size=pool.used_bytes() + _LIMIT)
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            passes_apart(entry, problem.value_and_grad(theta), whole, 1e-6, 1e-4)
    finally:
        if pool is not None:
            pool.set_limit(size=0)
    entry["figures"] = {"warnings": len(heard), "limited": pool is not None}
    return entry


def interrupted(setup: Setup) -> Entry:
    """Ctrl-C at many moments of a fit, most of them early, where steps are recorded; the fit after
    it comes to the same as the one before."""
    entry: Entry = {}
    data, model = setup.rows("small"), setup.models()["softmax by adam"]
    fitted(model, data.x, data.y)
    began = time.perf_counter()
    before, taken = fitted(model, data.x, data.y), accelerators_on()
    seconds = time.perf_counter() - began
    fractions = np.linspace(0.0, 1.0, setup.count(_INTERRUPTS), endpoint=False) ** 2
    stopped = sum(_interrupt(lambda: fitted(model, data.x, data.y), f * seconds) for f in fractions)
    apart(entry, "relative difference afterwards", fitted(model, data.x, data.y), before, 1e-5)
    lost = set(taken) - set(accelerators_on())
    goal(entry, "accelerators that failed", len(lost), at_most=0)
    entry["figures"] = {"fits stopped": stopped, ON: taken}
    return entry


def _interrupt(call: Callable[[], Any], delay: float) -> bool:
    """Whether Ctrl-C after so many seconds stopped the call."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(delay, _thread.interrupt_main)
    try:
        timer.start()
        call()
        timer.cancel()
        timer.join()
        for _ in range(100):  # Python looks for signals at the end of a loop's body
            pass
    except KeyboardInterrupt:
        return True
    finally:
        signal.signal(signal.SIGINT, handler)
    return False


CHECKS: dict[str, Callable[[Setup], Entry]] = {
    check.__name__: check
    for check in (
        fits_as_numpy,
        pass_as_numpy,
        pass_as_formulas,
        fits_repeat,
        memory_returns,
        recorded_as_plain,
        many_bytes,
        streamed_as_resident,
        small_pool,
        interrupted,
    )
}


def _work(device: Device, args: argparse.Namespace) -> list[Entry]:
    entries: list[Entry] = []
    setup = Setup(device, args.quick)
    for name in args.only:
        with attempt(entries, name) as entry:
            device.free_bytes()
            entry |= CHECKS[name](setup)
    return entries


_add_shared, run = benchmark("gpu_checks", _work)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_shared(parser)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
