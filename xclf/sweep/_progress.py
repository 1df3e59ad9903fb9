"""A line of progress: fits finished, the best accuracy so far, time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from xclf.report.number_text import plain, seconds
from xclf.sweep._block_scores import BlockScores
from xclf.sweep._fits import Fit
from xclf.sweep._heads import SweepHead
from xclf.sweep._ledger import FitLedger
from xclf.sweep._scores import scores_of
from xclf.training import Event

# Elsewhere than on a terminal a line is printed whenever such a share of the fits is done.
_SHARE = 0.1


class NullProgress:
    """Progress that is not shown."""

    def __init__(self, ledger: FitLedger) -> None:
        self.ledger = ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None
    ) -> None:
        return None

    def begin(self, heads: list[SweepHead]) -> Callable[[Event], Any]:
        """A pass begins with these heads; returns the callback of its events."""
        return lambda event: None

    def end(self, heads: list[SweepHead]) -> None:
        """The pass is over: the models of its heads are trained, or have failed."""


class Progress(NullProgress):
    """Progress on a rich console: a bar on a terminal, some plain lines elsewhere."""

    def __init__(self, ledger: FitLedger, console: Any) -> None:
        super().__init__(ledger)
        self.console = console
        self.truth = None if ledger.beside is not None else np.asarray(ledger.y)
        self.total = len(ledger.fits)
        self.done = 0.0
        self.shown = 0.0
        self.start = time.perf_counter()
        self.accuracy: dict[int, float] = {}
        self.best = ""
        self.bar: Any = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bar = _bar(self.console)
            self.task = self.bar.add_task("fits", total=self.total, text="")
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begin(self, heads: list[SweepHead]) -> Callable[[Event], Any]:
        size = sum(one.share for one in heads) / len(heads)

        def show(event: Event) -> None:
            ended = size * (len(heads) - event.heads)
            # Epochs are counted, iterations are not known beforehand.
            share = event.step / event.total if event.unit == "epoch" else 0.0
            where = f"{event.unit} {event.step}"
            if not self.best:  # until candidates are trained on every fold
                where += f"  lowest objective {plain(event.objective)}"
            begun = self.done + ended
            self._show(begun, begun + size * share * event.heads, where)

        return show

    def end(self, heads: list[SweepHead]) -> None:
        self.done += sum(one.share for one in heads)
        trained = [one.fit for one in heads if one.fit.error is None]
        self._measure([fit for fit in trained if not fit.several_tasks])
        self._show(self.done, self.done, "")

    def _measure(self, fits: list[Fit]) -> None:
        """The best mean accuracy of the candidates that are trained on every fold."""
        splits, counted = self.ledger.splits, self.ledger.scores
        if isinstance(counted, BlockScores):
            self.accuracy |= zip(map(id, fits), counted.accuracies(fits), strict=True)
            fits = []
        for number in {fit.split for fit in fits}:
            own = [fit for fit in fits if fit.split == number]
            for fit, scores in scores_of(own, self.ledger.X, splits, number):
                guess = fit.template.classes_[scores.argmax(axis=1)]
                assert self.truth is not None
                truth = self.truth[splits[number].test]
                self.accuracy[id(fit)] = float(np.mean(guess == truth))
        means = []
        for first in range(0, self.total, len(splits)):
            folds = [
                self.accuracy.get(id(f)) for f in self.ledger.fits[first : first + len(splits)]
            ]
            known = [value for value in folds if value is not None]
            if len(known) == len(splits):
                means.append((sum(known) / len(known), -first))
        if means:
            top, first = max(means)
            chosen = self.ledger.candidates[-first // len(splits)]
            values = ", ".join(f"{name}={plain(value)}" for name, value in chosen.items())
            self.best = f"best accuracy {top:.4f} ({values})"

    def _show(self, begun: float, completed: float, where: str) -> None:
        fits = int(begun + 1e-6)  # shares of a fit add up with rounding
        if self.bar is not None:
            parts = [f"{fits}/{self.total}", where, self.best]
            text = "  ".join(part for part in parts if part)
            self.bar.update(self.task, completed=completed, text=text)
        elif fits >= self.total or completed >= self.shown + _SHARE * self.total:
            self.shown = completed
            spent = time.perf_counter() - self.start
            left = spent * (self.total / completed - 1.0) if completed else 0.0
            parts = [f"fits {fits}/{self.total}", where, self.best, seconds(spent)]
            if 0.0 < completed < self.total:
                parts.append(f"about {seconds(left, whole=True)} left")
            self.console.print("  ".join(part for part in parts if part))


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("fits {task.fields[text]}"),
        BarColumn(bar_width=20),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
    )


def on_terminal() -> Any:
    """A console on standard output."""
    from rich.console import Console

    return Console(highlight=False, markup=False)
