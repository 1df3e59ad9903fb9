"""From the fits that a search records to heads that can be trained together."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xclf.estimators import (
    BaseClassifier,
    Head,
    PlacedRows,
    check_parameters,
    check_sample_weight,
    check_x,
    check_y,
    encode,
    make_head,
    place_rows,
)
from xclf.sweep._fits import Fit, Fold, last_step


@dataclass(eq=False)
class SweepHead:
    """A head, and the fit of the search that it is."""

    head: Head
    fit: Fit


@dataclass
class Context:
    """Rows that fits share: X as the estimators see it, or as a Pipeline's first steps return it.

    rows : X on the estimators' `device`;  checked : an estimator that X was checked with
    weights : by key, host float64 (N,): zero outside the fold, mean 1 over the rows with weight
    """

    rows: PlacedRows
    checked: BaseClassifier
    weights: dict[Any, np.ndarray] = field(default_factory=dict)
    labels: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @classmethod
    def of(cls, X: Any, like: BaseClassifier) -> Context:
        """X checked once for all fits; raises what `fit` raises."""
        options = {name: getattr(like, name) for name in ("device", "max_memory")}
        checked = type(like)().set_params(**options)
        X = check_x(checked, X, reset=True)
        check_parameters(type(like), options)
        return cls(place_rows(like, X), checked)

    def head(self, fit: Fit, fold: Fold, train: np.ndarray, params: dict[str, Any]) -> SweepHead:
        """`fit` checked as the estimator's own `fit` checks; raises what that raises.

        train : its rows in X;  params : of the estimator's `fit`, beside X and y
        """
        model = last_step(fit.template)
        check_parameters(type(model), model.get_params(deep=False))
        inspect.signature(model.fit).bind(None, None, **params)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.checked, name):
                setattr(model, name, getattr(self.checked, name))
        rows = np.empty((len(train), 0))  # labels and weights are on the host: their number counts
        if fit.split not in self.labels:
            self.labels[fit.split] = encode(check_y(model, rows, fold.y))
        given = check_sample_weight(rows, params.get("sample_weight"))
        head = make_head(model, self.rows, self.labels[fit.split], given)
        head.train = train
        head.weight_key = (fit.split, head.full_batch, pickle.dumps(model.class_weight))
        if head.weight_key not in self.weights:
            every = int(self.rows.X.shape[0])
            self.weights[head.weight_key] = _over_all(head.weights, train, every, head.full_batch)
        head.weights = self.weights[head.weight_key]
        model.classes_ = head.classes
        return SweepHead(head, fit)

    def group_key(self, one: SweepHead) -> Any:
        """Heads with equal keys can be trained in one pass.

        They may differ by reg, parameters of the loss and of the update rule, class_weight and
        learning rate; full-batch ones by fold and seed too. Minibatch heads share their batches:
        one fold, one seed, and the same rows with weight. `standardize` needs one mean and scale,
        hence one vector of row weights.
        """
        head = one.head
        model = head.model
        settings = replace(head.settings, learning_rate=0.0, rule_parameters={})
        key: tuple[Any, ...] = (
            type(model),
            repr(settings),
            bool(model.fit_intercept),
            bool(model.standardize),
            type(head.loss),
            head.widths,
            (head.classes.dtype.str, tuple(head.classes.tolist())),
            int(model.verbose),
        )
        if not head.full_batch:
            assert head.weights is not None
            drawn = head.weights > 0.0
            key += (one.fit.split, pickle.dumps(model.random_state), drawn.tobytes())
        return (*key, head.weight_key) if model.standardize else key


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
