"""Softmax loss and gradient over all rows on the device, in float32 and in TF32.

    python -m bench gpu_loss_grad

Beside torch on the same arrays, and beside what nothing that reads X twice can be faster than: two
reads of X at copy bandwidth. A copy of X reads it and writes it, so two reads take the time of one
copy. For many classes the bound is the two matrix products alone. `xclf` is a pass as a fit makes
it, `formulas` one without accelerators, and `chunks of ...` take so many bytes at a time: small
ones are still in the L2 cache for the second product. A third problem is the pass of 45 heads that
the sweep makes, on some of its rows; a last one are images, which are kept as bytes.

The errors are those of the whole gradient, as a share of its largest entry, and of the loss,
against the same in float64.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from bench.common.device import Device, attempt, measure, reason
from bench.common.internals import (
    REG,
    Problem,
    chunks_of,
    flat,
    namespace,
    product_precision,
    softmax_problem,
    to_host,
)
from bench.common.measuring import OURS, BenchError, Contender
from bench.common.torch_peers import loss_and_grad, torch_device, torch_precision
from bench.gpu.entries import (
    HEADS,
    QUICK_HEADS,
    QUICK_SHAPES,
    SHAPES,
    Entry,
    benchmark,
    fitting,
    goal,
)

#: MiB of a chunk that xclf is tried with, beside its own choice
CHUNKS, HEADS_CHUNKS = (32, 64, 256, 1024, 4096), (256, 1024, 4096, 16384)
_FORMULAS, _COPY, _BARE, _TORCH = "formulas", "copy of X", "two products", "torch"
_READS = "time / two reads of X at copy bandwidth"
# Share of the loss by which peers may differ before it is another problem that they solve.
_SAME = 1e-3


def _work(device: Device, args: argparse.Namespace) -> list[Entry]:
    entries: list[Entry] = []
    shapes = (*QUICK_SHAPES, QUICK_HEADS) if args.quick else (*SHAPES, HEADS)
    for rows, features, classes, *heads in fitting(device, shapes, entries):
        rng = np.random.default_rng(1)
        x = device.normal(rows, features)
        y = device.asarray(rng.integers(0, classes, rows))
        w = (rng.standard_normal((*heads, classes, features)) / 50).astype(np.float32)
        several = f", {heads[0]} heads" if heads else ""
        for precision in (None, "tf32"):
            name = f"{rows} x {features} x {classes}{several}, {precision or 'float32'}"
            with attempt(entries, f"loss + gradient, {name}") as entry:
                _compare(device, entry, (x, y, w), precision, args.repeats)
                _goals(entry, (classes, *heads), precision)
        del x, y
    rows, features, classes = shapes[0][:3]
    with attempt(entries, f"loss + gradient, {rows} x {features} x {classes}, bytes") as entry:
        _images(device, entry, (rows, features, classes), args.repeats)
    return entries


def _images(device: Device, entry: Entry, shape: tuple[int, ...], n: int) -> None:
    """Rows of bytes, as readers of images give them: no float32 copy of all of them is made."""
    rows, features, classes = shape
    rng = np.random.default_rng(2)
    x = device.asarray(rng.integers(0, 256, (rows, features), dtype=np.uint8))
    y = device.asarray(rng.integers(0, classes, rows))
    w = (rng.standard_normal((classes, features)) / 5000).astype(np.float32)
    theta, target = flat(w, device.asarray(w[0])), device.module.empty(shape[:2], dtype=x.dtype)
    problem = softmax_problem(x, y, classes, REG)
    plain = softmax_problem(x, y, classes, REG, formulas=True)
    calls: dict[str, Contender] = {
        OURS: lambda: problem.value_and_grad(theta),
        _FORMULAS: lambda: plain.value_and_grad(theta),
        _COPY: lambda: device.copy_into(target, x),
    }
    times = entry["seconds"] = measure(device, calls, n)
    goal(entry, _READS, times[OURS]["median_s"] / times[_COPY]["median_s"])


def _compare(
    device: Device, entry: Entry, data: tuple[Any, Any, np.ndarray], precision: str | None, n: int
) -> None:
    x, y, w = data
    classes, features = w.shape[-2:]
    theta, weights = flat(w, x), device.asarray(w.reshape(-1, features))
    problem = softmax_problem(x, y, classes, REG, precision=precision)
    plain = softmax_problem(x, y, classes, REG, precision=precision, formulas=True)
    target = device.module.empty(tuple(x.shape), dtype=x.dtype)
    torch, _, _ = torch_device(device)
    with product_precision(x, namespace(x).float32, precision), torch_precision(torch, precision):
        results, gradient = problem.value_and_grad(theta)
        calls: dict[str, Contender] = {
            OURS: lambda: problem.value_and_grad(theta),
            _FORMULAS: lambda: plain.value_and_grad(theta),
            **{
                f"xclf, chunks of {size} MiB": _chunked(problem, theta, size)
                for size in (CHUNKS if w.ndim == 2 else HEADS_CHUNKS)
            },
            _BARE: lambda: (weights @ x.T) @ x,
            _COPY: lambda: device.copy_into(target, x),
            _TORCH: loss_and_grad(device, x, y, w, REG) if w.ndim == 2 else "is for one head",
        }
        entry["losses"] = _losses(calls)
        entry["seconds"] = measure(device, calls, n)
    wide = softmax_problem(x, y, classes, REG, wide=True, formulas=True)
    exact, exact_gradient = wide.value_and_grad(theta)
    apart, size = to_host(gradient - exact_gradient), to_host(exact_gradient)
    off = float(np.abs(to_host(results / exact) - 1.0).max())
    goal(entry, "relative error of the loss", off)
    goal(entry, "relative error of the gradient", float(np.abs(apart).max() / np.abs(size).max()))


def _losses(calls: dict[str, Contender]) -> dict[str, float | str]:
    """Of all that compute one. Raises BenchError where torch's is another."""
    results: dict[str, float | str] = {}
    for name in (OURS, _FORMULAS, _TORCH):
        call = calls[name]
        if isinstance(call, str):
            results[name] = call
            continue
        try:
            results[name] = float(to_host(call()[0]).mean())
        except Exception as error:
            if name == OURS:
                raise
            results[name] = calls[name] = reason(error)
    for name, loss in results.items():
        if not isinstance(loss, str) and not np.isclose(loss, results[OURS], rtol=_SAME):
            raise BenchError(f"{name} computes {loss}, xclf {results[OURS]}: not the same problem")
    return results


def _goals(entry: Entry, columns: tuple[int, ...], precision: str | None) -> None:
    times = entry["seconds"]
    ours = times[OURS]["median_s"]
    if not isinstance(times[_FORMULAS], str):
        goal(entry, "time / that of the formulas", ours / times[_FORMULAS]["median_s"])
    # What is held to something are one model's passes: few columns to the reads, many to products.
    first = 1.4 if columns == (10,) and precision is None else None
    second = (1.2 if precision is None else 1.5) if columns == (1000,) else None
    goal(entry, _READS, ours / times[_COPY]["median_s"], at_most=first)
    products = ours / times[_BARE]["median_s"]
    goal(entry, "time / its two matrix products alone", products, at_most=second)
    if not isinstance(times[_TORCH], str):
        goal(entry, "time / torch", ours / times[_TORCH]["median_s"])


def _chunked(problem: Problem, theta: Any, size: int) -> Contender:
    def call() -> Any:
        with chunks_of(size << 20):
            return problem.value_and_grad(theta)

    return call


add_arguments, run = benchmark("gpu_loss_grad", _work, repeats=15)
