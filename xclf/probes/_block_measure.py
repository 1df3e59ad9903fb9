"""What models make of rows in blocks: measured where the rows are.

Functions travel to the groups, with the models' arrays; counts come back, and the columns of
predictions piece by piece.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from xclf._array_api import Array
from xclf.estimators import BaseClassifier, stacked_guess, stacked_values
from xclf.kernels import log_softmax
from xclf.probes._block_part import BlockPart
from xclf.report.metrics import Evaluation
from xclf.rows import BlockColumn, Judged, count_guesses, map_pieces

_TOP = 5  # labels of a row, best first


def is_probabilistic(model: BaseClassifier) -> bool:
    """Whether the model has probabilities; else its values are scores."""
    return hasattr(model, "predict_proba")


def values_of(scores: np.ndarray, probabilistic: bool) -> np.ndarray:
    """Probabilities of scores (n, C), or the scores themselves."""
    return np.exp(log_softmax(scores, axis=-1)) if probabilistic else scores


def labelled_best(
    classes: np.ndarray,
    probabilistic: bool,
    labels: np.ndarray,
    values: np.ndarray,
    task: str | None = None,
) -> dict[str, np.ndarray]:
    """Columns of some rows: their labels and the best ones by values (n, C), with these; of one of
    several tasks the best alone, under names with that of the task."""
    kind, end = "probability" if probabilistic else "score", "" if task is None else f"_{task}"
    best = np.argsort(-values, axis=1, kind="stable")[:, : _TOP if task is None else 1]
    ranked = np.take_along_axis(values, best, axis=1)
    table = {f"label{end}": labels, f"prediction{end}": classes[best[:, 0]]}
    table[f"{kind}{end}"] = ranked[:, 0]
    for rank in range(1, best.shape[1]):
        table[f"top{rank + 1}"] = classes[best[:, rank]]
        table[f"top{rank + 1}_{kind}"] = ranked[:, rank]
    return table


def _places(model: BaseClassifier, part: BlockPart) -> np.ndarray:
    """The place of each class of a part, of one column, among those of a model."""
    return np.asarray(np.searchsorted(model.classes_, part.y.tasks[0][0]))


def hits_beside(
    models: Sequence[BaseClassifier], part: BlockPart, budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """(right rows (K, C) of models of the same classes, all rows (C,)), by class."""
    classes, numbers = models[0].classes_, None if part.within is None else part.within.numbers
    # By the part's own classes, which are some of the models'.
    known = _places(models[0], part)
    number_of = np.full(len(classes), -1)
    number_of[known] = np.arange(len(known))
    index, folds = part.y.tasks[0][1], None if part.within is None else part.within.folds.column
    size = max(1, budget // (8 * 64 * len(classes)))
    hits = np.zeros((len(models), len(classes)), np.int64)
    for start in range(0, len(models), size):
        some = models[start : start + size]
        guess = partial(_numbered, stacked_guess(some, part.X), number_of)
        (own,) = count_guesses(
            [Judged(guess, len(some), numbers)],
            part.X,
            index,
            folds,
            classes=len(known),
            pairs=False,
        )
        hits[start : start + size, known] = own
    rows = np.zeros(len(classes), np.int64)
    rows[known] = part.class_counts(part.within)
    return hits, rows


def _numbered(guess: Any, number_of: np.ndarray, x: Array) -> np.ndarray:
    numbers: np.ndarray = number_of[guess(x)]
    return numbers


def scores_beside(model: BaseClassifier, part: BlockPart) -> tuple[np.ndarray, np.ndarray]:
    """(true classes (n,) by the model's numbers, scores (n, C)) of all rows, in this process."""
    call = partial(_scored, stacked_values([model], part.X), _places(model, part))
    found = [own for _, own in map_pieces(call, part.X, part.y.tasks[0][1], part.within)]
    truth, scores = zip(*found, strict=True)
    return np.concatenate(truth), np.concatenate(scores)


def _scored(
    values: Any, places: np.ndarray, x: Array, labels: np.ndarray, _: Any
) -> tuple[np.ndarray, np.ndarray]:
    return places[labels], values(x)[:, 0, :]


def evaluated_beside(model: BaseClassifier, part: BlockPart, empty: Evaluation) -> dict[str, Any]:
    """The sections of metrics of a model, those of an empty evaluation with all rows."""
    evaluation = copy.deepcopy(empty)
    values = stacked_values([model], part.X)
    call = partial(_evaluated, values, _places(model, part), is_probabilistic(model), empty)
    for _, own in map_pieces(call, part.X, part.y.tasks[0][1], part.within):
        evaluation.merge(own)
    return evaluation.results(part.name)


def _evaluated(
    values: Any,
    places: np.ndarray,
    probabilistic: bool,
    empty: Evaluation,
    x: Array,
    labels: np.ndarray,
    _: Any,
) -> Evaluation:
    own = copy.deepcopy(empty)
    own.add(places[labels], values_of(values(x)[:, 0, :], probabilistic))
    return own


def predicted_beside(model: Any, part: BlockPart) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(number of the first one, columns) of the rows of a part, some at a time."""
    models = [model] if part.tasks is None else model.estimators_
    index = [own for _, own in part.y.tasks]
    named = zip(models, part.y.tasks, part.tasks or (None,), strict=True)
    tasks = [
        (stacked_values([one], part.X), is_probabilistic(one), one.classes_, labels, name)
        for one, (labels, _), name in named
    ]
    column = index[0] if part.tasks is None else BlockColumn.joined(index)
    start = 0
    for _, table in map_pieces(partial(_predicted, tasks), part.X, column, part.within):
        yield start, table
        start += len(next(iter(table.values())))


def _predicted(tasks: list[Any], x: Array, index: np.ndarray, _: Any) -> dict[str, np.ndarray]:
    table: dict[str, np.ndarray] = {}
    for (values, probabilistic, classes, labels, name), own in zip(
        tasks, np.atleast_2d(index), strict=True
    ):
        scores = values_of(values(x)[:, 0, :], probabilistic)
        table |= labelled_best(classes, probabilistic, labels[own], scores, name)
    return table
