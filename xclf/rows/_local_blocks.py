"""Blocks that this process loads one group after the other, each time that it passes over them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from xclf.rows._blocks import Engine
from xclf.rows._mapped import bring_in
from xclf.rows._sum_tree import Sums, sum_of
from xclf.rows._threads import blas_width


@dataclass(frozen=True)
class Source:
    """A group that is not loaded.

    load : returns its blocks;  what : names its rows, for messages
    """

    load: Callable[[], list[Any]]
    what: str

    def blocks(self) -> list[Any]:
        """The blocks; RuntimeError that names their rows if they cannot be loaded."""
        try:
            return self.load()
        except Exception as error:
            raise RuntimeError(f"{self.what} cannot be loaded: {error}") from error


class LocalEngine(Engine):
    """Groups are loaded one after the other: while one is worked on the next is on its way.

    ahead : whether there is memory for that
    """

    def __init__(self, ahead: bool = True) -> None:
        self.ahead = ahead

    @property
    def workers(self) -> int:  # type: ignore[override]
        return blas_width()

    def describe(self) -> str:
        return "blocks loaded by this process"

    def collect(
        self,
        function: Any,
        shared: Any,
        per_group: Sequence[tuple[Any, ...]],
        ahead: int | None = None,
    ) -> Generator[Any]:
        if not any(isinstance(value, Source) for args in per_group for value in args):
            yield from (function(shared, *args) for args in per_group)
            return
        with ThreadPoolExecutor(1, "xclf-blocks") as pool:
            coming: Future[Any] | None = None
            for k, args in enumerate(per_group):
                loaded = _loaded(args) if coming is None else coming.result()
                coming = None
                if self.ahead and k + 1 < len(per_group):
                    coming = pool.submit(_loaded, per_group[k + 1])
                result = function(shared, *loaded)
                del loaded  # before the next but one is loaded
                yield result

    def derive(self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]) -> list[Any]:
        def source(args: tuple[Any, ...]) -> Source:
            return Source(lambda: function(shared, *_loaded(args)), "a group of rows of X")

        return [source(args) for args in per_group]

    def keep(
        self,
        function: Any,
        shared: Any,
        per_group: Sequence[tuple[Any, ...]],
        near: Sequence[Any] | None = None,
    ) -> list[Any]:
        return list(self.collect(function, shared, per_group))

    def sums(self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]) -> Sums:
        return sum_of(self.collect(function, shared, per_group), len(per_group))

    def sums_and_keep(
        self, function: Any, shared: Any, per_group: Sequence[tuple[Any, ...]]
    ) -> tuple[Sums, list[Any]]:
        kept: list[Any] = []

        def sums() -> Iterator[Sums]:
            for own, state in self.collect(function, shared, per_group):
                kept.append(state)
                yield own

        return sum_of(sums(), len(per_group)), kept


def _loaded(args: tuple[Any, ...]) -> tuple[Any, ...]:
    values = tuple(value.blocks() if isinstance(value, Source) else value for value in args)
    for value, own in zip(values, args, strict=True):
        if isinstance(own, Source):
            for block in value:
                bring_in(block)
    return values
