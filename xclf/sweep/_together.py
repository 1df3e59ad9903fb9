"""Estimators with rows of their own of one X, trained together: what is built on sweeps uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xclf.sweep._fits import Fit, Fold, last_step
from xclf.sweep._heads import Context, SweepHead
from xclf.sweep._progress import NullProgress
from xclf.sweep._train import train_heads
from xclf.training import Event

#: (fits that ended, the event of the pass that runs, or None where one ended)
OnProgress = Callable[[float, Event | None], Any]


def fit_together(
    X: Any, fits: Sequence[Fit], folds: Sequence[Fold], progress: OnProgress | None = None
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
        By number, as `Fit.split` has it: host row numbers, their labels, parameters of `fit`.
    progress : callable, default=None
        Called with the number of fits that ended, and the event of the pass that runs.

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
        fold = folds[fit.split]
        heads += context.heads(fit, fold, fold.train, fold.params)
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
