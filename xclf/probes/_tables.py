"""A probe's results as tables, in text and HTML."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xclf.report.metrics import ordered_metrics
from xclf.report.number_text import count, plain, seconds, tally

_WIDTH = 100
_MOST_POINTS = 9  # of the search: the chosen one and its neighbours
_MOST_TASKS = 20

#: Metrics by their names in tables.
METRICS = {
    "accuracy": "top-1",
    "mean_per_class": "per class",
    "average_precision": "mean AP",
    "negative_log_likelihood": "NLL",
    "calibration_error": "ECE",
}


def as_text(results: Mapping[str, Any]) -> str:
    """The tables as plain text."""
    from rich.console import Console

    file = io.StringIO()
    print_tables(Console(file=file, width=_WIDTH, highlight=False), results)
    return file.getvalue().rstrip()


def as_html(results: Mapping[str, Any]) -> str:
    """The tables for a notebook."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=_WIDTH, highlight=False, record=True)
    print_tables(console, results)
    pre = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'
    return str(console.export_html(inline_styles=True, code_format=pre))


def print_tables(console: Any, results: Mapping[str, Any]) -> None:
    """Print the protocol, the metrics, the search, and the curves that there are."""
    protocol = results["protocol"]
    rows = ", rows of Euclidean norm 1" if protocol.get("normalize") else ""
    title = f"{results['title']}, protocol {protocol['name']}{rows}"
    console.print(title, markup=False, style="bold")
    metrics = [_metrics(results)] if results["metrics"] else []  # none without test rows, by folds
    for table in (*metrics, _search(results), *_curves(results)):
        console.print(table)
    console.print(_model(results), markup=False)


def _metrics(results: Mapping[str, Any]) -> Any:
    rows = results["metrics"]
    columns = _columns(rows)
    cells = [[row["data"], *(_number(row.get(name)) for name in columns)] for row in rows]
    return _table("metrics", ["rows", *map(_heading, columns)], cells)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that some row has."""
    there = {name for row in rows for name, value in row.items() if value is not None}
    return [name for name in ordered_metrics(there) if name in METRICS or name[:3] == "top"]


def _heading(name: str) -> str:
    return METRICS.get(name, f"top-{name[3:]}")


def _search(results: Mapping[str, Any]) -> Any:
    search = results["search"]
    points, chosen = search["points"], search["chosen"]
    best = "chosen" if results.get("tasks") is None else "best on average"
    first = max(0, min(chosen - _MOST_POINTS // 2, len(points) - _MOST_POINTS))
    shown = range(first, min(len(points), first + _MOST_POINTS))
    cells = [
        [
            plain(points[k]["value"]),
            _number(points[k]["score"]),
            *([] if points[k]["std"] is None else [_number(points[k]["std"])]),
            best if k == chosen else "" if points[k]["converged"] else "not converged",
        ]
        for k in shown
    ]
    spread = [] if points[chosen]["std"] is None else ["std"]
    title = f"{search['data']}: {len(shown)} of {count(len(points), 'value')}"
    return _table(
        title, [search["parameter"], search["metric"], *spread, ""], cells, chosen - first
    )


def _curves(results: Mapping[str, Any]) -> Iterator[Any]:
    if (few := results.get("few_shot")) is not None:
        cells = [
            [
                str(point["shots"]),
                _number(point["mean"]),
                _interval(point["low"], point["high"]),
                _chosen(point["chosen"]),
            ]
            for point in few["points"]
        ]
        title = f"{count(few['tries'], 'draw')} of k rows a class, {few['metric']} on {few['data']}"
        names = ["k", "mean", "95 % interval", results["search"]["parameter"]]
        yield _table(title, names, cells)
    if (tasks := results.get("tasks")) is not None:
        columns = _columns([task["metrics"] for task in tasks])
        cells = [
            [
                task["name"],
                plain(task["chosen"]),
                *(_number(task["metrics"].get(column)) for column in columns),
            ]
            for task in tasks[:_MOST_TASKS]
        ]
        title = f"{len(cells)} of {len(tasks)} tasks"
        names = ["task", results["search"]["parameter"], *map(_heading, columns)]
        yield _table(title, names, cells)
    if (layers := results.get("layers")) is not None:
        cells = [
            [
                point["name"],
                _number(point["score"]),
                _number(point.get("test")),
                plain(point["chosen"]),
            ]
            for point in layers["points"]
        ]
        judged = layers.get("data", "validation")
        names = ["features", f"{layers['metric']}, {judged}", "test", "chosen"]
        yield _table("feature sets", names, cells, layers["best"])


def _model(results: Mapping[str, Any]) -> str:
    model, search = results["model"], results["search"]
    if model["full_batch"]:
        ended = f"iterations, {'converged' if model['converged'] else 'not converged'}"
    else:
        ended = "epochs"
    spent = sum(entry["seconds"] for entry in results.get("times", []))
    value = search["points"][search["chosen"]]["value"]
    which = f", {search['parameter']} {plain(value)}" if results.get("tasks") is None else ""
    return f"{model['estimator']}{which}: {model['iterations']} {ended}; {seconds(spent)}"


def _table(title: str, names: list[str], cells: list[list[str]], bold: int | None = None) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for k, name in enumerate(names):
        table.add_column(Text(name), justify="right" if k else "left")
    for k, row in enumerate(cells):
        table.add_row(*(Text(_printable(c)) for c in row), style="bold" if k == bold else None)
    return table


def _printable(text: str) -> str:
    """Names of classes and files may hold terminal codes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None else f"{_number(low)} .. {_number(high)}"


def _chosen(values: Any) -> str:
    """A number, or the numbers of several tasks."""
    return tally([plain(value) for value in (values if isinstance(values, list) else [values])])
