"""Minibatch fits: one flat vector, one update rule, rows drawn without replacement every epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf._xp import Array, from_host, namespace, to_host
from xclf.objectives import Objective
from xclf.optim import Rule, State, rate_factor
from xclf.rows import Rows
from xclf.training.events import FitResult, Monitor
from xclf.training.problem import Problem

# An epoch ends by evaluating the objective on a fixed sample of training rows: all of them when
# they are few, else this share. Reading the loss of every step instead would cost eight launches
# a step on a device, and mixes batches of different parameters.
_PROBE_ROWS, _PROBE_SHARE = 2048, 20

DIVERGED = "the objective is not finite"


@dataclass(frozen=True)
class MinibatchPlan:
    """How to go through the rows.

    rate : learning rate, or (K, 1) one per head;  schedule : see `rate_factor`
    tol, patience : stop when the watched figure has not improved by tol (relative for the
        objective, absolute for the validation accuracy) for `patience` epochs; no stop with
        patience None
    """

    rule: Rule
    rate: Any
    batch_size: int
    epochs: int
    schedule: str
    tol: float
    patience: int | None


@dataclass
class _Watch:
    """The plateau rule: the best figure so far, where it was reached, and for how long it stood."""

    tol: float
    best: float = math.inf
    theta: Array = None
    stale: int = 0

    def see(self, figure: float, theta: Array, relative: bool) -> None:
        needed = self.tol * (abs(self.best) if relative and math.isfinite(self.best) else 1.0)
        self.stale = 0 if figure < self.best - needed else self.stale + 1
        if figure < self.best:
            self.best, self.theta = figure, theta


def minibatch_step(
    objective: Objective,
    rule: Rule,
    rows: Rows,
    theta: Array,
    state: State,
    index: Array,
    rate: Any,
) -> tuple[Array, State]:
    """One step: gather the rows that `index` names, slope, update. Nothing reaches the host."""
    slope = objective.batch_slope(theta, rows.take(index))
    return rule.step(theta, slope, state, rate)


def run_epoch(
    objective: Objective,
    rows: Rows,
    plan: MinibatchPlan,
    theta: Array,
    state: State,
    order: np.ndarray,
    epoch: int,
) -> tuple[Array, State]:
    """One pass over the rows that `order` (host integers) names, in that order."""
    index = from_host(order, rows.x)
    size = plan.batch_size
    steps = -(-len(order) // size)
    for step in range(steps):
        factor = rate_factor(plan.schedule, epoch * steps + step, steps, plan.epochs)
        rate = plan.rate if factor == 1.0 else plan.rate * factor
        batch = index[step * size : min((step + 1) * size, len(order))]
        theta, state = minibatch_step(objective, plan.rule, rows, theta, state, batch, rate)
    return theta, state


def fit_minibatch(
    problem: Problem,
    theta: Array,
    plan: MinibatchPlan,
    rng: np.random.Generator,
    monitor: Monitor,
    *,
    train: np.ndarray | None = None,
    validation: Rows | None = None,
    state: State | None = None,
    measure_all: bool = True,
) -> FitResult:
    """Train from theta (P,). A run that diverges ends with its best parameters.

    problem : all rows; row weights, if any, must have mean 1 (see `Objective.batch_slope`)
    train : host indices of the rows to train on, all by default
    validation : held-out rows; with them the plateau rule watches their accuracy, and the
        parameters of the best epoch are kept
    measure_all : whether the result's objective is that of all rows, or of the sample that the
        history describes
    """
    rows = problem.rows
    train = np.arange(len(rows)) if train is None else train
    state = plan.rule.init(theta) if state is None else state
    probe = Problem(problem.objective, _probe(rows, train, rng))
    watch = _Watch(plan.tol, theta=theta)
    done, loss, reason, interrupted = 0, math.nan, "", False
    try:
        for epoch in range(plan.epochs):
            order = train[rng.permutation(len(train))]
            theta, state = run_epoch(problem.objective, rows, plan, theta, state, order, epoch)
            figures = _figures(problem.objective, probe, validation, theta)
            loss, val_loss, val_accuracy = figures
            if not math.isfinite(loss):
                reason, theta = DIVERGED, watch.theta
                break
            done = epoch + 1
            watch.see(
                loss if validation is None else -val_accuracy, theta, relative=validation is None
            )
            stop = monitor.record(epoch + 1, loss, val_loss=val_loss, val_accuracy=val_accuracy)
            if stop:
                reason = "a callback stopped the fit"
            elif plan.patience is not None and watch.stale >= plan.patience:
                reason = "converged"
            if reason:
                break
    except KeyboardInterrupt:
        reason, interrupted = "interrupted", True
    if done and (validation is not None or interrupted):
        theta = watch.theta
    return FitResult(
        theta=theta,
        n_iter=max(done, 1),
        objective=float(to_host(problem.value(theta))) if measure_all else loss,
        converged=reason == "converged",
        reason=reason or f"ran max_iter={plan.epochs} epochs",
        state=state,
        interrupted=interrupted,
    )


def accuracy(objective: Objective, rows: Rows, theta: Array) -> float:
    """Share of rows whose largest score is the true class's."""
    xp = namespace(rows.x)
    right = 0.0
    for chunk in rows.chunks(rows.chunk_rows(max(objective.stack.widths[1:]))):
        scores, _ = objective.stack.forward(theta, chunk.x)
        guess = xp.argmax(scores, axis=-2)
        labels = chunk.labels
        if xp.isdtype(labels.dtype, "bool"):
            labels = xp.argmax(xp.astype(labels, xp.int8), axis=0)
        right += float(to_host(xp.sum(xp.astype(guess == labels, xp.float32))))
    return right / len(rows)


def _figures(
    objective: Objective, probe: Problem, validation: Rows | None, theta: Array
) -> tuple[float, float, float]:
    loss = float(to_host(probe.value(theta)))
    if validation is None:
        return loss, math.nan, math.nan
    data = Problem(Objective(objective.stack, objective.loss, 0.0), validation)
    return loss, float(to_host(data.value(theta))), accuracy(objective, validation, theta)


def _probe(rows: Rows, train: np.ndarray, rng: np.random.Generator) -> Rows:
    if rows.weights is not None and rows.weights.ndim == 1:
        # Rows without weight tell nothing of the objective, and a sample of them alone has none.
        train = train[to_host(rows.weights)[train] > 0.0]
    most = max(_PROBE_ROWS, len(train) // _PROBE_SHARE)
    if len(rows) <= most and len(train) == len(rows):
        return rows
    picked = train if len(train) <= most else np.sort(rng.choice(train, most, replace=False))
    return subset(rows, picked)


def subset(rows: Rows, index: np.ndarray) -> Rows:
    """A copy of the rows that host integers name."""
    xp = namespace(rows.x)
    where = from_host(index, rows.x)
    weights = None if rows.weights is None else xp.take(rows.weights, where, axis=-1)
    return Rows(
        xp.take(rows.x, where, axis=0), xp.take(rows.labels, where, axis=-1), weights, rows.dtype
    )
