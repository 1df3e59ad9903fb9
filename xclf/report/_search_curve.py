"""The curve of a search: the score against a penalty, the chosen one marked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from xclf.report._chart import STYLES, Axis, Mark, Series, line_chart
from xclf.report._metric import (
    Runs,
    metric_axis,
    metric_cell,
    metric_value,
    name_ticks,
    upper,
    with_points,
    within,
)
from xclf.report._view import Figure, Table
from xclf.report.metrics import metric_name
from xclf.report.number_text import is_number, number


def search_figure(runs: Runs) -> Figure | None:
    """The score against the parameter that was searched, the chosen value marked."""
    runs = with_points(runs, "search", "value", "score")
    if not runs:
        return None
    first = runs[0].results["search"]
    parameter, metric = first["parameter"].replace("_", " "), first["metric"]
    values = [p["value"] for _, run, _ in runs for p in run["search"]["points"]]
    numeric = all(is_number(value) for value in values)
    log = numeric and bool(first.get("log")) and min(values) > 0.0
    names = [] if numeric else list(dict.fromkeys(map(str, values)))
    series = []
    for name, run, style in runs:
        lines = _search_series(run["search"], name, names, parameter, metric)
        series += [replace(s, style=(style + k) % STYLES) for k, s in enumerate(lines)]
    mark = None
    if not runs[0].name and (chosen := _chosen(first)) is not None:
        at = names.index(str(chosen["value"])) if names else chosen["value"]
        mark = Mark(at, chosen["score"], _point_text(parameter, metric, chosen))
    chart = line_chart(
        _search_label(runs, parameter, metric, mark),
        series,
        Axis(parameter, log, ticks=name_ticks(names)),
        metric_axis(metric, [v for s in series for v in s.y if v is not None]),
        mark,
    )
    return Figure(
        "search",
        f"{upper(metric_name(metric))} against {parameter}",
        "line",
        chart,
        _search_table(runs, parameter, metric),
        legend=len(series) > 1 or bool(runs[0].name),
        note=_search_note(first, runs),
    )


def _is_mean(runs: Runs) -> bool:
    """Whether scores are means over tasks, each of which has chosen a value of its own."""
    return bool(runs[0].results["search"].get("spread") == "tasks")


def _chosen(search: dict[str, Any]) -> dict[str, Any] | None:
    chosen = search.get("chosen")
    return search["points"][chosen] if isinstance(chosen, int) else None


def _search_series(
    search: dict[str, Any], run: str, names: list[str], parameter: str, metric: str
) -> list[Series]:
    """A line for each combination of the other parameters, and the score on training rows.

    Of a run among others, its best combination.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for point in search["points"]:
        groups.setdefault(point.get("others") or "", []).append(point)
    if run:
        best = _chosen(search) or max(search["points"], key=lambda point: point["score"])
        groups = {best.get("others") or "": groups[best.get("others") or ""]}
    series = []
    for group, points in groups.items():
        if not names:
            points = sorted(points, key=lambda point: point["value"])
        x = [names.index(str(p["value"])) if names else p["value"] for p in points]
        y = [p["score"] for p in points]
        spread = [p.get("std") or 0.0 for p in points]
        banded = any(spread) and not run
        title = ", ".join(filter(None, (run, group))) or search.get("data") or "score"
        series.append(
            Series(
                title,
                x,
                y,
                [within(metric, a - b) for a, b in zip(y, spread, strict=True)] if banded else (),
                [within(metric, a + b) for a, b in zip(y, spread, strict=True)] if banded else (),
                hollow=frozenset(k for k, p in enumerate(points) if p.get("converged") is False),
                texts=[_point_text(parameter, metric, p) for p in points],
            )
        )
        if not run and len(groups) == 1 and any(is_number(p.get("train_score")) for p in points):
            series.append(Series("train", x, [p.get("train_score") for p in points], quiet=True))
    return series


def _point_text(parameter: str, metric: str, point: dict[str, Any]) -> str:
    return f"{parameter} = {number(point['value'])}: {metric_value(metric, point['score'])}"


def _search_label(runs: Runs, parameter: str, metric: str, mark: Mark | None) -> str:
    points = [p for _, run, _ in runs for p in run["search"]["points"]]
    scores = [p["score"] for p in points]
    label = (
        f"Line chart of {metric_name(metric)} against {parameter}: {len(points)} values, from "
        f"{metric_value(metric, min(scores))} to {metric_value(metric, max(scores))}."
    )
    best = "Best on average" if _is_mean(runs) else "Chosen"
    return label if mark is None else f"{label} {best}: {mark.text}."


def _search_note(search: dict[str, Any], runs: Runs) -> str:
    notes = []
    if not runs[0].name:
        if data := search.get("data"):
            notes.append(f"Scored on {data} rows.")
        if any(p.get("std") for p in search["points"]):
            over = search.get("spread") or "folds"
            notes.append(f"The band is one standard deviation over the {over}.")
    if any(p.get("converged") is False for _, run, _ in runs for p in run["search"]["points"]):
        notes.append("Hollow points did not converge.")
    return " ".join(notes)


def _search_table(runs: Runs, parameter: str, metric: str) -> Table:
    several = bool(runs[0].name)
    every = [p for _, run, _ in runs for p in run["search"]["points"]]
    others = any(p.get("others") for p in every)
    spread = any(p.get("std") for p in every)
    train = any(is_number(p.get("train_score")) for p in every)
    best = "best on average" if _is_mean(runs) else "chosen"
    columns = [
        *(["run"] if several else []),
        parameter,
        *(["others"] if others else []),
        metric_name(metric),
        *(["standard deviation"] if spread else []),
        *(["on training rows"] if train else []),
        "",
    ]
    rows: list[list[Any]] = []
    for name, run, _ in runs:
        chosen = _chosen(run["search"])
        for p in run["search"]["points"]:
            remark = best if p is chosen else ""
            if p.get("converged") is False:
                remark = f"{remark}, not converged" if remark else "not converged"
            rows.append(
                [
                    *([name] if several else []),
                    p["value"],
                    *([p.get("others") or ""] if others else []),
                    metric_cell(metric, p["score"]),
                    *([metric_cell(metric, p.get("std"))] if spread else []),
                    *([metric_cell(metric, p.get("train_score"))] if train else []),
                    remark,
                ]
            )
    return Table.of_numbers(f"{upper(metric_name(metric))} of each value", columns, rows)
