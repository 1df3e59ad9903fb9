"""The sections of a page, from the results of a run."""

from __future__ import annotations

from typing import Any

from scipy.stats import binomtest

from xclf.report._confusion import confused_pairs, confusion_figure
from xclf.report._curves import few_shot_figure, history_figures, layers_figure
from xclf.report._metric import Run, metric_cell, metric_value, upper
from xclf.report._reliability import reliability_figure
from xclf.report._search_curve import search_figure
from xclf.report._view import Cell, Picture, Section, Table, Tile
from xclf.report.metrics import metric_name, ordered_metrics
from xclf.report.number_text import is_number, memory, number, percent, plain, seconds

_ROLES = {"train": "training", "validation": "validation", "test": "test"}


def headline(results: dict[str, Any]) -> tuple[str, list[Tile]]:
    """The rows that the headline numbers are of, and these; of the test rows, if there are any."""
    row = headline_row(results)
    if row is None:
        return "", []
    data = _rows_called(results, row.get("data"))
    tiles = []
    for name in distinct_keys([row]):
        detail = ""
        if data is not None and data.get("tasks"):  # no interval of a share of rows
            detail = f"mean of {data['tasks']} tasks"
        elif name == "accuracy" and data is not None and data.get("rows"):
            detail = _interval(row[name], data["rows"])
        tiles.append(Tile(metric_name(name), metric_value(name, row[name]), detail))
    where = f"On {row.get('data')}" + (f", {number(data['rows'])} rows" if data else "")
    return where, tiles


def headline_row(results: dict[str, Any]) -> dict[str, Any] | None:
    """The metrics of the test rows, or of the last ones."""
    rows = results.get("metrics") or []
    return next((r for r in rows if r.get("data") == "test"), rows[-1]) if rows else None


def sections(results: dict[str, Any]) -> list[Section]:
    """Every section that the results fill."""
    runs = [Run("", results)]
    curves = [search_figure(runs), few_shot_figure(runs), layers_figure(runs)]
    curves += history_figures(runs)
    errors = [confusion_figure(results), reliability_figure(results)]
    pairs, classes = confused_pairs(results), _per_class(results)
    every = [
        Section("metrics", "Metrics", tables=_metrics(results)),
        Section("curves", "Curves", figures=[figure for figure in curves if figure is not None]),
        Section(
            "errors",
            "Errors and confidence",
            figures=[figure for figure in errors if figure is not None],
            tables=[] if pairs is None else [pairs],
        ),
        Section("tasks", "Tasks", tables=_tasks(results)),
        Section("classes", "Classes", tables=[] if classes is None else [classes]),
        _weights(results),
        _run(results),
        Section("data", "Data", tables=_data(results)),
        Section("times", "Time and memory", tables=_times(results), facts=_memory(results)),
    ]
    return [section for section in every if section.filled]


def _rows_called(results: dict[str, Any], name: Any) -> dict[str, Any] | None:
    data = results.get("data") or []
    found = [d for d in data if name in (d.get("data"), d.get("name"), d.get("role"))]
    return found[0] if len(found) == 1 else None


def _interval(share: float, rows: int) -> str:
    """Wilson's interval of a share of rows."""
    interval = binomtest(round(share * rows), rows).proportion_ci(method="wilson")
    return f"95% interval {percent(interval.low)} to {percent(interval.high)}"


def _metric_keys(rows: list[dict[str, Any]]) -> list[str]:
    """The metrics that some row has, in the order of people's interest."""
    present = {key for row in rows for key, value in row.items() if is_number(value)} - {"rows"}
    known = ordered_metrics(present)
    return known + sorted(present - set(known))


def metrics_table(caption: str, first: str, rows: list[tuple[str, dict[str, Any]]]) -> Table:
    """A line of metrics for each name."""
    keys = distinct_keys([row for _, row in rows])
    cells = [[name, *(metric_cell(key, row.get(key)) for key in keys)] for name, row in rows]
    return Table.of_numbers(caption, [first, *map(metric_name, keys)], cells)


def _metrics(results: dict[str, Any]) -> list[Table]:
    """A column for each set of rows: on a phone a line of all metrics would not fit."""
    rows = results.get("metrics") or []
    if len(rows) < 2:
        return []
    lines = [
        [upper(metric_name(key)), *(metric_cell(key, row.get(key)) for row in rows)]
        for key in distinct_keys(rows)
    ]
    columns = ["metric", *(str(row.get("data")) for row in rows)]
    return [Table.of_numbers("Metrics of each set of rows", columns, lines)]


def distinct_keys(rows: list[dict[str, Any]]) -> list[str]:
    """The metrics of rows, without the second name of one number."""
    same = all(row.get("mean_per_class") == row.get("balanced_accuracy") for row in rows)
    return [key for key in _metric_keys(rows) if not (same and key == "mean_per_class")]


def _tasks(results: dict[str, Any]) -> list[Table]:
    tasks = results.get("tasks") or []
    if not tasks:
        return []
    keys = distinct_keys([task.get("metrics") or {} for task in tasks])
    rows = [
        [
            Cell(str(task.get("name"))),
            Cell(number(len(task.get("classes") or ())), len(task.get("classes") or ())),
            Cell(
                number(task.get("chosen")),
                task.get("chosen") if is_number(task.get("chosen")) else None,
            ),
            *(metric_cell(key, (task.get("metrics") or {}).get(key)) for key in keys),
        ]
        for task in tasks
    ]
    columns = ["task", "classes", "chosen", *map(metric_name, keys)]
    numeric = frozenset(range(1, len(columns)))
    return [Table("Tasks", columns, rows, numeric, sortable=True, search="tasks")]


def _per_class(results: dict[str, Any]) -> Table | None:
    entries = results.get("per_class") or []
    if not entries:
        return None
    keys = ["recall", "precision", "f1", "average_precision"]
    keys = [key for key in keys if any(is_number(entry.get(key)) for entry in entries)]
    names = {"f1": "F1", "average_precision": "average precision"}
    rows = [
        [
            Cell(str(entry.get("class"))),
            Cell(number(entry.get("rows")), entry.get("rows")),
            *(
                Cell(
                    percent(entry.get(key), 1),
                    entry.get(key),
                    bar=entry.get(key) if key == "recall" else None,
                )
                for key in keys
            ),
        ]
        for entry in entries
    ]
    columns = ["class", "rows", *(names.get(key, key) for key in keys)]
    return Table(
        "Figures of each class",
        columns,
        rows,
        frozenset(range(1, len(columns))),
        sortable=True,
        search="classes",
        note="Recall: share of the rows of a class that are predicted as it. "
        "Precision: share of the rows predicted as it that are.",
    )


def _weights(results: dict[str, Any]) -> Section:
    images = (results.get("templates") or {}).get("images") or []
    names = [str(name) for name in results.get("class_names") or ()]
    titles = (results.get("templates") or {}).get("names") or names[-len(images) :]
    titles = [*map(str, titles), *(str(k) for k in range(len(titles), len(images)))]
    pictures = [Picture(uri, name) for uri, name in zip(images, titles, strict=False)]
    text = "The weights of each class as an image, each scaled to its own range." if images else ""
    return Section("weights", "Weights", text=text, images=pictures)


def _run(results: dict[str, Any]) -> Section:
    model, protocol = results.get("model") or {}, results.get("protocol") or {}
    facts = []
    if model.get("estimator"):
        facts.append(("Model", str(model["estimator"])))
    parameters = {k: v for k, v in (model.get("parameters") or {}).items() if v is not None}
    if parameters:
        text = ", ".join(f"{name}={_plain(value)}" for name, value in parameters.items())
        facts.append(("Parameters", text))
    if model.get("iterations") is not None:
        facts.append(("Iterations", number(model["iterations"])))
    if model.get("converged") is not None:
        facts.append(("Converged", "yes" if model["converged"] else "no"))
    for key, name in (("objective", "Objective"), ("dual_gap", "Above the optimum by at most")):
        if is_number(model.get(key)):
            facts.append((name, number(model[key], 6 if key == "objective" else 2)))
    if protocol:
        facts.append(
            ("Protocol", ": ".join(filter(None, (protocol.get("name"), protocol.get("text")))))
        )
    if protocol.get("normalize"):
        facts.append(("Rows", "divided by their Euclidean norm"))
    if results.get("seed") is not None:
        facts.append(("Seed", str(results["seed"])))
    names = {"python": "Python", "numpy": "NumPy", "platform": "System", "processor": "Processor"}
    names |= {"backend": "Arrays", "device": "Device"}
    facts.append(("xclf", str(results.get("xclf", ""))))
    for key, value in (results.get("environment") or {}).items():
        facts.append((names.get(key, key), str(value)))
    source = str(protocol.get("source") or "")
    commands = [("this run", str(results["command"]))] if results.get("command") else []
    return Section("run", "Run", facts=[f for f in facts if f[1]], link=source, commands=commands)


def _plain(value: Any) -> str:
    """A parameter as it is written in code, numbers with six digits."""
    return plain(value, 6)


def _data(results: dict[str, Any]) -> list[Table]:
    entries = results.get("data") or []
    columns = ("role", "name", "rows", "features", "dtype", "classes", "tasks", "fingerprint")
    shown = [key for key in columns if any(entry.get(key) is not None for entry in entries)]
    rows = [
        [
            Cell(str(v), code=True) if key == "fingerprint" else _ROLES.get(v, v)
            for key in shown
            for v in [entry.get(key)]
        ]
        for entry in entries
    ]
    heads = ["rows for" if key == "role" else key for key in shown]
    return [Table.of_numbers("Rows that were read", heads, rows)] if rows else []


def _times(results: dict[str, Any]) -> list[Table]:
    times = results.get("times") or []
    if not times:
        return []
    total = sum(entry.get("seconds") or 0.0 for entry in times)
    rows = [
        [
            Cell(str(entry.get("stage"))),
            Cell(
                seconds(entry.get("seconds")),
                entry.get("seconds"),
                bar=(entry.get("seconds") or 0.0) / total if total else 0.0,
            ),
        ]
        for entry in times
    ]
    rows.append([Cell("total", strong=True), Cell(seconds(total), total, strong=True)])
    return [Table("Run times", ["stage", "time"], rows, frozenset({1}))]


def _memory(results: dict[str, Any]) -> list[tuple[str, str]]:
    peak = results.get("peak_memory")
    return [("Peak memory", memory(peak))] if is_number(peak) else []
