"""Values to sweep over, parsed from options, and the table of their scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from xclf.cli._console import UserError
from xclf.report.number_text import plain
from xclf.report.scores import varied

#: Parameters that an option of the same name sweeps over; whole numbers in `_WHOLE`.
SWEPT = ("reg", "learning_rate", "momentum", "margin", "hidden")
_WHOLE = ("hidden",)

# A table longer than the first number shows its best lines, as many as the second.
_MOST_LINES, _BEST_LINES = 60, 20


def parse_values(name: str, text: str) -> list[Any]:
    """Numbers from '1e-6:1e1:45' (log-spaced, both ends included) or '1e-3,1e-2', or one number.

    Raises `UserError` for anything else.
    """
    option = "--" + name.replace("_", "-")
    parts = text.split(":")
    try:
        if len(parts) == 3:
            low, high, count = float(parts[0]), float(parts[1]), int(parts[2])
            if not (0.0 < low < math.inf and 0.0 < high < math.inf and count >= 2):
                raise ValueError
            values = [float(f"{v:.6g}") for v in np.geomspace(low, high, count)]
        else:
            values = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"{option} must be LOW:HIGH:COUNT (log-spaced, LOW and HIGH above 0, COUNT 2 or more) "
            f"or numbers with commas between them, got {text!r}"
        ) from None
    if name in _WHOLE:
        rounded = [round(value) if math.isfinite(value) else 0 for value in values]
        if len(parts) < 3 and rounded != values:
            raise UserError(f"{option} must hold whole numbers, got {text!r}")
        values = [int(value) for value in rounded]
    return list(dict.fromkeys(values))


def describe_grid(grid: dict[str, list[Any]]) -> str:
    """A grid in one line: 'reg 0.001, 1; hidden 1 .. 5 (5 values)'."""
    parts = []
    for name, values in grid.items():
        if len(values) > 4:
            parts.append(
                f"{name} {plain(values[0], 6)} .. {plain(values[-1], 6)} ({len(values)} values)"
            )
        else:
            parts.append(f"{name} " + ", ".join(plain(value, 6) for value in values))
    return "; ".join(parts)


def print_scores(console: Console, results: dict[str, Any], score: str, folds: int) -> None:
    """Print the table of candidates and their scores, in the order of the grid."""
    names = varied(results) or list(results["params"][0])
    names = [name for name in results["params"][0] if name in names]
    mean, spread = results["mean_test_score"], results["std_test_score"]
    rank = results["rank_test_score"]
    candidates = range(len(mean))
    if len(mean) > _MOST_LINES:
        candidates = np.argsort(rank, kind="stable")[:_BEST_LINES].tolist()
    table = Table(title="candidates", title_justify="left")
    for name in (*names, score, *(("+-",) if folds > 1 else ()), "rank"):
        table.add_column(name, justify="right")
    for k in candidates:
        cells = [plain(results["params"][k][name], 6) for name in names]
        cells.append(f"{mean[k]:.4f}")
        if folds > 1:
            cells.append(f"{spread[k]:.4f}")
        table.add_row(*cells, str(rank[k]), style="bold" if rank[k] == 1 else None)
    console.print(table)
    if len(mean) > _MOST_LINES:
        console.print(f"the best {_BEST_LINES} of {len(mean)} candidates (--json has all)")
