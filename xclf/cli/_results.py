"""Measures of a model on test rows: accuracy, per-class table, confused classes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from xclf._version import __version__
from xclf.cli._console import shown
from xclf.cli._devices import ChosenDevice
from xclf.report.metrics import TOP_K, Evaluation, metric_name, ordered_metrics
from xclf.report.run import command_line, fingerprint

# More classes than the first number are cut to the best and the worst, and confused pairs to five.
_CLASSES, _BEST, _WORST, _PAIRS = 25, 5, 10, 5
# The accuracy is the last line; by its other name, the mean per class is the balanced accuracy.
_PRINTED_ELSEWHERE = {"accuracy", "mean_per_class"}
# Rows predicted at once: the data may be a memory map that is larger than memory.
_ROWS = 1 << 14


def evaluate_rows(
    model: Any,
    device: ChosenDevice,
    x: np.ndarray,
    y: np.ndarray,
    names: list[str],
    top_k: int = TOP_K,
) -> dict[str, Any]:
    """Sections `metrics`, `confusion`, `per_class`, `calibration` of a model on labelled rows.

    names : of the model's classes, which hold every label of `y`
    """
    probabilistic = hasattr(model, "predict_proba")
    score = model.predict_proba if probabilistic else model.decision_function
    labels = np.searchsorted(model.classes_, y)
    kept: dict[str, Any] = {"probabilistic": probabilistic, "top_k": top_k}
    evaluated = Evaluation(names, rows=x.shape[0], **kept)
    for start in range(0, x.shape[0], _ROWS):
        part = slice(start, start + _ROWS)
        evaluated.add(labels[part], score(device.put(x[part])))
    return evaluated.results()


def measures(evaluated: dict[str, Any]) -> dict[str, Any]:
    """What --json prints of an evaluation: metrics, figures of each class, the confusion matrix as
    [true, predicted, rows] of every pair that occurs, by their places in `classes`, and the most
    confused pairs."""
    row = {key: value for key, value in evaluated["metrics"].items() if key != "data"}
    classes, counts = evaluated["per_class"], evaluated["confusion"]["counts"]
    errors = sorted((pair for pair in counts if pair[0] != pair[1]), key=lambda pair: -pair[2])
    return {
        **row,
        "rows": sum(entry["rows"] for entry in classes),
        "classes": classes,
        "confusion": counts,
        "confused": [
            {"true": classes[i]["class"], "predicted": classes[j]["class"], "rows": rows}
            for i, j, rows in errors[:_PAIRS]
        ],
    }


def command_facts(kind: str, data: str, labels: Any) -> dict[str, Any]:
    """What every --json begins with: the command, its kind, the version, when, and digests of the
    data and of the labels that were measured on, by which `compare` knows equal rows."""
    return {
        "kind": kind,
        "xclf": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "fingerprint": data,
        "labels": None if labels is None else fingerprint(labels),
    }


def print_measures(console: Console, result: dict[str, Any], *, full: bool = False) -> None:
    """Print the per-class table, the most confused pairs, and the metrics but accuracy.

    full : every class, also where they are many; else the best and the worst of them by F1
    """
    _print_classes(console, result["classes"], full=full)
    if result["confused"]:
        pairs = ", ".join(
            f"{shown(pair['true'])} taken for {shown(pair['predicted'])} ({pair['rows']})"
            for pair in result["confused"]
        )
        console.print(f"most confused: {pairs}")
    names = [name for name in ordered_metrics(result) if name not in _PRINTED_ELSEWHERE]
    width = max((len(metric_name(name)) for name in names), default=0)
    for name in names:
        console.print(f"{metric_name(name):<{width}}  {result[name]:.4f}")


def _print_classes(console: Console, classes: list[dict[str, Any]], *, full: bool) -> None:
    table = Table("class", title="per class", title_justify="left")
    for name in ("precision", "recall", "f1", "rows"):
        table.add_column(name, justify="right")
    if full or len(classes) <= _CLASSES:
        for entry in classes:
            _add_class(table, entry)
        console.print(table)
        return
    ranked = sorted((e for e in classes if e["rows"]), key=lambda entry: -entry["f1"])
    table.title = f"the {_BEST} best and the {_WORST} worst of {len(ranked)} classes, by F1"
    for entry in ranked[:_BEST]:
        _add_class(table, entry)
    table.add_section()
    for entry in ranked[-_WORST:]:
        _add_class(table, entry)
    console.print(table)
    low, middle, high = np.percentile([e["f1"] for e in ranked[_BEST:-_WORST]], (25, 50, 75))
    console.print(
        f"F1 of the other {len(ranked) - _BEST - _WORST}: median {middle:.3f}, half of them from "
        f"{low:.3f} to {high:.3f}; --full shows all"
    )


def _add_class(table: Table, entry: dict[str, Any]) -> None:
    figures = (f"{entry[key]:.3f}" for key in ("precision", "recall", "f1"))
    table.add_row(shown(entry["class"]), *figures, str(entry["rows"]))
