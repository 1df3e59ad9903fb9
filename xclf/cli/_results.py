"""Measures of a model on test rows: accuracy, per-class table, confused classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from xclf import _array_api
from xclf.cli._console import shown
from xclf.cli._devices import ChosenDevice

# Classes shown in a table, and confused pairs in a list.
_CLASSES, _PAIRS = 50, 5
# Rows predicted at once: the data may be a memory map that is larger than memory.
_ROWS = 1 << 14


def predict_rows(model: Any, device: ChosenDevice, x: np.ndarray) -> np.ndarray:
    """Predicted labels on the host, chunk by chunk."""
    parts = [
        _array_api.to_host(model.predict(device.put(x[start : start + _ROWS])))
        for start in range(0, len(x), _ROWS)
    ]
    return np.concatenate(parts)


def measure(
    truth: np.ndarray, predicted: np.ndarray, classes: np.ndarray, names: list[str]
) -> dict[str, Any]:
    """Accuracy, and per class precision, recall, F1 and rows; the most confused pairs."""
    labels = classes.tolist()
    parts = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0.0)
    precision, recall, f1, support = (np.asarray(part).tolist() for part in parts)
    confusion = confusion_matrix(truth, predicted, labels=labels)
    np.fill_diagonal(confusion, 0)
    order = np.argsort(-confusion, axis=None, kind="stable")[:_PAIRS]
    pairs = [np.unravel_index(entry, confusion.shape) for entry in order]
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "rows": len(truth),
        "classes": [
            {"class": name, "precision": p, "recall": r, "f1": f, "rows": int(n)}
            for name, p, r, f, n in zip(names, precision, recall, f1, support, strict=True)
        ],
        "confused": [
            {"true": names[i], "predicted": names[j], "rows": int(confusion[i, j])}
            for i, j in pairs
            if confusion[i, j]
        ],
    }


def print_measures(console: Console, result: dict[str, Any]) -> None:
    """Print the per-class table and the most confused pairs."""
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


def class_labels(classes: np.ndarray, class_names: tuple[str, ...] | None) -> list[str]:
    """Labels as text: names of the data where they are positions among its names."""
    labels = classes.tolist()
    if class_names is None or classes.dtype.kind not in "iu":
        return [str(label) for label in labels]
    known = range(len(class_names))
    return [class_names[label] if label in known else str(label) for label in labels]
