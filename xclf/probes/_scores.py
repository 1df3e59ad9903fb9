"""Shares of right predictions of many models on the same rows, a few products for all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xclf.estimators import BaseClassifier, stacked_scores
from xclf.probes._parts import Part

#: Bytes of scores that are on the host at a time.
BUDGET = 256 << 20


def mean_accuracy(hits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Right rows over all rows;  hits (..., C), rows (C,)"""
    return np.asarray(hits.sum(axis=-1) / rows.sum())


def mean_per_class(hits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The mean over the classes that have rows of each one's share of right rows."""
    there = rows > 0
    return np.asarray((hits[..., there] / rows[there]).mean(axis=-1))


#: What candidates are judged by, by name.
METRICS = {"accuracy": mean_accuracy, "mean_per_class": mean_per_class}


def scores_on(models: Sequence[BaseClassifier], part: Part, metric: str) -> np.ndarray:
    """(K,) the metric of each model on the rows of a part.

    models : of the same classes, widths and dtype
    """
    classes = models[0].classes_
    truth = np.searchsorted(classes, part.y)
    hits = np.zeros((len(models), len(classes)), dtype=np.int64)
    together = max(1, min(len(models), BUDGET // (8 * 64 * len(classes))))
    for first in range(0, len(models), together):
        some = models[first : first + together]
        size = max(1, BUDGET // (8 * len(some) * len(classes)))
        for start in range(0, len(part), size):
            end = min(start + size, len(part))
            best = stacked_scores(some, part.X[start:end, :]).argmax(axis=2)
            own = truth[start:end]
            for k, column in enumerate(best.T):
                right = own[column == own]
                hits[first + k] += np.bincount(right, minlength=len(classes))
    return METRICS[metric](hits, np.bincount(truth, minlength=len(classes)))
