"""Where the shell prints, and how a fit shows its progress."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from xclf.training import Event


class UserError(Exception):
    """What a person can mend: one line that says what was wrong and what to do; exit status 2."""


class CheckError(Exception):
    """A check that the user asked for did not hold; exit status 1."""


def out(*, json: bool = False) -> Console:
    """The console for people: standard output, or standard error when JSON has the former.

    Names of files and classes are printed as they are: neither [brackets] nor :colons: mean a
    thing.
    """
    return Console(
        stderr=json,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=not sys.stdout.isatty(),
    )


def facts(console: Console, *pairs: tuple[str, str]) -> None:
    """A line for each name and what there is to say of it, however long that is."""
    for name, text in pairs:
        console.print(f"{name:<10}  {text}")


class FitProgress:
    """A callback that shows a fit: a bar on a terminal, a dozen plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.next_line = 1
        self.last: Event | None = None
        self.before = console.status("preparing the fit")

    def __enter__(self) -> Self:
        if self.console.is_terminal:  # a first iteration may be some seconds away
            self.before.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.before.stop()
        if self.bar is not None and self.task is not None:
            if kind is None:
                # A fit that converged early is complete, whatever max_iter was.
                done = self.bar.tasks[0].completed
                self.bar.update(self.task, total=done, completed=done)
            self.bar.stop()

    def __call__(self, event: Event) -> None:
        self.last = event
        if self.console.is_terminal:
            self._bar(event)
        elif event.step >= self.next_line or event.step == event.total:
            # 1, 2, 5, 10, 20, 50, ...: a log that stays short however long the fit is.
            self.next_line = _next_mark(event.step)
            self.console.print(f"{event.unit} {event.step}/{event.total}  {_figures(event)}")

    def _bar(self, event: Event) -> None:
        if self.bar is None:
            self.before.stop()  # a terminal shows one moving thing at a time
            self.bar = Progress(
                # All but the bar keep their width: it gives way on a terminal of 80 columns.
                TextColumn("{task.description} {task.completed}/{task.total}"),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
                TextColumn("left"),
                console=self.console,
            )
            self.bar.start()
            self.task = self.bar.add_task(event.unit, total=event.total, figures="")
        assert self.task is not None
        self.bar.update(self.task, completed=event.step, figures=_short(event))


def _figures(event: Event) -> str:
    held = "" if event.val_accuracy is None else f"  validation accuracy {event.val_accuracy:.4f}"
    return f"objective {event.objective:.6g}{held}"


def _short(event: Event) -> str:
    held = "" if event.val_accuracy is None else f"  val. accuracy {event.val_accuracy:.3f}"
    return f"objective {event.objective:.4g}{held}"


def _next_mark(step: int) -> int:
    mark = 1
    while True:
        for factor in (1, 2, 5):
            if factor * mark > step:
                return factor * mark
        mark *= 10
