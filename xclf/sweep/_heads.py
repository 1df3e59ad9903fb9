"""From the fits that a search records to heads that can be trained together."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xclf.estimators import (
    BaseClassifier,
    Head,
    SharedRows,
    Targets,
    check_sample_weight,
    check_targets,
)
from xclf.sweep._block_search import RowsBeside
from xclf.sweep._fits import Fit, Fold, last_step


@dataclass(eq=False)
class SweepHead:
    """A head, the fit of the search that it is part of, and its share of that.

    trained, ended : whether it has parameters, and whether they are the final ones
    """

    head: Head
    fit: Fit
    share: float = 1.0
    trained: bool = False
    ended: bool = False


@dataclass
class Context:
    """Rows that fits share: X as the estimators see it, or as a Pipeline's first steps return it.

    targets : the labels of each split's training rows
    """

    rows: SharedRows
    targets: dict[int, Targets] = field(default_factory=dict)

    @classmethod
    def of(cls, X: Any, like: BaseClassifier) -> Context:
        """X checked once for all fits; raises what `fit` raises."""
        return cls(SharedRows.of(X, like))

    def heads(
        self, fit: Fit, fold: Fold, train: np.ndarray, params: dict[str, Any]
    ) -> list[SweepHead]:
        """`fit` checked as the estimator's own `fit` checks, a head for every column of labels;
        raises what that raises.

        train : its rows in X;  params : of the estimator's `fit`, beside X and y
        """
        model = last_step(fit.template)
        inspect.signature(model.fit).bind(None, None, **params)
        rows = np.empty((len(train), 0))  # labels and weights are on the host: their number counts
        if fit.split not in self.targets:
            self.targets[fit.split] = check_targets(model, rows, fold.y)
        fit.targets = self.targets[fit.split]
        given = check_sample_weight(rows, params.get("sample_weight"))
        heads = self.rows.heads(model, fit.targets, given, train, fit.split)
        return [SweepHead(head, fit, 1.0 / len(heads)) for head in heads]

    def heads_beside(self, fit: Fit, beside: RowsBeside) -> list[SweepHead]:
        """As `heads`, of labels, folds and weights that are beside the rows."""
        fit.targets = beside.targets_without(fit.split)
        own = (beside.folds.inside(fit.split), fit.split, beside.weights)
        heads = self.rows.heads_beside(fit.template, fit.targets, *own)
        return [SweepHead(head, fit, 1.0 / len(heads)) for head in heads]
