"""The same work on a GPU, beside torch and beside the device's own ceilings.

    python -m bench gpu_ceilings      copy bandwidth and the bare matrix products
    python -m bench gpu_loss_grad     softmax loss and gradient over all rows
    python -m bench gpu_minibatch     one step of the two-layer net

Timed with CUDA events. Figures appear in bench/results/ only when they were measured; a row that
could not be measured says why. `--namespace numpy` (or torch) runs the same code without a GPU, to
see that it runs: its times say nothing about one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._device import Device, attempt, measure
from bench._measure import Call, Contender, milliseconds, optional
from bench.minibatch import torch_net, torch_sgd
from xclf._xp import namespace
from xclf.kernels import one_hot
from xclf.objectives import Objective, Stack, data_loss
from xclf.optim import Momentum
from xclf.rows import MASK_CLASSES, Rows
from xclf.training import Problem, minibatch_step

REG, RATE = 1e-4, 1e-2
#: rows, features, classes
SHAPES = ((50_000, 3072, 10), (1_280_000, 1024, 1000))
#: features, hidden, classes, batch
NETS = ((3072, 100, 10, 200), (3072, 1024, 10, 4096))
#: what an entry may hold beside its seconds
FIGURES = (
    "gb_per_s",
    "tflop_per_s",
    "times_one_head",
    "share_of_limit",
    "share_of_torch",
    "passes",
    "minutes",
)
_POOL_ROWS = 50_000  # the rows that batches are drawn from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--namespace", choices=("cupy", "numpy", "torch"), default="cupy")
    parser.add_argument("--repeats", type=int, default=15)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the table; returns the device and one entry per problem."""
    device = Device(args.namespace)
    works: dict[str, Callable[[Device, argparse.Namespace], list[dict[str, Any]]]] = {
        "gpu_ceilings": _ceilings,
        "gpu_loss_grad": _loss_grad,
        "gpu_minibatch": _minibatch,
    }
    about = device.about()
    found = works[args.name](device, args)
    show(f"{args.name}, {about['name']}", found)
    return {"device": about, "work": found}


def _ceilings(device: Device, args: argparse.Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    size = (1 << 20) if args.quick else 1 << 28
    with attempt(found, f"copy of {4 * size / 2**30:.3g} GiB") as entry:
        source = device.normal(size >> 10, 1 << 10)
        copy: dict[str, Contender] = {"copy": lambda source=source: source + 0.0}
        entry["seconds"] = measure(device, copy, args.repeats)
        moved = 2 * 4 * size  # read and written
        entry["gb_per_s"] = moved / entry["seconds"]["copy"]["median_s"] / 1e9
        del source, copy
    for rows, features, classes in _shapes(device, args, found):
        with attempt(found, f"products of {rows} x {features} x {classes}") as entry:
            x, w = device.normal(rows, features), device.normal(classes, features, 1)
            # The layouts that the library uses: scores class first, slope of weights from rows.
            scores = w @ x.T
            calls: dict[str, Contender] = {
                "scores": lambda w=w, x=x: w @ x.T,
                "slope": lambda scores=scores, x=x: scores @ x,
            }
            entry["seconds"] = measure(device, calls, args.repeats)
            operations = 2.0 * rows * features * classes
            entry["tflop_per_s"] = {
                name: operations / entry["seconds"][name]["median_s"] / 1e12 for name in calls
            }
            del x, w, scores, calls
    return found


def _shapes(
    device: Device, args: argparse.Namespace, found: list[dict[str, Any]]
) -> Iterator[tuple[int, int, int]]:
    """The shapes that fit the device; the others leave a line that says so."""
    for rows, features, classes in ((2000, 64, 10),) if args.quick else SHAPES:
        needed = 4 * rows * (features + 3 * classes)
        free = device.free_bytes()
        if needed > free:
            why = f"needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
            found.append({"problem": f"{rows} x {features} x {classes}", "failed": why})
            continue
        yield rows, features, classes


def _loss_grad(device: Device, args: argparse.Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for rows, features, classes in _shapes(device, args, found):
        with attempt(found, f"{rows} x {features} x {classes} float32") as entry:
            x = device.normal(rows, features)
            host = np.random.default_rng(1)
            y = device.asarray(host.integers(0, classes, rows))
            w = device.asarray(host.standard_normal((classes, features)).astype(np.float32) / 50)
            problem, theta = _problem(device, x, y, w)
            calls: dict[str, Contender] = {
                "xclf": lambda p=problem, t=theta: p.value_and_grad(t),
                "two products": lambda w=w, x=x: (w @ x.T) @ x,
                "two copies of X": lambda x=x: (x + 0.0, x + 0.0),
                "torch": _torch_loss_grad(device, rows, features, classes),
            }
            if 8 * rows * features * 4 > device.free_bytes() and device.name == "cupy":
                calls["two copies of X"] = "does not fit"
            entry["seconds"] = measure(device, calls, args.repeats)
            del x, y, w, problem, theta, calls
    return found


def _problem(device: Device, x: Any, y: Any, w: Any) -> tuple[Problem, Any]:
    xp = namespace(x)
    classes, features = w.shape
    stack = Stack((int(features), int(classes)))
    labels = one_hot(xp, y, classes) if classes <= MASK_CLASSES else y
    zeros = xp.zeros_like(w[:, :1])
    theta = stack.flatten([(w, zeros)])
    rows = Rows(x, labels, None, xp.float32)
    return Problem(Objective(stack, data_loss("softmax"), REG), rows), theta


def torch_place(device: Device) -> tuple[Any, str, str | None]:
    """(torch, device name, why not)."""
    torch = optional("torch")
    if torch is None:
        return None, "", "not installed"
    if device.name != "cupy":
        return torch, "cpu", None
    if not torch.cuda.is_available():
        return torch, "", "this torch has no CUDA"
    return torch, "cuda", None


def _torch_loss_grad(device: Device, rows: int, features: int, classes: int) -> Contender:
    torch, place, why = torch_place(device)
    if why is not None:
        return why
    if device.name == "cupy" and 12 * rows * (features + classes) > device.free_bytes():
        return "does not fit beside"
    x = torch.randn((rows, features), device=place)
    y = torch.randint(classes, (rows,), device=place)
    w = (torch.randn((classes, features), device=place) / 50).requires_grad_()
    b = torch.zeros(classes, device=place, requires_grad=True)

    def call() -> Any:
        scores = torch.nn.functional.linear(x, w, b)
        loss = torch.nn.functional.cross_entropy(scores, y) + REG * w.square().sum()
        return torch.autograd.grad(loss, (w, b))

    return call


def _minibatch(device: Device, args: argparse.Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    pool = 500 if args.quick else _POOL_ROWS
    steps = 2 if args.quick or device.name != "cupy" else 50
    for features, hidden, classes, batch in ((20, 8, 3, 32),) if args.quick else NETS:
        with attempt(found, f"{features}-{hidden}-{classes}, batch {batch}, momentum") as entry:
            rng = np.random.default_rng(1)
            w1 = (rng.standard_normal((hidden, features)) / features**0.5).astype(np.float32)
            w2 = (rng.standard_normal((classes, hidden)) / hidden**0.5).astype(np.float32)
            order = rng.permutation(pool)
            y = rng.integers(0, classes, pool)
            calls: dict[str, Contender] = {
                "xclf": _step(device, w1, w2, y, order, batch),
                "torch eager": _torch_step(device, w1, w2, y, order, batch),
            }
            entry["seconds"] = measure(device, calls, args.repeats, steps)
            del calls
    return found


def _turns(order: Any, batch: int) -> Iterator[Any]:
    """Batches of `order`, again and again."""
    while True:
        for start in range(0, len(order) - batch + 1, batch):
            yield order[start : start + batch]


def _step(
    device: Device, w1: np.ndarray, w2: np.ndarray, y: np.ndarray, order: np.ndarray, batch: int
) -> Call:
    x = device.normal(len(y), w1.shape[1])
    xp = namespace(x)
    stack = Stack((w1.shape[1], len(w1), len(w2)))
    objective = Objective(stack, data_loss("softmax"), REG)
    rows = Rows(x, one_hot(xp, device.asarray(y), len(w2)), None, xp.float32)
    zeros = [np.zeros((len(w), 1), np.float32) for w in (w1, w2)]
    rule = Momentum(0.9)
    theta = device.asarray(stack.flatten([(w1, zeros[0]), (w2, zeros[1])]))
    now = [theta, rule.init(theta)]
    batches = _turns(device.asarray(order), batch)

    def call() -> None:
        now[:] = minibatch_step(objective, rule, rows, now[0], now[1], next(batches), RATE)

    return call


def _torch_step(
    device: Device, w1: np.ndarray, w2: np.ndarray, y: np.ndarray, order: np.ndarray, batch: int
) -> Contender:
    torch, place, why = torch_place(device)
    if why is not None:
        return why
    x = torch.randn((len(y), w1.shape[1]), device=place)
    labels = torch.from_numpy(y).to(place)
    net = torch_net(torch, w1, w2, place)
    optimizer = torch_sgd(torch, net, 0.9)
    loss_of = torch.nn.CrossEntropyLoss()
    batches = _turns(torch.from_numpy(order).to(place), batch)

    def call() -> None:
        index = next(batches)
        optimizer.zero_grad(set_to_none=True)
        loss_of(net(x[index]), labels[index]).backward()
        optimizer.step()

    return call


def show(title: str, found: list[dict[str, Any]]) -> None:
    table = Table("problem", "what", "median, ms", "xclf's share of it", title=title)
    for entry in found:
        if "failed" in entry:
            table.add_row(entry["problem"], entry["failed"], "", "")
        for name, value in entry.get("seconds", {}).items():
            if isinstance(value, str):
                table.add_row(entry["problem"], name, value, "")
                continue
            ratio = f"{value['ratio']:.2f}" if "ratio" in value else ""
            table.add_row(entry["problem"], name, milliseconds(value["median_s"]), ratio)
        for name in FIGURES:
            if name in entry:
                table.add_row(entry["problem"], name, _figures(entry[name]), "")
    Console().print(table)


def _figures(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_figures(number)}" for name, number in value.items())
    return f"{value:.{1 if value >= 10.0 else 2}f}"
