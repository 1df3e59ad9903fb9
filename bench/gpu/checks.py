"""What tests hold at small sizes, at full size: repeated bit for bit, and the same as elsewhere.

    python -m bench gpu_facts

Every entry says what was found and whether it holds; nothing is timed. Fits are those of the public
estimators, twice on the same arrays with the same seed.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from bench._device import Device, attempt
from bench._gpu import (
    KERNELS,
    Entry,
    add_common,
    add_fit,
    complete,
    goal,
    loss_by,
    softmax_problem,
    without,
)
from bench._gpu_data import Data, power_law, sizes
from bench.gpu_stream import host_rows, pass_over, resident, streamed
from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier
from xclf._array_api import to_host

#: rows, features, classes of the hinge and the net
SMALL, QUICK = (50_000, 3072, 10), (300, 12, 4)
_REG = 1e-3
_ITERATIONS, _EPOCHS = 12, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common(parser)
    add_fit(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    return complete("gpu_facts", args, _work)


def _work(place: Device, args: argparse.Namespace) -> list[Entry]:
    found: list[Entry] = []
    precision = None if args.precision == "float32" else args.precision
    rows, features, classes = sizes(args)
    large = f"{rows} x {features} x {classes}"
    data = power_law(place, rows, features, classes)
    with attempt(found, f"softmax fit twice, {large}, {args.precision}") as entry:
        model = SoftmaxClassifier(_REG, max_iter=_ITERATIONS, precision=precision)
        _twice(entry, model, data.x, data.y)
    with attempt(found, f"a pass by fused kernels and by formula, {large}") as entry:
        _fused(place, entry, data)
    del data
    rows, features, classes = QUICK if args.quick else SMALL
    small = f"{rows} x {features} x {classes}"
    data = power_law(place, rows, features, classes)
    models = {
        "hinge fit": SVMClassifier(_REG, max_iter=_ITERATIONS, precision=precision),
        "softmax fit by adam": SoftmaxClassifier(
            _REG, solver="adam", max_iter=_EPOCHS, random_state=0, precision=precision
        ),
        "net fit by momentum": TwoLayerClassifier(
            100,
            _REG,
            solver="momentum",
            max_iter=_EPOCHS,
            batch_size=200,
            random_state=0,
            precision=precision,
        ),
    }
    for name, model in models.items():
        with attempt(found, f"{name} twice, {small}, {args.precision}") as entry:
            _twice(entry, model, data.x, data.y)
    with attempt(found, f"pass in float64 as NumPy's, {small}") as entry:
        _as_numpy(entry, data)
    with attempt(found, f"streamed pass as the resident one, {small}") as entry:
        _streamed(place, entry, rows, features, classes)
    return found


def _twice(entry: Entry, model: Any, x: Any, y: Any) -> None:
    """Two fits; parameters are compared as bits."""
    flat = []
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, y)
        parts = model.weights_.values() if hasattr(model, "weights_") else None
        arrays = parts if parts is not None else (model.coef_, model.intercept_)
        flat.append(np.concatenate([to_host(part).reshape(-1) for part in arrays]))
    differ = int((flat[0].view(np.uint8) != flat[1].view(np.uint8)).sum())
    entry["figures"] = {"objective": float(model.objective_), "n_iter": int(model.n_iter_)}
    goal(entry, "bytes of the parameters that differ", differ, at_most=0)


def _at(data: Data) -> Any:
    """Parameters of some size."""
    size = (data.x.shape[1] + 1) * data.classes
    return data.wide(np.random.default_rng(3).standard_normal(size) / 30.0)


def _fused(place: Device, entry: Entry, data: Data) -> None:
    """In float32 both round: each row's gradient by a few units, summed over rows in any order."""
    problem, theta = data.problem(_REG), _at(data)
    found = problem.value_and_grad(theta)
    with without(*KERNELS):
        other = problem.value_and_grad(theta)
    entry["figures"] = {"loss by": loss_by(place)}
    _apart(entry, found, other, 1e-6, 1e-4)


def _as_numpy(entry: Entry, data: Data) -> None:
    """float64 products in another order: N u of the sums of absolute values, 1e-11 and less."""
    theta = _at(data)
    x, y = to_host(data.x), to_host(data.y)
    host = softmax_problem(x, y, data.classes, _REG, wide=True).value_and_grad(to_host(theta))
    found = data.problem(_REG, wide=True).value_and_grad(theta)
    _apart(entry, found, host, 1e-11, 1e-11)


def _streamed(place: Device, entry: Entry, rows: int, features: int, classes: int) -> None:
    """The same chunks in other sizes: float32 sums in another order."""
    host = host_rows(place, rows, features, "float32")
    rng = np.random.default_rng(1)
    y, w = rng.integers(0, classes, rows), rng.standard_normal((classes, features)) / 50.0
    inside = resident(place, host, y, w)
    if isinstance(inside, str):
        raise MemoryError(inside)
    outside = pass_over(place, streamed(place, host), y, w)
    first, second = outside(), outside()
    _apart(entry, first, inside(), 1e-6, 1e-4)
    differ = int((to_host(first[1]) != to_host(second[1])).sum())
    goal(entry, "entries that differ when streamed again", differ, at_most=0)


def _apart(
    entry: Entry, found: tuple[Any, Any], other: tuple[Any, Any], loss: float, gradient: float
) -> None:
    """Relative differences of the losses and, by the largest entry, of the gradients."""
    value, grad = (to_host(part) for part in found)
    value_, grad_ = (to_host(part) for part in other)
    goal(entry, "relative difference of the losses", float(abs(value / value_ - 1.0)), at_most=loss)
    largest = np.abs(grad - grad_).max() / np.abs(grad_).max()
    goal(entry, "relative difference of the gradients", float(largest), at_most=gradient)
