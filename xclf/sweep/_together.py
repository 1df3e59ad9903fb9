"""Estimators with rows of their own of one X, trained together: what is built on sweeps uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xclf.estimators import Targets, check_targets
from xclf.sweep._fits import Fit, Fold, last_step
from xclf.sweep._heads import Context, SweepHead
from xclf.sweep._progress import NullProgress
from xclf.sweep._train import train_heads
from xclf.training import Event

#: (fits that ended, the event of the pass that runs, or None where one ended)
OnProgress = Callable[[float, Event | None], Any]


def fit_together(
    X: Any,
    fits: Sequence[Fit],
    folds: Sequence[Fold],
    progress: OnProgress | None = None,
    tasks: Sequence[int | None] | None = None,
) -> None:
    """Fit every estimator to the rows of its fold, in as few passes over X as memory allows.

    Each ends where its own `fit(X[fold.train], fold.y)` does, up to rounding: `SweepCV` says which
    of them are heads of one pass.

    Parameters
    ----------
    X : array (N, D)
        As the estimators take it.
    fits : sequence of Fit
        Estimators of this library as their templates, which are fitted in place.
    folds : sequence of Fold
        By number, as `Fit.split` has it: host row numbers, and their labels (n,); of rows in blocks
        a `Subset`, or None for all, and `Targets` beside the rows.
    progress : callable, default=None
        Called with the number of fits that ended, and the event of the pass that runs.
    tasks : sequence, default=None
        Of every fold: equal where the labels of rows that both hold are. Folds of several tasks
        that have the same array of rows share its weights.

    Raises
    ------
    ValueError, TypeError
        What `fit` raises; the first of them, once the others are fitted.
    KeyboardInterrupt
        For Ctrl-C. Estimators of earlier passes are fitted then, those of the pass that it ended
        have their best parameters so far, others none.
    """
    context = Context.of(X, last_step(fits[0].template))
    heads: list[SweepHead] = []
    for fit in fits:
        fold, model = folds[fit.split], last_step(fit.template)
        task = None if tasks is None else tasks[fit.split]
        # The weights of balanced classes are those of the labels.
        part = (id(fold.train), None if model.class_weight is None else task)
        if isinstance(fold.y, Targets):
            fit.targets = fold.y
            (head,) = context.rows.heads_beside(model, fit.targets, fold.train, part)
        else:
            if fit.split not in context.targets:
                rows = np.empty((len(fold.train), 0))  # labels are on the host: their number counts
                context.targets[fit.split] = check_targets(model, rows, fold.y)
            fit.targets = context.targets[fit.split]
            (head,) = context.rows.heads(model, fit.targets, None, fold.train, part)
        head.label_key = (task, head.label_key)
        heads.append(SweepHead(head, fit))
    train_heads(context, heads, _Counted(progress))
    for fit in fits:
        if fit.error is not None:
            raise fit.error.with_traceback(fit.trace)


class _Counted(NullProgress):
    """Progress that is passed on as a number of fits."""

    def __init__(self, progress: OnProgress | None) -> None:
        self.progress, self.done = progress or (lambda done, event: None), 0

    def begin(self, heads: list[SweepHead]) -> Callable[[Event], Any]:
        def show(event: Event) -> None:
            # Epochs are counted, iterations are not known beforehand.
            share = event.step / event.total if event.unit == "epoch" else 0.0
            self.progress(self.done + len(heads) - event.heads * (1.0 - share), event)

        return show

    def end(self, heads: list[SweepHead]) -> None:
        self.done += len(heads)
        self.progress(self.done, None)
