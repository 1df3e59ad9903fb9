"""Training heads that belong together: one problem, as many passes as memory asks for."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from xclf import _array_api
from xclf._array_api import Array
from xclf.estimators._fitting import (
    Job,
    computing_dtype,
    hold_out,
    standardized,
)
from xclf.estimators._memory import TOGETHER, FitShape, count_weight_vectors, memory_budget
from xclf.objectives import Network, Objective, data_loss
from xclf.optim import Momentum
from xclf.rows import Rows, blas_threads, own_threads, parse_bytes, product_precision
from xclf.sweep._heads import Context, Head
from xclf.sweep._progress import NullProgress
from xclf.training import (
    FitResult,
    MinibatchPlan,
    Problem,
    fit_lbfgs,
    fit_minibatch,
    fit_proximal,
    subset,
)

# Columns past which a product runs no faster per column.
_FULL_WIDTH = 256


def train_heads(context: Context, heads: list[Head], watch: NullProgress) -> None:
    """Fit the models of `heads`, group by group; failures are noted in their fits."""
    groups: dict[Any, list[Head]] = {}
    for head in heads:
        groups.setdefault(context.group_key(head), []).append(head)
    for group in groups.values():
        for part in _passes(group):
            size = heads_at_once(context.X, part[0])
            for start in range(0, len(part), size):
                _train(context, part[start : start + size], watch)


def memory_limit(head: Head) -> int:
    """Bytes that training may take beside X."""
    return parse_bytes(head.model.max_memory) or TOGETHER


def heads_at_once(X: Array, head: Head) -> int:
    """Heads like `head` whose training stays within its budget; one at least."""
    model = head.model
    network = Network(model._widths(len(head.classes)), bias=bool(model.fit_intercept))
    kind = FitShape.of(model, head.settings, network, X, lines=1)
    bound = parse_bytes(head.model.max_memory)
    return kind.heads_within(kind.needed(0) + TOGETHER if bound is None else bound)


def _passes(group: list[Head]) -> list[list[Head]]:
    """Heads that go over the rows together: all of them, or, where those of a fold fill a product
    alone, fold by fold, which spares them the rows that are not theirs."""
    folds: dict[int, list[Head]] = {}
    for head in group:
        folds.setdefault(head.fit.split, []).append(head)
    first = group[0]
    width = max(first.model._widths(len(first.classes))[1:])
    if len(group) / len(folds) * width >= _FULL_WIDTH:
        return list(folds.values())
    return [[head for fold in folds.values() for head in fold]]


def _train(context: Context, heads: list[Head], watch: NullProgress) -> None:
    start = time.perf_counter()
    try:
        precision = heads[0].model.precision
        with (
            _array_api.on_device(context.X),
            product_precision(context.X, computing_dtype(context.X), precision),
        ):
            job = _job(context, heads)
            if not _has_room(context, job, heads):
                half = len(heads) // 2
                for part in (heads[:half], heads[half:]):
                    _train(context, part, watch)
                return
            job.monitor.callbacks = [*job.monitor.callbacks, watch.begin(heads)]
            results = _run(context, job, heads)
            if any(result.interrupted for result in results):
                raise KeyboardInterrupt
            for head, result in zip(heads, results, strict=True):
                head.model._finish(job, result)
    except Exception as error:  # whatever `fit` may raise: the search has a rule for it
        for head in heads:
            head.fit.fail(error)
    for head in heads:
        head.fit.fit_seconds += (time.perf_counter() - start) / len(heads)
    watch.end(heads)


def _job(context: Context, heads: list[Head]) -> Job:
    """What the estimators make of one fit, with the rows and weights of all heads."""
    first = heads[0]
    index = np.zeros(int(context.X.shape[0]), dtype=np.int64)
    for head in heads:
        index[head.train] = head.index
    lines = {key: k for k, key in enumerate(dict.fromkeys(head.weight_key for head in heads))}
    weights = np.stack([context.weights[key] for key in lines])
    which = None if len(lines) < 2 else np.asarray([lines[head.weight_key] for head in heads])
    job: Job = first.model._job(context.X, index, None, first.settings, None, taken=context.taken)
    if first.model.standardize:  # then all heads have the same weights
        job.network = standardized(
            job.network, _weighted(job.rows, weights, None), job.theta_dtype()
        )
    drawn = np.flatnonzero(weights.any(axis=0))
    if first.full_batch and _worth_a_copy(context.X, len(drawn), memory_limit(first)):
        job.rows, weights = job.rows.only(drawn), weights[:, drawn]
    if not first.full_batch and (weights[:, first.train] == 1.0).all():
        return job  # batches are drawn from the fold's own rows
    job.rows = _weighted(job.rows, weights, which)
    return job


def _has_room(context: Context, job: Job, heads: list[Head]) -> bool:
    """Give the rows the room that all heads leave; False if there are too many heads for it."""
    first = heads[0]
    if len(heads) == 1:
        return True  # the estimator's own, as in a single fit
    most = first.model.max_memory
    if most is None and _array_api.is_host(context.X):
        most = memory_limit(first)
    lines = count_weight_vectors(job.rows.weights)
    kind = FitShape.of(first.model, job.settings, job.network, job.rows.x, lines)
    try:
        allowed = memory_budget(kind, most, taken=context.taken, heads=len(heads))
    except ValueError:
        return False
    job.rows = replace(job.rows, budget=allowed)
    return True


def _worth_a_copy(X: Array, rows: int, most: int) -> bool:
    """Whether to take the rows that have weight out of X, rather than pass over all of them."""
    every, features = (int(size) for size in X.shape)
    itemsize = getattr(X.dtype, "itemsize", 8)
    return rows <= 0.95 * every and 4 * rows * features * itemsize <= most


def _weighted(rows: Rows, weights: np.ndarray, which: np.ndarray | None) -> Rows:
    """`rows` with weights (G, N); head k has line which[k] of them."""
    if which is not None:
        lines = _array_api.from_host(which, rows.x)
        return replace(rows, weights=_array_api.from_host(weights, rows.x, rows.dtype), heads=lines)
    if (weights == 1.0).all():
        return rows
    return replace(rows, weights=_array_api.from_host(weights[0], rows.x, rows.dtype))


def _run(context: Context, job: Job, heads: list[Head]) -> list[FitResult]:
    settings = job.settings
    # By the size of one head: much of what a step does, it does head by head.
    with blas_threads(job.rows.x, job._largest_product()), own_threads():
        if heads[0].full_batch:
            theta = _starts(job, heads)
            problem = _problem(job, heads, theta)
            limits: dict[str, Any] = {
                "tol": settings.tol,
                "max_iter": settings.max_iter,
                "monitor": job.monitor,
            }
            if job.loss == "softmax":
                return fit_lbfgs(problem, theta, **limits)
            return fit_proximal(problem, theta, margin=_margins(heads, theta), **limits)
        return _minibatches(context, job, heads)


def _minibatches(context: Context, job: Job, heads: list[Head]) -> list[FitResult]:
    """Heads of one fold and one seed: the draws of the single fit, shared."""
    settings, first = job.settings, heads[0]
    # Places among the fold's rows, in whose order the single fit has them.
    places = np.flatnonzero(context.weights[first.weight_key][first.train])
    validation = None
    if settings.validation_fraction is not None:
        labels = first.index[places]
        places, held = hold_out(places, labels, settings.validation_fraction, job.rng)
        validation = subset(job.rows, first.train[held])
    theta = _starts(job, heads)
    plan = MinibatchPlan(
        rule=_rule(heads, theta),
        rate=_column([head.settings.learning_rate for head in heads], theta),
        batch_size=min(settings.batch_size, len(first.train)),
        epochs=settings.max_iter,
        schedule=settings.lr_schedule,
        tol=settings.tol,
        patience=settings.patience,
    )
    problem = _problem(job, heads, theta)
    return fit_minibatch(
        problem, theta, plan, job.rng, job.monitor,
        train=first.train[places], validation=validation, measure_all=False,
    )  # fmt: skip


def _starts(job: Job, heads: list[Head]) -> Array:
    """(K, P): where each head's single fit starts."""
    assert job.init is not None
    inits = [job.init]
    for head in heads[1:]:
        shared = not head.full_batch or np.array_equal(inits[0], 0.0 * inits[0])
        rng = None if shared else _array_api.generator(head.model.random_state)
        inits.append(job.init if rng is None else head.model._initial(job.network, rng))
    return _array_api.from_host(np.stack(inits), job.rows.x, job.theta_dtype())


def _problem(job: Job, heads: list[Head], theta: Array) -> Problem:
    margins = _margins(heads, theta)
    regs = _each([float(head.model.reg) for head in heads], theta)
    return Problem(Objective(job.network, data_loss(job.loss, margins), regs), job.rows)


def _margins(heads: list[Head], theta: Array) -> Any:
    return _each([float(getattr(head.model, "margin", 1.0)) for head in heads], theta)


def _each(values: list[float], theta: Array) -> Any:
    """A number where all heads share it, else one for each (K,) beside theta."""
    if all(value == values[0] for value in values):
        return values[0]
    return _array_api.from_host(np.asarray(values), theta, theta.dtype)


def _column(values: list[float], theta: Array) -> Any:
    each = _each(values, theta)
    return each if isinstance(each, float) else each[:, None]


def _rule(heads: list[Head], theta: Array) -> Any:
    rules: list[Any] = [head.settings.rule for head in heads]
    if not isinstance(rules[0], Momentum):
        return rules[0]
    return Momentum(_column([rule.momentum for rule in rules], theta))
