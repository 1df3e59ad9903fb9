"""From the fits that a search asks for to heads that can be trained together."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xclf._array_api import Array
from xclf.estimators import _border as border
from xclf.estimators import check_parameters
from xclf.estimators._base import BaseClassifier
from xclf.estimators._devices import move_to_device, shares_rows
from xclf.estimators._fitting import row_weights
from xclf.estimators._settings import FULL_BATCH, Settings
from xclf.optim import Momentum
from xclf.sweep._ledger import Fit, Split
from xclf.sweep._scores import last_step


@dataclass(eq=False)
class Head:
    """One fit, checked: what it is trained on and with.

    classes, index : of its training rows, which are rows `train` of its context
    weight_key : names its row weights in `Context.weights`
    """

    fit: Fit
    model: BaseClassifier
    settings: Settings
    train: np.ndarray
    classes: np.ndarray
    index: np.ndarray
    weight_key: Any

    @property
    def full_batch(self) -> bool:
        return self.settings.solver in FULL_BATCH


@dataclass
class Context:
    """Rows that fits share: X as the estimators see it, or as a Pipeline's first steps left it.

    X : where the estimators' `device` says;  taken : bytes that it was moved there with
    weights : by key, host float64 (N,): zero outside the fold, mean 1 over the rows with weight
    """

    X: Array
    taken: int
    checked: BaseClassifier
    weights: dict[Any, np.ndarray] = field(default_factory=dict)
    labels: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @classmethod
    def of(cls, X: Any, like: BaseClassifier) -> Context:
        """X checked once for all fits; raises what `fit` raises."""
        checked = type(like)()
        X = border.check_x(checked, X, reset=True)
        place = {name: getattr(like, name) for name in ("device", "max_memory")}
        check_parameters(type(like).__name__, place)
        several = shares_rows(like)
        return cls(*move_to_device(X, like.device, like.max_memory, several=several), checked)

    def head(self, fit: Fit, split: Split, train: np.ndarray, params: dict[str, Any]) -> Head:
        """`fit` checked as the estimator's own `fit` checks; raises what that raises.

        train : its rows in X;  params : what goes to the estimator's `fit` beside X and y
        """
        model = last_step(fit.template)
        check_parameters(type(model).__name__, model._own_parameters())
        inspect.signature(model.fit).bind(None, None, **params)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.checked, name):
                setattr(model, name, getattr(self.checked, name))
        rows = np.empty((len(train), 0))  # labels and weights are on the host: their number counts
        if fit.split not in self.labels:
            self.labels[fit.split] = border.encode(border.check_y(model, rows, split.y))
        classes, index = self.labels[fit.split]
        settings = model._settings(self.X, model._auto_solver)
        full = settings.solver in FULL_BATCH
        key = (fit.split, full, pickle.dumps(model.class_weight))
        if key not in self.weights:
            given = border.check_sample_weight(rows, params.get("sample_weight"))
            weights = row_weights(index, classes, model.class_weight, given)
            self.weights[key] = _over_all(weights, train, int(self.X.shape[0]), full)
        model.classes_ = classes
        return Head(fit, model, settings, train, classes, index, key)

    def group_key(self, head: Head) -> Any:
        """Heads with equal keys can be trained in one pass.

        They may differ by reg, margin, class_weight, learning_rate and momentum; full-batch ones by
        fold and seed too. Minibatch heads share their batches: one fold, one seed, and the same
        rows with weight. `standardize` needs one mean and scale, hence one set of row weights.
        """
        model, settings = head.model, replace(head.settings, learning_rate=0.0)
        if isinstance(settings.rule, Momentum):
            settings = replace(settings, rule=Momentum())
        key: tuple[Any, ...] = (
            type(model),
            settings,
            bool(model.fit_intercept),
            bool(model.standardize),
            model._loss_name,
            model._widths(len(head.classes)),
            (head.classes.dtype.str, tuple(head.classes.tolist())),
            int(model.verbose),
        )
        if not head.full_batch:
            drawn = self.weights[head.weight_key] > 0.0
            key += (head.fit.split, pickle.dumps(model.random_state), drawn.tobytes())
        return (*key, head.weight_key) if model.standardize else key


def _over_all(weights: np.ndarray | None, train: np.ndarray, rows: int, add: bool) -> np.ndarray:
    """Weights of the training rows among all rows, divided by their mean as in a single fit.

    add : a row that the fold names twice weighs twice. Minibatches draw it twice instead.
    """
    own = np.ones(len(train)) if weights is None else weights / weights.max()  # sums may overflow
    if weights is not None:
        own = own / own[own > 0.0].mean()
    out = np.zeros(rows)
    if add:
        np.add.at(out, train, own)
    else:
        out[train] = own
    return out
