"""The reliability diagram: accuracy against confidence, in bins, and how many rows are in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xclf.report._view import Cell, Figure, Table
from xclf.report.number_text import number, percent

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 380.0, 14.0, 214.0
_SHARES_TOP, _SHARES_BOTTOM = 226.0, 262.0


@dataclass(frozen=True)
class Bar:
    """A bin: its bar, the mean confidence in it, its share of the rows, and what it says."""

    x: float
    width: float
    y: float
    height: float
    confidence: tuple[float, float]
    rows_y: float
    rows_height: float
    text: str


@dataclass(frozen=True)
class Reliability:
    """The bars of a diagram, and its ticks."""

    label: str
    bars: Sequence[Bar]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    box: tuple[float, float, float, float] = (_LEFT, _RIGHT, _TOP, _BOTTOM)
    rows_base: float = _SHARES_BOTTOM


def reliability_figure(results: dict[str, Any]) -> Figure | None:
    """The diagram of `calibration`, with the expected calibration error of its bins."""
    bins = (results.get("calibration") or {}).get("bins") or ()
    filled = [b for b in bins if b.get("count")]
    if not filled:
        return None
    total, most = sum(b["count"] for b in filled), max(b["count"] for b in filled)
    error = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in filled) / total
    over = sum(b["count"] * (b["confidence"] - b["accuracy"]) for b in filled) / total
    side = "more" if over > 0 else "less"
    label = (
        f"Reliability diagram in {len(bins)} bins. The expected calibration error is "
        f"{percent(error)}; on average the confidence is {percent(abs(over))} {side} than "
        "the accuracy."
    )
    steps = [k / 5 for k in range(6)]
    picture = Reliability(
        label,
        [_bar(b, most) for b in filled],
        [(_across(v), percent(v, 0)) for v in steps],
        [(_up(v), percent(v, 0)) for v in steps],
    )
    rows = [
        [
            Cell(f"{percent(b['low'], 1)} to {percent(b['high'], 1)}", b["low"]),
            *(Cell(percent(b.get(key)), b.get(key)) for key in ("confidence", "accuracy")),
            Cell(number(b["count"]), b["count"]),
        ]
        for b in bins
    ]
    table = Table(
        "Bins of the reliability diagram",
        ["confidence in", "mean confidence", "accuracy", "rows"],
        rows,
        frozenset({1, 2, 3}),
    )
    note = (
        f"Bars: accuracy of the rows in each of {len(bins)} bins of confidence; lines across them: "
        "their mean confidence. On the dashed diagonal they agree. Below: the share of rows."
    )
    return Figure("reliability", "Reliability", "reliability", picture, table, note=note)


def _bar(entry: dict[str, Any], most: int) -> Bar:
    left, right = _across(entry["low"]), _across(entry["high"])
    top = _up(entry["accuracy"])
    height = round(max(1.0, (_SHARES_BOTTOM - _SHARES_TOP) * entry["count"] / most), 1)
    return Bar(
        round(left + 1.0, 1),
        round(right - left - 2.0, 1),
        top,
        round(_BOTTOM - top, 1),
        (_across(entry["confidence"]), _up(entry["confidence"])),
        round(_SHARES_BOTTOM - height, 1),
        height,
        f"confidence {percent(entry['confidence'])}, accuracy {percent(entry['accuracy'])}, "
        f"{number(entry['count'])} rows",
    )


def _across(share: float) -> float:
    return round(_LEFT + share * (_RIGHT - _LEFT), 1)


def _up(share: float) -> float:
    return round(_BOTTOM - share * (_BOTTOM - _TOP), 1)
