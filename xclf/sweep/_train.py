"""Training heads that belong together: as few passes as memory allows."""

from __future__ import annotations

import time
from typing import Any

from xclf.estimators import TooManyHeadsError, fit_heads, heads_at_once
from xclf.sweep._heads import Context, SweepHead
from xclf.sweep._progress import NullProgress
from xclf.training import CheckpointError

# Columns past which a product runs no faster per column.
_FULL_WIDTH = 256


def train_heads(context: Context, heads: list[SweepHead], watch: NullProgress) -> None:
    """Fit the models of `heads`, group by group; failures are noted in their fits."""
    groups: dict[Any, list[SweepHead]] = {}
    for one in heads:
        groups.setdefault(context.group_key(one), []).append(one)
    for group in groups.values():
        for part in _passes(group):
            size = heads_at_once(context.rows, part[0].head)
            for start in range(0, len(part), size):
                _train(context, part[start : start + size], watch)


def _passes(group: list[SweepHead]) -> list[list[SweepHead]]:
    """Heads that go over the rows together: all of them, or, where those of a fold fill a product
    alone, fold by fold, which spares them the rows that are not theirs."""
    folds: dict[int, list[SweepHead]] = {}
    for one in group:
        folds.setdefault(one.fit.split, []).append(one)
    if len(group) / len(folds) * max(group[0].head.widths[1:]) >= _FULL_WIDTH:
        return list(folds.values())
    return [[one for fold in folds.values() for one in fold]]


def _train(context: Context, heads: list[SweepHead], watch: NullProgress) -> None:
    start = time.perf_counter()
    try:
        together = [one.head for one in heads]
        results = fit_heads(context.rows, together, callbacks=[watch.begin(heads)])
        for one, result in zip(heads, results, strict=True):
            one.fit.trained, one.fit.ended = True, not result.interrupted
        if any(result.interrupted for result in results):
            raise KeyboardInterrupt
    except TooManyHeadsError:
        half = len(heads) // 2
        for part in (heads[:half], heads[half:]):
            _train(context, part, watch)
        return
    except CheckpointError:
        raise
    except Exception as error:  # whatever `fit` may raise: the search has a rule for it
        for one in heads:
            one.fit.fail(error)
    for one in heads:
        one.fit.fit_seconds += (time.perf_counter() - start) / len(heads)
    watch.end(heads)
