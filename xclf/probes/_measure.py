"""What a probe's model predicts: the sections of metrics, and the columns of predictions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from xclf import _array_api
from xclf.estimators import BaseClassifier, stacked_scores
from xclf.kernels import log_softmax
from xclf.probes._parts import Part
from xclf.report.metrics import Evaluation

_ROWS = 1 << 14  # predicted at once
_TOP = 5  # labels of a row, best first


def is_probabilistic(model: BaseClassifier) -> bool:
    """Whether the model has probabilities; else its values are scores."""
    return hasattr(model, "predict_proba")


def measured(model: BaseClassifier, part: Part, names: list[str], top_k: int) -> dict[str, Any]:
    """The sections `metrics` (one row), `confusion`, `calibration`, `per_class` of `results.json`,
    those that the model has.

    names : of the model's classes
    """
    kept: dict[str, Any] = {"probabilistic": is_probabilistic(model), "top_k": top_k}
    evaluation = Evaluation(names, rows=len(part), **kept)
    for start, values in _values(model, part):
        truth = np.searchsorted(model.classes_, part.y[start : start + len(values)])
        evaluation.add(truth, values)
    return evaluation.results(part.name)


def prediction_chunks(model: BaseClassifier, parts: list[Part]) -> Iterator[dict[str, np.ndarray]]:
    """Columns of the rows of some parts, some rows at a time.

    data : name of the part;  row : number in it;  label, prediction : true and predicted
    probability, or score : of the prediction;  top2, top2_probability, ... : the next best
    """
    for part in parts:
        if part.tasks is not None:
            yield from _task_chunks(model, part)
            continue
        for start, values in _values(model, part):
            yield {
                **_row_columns(part, start, len(values)),
                "label": part.y[start : start + len(values)],
                **_best(model, values),
            }


def _task_chunks(model: BaseClassifier, part: Part) -> Iterator[dict[str, np.ndarray]]:
    """As `prediction_chunks`, with columns of each task: label_NAME, prediction_NAME, ..."""
    assert part.tasks is not None
    names, models = part.tasks, model.estimators_
    chunks = [_values(one, part.task(t)) for t, one in enumerate(models)]
    for columns in zip(*chunks, strict=True):
        start, rows = columns[0][0], len(columns[0][1])
        table = _row_columns(part, start, rows)
        for t, (name, (_, values)) in enumerate(zip(names, columns, strict=True)):
            table[f"label_{name}"] = part.y[start : start + rows, t]
            own = _best(models[t], values, most=1)
            table |= {f"{column}_{name}": entries for column, entries in own.items()}
        yield table


def _row_columns(part: Part, start: int, rows: int) -> dict[str, np.ndarray]:
    return {"data": np.full(rows, part.name), "row": np.arange(start, start + rows)}


def _best(model: BaseClassifier, values: np.ndarray, most: int = _TOP) -> dict[str, np.ndarray]:
    """The best labels of some rows, with their probabilities or scores (n, C)."""
    value = "probability" if is_probabilistic(model) else "score"
    best = np.argsort(-values, axis=1, kind="stable")[:, :most]
    sorted_values = np.take_along_axis(values, best, axis=1)
    table = {"prediction": model.classes_[best[:, 0]], value: sorted_values[:, 0]}
    for rank in range(1, best.shape[1]):
        table[f"top{rank + 1}"] = model.classes_[best[:, rank]]
        table[f"top{rank + 1}_{value}"] = sorted_values[:, rank]
    return table


def _values(model: BaseClassifier, part: Part) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, probabilities or scores (n, C) on the host)."""
    for start in range(0, len(part), _ROWS):
        with _array_api.on_device(part.X):
            scores = stacked_scores([model], part.X[start : min(start + _ROWS, len(part)), :])[
                :, 0, :
            ]
        yield start, np.exp(log_softmax(scores, axis=-1)) if is_probabilistic(model) else scores
