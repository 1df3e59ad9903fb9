"""One SweepCV over a grid, timed, and the models that it trained."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from bench.common.measuring import Call
from xclf import SweepCV


def train_together(
    estimator: Any, grid: dict[str, list[float]], x: np.ndarray, y: np.ndarray, clock: Call
) -> tuple[float, list[Any], bool]:
    """Seconds of a search without refit on all rows, its models, and whether all converged; a few
    rows, which cost little, are scored."""
    models: list[Any] = []

    def keep(model: Any, *_: Any) -> float:
        models.append(model)
        return 0.0

    once = [(np.arange(len(x)), np.arange(min(100, len(x))))]
    search = SweepCV(estimator, grid, scoring=keep, refit=False, cv=once)
    took, converged = timed_fit(search, x, y, clock)
    return took, models, converged


def timed_fit(model: Any, x: np.ndarray, y: np.ndarray, clock: Call) -> tuple[float, bool]:
    """Seconds of a fit, and whether it converged."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        began = clock()
        model.fit(x, y)
        took = float(clock() - began)
    return took, not any(issubclass(one.category, ConvergenceWarning) for one in heard)
