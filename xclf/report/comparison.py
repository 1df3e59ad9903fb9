"""Several results side by side: read from files, as rows of metrics, as one page."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from xclf.report._chart import STYLES
from xclf.report._curves import few_shot_figure, history_figures, layers_figure
from xclf.report._metric import Run, metric_cell
from xclf.report._search_curve import search_figure
from xclf.report._sections import distinct_keys, headline_row, metrics_table
from xclf.report._view import Cell, Section, Table
from xclf.report.number_text import memory, number, seconds
from xclf.report.page import check_results, render
from xclf.report.printed import runs_of

#: Results by their names.
Named: TypeAlias = Sequence[tuple[str, dict[str, Any]]]

_KNOWN = "results are what --report FILE.json writes, what --json prints, and the folder of a probe"

#: The file of results in a folder.
RESULTS = "results.json"


class ResultsError(ValueError):
    """A file that holds no results; the message is one line that names it."""


def read_runs(paths: Sequence[Path]) -> Named:
    """The runs in files of results, or in the `results.json` of folders, by name.

    Raises `ResultsError` if there are none, or none that this version reads.
    """
    return [
        run for path, name in zip(paths, run_names(paths), strict=True) for run in _read(path, name)
    ]


def _read(path: Path, name: str) -> Named:
    """The runs in one file: results, or what a command printed with --json; also several, a line
    for each. `-` is standard input."""
    file = path / RESULTS if path.is_dir() else path
    try:
        piped = str(path) == "-"
        text = sys.stdin.read() if piped else file.read_text(encoding="utf-8")
        runs = _parsed(text, "standard input" if piped else name)
        for _, results in runs:
            check_results(results)
    except FileNotFoundError:
        raise ResultsError(f"{file}: no such file") from None
    except OSError as error:
        raise ResultsError(f"{file}: cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ResultsError(f"{file}: not JSON, or cut short; {_KNOWN}") from None
    except ValueError as error:
        raise ResultsError(f"{file}: {error}; {_KNOWN}") from None
    except (LookupError, TypeError, AttributeError):  # objects that begin as ours do
        raise ResultsError(f"{file}: results with parts missing; {_KNOWN}") from None
    return runs


def _parsed(text: str, name: str) -> Named:
    """The runs in a text: one value of JSON, or one on each of several lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or not all(line.startswith(("{", "[{")) for line in lines):
        return runs_of(json.loads(text), name)
    return [
        run
        for number, line in enumerate(lines, start=1)
        for run in runs_of(json.loads(line), f"{name} {number}")
    ]


def run_names(paths: Sequence[Path]) -> list[str]:
    """A short name for each: of the folder or file, or the whole path where two are the same."""
    names = []
    for path in map(Path.absolute, paths):
        folder = path.parent if path.name == RESULTS else path
        names.append(folder.stem if folder.suffix == ".json" else folder.name)
    several = Counter(names)
    return [
        name if several[name] == 1 else str(path) for name, path in zip(names, paths, strict=True)
    ]


def compare(runs: Named, data: str | None = None) -> list[dict[str, Any]]:
    """A row for each run: its name and kind, and the metrics of one set of its rows.

    data : name of the rows; by default the test rows, or a run's last ones

    Raises `ResultsError` for a run that has no such metrics.
    """
    rows = []
    for name, results in runs:
        found = headline_row(results)
        if data is not None:
            found = next((r for r in results.get("metrics") or () if r.get("data") == data), None)
        if found is None:
            what = "metrics" if data is None else f"metrics of {data!r} rows"
            raise ResultsError(f"{name} has no {what}")
        rows.append(
            {
                "name": name,
                "kind": results.get("kind"),
                **found,
                "labels": _labels(results, found.get("data")),
                "seconds": _total(results),
                "peak_memory": results.get("peak_memory"),
            }
        )
    return rows


def on_other_rows(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether the runs of a comparison were measured on rows of different labels."""
    return len({row["labels"] for row in rows}) > 1


def comparison_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The metrics of each run, the best of each column in bold."""
    metrics = [{k: v for k, v in row.items() if k not in _OTHERS} for row in rows]
    table = metrics_table(
        "Metrics", "run", [(row["name"], m) for row, m in zip(rows, metrics, strict=True)]
    )
    keys = distinct_keys(metrics)
    lines = [list(line) for line in table.rows]
    for column, key in enumerate(keys, start=1):
        values = [v for line in lines if (v := line[column].value) is not None]
        best = min(values) if key in _SMALLER_IS_BETTER else max(values)
        for line, row in zip(lines, metrics, strict=True):
            cell = metric_cell(key, row.get(key))
            line[column] = Cell(cell.text, cell.value, strong=cell.value == best)
    return Table(table.caption, table.columns, lines, table.numeric, sortable=True, note=_NOTE)


def comparison_page(runs: Named, data: str | None = None) -> str:
    """The page of several results: metrics side by side, curves together, what was run.

    Returns HTML as `page` does, the same for the same results.
    """
    rows = compare(runs, data)
    text = "The runs were measured on different rows." if on_other_rows(rows) else ""
    commands = [(name, str(run["command"])) for name, run in runs if run.get("command")]
    curves = [Run(name, run, k % STYLES) for k, (name, run) in enumerate(runs)]
    figures = [search_figure(curves), few_shot_figure(curves), layers_figure(curves)]
    figures += history_figures(curves)
    every = [
        Section("metrics", "Metrics", text=text, tables=[comparison_table(rows)]),
        Section("curves", "Curves", figures=[figure for figure in figures if figure is not None]),
        Section("runs", "Runs", tables=[_runs_table(runs, rows)]),
        Section("commands", "Commands", commands=commands),
    ]
    return render(
        title=f"{len(runs)} runs side by side",
        kind="Comparison",
        created=max(str(results.get("created") or "") for _, results in runs),
        version=max(str(results.get("xclf") or "") for _, results in runs),
        where="",
        tiles=[],
        sections=[section for section in every if section.filled],
    )


_OTHERS = {"name", "kind", "data", "labels", "seconds", "peak_memory"}
_SMALLER_IS_BETTER = {"negative_log_likelihood", "calibration_error"}
_NOTE = "The best of each column is bold."


def _labels(results: dict[str, Any], name: Any) -> str | None:
    """The fingerprint of the labels of some rows: features differ from run to run."""
    entries = [d for d in results.get("data") or () if name in (d.get("role"), d.get("name"))]
    return entries[-1].get("labels") if entries else None


def _total(results: dict[str, Any]) -> float | None:
    times = [entry.get("seconds") or 0.0 for entry in results.get("times") or ()]
    return sum(times) if times else None


def _runs_table(runs: Named, rows: Sequence[dict[str, Any]]) -> Table:
    lines = []
    for (name, results), row in zip(runs, rows, strict=True):
        model, protocol = results.get("model") or {}, results.get("protocol") or {}
        lines.append(
            [
                Cell(name),
                Cell(str(results.get("kind") or "")),
                Cell(str(protocol.get("name") or "")),
                Cell(str(model.get("estimator") or "")),
                Cell(str(row.get("data") or "")),
                Cell(number(results.get("seed"))),
                Cell(seconds(row["seconds"]), row["seconds"]),
                Cell(memory(row["peak_memory"]), row["peak_memory"]),
                Cell(str(results.get("created") or "").replace("T", " ").replace("+00:00", " UTC")),
            ]
        )
    columns = [
        "run",
        "kind",
        "protocol",
        "model",
        "measured on",
        "seed",
        "time",
        "peak memory",
        "when",
    ]
    return Table("What was run", columns, lines, frozenset({6, 7}), sortable=True)
