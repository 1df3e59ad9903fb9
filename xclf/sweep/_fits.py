"""The fits of a search, and the parts of their estimators and rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing

from xclf import _array_api
from xclf._sparse import SparseMatrix
from xclf.estimators import Targets
from xclf.rows import Blocks


@dataclass
class Fold:
    """One fold: host row numbers; the labels and the parameters of `fit` of its training rows.

    train : of rows in blocks, whose labels y are `Targets` beside them, a `Subset` or None for all
    """

    train: Any
    test: np.ndarray
    y: Any = None
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Fit:
    """One fit of the search: a candidate's parameters on a fold.

    split : number of the fold
    template : the estimator, or a Pipeline that ends in one, parameters set; once trained, fitted
    targets : the labels that it is fitted to
    error, trace : the exception of a fit that failed, and its traceback
    trained, ended : whether the model has parameters, and whether they are the final ones
    fit_seconds, score_seconds : its shares of the time for training and for predicting
    """

    split: int
    template: Any
    targets: Targets | None = None
    error: Exception | None = None
    trace: Any = None
    trained: bool = False
    ended: bool = False
    fit_seconds: float = 0.0
    score_seconds: float = 0.0

    @property
    def several_tasks(self) -> bool:
        """Whether the labels have several columns."""
        return self.targets is not None and self.targets.names is not None

    def fail(self, error: Exception) -> None:
        self.error, self.trace = error, error.__traceback__


def rows_of(X: Any, rows: np.ndarray) -> Any:
    """The rows of X that host integers name, in the kind of X; of X in blocks in order alone."""
    if isinstance(X, Blocks):
        return X.at(rows)
    if isinstance(X, SparseMatrix):
        return X.take(_array_api.from_host(rows, X))
    if _array_api.is_host(X):
        return _safe_indexing(X, rows)
    return _array_api.namespace(X).take(X, _array_api.from_host(rows, X), axis=0)


def last_step(template: Any) -> Any:
    """The estimator itself, or the last step of a Pipeline."""
    return template.steps[-1][1] if hasattr(template, "steps") else template


def first_steps(template: Any) -> list[Any]:
    """The steps of a Pipeline before the last one."""
    return list(template.steps[:-1]) if hasattr(template, "steps") else []


def transformed(template: Any, X: Any) -> Any:
    """X as the last step of a fitted Pipeline sees it."""
    return template[:-1].transform(X) if first_steps(template) else X
