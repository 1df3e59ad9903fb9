"""Minibatch fits: one flat vector, one update rule, rows drawn without replacement every epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from xclf._array_api import Array, accumulator, device, from_host, is_host, namespace, to_host
from xclf._heads import is_per_head, take_heads
from xclf.objectives import Objective, true_index
from xclf.optim import State
from xclf.rows import BlockRows, Rows, blas_width, in_threads
from xclf.training._precision import at_stored
from xclf.training._stages import STOPPED, MethodStage, method_stage, results_of, trees_of
from xclf.training.events import FitResult, Monitor
from xclf.training.problem import Problem
from xclf.training.steps import MinibatchPlan, plain_steps

# An epoch ends by evaluating the objective on a fixed sample of training rows: all of them when
# they are few, else this share. Reading the loss of every step instead would cost eight launches
# a step on a device, and mixes batches of different parameters.
_PROBE_ROWS, _PROBE_SHARE = 2048, 20

# Columns of a product past which a thread of its own is worth more than wider products.
_COLUMNS = 128

DIVERGED = "the objective is not finite"


@dataclass
class _Plateau:
    """The plateau rule of every head: the best figure so far, the parameters that gave it, and the
    number of epochs since."""

    best: np.ndarray
    stale: np.ndarray
    theta: Array

    def update(self, figures: np.ndarray, theta: Array, tol: float, relative: bool) -> None:
        needed = np.full_like(self.best, tol)
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


# What `_Heads` measures and trains, beside the state of the update rule.
_MEASURED = ("number", "loss", "val_loss", "val_accuracy", "theta")


@dataclass
class _Heads:
    """The heads that still train; `number` is that of each among all."""

    number: np.ndarray
    loss: np.ndarray
    val_loss: np.ndarray
    val_accuracy: np.ndarray
    theta: Array
    plateau: _Plateau
    state: State
    plan: MinibatchPlan
    problem: Problem
    probe: Problem
    validation: Problem | None

    @classmethod
    def at_start(cls, theta: Array, *parts: Any) -> _Heads:
        """Before the first epoch; `parts` : state, plan, problem, probe and validation."""
        count = int(theta.shape[0]) if theta.ndim > 1 else 1
        unknown = np.full(count, math.nan)
        plateau = _Plateau(np.full(count, math.inf), np.zeros(count, dtype=np.int64), theta)
        return cls(np.arange(count), unknown, unknown, unknown, theta, plateau, *parts)


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
    steps: Any = None,
) -> list[FitResult]:
    """Train K heads from theta (K, P), one result each.

    All heads see the same batches: those that a single fit with the same `rng` and `train` draws,
    so that a head is that fit, up to rounding. (A single fit to some of the rows is `train`: rows
    without weight would take places in the batches.) Heads differ by reg and margin (K,), rate and
    momentum (K, 1) and row weights; they never meet, and each ends on its own:

    - diverged: its objective is not finite. It ends with its best parameters.
    - converged: the plateau rule of `plan`.

    A head that has ended leaves the batch. The monitor receives the best of those that train.

    problem : all rows; row weights, if any, must have mean 1 (see `Objective.batch_gradient`)
    train : host indices of the rows to train on, all by default; of rows in blocks all that have
        weight
    validation : held-out rows; with them the plateau rule watches their accuracy, and the
        parameters of the best epoch are kept
    state : the rule's, to go on with
    measure_all : whether the results' objectives are those of all rows, or of the sample that the
        history describes
    steps : what takes the steps of an epoch, `plain_steps` by default
    """
    if train is None and not problem.rows.in_blocks:
        train = np.arange(len(problem.rows))
    if _is_plain(problem, plan, theta):
        theta = theta[0, :]  # every step then does without reshaping to and from one head
    objective = problem.objective
    probe = Problem(objective, _probe(problem.rows, train, rng))
    held = None if validation is None else Problem(replace(objective, reg=0.0), validation)
    state = plan.rule.init(theta) if state is None else state
    heads = _Heads.at_start(theta, state, plan, problem, probe, held)
    with method_stage(monitor, "minibatches", theta) as stage:
        if stage.results is not None:
            return stage.results
        run = _Run(problem, heads, steps or plain_steps)
        if stage.saved is not None:
            run.restore(stage.saved, rng)
        _run_epochs(run, train, rng, monitor, stage)
        return stage.finish(run.finish(measure_all))


def _run_epochs(
    run: _Run,
    train: np.ndarray | None,
    rng: np.random.Generator,
    monitor: Monitor,
    stage: MethodStage,
) -> None:
    """Epochs until every head has ended."""
    plan = run.heads.plan
    try:
        for epoch in range(run.done, plan.epochs):
            run.advance(run.whole.rows.order(train, rng), epoch)
            run.end(DIVERGED, ~np.isfinite(run.heads.loss))
            if len(run.heads.number) and run.record(monitor, epoch + 1):
                run.end(STOPPED)
            if len(run.heads.number) and plan.patience is not None:
                run.end("converged", run.heads.plateau.stale >= plan.patience)
            if not len(run.heads.number):
                break
            stage.offer(partial(run.state, rng))
        run.end(f"ran max_iter={plan.epochs} epochs")
    except KeyboardInterrupt:
        run.end("interrupted")


class _Run:
    """The epochs of a fit: `heads` still train, `results` have ended."""

    def __init__(self, whole: Problem, heads: _Heads, steps: Any) -> None:
        self.whole, self.heads, self.steps = whole, heads, steps
        self.done = 0
        self.results: dict[int, FitResult] = {}

    def state(self, rng: np.random.Generator) -> dict[str, Any]:
        """All that `restore` needs."""
        heads = self.heads
        numbers = sorted(self.results)
        return {
            "done": self.done,
            "rng": rng.bit_generator.state,
            "heads": {name: getattr(heads, name) for name in _MEASURED} | {"state": heads.state},
            "plateau": vars(heads.plateau),
            "ended": numbers,
            "results": trees_of([self.results[number] for number in numbers]),
        }

    def restore(self, saved: dict[str, Any], rng: np.random.Generator) -> None:
        """Go on from what `state` gave."""
        self.done, rng.bit_generator.state = saved["done"], saved["rng"]
        self.results = dict(zip(saved["ended"], results_of(saved["results"]), strict=True))
        heads = saved["heads"]
        if len(heads["number"]) < len(self.heads.number):
            self.heads = take_heads(self.heads, heads["number"])
        self.heads = replace(self.heads, **heads, plateau=_Plateau(**saved["plateau"]))

    def advance(self, order: np.ndarray, epoch: int) -> None:
        """Train for an epoch and measure."""
        heads = self.heads
        done = list(in_threads(lambda part: self._epoch(part, order, epoch), self._parts()))
        heads.theta, heads.state = done[0] if len(done) == 1 else _joined(done)
        with np.errstate(over="ignore", invalid="ignore"):
            heads.loss = np.atleast_1d(to_host(heads.probe.value(heads.theta)))
            if heads.validation is not None:
                held = heads.validation
                heads.val_loss = np.atleast_1d(to_host(held.value(heads.theta)))
                heads.val_accuracy = accuracy(held.objective, held.rows, heads.theta)

    def _parts(self) -> list[np.ndarray | None]:
        """Heads in shares for the threads of a CPU, or None for all of them together.

        Their products are shared out well by BLAS itself, all that is elementwise only so.
        """
        count, theta = len(self.heads.number), self.heads.theta
        if theta.ndim == 1 or not is_host(theta) or self.whole.rows.in_blocks:
            return [None]
        columns = count * self.whole.objective.network.widths[1]
        shares = max(1, min(blas_width(), count, columns // _COLUMNS))
        return [None] if shares == 1 else list(np.array_split(np.arange(count), shares))

    def _epoch(self, part: np.ndarray | None, order: np.ndarray, epoch: int) -> tuple[Array, State]:
        heads = self.heads if part is None else take_heads(self.heads, part)
        rows, plan = heads.problem.rows, heads.plan
        batches = list(plan.batches(rows.numbers(order), epoch))
        # A head that diverges overflows; the end of the epoch sees and says so.
        with np.errstate(over="ignore", invalid="ignore"):
            taken: tuple[Array, State] = self.steps(
                heads.problem.objective, plan.rule, rows, heads.theta, heads.state, batches
            )
        return taken

    def record(self, monitor: Monitor, epoch: int) -> bool:
        """Apply the plateau rule and write the history; True if a callback stops the fit."""
        self.done, heads = epoch, self.heads
        held = heads.validation is not None
        figures = -heads.val_accuracy if held else heads.loss
        heads.plateau.update(figures, heads.theta, heads.plan.tol, relative=not held)
        best = int(np.argmin(figures))
        return monitor.record(
            epoch,
            float(heads.loss[best]),
            val_loss=float(heads.val_loss[best]) if held else math.nan,
            val_accuracy=float(heads.val_accuracy[best]) if held else math.nan,
            heads=len(heads.number),
        )

    def end(self, reason: str, ended: np.ndarray | None = None) -> None:
        """Write down the heads that have `ended`, all by default; the others go on without them."""
        heads = self.heads
        ended = np.ones(len(heads.number), dtype=bool) if ended is None else ended
        if not ended.any():
            return
        bad = reason == DIVERGED or (self.done and reason == "interrupted")
        best = bad or (self.done and heads.validation is not None)
        theta = heads.plateau.theta if best else heads.theta
        for k in np.flatnonzero(ended).tolist():
            self.results[int(heads.number[k])] = FitResult(
                theta=_head(theta, k),
                n_iter=max(self.done, 1),
                objective=float(heads.loss[k]),
                converged=reason == "converged",
                reason=reason,
                state=tuple(_head(part, k) for part in heads.state),
                interrupted=reason == "interrupted",
            )
        kept = np.flatnonzero(~ended)
        if len(kept):
            self.heads = take_heads(heads, kept)
        else:
            heads.number = heads.loss = kept

    def finish(self, measure_all: bool) -> list[FitResult]:
        results = [self.results[k] for k in range(len(self.results))]
        if measure_all:
            thetas = [result.theta for result in results]
            one = self.heads.theta.ndim == 1
            theta = thetas[0] if one else namespace(self.heads.theta).stack(thetas)
            whole, theta = at_stored(self.whole, theta)
            with np.errstate(over="ignore", invalid="ignore"):
                values = np.atleast_1d(to_host(whole.value(theta)))
            for result, value in zip(results, values.tolist(), strict=True):
                result.objective = value
        return results


def accuracy(objective: Objective, rows: Rows, theta: Array) -> np.ndarray:
    """Share of rows whose largest score is the true class's, (K,) on the host."""
    xp = namespace(rows.x)
    right: Any = 0.0
    heads = 1 if theta.ndim == 1 else int(theta.shape[0])
    layers = objective.network.prepared(theta, rows.dtype)
    for chunk in rows.chunks(rows.chunk_rows(heads * max(objective.network.widths[1:]))):
        scores, _ = objective.network.apply(layers, chunk.x)
        guess = xp.argmax(scores, axis=-2)
        hit = xp.astype(guess == true_index(chunk.labels), rows.dtype)
        right = right + xp.sum(hit, axis=-1, dtype=accumulator(xp, device(rows.x)))
    return np.atleast_1d(to_host(right)).astype(np.float64) / len(rows)


def probe_rows(count: int) -> int:
    """Rows of the sample that is watched, of so many to train on."""
    return min(count, max(_PROBE_ROWS, count // _PROBE_SHARE))


def _probe(rows: Rows, train: np.ndarray | None, rng: np.random.Generator) -> Rows:
    if train is None:
        assert isinstance(rows, BlockRows)
        return rows.sample(probe_rows(rows.count_drawn))
    if isinstance(rows, BlockRows):  # rows without weight are not among those to train on
        most = min(probe_rows(len(train)), rows.most_gathered)
        return subset(rows, np.sort(rng.choice(train, most, replace=False)))
    if rows.weights is not None and rows.weights.ndim == 1:
        # A sample of rows without weight alone has no objective.
        train = train[to_host(rows.weights)[train] > 0.0]
    most = probe_rows(len(train))
    if most == len(train) == len(rows):
        return rows
    picked = train if len(train) == most else np.sort(rng.choice(train, most, replace=False))
    return subset(rows, picked)


def subset(rows: Rows, index: np.ndarray) -> Rows:
    """A copy of the rows that host integers name, of rows in blocks in this process."""
    if isinstance(rows, BlockRows):
        check_gathered(rows, len(index))
    return rows.only(index)


def check_gathered(rows: BlockRows, count: int) -> None:
    """ValueError where so many held-out rows may not come to this process."""
    if count > rows.most_gathered:
        raise ValueError(
            f"early stopping would hold out {count} rows in the process that trains, which may "
            f"gather {rows.most_gathered}: a smaller validation_fraction, or no early_stopping"
        )


def _is_plain(problem: Problem, plan: MinibatchPlan, theta: Array) -> bool:
    """Whether there is one head, and nothing is given per head."""
    weights, objective = problem.rows.weights, problem.objective
    given = (plan.rate, objective.reg, *vars(plan.rule).values(), *vars(objective.loss).values())
    return (
        int(theta.shape[0]) == 1
        and not any(map(is_per_head, given))
        and problem.rows.tasks is None
        and (weights is None or weights.ndim == 1)
    )


def _joined(parts: list[tuple[Array, State]]) -> tuple[Array, State]:
    """(theta, state) of all heads from those of consecutive shares of them."""
    xp = namespace(parts[0][0])
    states = zip(*(state for _, state in parts), strict=True)
    return xp.concat([theta for theta, _ in parts], axis=0), tuple(
        xp.concat(list(part), axis=0) if is_per_head(part[0]) else part[0] for part in states
    )


def _head(value: Any, k: int) -> Any:
    """A copy of head k's part of an array (K, P); an array (P,) or a number as it is."""
    if getattr(value, "ndim", 0) < 2:
        return value
    return namespace(value).asarray(value[k, :], copy=True)
