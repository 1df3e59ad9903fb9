"""Minibatch fits: one flat vector, one update rule, rows drawn without replacement every epoch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from xclf._array_api import Array, accumulator, device, from_host, is_host, namespace, to_host
from xclf.objectives import Objective, take_heads
from xclf.optim import State
from xclf.rows import Rows, blas_width, in_threads
from xclf.training._epoch import MinibatchPlan, is_array, run_epoch
from xclf.training._recorded import Recorder
from xclf.training.events import FitResult, Monitor
from xclf.training.problem import Problem

# An epoch ends by evaluating the objective on a fixed sample of training rows: all of them when
# they are few, else this share. Reading the loss of every step instead would cost eight launches
# a step on a device, and mixes batches of different parameters.
_PROBE_ROWS, _PROBE_SHARE = 2048, 20

# Columns of a product past which a thread of its own is worth more than wider products.
_COLUMNS = 128

DIVERGED = "the objective is not finite"


class _Watch:
    """The plateau rule of every head: the best figure so far, the parameters that gave it, and for
    how many epochs it has stood."""

    def __init__(self, tol: float, theta: Array, heads: int) -> None:
        self.tol, self.theta = tol, theta
        self.best = np.full(heads, math.inf)
        self.stale = np.zeros(heads, dtype=np.int64)

    def see(self, figures: np.ndarray, theta: Array, relative: bool) -> None:
        needed = np.full_like(self.best, self.tol)
        if relative:
            needed *= np.abs(self.best, out=np.ones_like(self.best), where=np.isfinite(self.best))
        # A figure that is not finite is no improvement.
        self.stale = np.where(figures < self.best - needed, 0, self.stale + 1)
        better = figures < self.best
        self.best = np.where(better, figures, self.best)
        if better.all():
            self.theta = theta
        elif better.any():
            mask = from_host(better[:, None], theta)
            self.theta = namespace(theta).where(mask, theta, self.theta)

    def keep(self, kept: np.ndarray) -> None:
        self.best, self.stale = self.best[kept], self.stale[kept]
        self.theta = take_heads(self.theta, kept)


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
) -> list[FitResult]:
    """Train K heads from theta (K, P), one result each.

    All heads see the same batches: those that a single fit with the same `rng` and `train` draws,
    so that a head is that fit, up to rounding. (A single fit to some of the rows is `train`: rows
    without weight would take up room in the batches.) Heads differ by reg and margin (K,), rate and
    momentum (K, 1) and row weights; they never meet, and each ends on its own:

    - diverged: its objective is not finite. It ends with its best parameters.
    - converged: the plateau rule of `plan`.

    A head that has ended leaves the batch. The monitor hears of the best of those that train.

    problem : all rows; row weights, if any, must have mean 1 (see `Objective.batch_gradient`)
    train : host indices of the rows to train on, all by default
    validation : held-out rows; with them the plateau rule watches their accuracy, and the
        parameters of the best epoch are kept
    state : the rule's, to go on with
    measure_all : whether the results' objectives are those of all rows, or of the sample that the
        history describes
    """
    train = np.arange(len(problem.rows)) if train is None else train
    if _is_plain(problem, plan, theta):
        theta = theta[0, :]  # every step then does without reshaping to and from one head
    probe = Problem(problem.objective, _probe(problem.rows, train, rng))
    if state is None:
        state = plan.rule.init(theta)
    elif is_host(theta):  # epochs write into it
        state = tuple(part.copy() if is_array(part) else part for part in state)
    steps = plan.epochs * (len(train) // plan.batch_size)
    run = _Run(problem, probe, validation, plan, theta, state, steps)
    try:
        for epoch in range(plan.epochs):
            run.advance(train[rng.permutation(len(train))], epoch)
            run.end(run.diverged(), DIVERGED)
            if not len(run.heads):
                break
            if run.record(monitor, epoch + 1):
                run.end(run.everyone(), "a callback stopped the fit")
            if plan.patience is not None:
                run.end(run.watch.stale >= plan.patience, "converged")
        run.end(run.everyone(), f"ran max_iter={plan.epochs} epochs")
    except KeyboardInterrupt:
        run.end(run.everyone(), "interrupted")
    return run.finish(measure_all)


class _Run:
    """The heads that still train: `heads` are their numbers among all of them."""

    def __init__(
        self,
        problem: Problem,
        probe: Problem,
        validation: Rows | None,
        plan: MinibatchPlan,
        theta: Array,
        state: State,
        steps: int,
    ) -> None:
        self.whole = self.problem = problem
        self.probe, self.plan = probe, plan
        self.validation: Problem | None = None
        if validation is not None:
            plain = replace(problem.objective, reg=0.0)
            self.validation = Problem(plain, validation)
        self.theta, self.state = theta, state
        self.heads = np.arange(theta.shape[0] if theta.ndim > 1 else 1)
        self.watch = _Watch(plan.tol, theta, len(self.heads))
        self.loss = np.full(len(self.heads), math.nan)
        self.val_loss, self.val_accuracy = self.loss, self.loss
        self.done = 0
        self.results: dict[int, FitResult] = {}
        self.recorder = Recorder(steps)

    def everyone(self) -> np.ndarray:
        return np.ones(len(self.heads), dtype=bool)

    def diverged(self) -> np.ndarray:
        return np.asarray(~np.isfinite(self.loss))

    def advance(self, order: np.ndarray, epoch: int) -> None:
        """Train for an epoch and measure."""
        parts = self._parts()
        done = list(in_threads(lambda part: self._epoch(part, order, epoch), parts))
        self.theta, self.state = done[0] if len(done) == 1 else _joined(done)
        with np.errstate(over="ignore", invalid="ignore"):
            self.loss = np.atleast_1d(to_host(self.probe.value(self.theta)))
            if self.validation is not None:
                held = self.validation
                self.val_loss = np.atleast_1d(to_host(held.value(self.theta)))
                self.val_accuracy = accuracy(held.objective, held.rows, self.theta)

    def _parts(self) -> list[np.ndarray | None]:
        """Heads in shares for the threads of a CPU, or None for all of them together.

        Their products are shared out well by BLAS itself, all that is elementwise only so.
        """
        heads = len(self.heads)
        if self.theta.ndim == 1 or not is_host(self.theta):
            return [None]
        columns = heads * self.problem.objective.network.widths[1]
        shares = max(1, min(blas_width(), heads, columns // _COLUMNS))
        return [None] if shares == 1 else list(np.array_split(np.arange(heads), shares))

    def _epoch(self, part: np.ndarray | None, order: np.ndarray, epoch: int) -> tuple[Array, State]:
        problem, plan, theta, state = self.problem, self.plan, self.theta, self.state
        if part is not None:
            problem, plan = problem.keep(part), plan.keep(part)
            theta, state = take_heads(theta, part), tuple(take_heads(p, part) for p in state)
        recorder = self.recorder if part is None else None
        objective, rows = problem.objective, problem.rows
        own = part is not None
        return run_epoch(objective, rows, plan, theta, state, order, epoch, recorder, own, True)

    def record(self, monitor: Monitor, epoch: int) -> bool:
        """Apply the plateau rule and tell the monitor; True if a callback wants to stop."""
        self.done = epoch
        figures = self.loss if self.validation is None else -self.val_accuracy
        self.watch.see(figures, self.theta, relative=self.validation is None)
        best = int(np.argmin(figures))
        held = self.validation is not None
        return monitor.record(
            epoch,
            float(self.loss[best]),
            val_loss=float(self.val_loss[best]) if held else math.nan,
            val_accuracy=float(self.val_accuracy[best]) if held else math.nan,
            heads=len(self.heads),
        )

    def end(self, mask: np.ndarray, reason: str) -> None:
        """The heads of `mask` have ended; the others go on without them."""
        if not mask.any():
            return
        bad = reason == DIVERGED or (self.done and reason == "interrupted")
        best = bad or (self.done and self.validation is not None)
        theta = self.watch.theta if best else self.theta
        for k in np.flatnonzero(mask).tolist():
            self.results[int(self.heads[k])] = FitResult(
                theta=_line(theta, k),
                n_iter=max(self.done, 1),
                objective=float(self.loss[k]),
                converged=reason == "converged",
                reason=reason,
                state=tuple(_line(part, k) for part in self.state),
                interrupted=reason == "interrupted",
            )
        self._keep(np.flatnonzero(~mask))

    def _keep(self, kept: np.ndarray) -> None:
        self.heads = self.heads[kept]
        self.loss, self.val_loss = self.loss[kept], self.val_loss[kept]
        self.val_accuracy = self.val_accuracy[kept]
        if not len(kept):
            return
        self.problem, self.probe = self.problem.keep(kept), self.probe.keep(kept)
        if self.validation is not None:
            self.validation = self.validation.keep(kept)
        self.plan = self.plan.keep(kept)
        self.theta, self.state = (
            take_heads(self.theta, kept),
            tuple(take_heads(p, kept) for p in self.state),
        )
        self.watch.keep(kept)

    def finish(self, measure_all: bool) -> list[FitResult]:
        results = [self.results[k] for k in range(len(self.results))]
        if measure_all:
            lines = [result.theta for result in results]
            theta = lines[0] if self.theta.ndim == 1 else namespace(self.theta).stack(lines)
            with np.errstate(over="ignore", invalid="ignore"):
                values = np.atleast_1d(to_host(self.whole.value(theta)))
            for result, value in zip(results, values.tolist(), strict=True):
                result.objective = value
        return results


def accuracy(objective: Objective, rows: Rows, theta: Array) -> np.ndarray:
    """Share of rows whose largest score is the true class's, (K,) on the host."""
    xp = namespace(rows.x)
    right: Any = 0.0
    heads = 1 if theta.ndim == 1 else int(theta.shape[0])
    for chunk in rows.chunks(rows.chunk_rows(heads * max(objective.network.widths[1:]))):
        scores, _ = objective.network.forward(theta, chunk.x)
        guess = xp.argmax(scores, axis=-2)
        labels = chunk.labels
        if xp.isdtype(labels.dtype, "bool"):
            labels = xp.argmax(xp.astype(labels, xp.int8), axis=0)
        hit = xp.astype(guess == labels, rows.dtype)
        right = right + xp.sum(hit, axis=-1, dtype=accumulator(xp, device(rows.x)))
    return np.atleast_1d(to_host(right)).astype(np.float64) / len(rows)


def probe_rows(count: int) -> int:
    """Rows of the sample that is watched, of so many to train on."""
    return min(count, max(_PROBE_ROWS, count // _PROBE_SHARE))


def _probe(rows: Rows, train: np.ndarray, rng: np.random.Generator) -> Rows:
    if rows.weights is not None and rows.weights.ndim == 1:
        # Rows without weight tell nothing of the objective, and a sample of them alone has none.
        train = train[to_host(rows.weights)[train] > 0.0]
    most = probe_rows(len(train))
    if most == len(train) == len(rows):
        return rows
    picked = train if len(train) == most else np.sort(rng.choice(train, most, replace=False))
    return subset(rows, picked)


def subset(rows: Rows, index: np.ndarray) -> Rows:
    """A copy of the rows that host integers name."""
    return rows.only(index)


def _is_plain(problem: Problem, plan: MinibatchPlan, theta: Array) -> bool:
    """Whether there is one head, and nothing is given per head."""
    momentum = getattr(plan.rule, "momentum", None)
    weights = problem.rows.weights
    return (
        int(theta.shape[0]) == 1
        and not any(map(is_array, (plan.rate, momentum, problem.objective.reg)))
        and not is_array(getattr(problem.objective.loss, "keywords", {}).get("margin"))
        and (weights is None or weights.ndim == 1)
    )


def _joined(parts: list[tuple[Array, State]]) -> tuple[Array, State]:
    """(theta, state) of all heads from those of consecutive shares of them."""
    xp = namespace(parts[0][0])
    states = zip(*(state for _, state in parts), strict=True)
    return xp.concat([theta for theta, _ in parts], axis=0), tuple(
        xp.concat(list(part), axis=0) if is_array(part[0]) else part[0] for part in states
    )


def _line(value: Any, k: int) -> Any:
    """Head k's part of an array (K, P), in memory of its own; all of an array (P,); a number as
    it is."""
    if getattr(value, "ndim", 0) < 2:
        return value
    return namespace(value).asarray(value[k, :], copy=True)
