"""Shares of right predictions of many models on the same rows, a few products for all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xclf.estimators import BaseClassifier, stacked_best, stacked_scores
from xclf.probes._block_measure import hits_beside, scores_beside
from xclf.probes._block_part import BlockPart
from xclf.probes._part import Part
from xclf.report.metrics import average_precision

#: Bytes of scores that are on the host at a time.
BUDGET = 256 << 20


def mean_accuracy(hits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Right rows over all rows;  hits (..., C), rows (C,)"""
    return np.asarray(hits.sum(axis=-1) / rows.sum())


def mean_per_class(hits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The mean over the classes that have rows of each one's share of right rows."""
    there = rows > 0
    return np.asarray((hits[..., there] / rows[there]).mean(axis=-1))


#: What candidates are judged by, by name; "average_precision" needs scores, others right rows.
METRICS = {
    "accuracy": mean_accuracy,
    "mean_per_class": mean_per_class,
    "average_precision": None,
}


def scores_on(models: Sequence[BaseClassifier], part: Part, metric: str) -> np.ndarray:
    """(K,) the metric of each model on the rows of a part; of models of several tasks, the mean
    over the tasks.

    models : of the same classes, widths and dtype
    """
    if part.tasks is not None:
        own = [
            scores_on([model.estimators_[t] for model in models], part.task(t), metric)
            for t in range(len(part.tasks))
        ]
        return np.asarray(np.mean(own, axis=0))
    share = METRICS[metric]
    if share is None:
        return np.asarray([_mean_average_precision(model, part) for model in models])
    if isinstance(part, BlockPart):
        return share(*hits_beside(models, part, BUDGET))
    classes = models[0].classes_
    truth = np.searchsorted(classes, part.y)
    hits = np.zeros((len(models), len(classes)), dtype=np.int64)
    together = max(1, min(len(models), BUDGET // (8 * 64 * len(classes))))
    for first in range(0, len(models), together):
        some = models[first : first + together]
        size = max(1, BUDGET // (8 * len(some) * len(classes)))
        for start, best in stacked_best(some, part.X, size):
            own_rows = truth[start : start + len(best)]
            for k, column in enumerate(best.T):
                right = own_rows[column == own_rows]
                hits[first + k] += np.bincount(right, minlength=len(classes))
    return share(hits, np.bincount(truth, minlength=len(classes)))


def _mean_average_precision(model: BaseClassifier, part: Part) -> float:
    """The mean over classes that have rows; of two classes that of the second."""
    if isinstance(part, BlockPart):
        truth, scores = scores_beside(model, part)
    else:
        scores = stacked_scores([model], part.X)[:, 0, :]
        truth = np.searchsorted(model.classes_, part.y)
    precision = average_precision(truth, scores - scores.mean(axis=1, keepdims=True))
    if len(model.classes_) == 2:
        return float(np.nan_to_num(precision[1]))
    return float(np.nanmean(precision))
