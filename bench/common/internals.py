# ruff: noqa: F401 (what is imported here is imported from here)
"""Parts of the library that have no public name, and what the benchmarks build of them.

The only file of the benchmarks that knows the inside of `xclf`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import xclf
from xclf._array_api import accumulator, finish, from_host, namespace, to_host
from xclf._array_api import device as device_of
from xclf._eigh import eigh
from xclf.accelerate import Request, select
from xclf.kernels import one_hot
from xclf.objectives import Network, Objective, loss_named
from xclf.optim import LEAST_PAIRS, SGD, Memory, Momentum, Rule
from xclf.rows import MASK_CLASSES, Chunk, Rows, Streamed, _rows, product_precision, sum_over_rows
from xclf.rows._transfer import CHUNK, begin_copy, finish_copy
from xclf.training import FitResult, MinibatchPlan, Monitor, Problem, fit_lbfgs, plain_steps

REG, RATE = 1e-4, 1e-2
_STEPS = 10_000  # of a long fit, which records its steps where that can be done


def objective(widths: tuple[int, ...], reg: Any = REG) -> Objective:
    """Softmax on a linear model (D, C) or a net (D, H, C), by the formulas."""
    return Objective(Network(widths), loss_named("softmax"), reg)


def accelerated(model: Objective, rows: Rows, rule: Rule | None = None) -> tuple[Objective, Any]:
    """The objective, and the steps of a minibatch fit if `rule` is one, as a fit would have them
    of the accelerators that are on."""
    request = Request(
        rows.x, rows.dtype, model.network, model.loss, len(rows), rule, _STEPS if rule else 0
    )
    chosen = select(request)
    network = replace(model.network, operations=chosen.operations)
    return replace(model, network=network), chosen.steps or plain_steps


def rows_of(x: Any, y: Any, classes: int, dtype: Any, precision: str | None = None) -> Rows:
    """x with its labels y (N,) as fits keep them: a mask for few classes, else integers."""
    labels = one_hot(namespace(y), y, classes) if classes <= MASK_CLASSES else y
    return Rows(x, labels, None, dtype, precision=precision)


def softmax_problem(
    x: Any,
    y: Any,
    classes: int,
    reg: Any,
    *,
    wide: bool = False,
    precision: str | None = None,
    formulas: bool = False,
) -> Problem:
    """The linear model on x, with y (N,) integers where x is, with the accelerators that are on or
    by the `formulas`; products in float32, or (wide) in float64."""
    dtype = namespace(y).float64 if wide else namespace(y).float32
    rows = rows_of(x, y, classes, dtype, precision)
    linear = objective((int(x.shape[1]), classes), reg)
    return Problem(linear if formulas else accelerated(linear, rows)[0], rows)


def flat(w: np.ndarray, like: Any) -> Any:
    """Flat parameters of weights w (*heads, C, D), biases zero, in the dtype that fits keep them
    in, where `like` is."""
    heads = w.shape[:-2]
    values = np.concatenate([w.reshape(*heads, -1), np.zeros((*heads, w.shape[-2]))], axis=-1)
    return as_parameters(values, like)


def as_parameters(values: np.ndarray, like: Any) -> Any:
    """In the dtype that fits keep parameters in, where `like` is."""
    return from_host(values, like, accumulator(namespace(like), device_of(like)))


@contextlib.contextmanager
def chunks_of(size: int) -> Iterator[None]:
    """A limit of so many bytes for each chunk on a device."""
    before = _rows._DEVICE_CHUNK
    _rows._DEVICE_CHUNK = size
    try:
        yield
    finally:
        _rows._DEVICE_CHUNK = before


@contextlib.contextmanager
def only(*names: str) -> Iterator[None]:
    """These accelerators alone, for the fits within."""
    before = accelerators_on()
    xclf.accelerators(names or "off")
    try:
        yield
    finally:
        xclf.accelerators(before or "off")


def accelerators_on() -> list[str]:
    """The names of those that can be used here, are asked for, and have not failed."""
    return [one.name for one in xclf.accelerators() if one.state == "on"]


@dataclass(frozen=True)
class Training:
    """A minibatch fit: rows, host integers `order` that name them, batches of one size, and flat
    parameters to start from, where the rows are."""

    objective: Objective
    rule: Rule
    rows: Rows
    start: Any
    order: np.ndarray
    batch: int
    rate: Any = RATE

    @property
    def steps(self) -> int:
        """Of an epoch, whole batches only."""
        return len(self.order) // self.batch

    def epochs(self) -> tuple[Callable[[], None], list[Any]]:
        """(an epoch as a fit runs it, [theta, state], which the call goes on from)."""
        now = [self.start, self.rule.init(self.start)]
        plan = MinibatchPlan(self.rule, self.rate, self.batch, 1, "constant", 0.0, None)
        model, steps = accelerated(self.objective, self.rows, self.rule)

        def call() -> None:
            batches = list(plan.batches(self.rows.numbers(self.order), 0))
            now[:] = steps(model, self.rule, self.rows, *now, batches)

        return call, now

    def single(self, formulas: bool = False) -> tuple[Callable[[], None], list[Any]]:
        """(a step by itself, [theta, state]), with accelerators of its parts or by `formulas`."""
        now = [self.start, self.rule.init(self.start)]
        model = self.objective if formulas else accelerated(self.objective, self.rows)[0]
        batches = turns(self.rows.numbers(self.order), self.batch)

        def call() -> None:
            batch = [(next(batches), self.rate)]
            now[:] = plain_steps(model, self.rule, self.rows, *now, batch)

        return call, now


def net_training(
    x: Any, y: Any, w1: np.ndarray, w2: np.ndarray, order: np.ndarray, batch: int, momentum: float
) -> Training:
    """A two-layer net in float32 from weights w1 (H, D), w2 (C, H) and biases zero."""
    net = objective((w1.shape[1], len(w1), len(w2)))
    zeros = [np.zeros((len(w), 1), np.float32) for w in (w1, w2)]
    start = net.network.flatten([(w1, zeros[0]), (w2, zeros[1])])
    rows = rows_of(x, y, len(w2), namespace(x).float32)
    rule: Rule = Momentum(momentum) if momentum else SGD()
    return Training(net, rule, rows, from_host(start, x), order, batch)


def turns(order: Any, batch: int) -> Iterator[Any]:
    """Batches of `order`, again and again."""
    while True:
        for start in range(0, len(order) - batch + 1, batch):
            yield order[start : start + batch]
