"""Measures of a model on test rows: accuracy, per-class table, confused classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from xclf.cli._console import shown
from xclf.cli._devices import ChosenDevice
from xclf.report.metrics import METRICS, Evaluation, metric_name

# Classes shown in a table, and confused pairs in a list.
_CLASSES, _PAIRS = 50, 5
# The accuracy is the last line; by its other name, the mean per class is the balanced accuracy.
_PRINTED_ELSEWHERE = {"accuracy", "mean_per_class"}
# Rows predicted at once: the data may be a memory map that is larger than memory.
_ROWS = 1 << 14


def evaluate_rows(
    model: Any, device: ChosenDevice, x: np.ndarray, y: np.ndarray, names: list[str]
) -> dict[str, Any]:
    """Sections `metrics`, `confusion`, `per_class`, `calibration` of a model on labelled rows.

    names : of the model's classes, which hold every label of `y`
    """
    probabilistic = hasattr(model, "predict_proba")
    score = model.predict_proba if probabilistic else model.decision_function
    labels = np.searchsorted(model.classes_, y)
    evaluated = Evaluation(names, probabilistic=probabilistic, rows=x.shape[0])
    for start in range(0, x.shape[0], _ROWS):
        part = slice(start, start + _ROWS)
        evaluated.add(labels[part], score(device.put(x[part])))
    return evaluated.results()


def measures(evaluated: dict[str, Any]) -> dict[str, Any]:
    """What --json prints of an evaluation: metrics, figures of each class, most confused pairs."""
    row = {key: value for key, value in evaluated["metrics"].items() if key != "data"}
    classes, counts = evaluated["per_class"], evaluated["confusion"]["counts"]
    errors = sorted((pair for pair in counts if pair[0] != pair[1]), key=lambda pair: -pair[2])
    return {
        **row,
        "rows": sum(entry["rows"] for entry in classes),
        "classes": classes,
        "confused": [
            {"true": classes[i]["class"], "predicted": classes[j]["class"], "rows": rows}
            for i, j, rows in errors[:_PAIRS]
        ],
    }


def print_measures(console: Console, result: dict[str, Any]) -> None:
    """Print the per-class table, the most confused pairs, and the metrics but accuracy."""
    table = Table("class", title="per class", title_justify="left")
    for name in ("precision", "recall", "f1", "rows"):
        table.add_column(name, justify="right")
    for entry in result["classes"][:_CLASSES]:
        figures = (f"{entry[key]:.3f}" for key in ("precision", "recall", "f1"))
        table.add_row(shown(entry["class"]), *figures, str(entry["rows"]))
    console.print(table)
    if len(result["classes"]) > _CLASSES:
        console.print(f"... and {len(result['classes']) - _CLASSES} more classes (--json has all)")
    if result["confused"]:
        pairs = ", ".join(
            f"{shown(pair['true'])} taken for {shown(pair['predicted'])} ({pair['rows']})"
            for pair in result["confused"]
        )
        console.print(f"most confused: {pairs}")
    names = [name for name in METRICS if name in result and name not in _PRINTED_ELSEWHERE]
    width = max((len(metric_name(name)) for name in names), default=0)
    for name in names:
        console.print(f"{metric_name(name):<{width}}  {result[name]:.4f}")


def class_labels(classes: np.ndarray, class_names: tuple[str, ...] | None) -> list[str]:
    """Labels as text: names of the data where they are positions among its names."""
    labels = classes.tolist()
    if class_names is None or classes.dtype.kind not in "iu":
        return [str(label) for label in labels]
    known = range(len(class_names))
    return [class_names[label] if label in known else str(label) for label in labels]
