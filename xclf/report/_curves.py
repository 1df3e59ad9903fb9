"""Curves of a page: accuracy against shots and layers; loss and accuracy in training.

Each takes the results of one run, or of several by their names, whose curves then share a chart.
"""

from __future__ import annotations

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
)
from xclf.report._view import Cell, Figure, Table
from xclf.report.metrics import metric_name
from xclf.report.number_text import common_ends, evenly, is_number, number, percent, tally

_TABLE_ROWS = 20


def few_shot_figure(runs: Runs) -> Figure | None:
    """The mean score and its 95 % interval against the rows of each class."""
    runs = with_points(runs, "few_shot", "shots", "mean")
    if not runs:
        return None
    several, metric = bool(runs[0].name), runs[0].results["few_shot"]["metric"]
    series, rows = [], []
    for name, run, style in runs:
        points = sorted(run["few_shot"]["points"], key=lambda point: point["shots"])
        series.append(_shots_series(points, metric, name, style))
        rows += [[*([name] if several else []), *_shots_row(p, metric)] for p in points]
    shots = sorted({x for s in series for x in s.x})
    means = [v for s in series for v in s.y if v is not None]
    label = (
        f"Line chart of {metric_name(metric)} against rows of each class, from "
        f"{metric_value(metric, means[0])} with {shots[0]} to "
        f"{metric_value(metric, means[-1])} with {shots[-1]}."
    )
    log = shots[0] > 0 and shots[-1] >= 4 * shots[0]
    x = Axis("rows of each class", log, ticks=[(value, number(value)) for value in shots])
    columns = ["rows of each class", "mean", "low", "high", "chosen"]
    tries = {run.results["few_shot"].get("tries") for run in runs}
    return Figure(
        "few-shot",
        f"Few-shot {metric_name(metric)}",
        "line",
        line_chart(label, series, x, metric_axis(metric, means)),
        Table.of_numbers("Few-shot results", ["run", *columns] if several else columns, rows),
        legend=several,
        note=_interval_note(tries),
    )


def _interval_note(tries: set[int | None]) -> str:
    """The remark about draws, if all runs have as many."""
    (known,) = tries if len(tries) == 1 else (None,)
    if known == 1:
        return "A single draw, which has no interval."
    return f"Mean of {known:,} draws and its 95% interval." if known else ""


def _shots_series(points: list[dict[str, Any]], metric: str, run: str, style: int) -> Series:
    """The line of a run; of a single one, `run` empty, with the score of every draw."""
    mean, low, high = ([p.get(key) for p in points] for key in ("mean", "low", "high"))
    tries = [(p["shots"], v) for p in points for v in p.get("scores") or () if is_number(v)]
    return Series(
        run or "mean",
        [point["shots"] for point in points],
        mean,
        low,
        high,
        bars=True,
        dots=[] if run else tries,
        texts=[f"{p['shots']} of each class: {metric_value(metric, p['mean'])}" for p in points],
        style=style,
    )


def _shots_row(point: dict[str, Any], metric: str) -> list[Any]:
    scores = [metric_cell(metric, point.get(key)) for key in ("mean", "low", "high")]
    chosen = point.get("chosen")
    listed = chosen if isinstance(chosen, list) else [chosen]
    return [point["shots"], *scores, tally([number(value) for value in listed])]


def layers_figure(runs: Runs) -> Figure | None:
    """The score of each feature set that it is chosen by, the best marked; of a single run also
    that on the test rows."""
    runs = with_points(runs, "layers", "name", "score")
    if not runs:
        return None
    several, metric = bool(runs[0].name), runs[0].results["layers"]["metric"]
    every = [p for _, run, _ in runs for p in run["layers"]["points"]]
    names = list(dict.fromkeys(p["name"] for p in every))
    tested = any(is_number(p.get("test")) for p in every)
    series, rows = [], []
    for name, run, style in runs:
        points = run["layers"]["points"]
        texts = [f"{p['name']}: {metric_value(metric, p['score'])}" for p in points]
        x = [float(names.index(p["name"])) for p in points]
        judged = name or run["layers"].get("data", "validation")
        series.append(Series(judged, x, [p["score"] for p in points], texts=texts, style=style))
        tests = [p.get("test") for p in points]
        if tested and not several:
            texts = [f"{p['name']}, test: {metric_value(metric, p.get('test'))}" for p in points]
            series.append(Series("test", x, tests, texts=texts, style=style + 1))
        for p, test in zip(points, tests, strict=True):
            row = [str(p["name"]), metric_cell(metric, p["score"])]
            row += [*([metric_cell(metric, test)] if tested else []), number(p.get("chosen"))]
            rows.append([name, *row] if several else row)
    mark, best = None, runs[0].results["layers"].get("best")
    if not several and isinstance(best, int) and is_number(series[0].y[best]):
        mark = Mark(series[0].x[best], series[0].y[best] or 0.0, series[0].texts[best])
    scores = [v for s in series for v in s.y if v is not None]
    label = f"Line chart of {metric_name(metric)} over {len(names)} feature sets, from "
    label += f"{metric_value(metric, min(scores))} to {metric_value(metric, max(scores))}."
    if mark is not None:
        label += f" The best is {mark.text}."
    judged = "" if several else f", {series[0].name}"
    columns = [
        "features",
        f"{metric_name(metric)}{judged}",
        *(["test"] if tested else []),
        "chosen",
    ]
    axis = Axis("features", ticks=name_ticks(common_ends(names)))
    return Figure(
        "layers",
        f"{upper(metric_name(metric))} over layers",
        "line",
        line_chart(label, series, axis, metric_axis(metric, scores), mark),
        Table.of_numbers("Feature sets", ["run", *columns] if several else columns, rows),
        legend=len(series) > 1,
    )


def history_figures(runs: Runs) -> list[Figure]:
    """The objective, and accuracies, against iterations."""
    runs = [run for run in runs if (run.results.get("history") or {}).get("iteration")]
    figures = []
    objective = _history_series(runs, {"objective": "objective"})
    if objective:
        values = [v for s in objective for v in s.y if v is not None]
        log = min(values) > 0.0 and max(values) > 20.0 * min(values)
        axis = Axis("objective", log)
        figures.append(_history_figure("loss", "Objective in training", objective, axis, runs))
    accuracy = _history_series(
        runs, {"validation_accuracy": "validation", "train_accuracy": "training"}
    )
    if accuracy:
        axis = Axis("accuracy", percent=True)
        figures.append(_history_figure("accuracy", "Accuracy in training", accuracy, axis, runs))
    return figures


def _history_series(runs: Runs, columns: dict[str, str]) -> list[Series]:
    """A line for each run and column that holds numbers."""
    series: list[Series] = []
    for name, run, run_style in runs:
        history = run["history"]
        for column, title in columns.items():
            values = [v if is_number(v) else None for v in history.get(column) or ()]
            if any(value is not None for value in values):
                label = (
                    name if name and len(columns) == 1 else ", ".join(filter(None, (name, title)))
                )
                style = run_style if name else len(series) % STYLES
                series.append(Series(label, history["iteration"], values, style=style))
    return series


def _history_figure(id: str, title: str, series: list[Series], y: Axis, runs: Runs) -> Figure:
    last = [next(v for v in reversed(s.y) if v is not None) for s in series]
    shown = percent if y.percent else number
    ends = "; ".join(f"{s.name} ends at {shown(v)}" for s, v in zip(series, last, strict=True))
    steps = evenly(len(series[0].x), _TABLE_ROWS)
    rows: list[list[Any]] = []
    if not runs[0].name:
        for k in steps:
            values = (s.y[k] if k < len(s.y) else None for s in series)
            rows.append([series[0].x[k], *(Cell(shown(v), v) for v in values)])
        columns = ["iteration", *(s.name for s in series)]
    else:
        columns = ["run", "iterations", "last"]
        rows = [[s.name, s.x[-1], Cell(shown(v), v)] for s, v in zip(series, last, strict=True)]
    return Figure(
        id,
        title,
        "line",
        line_chart(
            f"Line chart of {y.label} against iterations; {ends}.",
            series,
            Axis("iteration", whole=True),
            y,
        ),
        Table.of_numbers(title, columns, rows),
        legend=len(series) > 1 or bool(runs[0].name),
    )
