"""Progress of a probe: its stages, with the time that each has left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from xclf.report.number_text import plain, seconds
from xclf.sweep import OnProgress
from xclf.training import Event

# Elsewhere than on a terminal a line is printed whenever such a share of a stage is done, but not
# more often than in so many seconds.
_SHARE, _SECONDS = 0.1, 2.0


class Stages:
    """The stages of a probe, their times, and their progress on a rich console; None for none."""

    def __init__(self, console: Any = None) -> None:
        self.console = console
        self.times: list[dict[str, Any]] = []

    @contextmanager
    def stage(self, name: str, fits: int) -> Iterator[OnProgress]:
        """A stage of so many fits; yields what `fit_together` calls. Its time is kept."""
        start = time.perf_counter()
        display = _display(self.console, name, fits)
        try:
            yield display.show
        finally:
            display.close()
            self.times.append({"stage": name, "seconds": time.perf_counter() - start})


class _NoDisplay:
    def show(self, done: float, event: Event | None) -> None:
        return None

    def close(self) -> None:
        return None


class _Lines(_NoDisplay):
    """Some plain lines."""

    def __init__(self, console: Any, name: str, fits: int) -> None:
        self.console, self.name, self.fits = console, name, fits
        self.start = self.last = time.perf_counter()
        self.shown = 0.0

    def show(self, done: float, event: Event | None) -> None:
        now = time.perf_counter()
        ended = event is None and done >= self.fits
        if not ended and (now - self.last < _SECONDS or done < self.shown + _SHARE * self.fits):
            return
        self.last, self.shown = now, done
        spent = now - self.start
        text = f"{self.name}  {int(done)}/{self.fits} fits  {seconds(spent)}"
        if 0.0 < done < self.fits:
            text += f"  about {seconds(spent * (self.fits / done - 1.0), whole=True)} left"
        self.console.print(text)


class _Bar(_NoDisplay):
    """A bar on a terminal."""

    def __init__(self, console: Any, name: str, fits: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.fits = fits
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
        )
        self.task = self.bar.add_task(name, total=fits, text=f"0/{fits} fits")
        self.bar.start()

    def show(self, done: float, event: Event | None) -> None:
        text = f"{int(done)}/{self.fits} fits"
        if event is not None:
            text += f"  {event.unit} {event.step}  objective {plain(event.objective)}"
        self.bar.update(self.task, completed=done, text=text)

    def close(self) -> None:
        self.bar.stop()


def _display(console: Any, name: str, fits: int) -> _NoDisplay:
    if console is None:
        return _NoDisplay()
    return (_Bar if console.is_terminal else _Lines)(console, name, fits)


def on_standard_error() -> Any:
    """A console on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False)
