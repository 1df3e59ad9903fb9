"""The console of the shell, its errors, and the progress display of a fit."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from xclf.training import Event


class UserError(Exception):
    """Wrong input or usage: one line that says what is wrong and what to do; exit status 2."""


class CheckError(Exception):
    """A requested check failed; exit status 1."""


def shown(text: object) -> str:
    """Text with what is not printable as escapes: names in files may hold terminal codes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class _SafeConsole(Console):
    """A console that prints the lines of a text by `shown`."""

    def print(self, *objects: Any, **options: Any) -> None:
        lines = ("\n".join(map(shown, o.split("\n"))) if isinstance(o, str) else o for o in objects)
        super().print(*lines, **options)


#: How much a command prints: -1 with --quiet, 0, 1 with --verbose.
verbosity: ContextVar[int] = ContextVar("verbosity", default=0)


def out(*, json: bool = False) -> Console:
    """The console for results: standard output, and nothing of them with --quiet.

    With --json the object alone is the result: then they go nowhere, or, with --verbose, to
    standard error.
    """
    return _console(stderr=json, quiet=verbosity.get() < (1 if json else 0))


def log(*, json: bool = False) -> Console:
    """The console for progress: standard error; silent with --quiet, and with --json alone."""
    return _console(stderr=True, quiet=verbosity.get() < (1 if json else 0))


def warnings_log() -> Console:
    """The console for warnings and hints: standard error, unless --quiet."""
    return _console(stderr=True, quiet=verbosity.get() < 0)


def print_last(text: str, *, json: bool) -> None:
    """Print the line that a command comes to, with --quiet too; with --json as `out` does."""
    _console(stderr=json, quiet=json and verbosity.get() < 1).print(text, style="bold")


def _console(*, stderr: bool, quiet: bool) -> Console:
    """Names of files and classes are printed literally: [brackets] and :colons: have no meaning."""
    wrap = not (sys.stderr if stderr else sys.stdout).isatty()
    return _SafeConsole(
        stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False, soft_wrap=wrap
    )


def print_facts(console: Console, *pairs: tuple[str, str]) -> None:
    """Print a line for each name and its text, aligned."""
    for name, text in pairs:
        console.print(f"{name:<10}  {text}")


class FitProgress:
    """A callback that shows a fit: a bar on a terminal, a dozen plain lines elsewhere, with
    --verbose all."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
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
        if self.bar is not None:
            if kind is None:
                # A fit that converged early is complete, whatever max_iter was.
                task = self.bar.tasks[0]
                self.bar.update(task.id, total=task.completed)
            self.bar.stop()

    def __call__(self, event: Event) -> None:
        self.last = event
        if self.console.is_terminal:
            self._show_bar(event)
        elif event.step >= self.next_line or event.step == event.total or verbosity.get() > 0:
            # 1, 2, 5, 10, 20, 50, ...: a log that stays short however long the fit is.
            self.next_line = next_mark(event.step)
            self.console.print(f"{event.unit} {event.step}/{event.total}  {_figures(event)}")

    def _show_bar(self, event: Event) -> None:
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
            self.bar.add_task(event.unit, total=event.total, figures="")
        figures = _figures(event, digits=4, validation="val.")
        self.bar.update(self.bar.tasks[0].id, completed=event.step, figures=figures)


def _figures(event: Event, digits: int = 6, validation: str = "validation") -> str:
    text = f"objective {event.objective:.{digits}g}"
    if event.val_accuracy is None:
        return text
    return f"{text}  {validation} accuracy {event.val_accuracy:.{3 if digits == 4 else 4}f}"


def next_mark(step: int) -> int:
    """The next number after `step` of 1, 2, 5, 10, 20, 50, ..."""
    power = int(10 ** (len(str(step)) - 1))
    return next(factor * power for factor in (2, 5, 10) if factor * power > step)
