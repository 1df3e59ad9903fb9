"""Heads that are trained by minibatches: their plan, and the rows that they are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from xclf._heads import is_per_head
from xclf.estimators._head import Head
from xclf.rows import BlockRows, Rows
from xclf.training import MinibatchPlan, check_gathered, subset


def minibatch_plan(
    heads: Sequence[Head],
    beside: Callable[[list[float]], Any],
    rates: list[float],
    one_epoch: bool,
) -> MinibatchPlan:
    """How heads that share their batches are trained.

    beside : makes of a number for each head what the engine takes;  rates : learning rates
    one_epoch : whether for a single pass over the rows, as `partial_fit` makes
    """
    settings = heads[0].settings

    def column(values: list[float]) -> Any:
        each = beside(values)
        return each[:, None] if is_per_head(each) else each

    rules = [head.settings.rule_parameters for head in heads]
    return MinibatchPlan(
        rule=settings.solver.make_rule(
            **{name: column([own[name] for own in rules]) for name in rules[0]}
        ),
        rate=column(rates),
        batch_size=min(settings.batch_size, len(heads[0].index)),
        epochs=1 if one_epoch else settings.max_iter,
        schedule=settings.lr_schedule,
        tol=settings.tol,
        patience=None if one_epoch else settings.patience,
    )


def training_rows(
    head: Head, rows: Rows, rng: np.random.Generator, one_epoch: bool
) -> tuple[Rows, np.ndarray | None, Rows | None]:
    """(all rows, numbers of those to train on, held-out rows): those with weight, and a stratified
    share of them; None for all of them, or where rows in blocks know which. A part takes its
    weights as they are: rows without weight count in its batches."""
    if isinstance(rows, BlockRows) and head.train is None:
        return _training_blocks(head, rows, rng, one_epoch)
    if one_epoch:
        return rows, None, None
    numbers = np.arange(len(head.index)) if head.train is None else head.train
    drawn = np.arange(len(numbers))
    if head.weights is not None:
        drawn = np.flatnonzero(head.weights[numbers])
    fraction = head.settings.validation_fraction
    if fraction is None:
        return rows, numbers[drawn], None
    train, validation = hold_out(drawn, head.index[drawn], fraction, rng)
    return rows, numbers[train], subset(rows, numbers[validation])


def _training_blocks(
    head: Head, rows: BlockRows, rng: np.random.Generator, one_epoch: bool
) -> tuple[BlockRows, None, Rows | None]:
    """`training_rows` of all rows in blocks."""
    fraction = head.settings.validation_fraction
    if one_epoch or fraction is None:
        return replace(rows, every_row=one_epoch), None, None
    count = rows.count_drawn
    try:
        rows = rows.hold_out(fraction, rng)
    except ValueError as error:
        raise _cannot_hold_out(fraction, count, error) from None
    check_gathered(rows, count - rows.count_drawn)
    return rows, None, subset(rows, rows.held_out)


def hold_out(
    rows: np.ndarray, labels: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation): row numbers `rows`, split stratified by their labels, each in order."""
    seed = int(rng.integers(2**31))
    try:
        parts = train_test_split(rows, test_size=fraction, stratify=labels, random_state=seed)
    except ValueError as error:
        raise _cannot_hold_out(fraction, len(labels), error) from None
    return np.sort(parts[0]), np.sort(parts[1])


def _cannot_hold_out(fraction: float, rows: int, error: ValueError) -> ValueError:
    return ValueError(
        f"early_stopping cannot hold out validation_fraction={fraction} of {rows} rows: {error}"
    )
