"""What a page shows, before it is HTML: sections of facts, figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xclf.report._chart import Chart
from xclf.report.number_text import is_number, number


@dataclass(frozen=True)
class Cell:
    """A cell of a table; columns are sorted by `value`, or by `text` if there is none.

    bar : a share that is drawn as a bar;  strong, code : set in bold, as code
    """

    text: str
    value: float | None = None
    bar: float | None = None
    strong: bool = False
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table; `numeric` columns are set to the right.

    sortable : by its heads;  search : what its rows are, if they can be searched for by name
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: frozenset[int] = frozenset()
    sortable: bool = False
    search: str = ""
    note: str = ""

    @classmethod
    def of_numbers(
        cls, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> Table:
        """A table of values, columns of numbers to the right."""
        cells = [
            [value if isinstance(value, Cell) else cell(value) for value in row] for row in rows
        ]
        numeric = frozenset(
            k for k in range(len(columns)) if any(row[k].value is not None for row in cells)
        )
        return cls(caption, columns, cells, numeric)


@dataclass(frozen=True)
class Figure:
    """A picture, its legend, a remark, and its numbers as a table.

    kind : the template's macro that draws `picture`: "line", "reliability" or "heat"
    """

    id: str
    title: str
    kind: str
    picture: Chart | Any
    table: Table
    legend: bool = False
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An image in a data URI, and its name."""

    uri: str
    name: str


@dataclass
class Section:
    """A part of the page under a heading; `commands` are (name, command) pairs."""

    id: str
    title: str
    text: str = ""
    link: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    images: list[Picture] = field(default_factory=list)

    @property
    def filled(self) -> bool:
        """Whether there is anything under the heading."""
        parts = (self.text, self.facts, self.commands, self.figures, self.tables, self.images)
        return any(parts)


@dataclass(frozen=True)
class Tile:
    """A headline number: its name, its value, and what it is of."""

    name: str
    value: str
    detail: str = ""


def cell(value: Any) -> Cell:
    """The cell of a number, or of text."""
    return Cell(number(value), float(value)) if is_number(value) else Cell(number(value))
