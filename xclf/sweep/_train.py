"""Training heads that belong together: as few passes as memory allows."""

from __future__ import annotations

import time

from xclf.estimators import Head, TooManyHeadsError, fit_heads, in_passes, join_tasks
from xclf.sweep._fits import last_step
from xclf.sweep._heads import Context, SweepHead
from xclf.sweep._progress import NullProgress
from xclf.training import CheckpointError


def train_heads(context: Context, heads: list[SweepHead], watch: NullProgress) -> None:
    """Fit the models of `heads`; failures are noted in their fits."""
    known = {id(one.head): one for one in heads}

    def train(some: list[Head]) -> None:
        _train(context, [known[id(head)] for head in some], watch)

    try:
        in_passes(context.rows.placed, [one.head for one in heads], train)
    finally:  # also after Ctrl-C, for what was trained until then
        parts: dict[int, list[SweepHead]] = {}
        for one in heads:
            parts.setdefault(id(one.fit), []).append(one)
        for own in parts.values():
            _join(own)


def _join(heads: list[SweepHead]) -> None:
    """Complete the fit of these heads, one for each of its tasks."""
    fit = heads[0].fit
    fit.trained = all(one.trained for one in heads)
    fit.ended = all(one.ended for one in heads)
    if fit.trained and fit.error is None and fit.targets is not None and fit.several_tasks:
        models = [one.head.model for one in heads]
        join_tasks(last_step(fit.template), models, fit.targets.indicators)


def _train(context: Context, heads: list[SweepHead], watch: NullProgress) -> None:
    start = time.perf_counter()
    try:
        together = [one.head for one in heads]
        results = fit_heads(context.rows.placed, together, callbacks=[watch.begin(heads)])
        for one, result in zip(heads, results, strict=True):
            one.trained, one.ended = True, not result.interrupted
        if any(result.interrupted for result in results):
            raise KeyboardInterrupt
    except (TooManyHeadsError, CheckpointError):
        raise
    except Exception as error:  # whatever `fit` may raise: the search has a rule for it
        for one in heads:
            one.fit.fail(error)
    for one in heads:
        one.fit.fit_seconds += (time.perf_counter() - start) / len(heads)
    watch.end(heads)
