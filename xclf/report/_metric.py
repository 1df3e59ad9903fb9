"""Metrics for people: names, values, axes; runs that have a section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from xclf.report._chart import Axis
from xclf.report._view import Cell
from xclf.report.metrics import METRICS, metric_name
from xclf.report.number_text import is_number, minus, number, percent


class Run(NamedTuple):
    """Results in charts: of a single run, without a name, or of one of several.

    style : of its lines, the same in every chart
    """

    name: str
    results: dict[str, Any]
    style: int = 0


Runs: TypeAlias = Sequence[Run]

#: Metrics that are no shares.
NO_SHARES = {"negative_log_likelihood"}
# Beginnings of names of scikit-learn's scorers that are shares.
_SHARES = ("accuracy", "balanced_accuracy", "f1", "precision", "recall", "jaccard", "roc_auc")


def metric_value(name: str, value: Any, digits: int = 2) -> str:
    """A metric as text: shares in per cent, others as numbers."""
    if not is_number(value):
        return number(value)
    known = name in METRICS or name.startswith("top")
    if known and name not in NO_SHARES and 0.0 <= value <= 1.0:
        return percent(value, digits)
    return minus(f"{value:#.4g}") if known else number(float(value))


def within(name: str, value: float) -> float:
    """A bound of an interval of a metric: in [0, 1] for shares, such as accuracies."""
    share = name in METRICS or name.startswith(("top", *_SHARES))
    return min(max(value, 0.0), 1.0) if share and name not in NO_SHARES else value


def metric_cell(name: str, value: Any) -> Cell:
    """A metric in a table."""
    return Cell(metric_value(name, value), float(value) if is_number(value) else None)


def metric_axis(name: str, values: Sequence[float]) -> Axis:
    """The axis of a metric: of shares in per cent."""
    known = name in METRICS or name.startswith("top")
    shares = known and name not in NO_SHARES and all(0.0 <= value <= 1.0 for value in values)
    return Axis(metric_name(name), percent=shares)


def name_ticks(names: Sequence[str]) -> list[tuple[float, str]]:
    """Ticks at 0, 1, ... for names, cut to a dozen characters."""
    return [(float(k), short(name, 12)) for k, name in enumerate(names)]


def short(text: str, most: int) -> str:
    """The text, or its beginning and its end with an ellipsis between them."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}\N{HORIZONTAL ELLIPSIS}{text[-end:]}"


def upper(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def with_points(runs: Runs, section: str, *keys: str) -> Runs:
    """Runs with points that have numbers in a section, of the first one's metric and parameter."""
    kept: list[Run] = []
    for name, run, style in runs:
        part = run.get(section) or {}
        points = [p for p in part.get("points") or () if is_number(p.get(keys[-1]))]
        subject = [part.get(key) for key in ("metric", "parameter")]
        others = [
            [run[section].get(key) for key in ("metric", "parameter")] for _, run, _ in kept[:1]
        ]
        if points and others in ([], [subject]):
            # `chosen` and `best` are positions among all points.
            moved = {
                key: points.index(part["points"][part[key]])
                for key in ("chosen", "best")
                if isinstance(part.get(key), int) and part["points"][part[key]] in points
            }
            rest = {key: value for key, value in part.items() if key not in ("chosen", "best")}
            kept.append(Run(name, {**run, section: {**rest, "points": points, **moved}}, style))
    return kept
