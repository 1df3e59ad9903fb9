"""Training many heads in as few passes as memory allows."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

from xclf.estimators._checkpoints import checkpoint_of
from xclf.estimators._devices import PlacedRows
from xclf.estimators._fitting import TooManyHeadsError, fit_heads, heads_at_once
from xclf.estimators._head import Head
from xclf.rows import BlockWeights
from xclf.training import FitResult, draw_bytes, has_few_rows, method_of

# Columns past which a product runs no faster per column.
_FULL_WIDTH = 256


def fit_in_passes(placed: PlacedRows, heads: Sequence[Head]) -> list[FitResult]:
    """Train the models of `heads`, whichever of them share a pass; the results, in their order.
    Several are one stage of the checkpoint that their models may have.

    Raises KeyboardInterrupt where Ctrl-C ends the training before all heads have begun.
    """
    results: dict[int, FitResult] = {}

    def train(some: list[Head]) -> None:
        if any(result.interrupted for result in results.values()):
            raise KeyboardInterrupt
        fitted = fit_heads(placed, some)
        results.update(zip(map(id, some), fitted, strict=True))

    checkpoint = checkpoint_of(heads[0].model.callbacks)
    if checkpoint is None or len(heads) == 1:
        in_passes(placed, heads, train)
    else:
        with checkpoint.stage("tasks", {"tasks": len(heads)}):
            in_passes(placed, heads, train)
    return [results[id(head)] for head in heads]


def in_passes(
    placed: PlacedRows, heads: Sequence[Head], train: Callable[[list[Head]], None]
) -> None:
    """Call `train` with heads that `fit_heads` takes together: those with equal `pass_key`, in
    parts that fit into memory, of draws whole ones; half as many again where it raises
    TooManyHeadsError."""
    groups: dict[Hashable, list[Head]] = {}
    for head in heads:
        groups.setdefault(pass_key(head), []).append(head)
    for group in groups.values():
        draws = _are_draws(group, int(placed.X.shape[0]))
        for part in _passes(group, draws):
            sets, levels = len({head.label_key for head in part}), _levels(part)
            beside = _draw_bytes(part[0]) if draws else 0
            size = heads_at_once(placed, part[0], sets, levels, beside) if len(part) > 1 else 1
            size -= size % levels if draws and size > levels else 0
            for start in range(0, len(part), size):
                _train(part[start : start + size], train)


def _train(heads: list[Head], train: Callable[[list[Head]], None]) -> None:
    try:
        train(heads)
    except TooManyHeadsError:
        half = len(heads) // 2
        for part in (heads[:half], heads[half:]):
            _train(part, train)


def pass_key(head: Head) -> Hashable:
    """Heads with equal keys can be trained in one pass.

    They may differ by labels of the same number of classes, reg, parameters of the loss and of the
    update rule, class_weight and learning rate; full-batch ones by rows and seed too. Minibatch
    heads share their batches: one seed, and the same rows with weight; early stopping holds out
    rows by their labels. `standardize` needs one mean and scale, hence one vector of row weights.
    """
    model = head.model
    settings = replace(head.settings, learning_rate=0.0, rule_parameters={})
    key: tuple[Any, ...] = (
        type(model),
        repr(settings),
        bool(model.fit_intercept),
        bool(model.standardize),
        type(head.loss),
        head.widths,
        int(model.verbose),
        head.start is None,
    )
    if not head.full_batch:
        key += (id(head.train), pickle.dumps(model.random_state), _drawn(head.weights))
        if settings.validation_fraction is not None:
            key += (head.label_key,)
    return (*key, head.weight_key) if model.standardize else key


def _drawn(weights: Any) -> bytes | None:
    """Equal where the same rows have weight."""
    if isinstance(weights, BlockWeights):
        return weights.drawn
    return None if weights is None else (weights > 0.0).tobytes()


def _passes(group: list[Head], draws: bool) -> list[list[Head]]:
    """Heads that go over the rows together: all of them, fold after fold, or, where those of a fold
    fill a product alone, a fold at a time, which spares them the rows that are not theirs; but for
    draws, which have none of others."""
    folds: dict[int, list[Head]] = {}
    for head in group:
        folds.setdefault(id(head.train), []).append(head)
    if not draws and len(group) / len(folds) * max(group[0].widths[1:]) >= _FULL_WIDTH:
        return list(folds.values())
    return [[head for fold in folds.values() for head in fold]]


def _draw_bytes(head: Head) -> int:
    return 0 if head.train is None else draw_bytes(len(head.train), head.widths)


def _are_draws(group: list[Head], every: int) -> bool:
    """Whether heads have few of `every` row each, see `training/_draws.py`."""
    sizes = {len(one.train) for one in group if one.train is not None}
    method = method_of(group[0].loss)
    few = len(sizes) == 1 and has_few_rows(min(sizes), every)
    return few and method.draws and _goes_along_a_path(group)


def _levels(heads: list[Head]) -> int:
    """Levels of the path that heads go along, at least."""
    if not _goes_along_a_path(heads):
        return 1
    return min(Counter((head.weight_key, head.label_key) for head in heads).values())


def _goes_along_a_path(heads: list[Head]) -> bool:
    first = heads[0]
    full_batch = first.full_batch and first.start is None and method_of(first.loss).along_paths
    return full_batch and all(head.model.reg > 0.0 for head in heads)
