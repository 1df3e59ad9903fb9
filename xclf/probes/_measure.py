"""What a probe's model predicts: the sections of metrics, and the columns of predictions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from xclf import _array_api
from xclf.estimators import BaseClassifier, stacked_scores
from xclf.probes._block_measure import (
    evaluated_beside,
    is_probabilistic,
    labelled_best,
    predicted_beside,
    values_of,
)
from xclf.probes._block_part import BlockPart
from xclf.probes._part import Part
from xclf.report.metrics import Evaluation
from xclf.rows import GATHERED

_ROWS = 1 << 14  # predicted at once


def measured(model: BaseClassifier, part: Part, names: list[str], top_k: int) -> dict[str, Any]:
    """The sections `metrics` (one row), `confusion`, `calibration`, `per_class` of `results.json`,
    those that the model has.

    names : of the model's classes
    """
    kept: dict[str, Any] = {"probabilistic": is_probabilistic(model), "top_k": top_k}
    if isinstance(part, BlockPart):
        return evaluated_beside(
            model, part, Evaluation(names, rows=len(part), most=GATHERED, **kept)
        )
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
        if isinstance(part, BlockPart):
            for start, table in predicted_beside(model, part):
                yield _row_columns(part, start, len(next(iter(table.values())))) | table
        elif part.tasks is not None:
            yield from _task_chunks(model, part)
        else:
            for start, values in _values(model, part):
                labels = part.y[start : start + len(values)]
                columns = _row_columns(part, start, len(values))
                yield columns | labelled_best(
                    model.classes_, is_probabilistic(model), labels, values
                )


def _task_chunks(model: BaseClassifier, part: Part) -> Iterator[dict[str, np.ndarray]]:
    """As `prediction_chunks`, with columns of each task: label_NAME, prediction_NAME, ..."""
    assert part.tasks is not None
    names, models = part.tasks, model.estimators_
    chunks = [_values(one, part.task(t)) for t, one in enumerate(models)]
    for columns in zip(*chunks, strict=True):
        start, rows = columns[0][0], len(columns[0][1])
        table = _row_columns(part, start, rows)
        for t, (name, (_, values)) in enumerate(zip(names, columns, strict=True)):
            labels, probable = part.y[start : start + rows, t], is_probabilistic(models[t])
            table |= labelled_best(models[t].classes_, probable, labels, values, name)
        yield table


def _row_columns(part: Part, start: int, rows: int) -> dict[str, np.ndarray]:
    return {"data": np.full(rows, part.name), "row": np.arange(start, start + rows)}


def _values(model: BaseClassifier, part: Part) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, probabilities or scores (n, C) on the host)."""
    for start in range(0, len(part), _ROWS):
        with _array_api.on_device(part.X):
            scores = stacked_scores([model], part.X[start : min(start + _ROWS, len(part)), :])[
                :, 0, :
            ]
        yield start, values_of(scores, is_probabilistic(model))
