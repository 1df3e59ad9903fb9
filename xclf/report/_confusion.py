"""The confusion matrix: a heat map of few classes, and the most confused pairs of any number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xclf.report._metric import short
from xclf.report._view import Cell, Figure, Table
from xclf.report.number_text import number, percent

#: The most classes that a heat map shows; text in its cells up to the second number.
MOST_CLASSES, _MOST_NUMBERS = 30, 12
_PAIRS_BESIDE, _PAIRS_ALONE = 10, 50

# Units of the picture, the widest names beside it, and those that need not be turned above it.
_SIDE, _MOST_LABELS, _UPRIGHT = 400.0, 88.0, 2


@dataclass(frozen=True)
class HeatCell:
    """A square: its position, how dark it is (0 to 1), and what it says."""

    x: float
    y: float
    right: bool
    opacity: float
    text: str
    number: str


@dataclass(frozen=True)
class HeatMap:
    """The squares of a confusion matrix, and the names along its sides."""

    label: str
    side: float
    size: float
    start: float
    font: float
    turned: bool
    cells: Sequence[HeatCell]
    names: Sequence[tuple[float, str]]


def confusion_figure(results: dict[str, Any]) -> Figure | None:
    """The heat map, for up to 30 classes; its table holds the counts."""
    counts, names = _counts(results)
    if not counts or len(names) > MOST_CLASSES:
        return None
    rows = [sum(n for (i, _), n in counts.items() if i == k) for k in range(len(names))]
    shares = {(i, j): n / rows[i] for (i, j), n in counts.items()}
    worst = max((share for (i, j), share in shares.items() if i != j), default=0.0)
    shown = [short(name, 13) for name in names]
    longest = max(map(len, shown))
    start = min(_MOST_LABELS, 12.0 + 7.0 * longest)
    size = (_SIDE - start) / len(names)
    cells = [
        HeatCell(
            round(start + j * size, 2),
            round(start + i * size, 2),
            i == j,
            # The square root: errors are few, and one in a hundred should be seen.
            round(share if i == j else math.sqrt(share / worst), 3),
            f"{names[i]} predicted as {names[j]}: {number(counts[i, j])} of {number(rows[i])} "
            f"({percent(share, 1)})",
            number(counts[i, j]) if len(names) <= _MOST_NUMBERS else "",
        )
        for (i, j), share in shares.items()
    ]
    font = min(11.0, 0.8 * size)
    picture = HeatMap(
        f"Heat map of the confusion matrix of {len(names)} classes. "
        f"{number(sum(n for (i, j), n in counts.items() if i == j))} of {number(sum(rows))} rows "
        "lie on the diagonal; its numbers are in the table below.",
        _SIDE,
        round(size, 2),
        start,
        round(font, 1),
        longest > _UPRIGHT,
        cells,
        [(round(start + (k + 0.5) * size, 2), name) for k, name in enumerate(shown)],
    )
    table = Table.of_numbers(
        "Rows of each true class (down) by predicted class (across)",
        ["true class", *names],
        [
            [name, *(counts.get((i, j), 0) for j in range(len(names)))]
            for i, name in enumerate(names)
        ],
    )
    note = "Down: true class; across: predicted. Blue: share of the class that is right."
    if worst:
        note += f" Orange: errors, the darkest {percent(worst, 1)} of a class."
    return Figure("confusion", "Confusion matrix", "heat", picture, table, note=note)


def confused_pairs(results: dict[str, Any]) -> Table | None:
    """The pairs of classes with the most errors."""
    counts, names = _counts(results)
    errors = sorted(
        ((n, i, j) for (i, j), n in counts.items() if i != j), key=lambda e: (-e[0], e[1], e[2])
    )
    if not errors:
        return None
    rows = dict.fromkeys(range(len(names)), 0)
    for (i, _), n in counts.items():
        rows[i] += n
    most = _PAIRS_BESIDE if len(names) <= MOST_CLASSES else _PAIRS_ALONE
    shown = [
        [
            Cell(names[i]),
            Cell(names[j]),
            Cell(number(n), n),
            Cell(percent(n / rows[i], 1), n / rows[i], bar=n / rows[i]),
        ]
        for n, i, j in errors[:most]
    ]
    total = sum(n for n, _, _ in errors)
    covered = sum(n for n, _, _ in errors[:most])
    note = (
        f"{len(shown)} of {number(len(errors))} pairs: {number(covered)} of {number(total)} errors."
    )
    return Table(
        "Most confused classes",
        ["true class", "predicted", "rows", "of the class"],
        shown,
        frozenset({2, 3}),
        sortable=True,
        note=note if len(errors) > most else "",
    )


def _counts(results: dict[str, Any]) -> tuple[dict[tuple[int, int], int], list[str]]:
    """Rows by (true, predicted) class, and the names of all classes."""
    entries = (results.get("confusion") or {}).get("counts") or ()
    counts = {(int(i), int(j)): int(n) for i, j, n in entries if n}
    names = [str(name) for name in results.get("class_names") or ()]
    needed = 1 + max((max(pair) for pair in counts), default=-1)
    return counts, names + [str(k) for k in range(len(names), needed)]
