"""What train and evaluate say of a model: accuracy, per-class table, confused classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

# Classes shown in a table, and confused pairs in a list.
_CLASSES, _PAIRS = 50, 5


def measure(
    truth: np.ndarray, guess: np.ndarray, classes: np.ndarray, names: list[str]
) -> dict[str, Any]:
    """Accuracy, and per class precision, recall, F1 and rows; the most confused pairs."""
    labels = classes.tolist()
    parts = precision_recall_fscore_support(truth, guess, labels=labels, zero_division=0.0)
    precision, recall, f1, support = (np.asarray(part).tolist() for part in parts)
    confusion = confusion_matrix(truth, guess, labels=labels)
    np.fill_diagonal(confusion, 0)
    order = np.argsort(-confusion, axis=None, kind="stable")[:_PAIRS]
    pairs = [np.unravel_index(place, confusion.shape) for place in order]
    return {
        "accuracy": float(accuracy_score(truth, guess)),
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


def show(console: Console, result: dict[str, Any]) -> None:
    """The per-class table and the most confused pairs."""
    table = Table("class", title="per class", title_justify="left")
    for name in ("precision", "recall", "f1", "rows"):
        table.add_column(name, justify="right")
    for entry in result["classes"][:_CLASSES]:
        figures = (f"{entry[key]:.3f}" for key in ("precision", "recall", "f1"))
        table.add_row(entry["class"], *figures, str(entry["rows"]))
    console.print(table)
    if len(result["classes"]) > _CLASSES:
        console.print(f"... and {len(result['classes']) - _CLASSES} more classes (--json has all)")
    if result["confused"]:
        pairs = ", ".join(
            f"{pair['true']} taken for {pair['predicted']} ({pair['rows']})"
            for pair in result["confused"]
        )
        console.print(f"most confused: {pairs}")


def class_labels(classes: np.ndarray, class_names: tuple[str, ...] | None) -> list[str]:
    """Names for people: those that the data ships where labels are their positions."""
    if class_names is None or classes.dtype.kind not in "iu":
        return [str(label) for label in classes.tolist()]
    return [
        class_names[label] if 0 <= label < len(class_names) else str(label)
        for label in classes.tolist()
    ]
