"""From the fits that a search records to heads that can be trained together."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xclf.estimators import (
    BaseClassifier,
    Head,
    PlacedRows,
    Targets,
    check_parameters,
    check_sample_weight,
    check_targets,
    check_x,
    make_heads,
    place_rows,
)
from xclf.sweep._fits import Fit, Fold, last_step


@dataclass(eq=False)
class SweepHead:
    """A head, the fit of the search that it is part of, and its share of that."""

    head: Head
    fit: Fit
    share: float = 1.0


@dataclass
class Context:
    """Rows that fits share: X as the estimators see it, or as a Pipeline's first steps return it.

    rows : X on the estimators' `device`;  checked : an estimator that X was checked with
    weights : by key, host float64 (N,): zero outside the fold, mean 1 over the rows with weight
    targets : the labels of each split's training rows
    """

    rows: PlacedRows
    checked: BaseClassifier
    weights: dict[Any, np.ndarray] = field(default_factory=dict)
    targets: dict[int, Targets] = field(default_factory=dict)

    @classmethod
    def of(cls, X: Any, like: BaseClassifier) -> Context:
        """X checked once for all fits; raises what `fit` raises."""
        options = {name: getattr(like, name) for name in ("device", "max_memory")}
        checked = type(like)().set_params(**options)
        X = check_x(checked, X, reset=True)
        check_parameters(type(like), options)
        return cls(place_rows(like, X), checked)

    def heads(
        self, fit: Fit, fold: Fold, train: np.ndarray, params: dict[str, Any]
    ) -> list[SweepHead]:
        """`fit` checked as the estimator's own `fit` checks, a head for every column of labels;
        raises what that raises.

        train : its rows in X;  params : of the estimator's `fit`, beside X and y
        """
        model = last_step(fit.template)
        check_parameters(type(model), model.get_params(deep=False))
        inspect.signature(model.fit).bind(None, None, **params)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.checked, name):
                setattr(model, name, getattr(self.checked, name))
        rows = np.empty((len(train), 0))  # labels and weights are on the host: their number counts
        if fit.split not in self.targets:
            self.targets[fit.split] = check_targets(model, rows, fold.y)
        fit.targets = self.targets[fit.split]
        given = check_sample_weight(rows, params.get("sample_weight"))
        heads = make_heads(model, self.rows, fit.targets, given)
        for head in heads:
            # Folds share the labels of all rows where they have the same classes.
            classes = head.classes.dtype.str, tuple(head.classes.tolist())
            head.train, head.label_key = train, (head.label_key, classes)
            balance = pickle.dumps(model.class_weight)
            head.weight_key = (fit.split, head.full_batch, balance, head.weight_key)
            if head.weight_key not in self.weights:
                every = int(self.rows.X.shape[0])
                spread = _over_all(head.weights, train, every, head.full_batch)
                self.weights[head.weight_key] = spread
            head.weights = self.weights[head.weight_key]
        return [SweepHead(head, fit, 1.0 / len(heads)) for head in heads]


def _over_all(weights: np.ndarray | None, train: np.ndarray, rows: int, add: bool) -> np.ndarray:
    """Weights of the training rows among all rows, divided by their mean as in a single fit.

    add : a row that the fold names twice weighs twice. Minibatches draw it twice instead.
    """
    own = np.ones(len(train)) if weights is None else weights
    out = np.zeros(rows)
    if add:
        np.add.at(out, train, own)
    else:
        out[train] = own
    return out
