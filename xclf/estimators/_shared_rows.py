"""Many models of the same rows: candidates, parts of the rows, and columns of labels as heads."""

from __future__ import annotations

import pickle
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from xclf.estimators._base import BaseClassifier
from xclf.estimators._border import check_x
from xclf.estimators._devices import PlacedRows, place_rows
from xclf.estimators._head import Head, make_heads
from xclf.estimators._labels import Targets, check_sample_weight, check_targets
from xclf.estimators._settings import check_parameters
from xclf.estimators._tasks import join_tasks
from xclf.estimators._together import fit_together
from xclf.training import Callback

# Parameters that say where rows are and how they are read: the same for all that share them.
_OF_ROWS = ("device", "max_memory", "precision")


@dataclass
class SharedRows:
    """X, checked and placed once for all fits, and the heads of fits to parts of its rows.

    placed : X on the models' `device`;  checked : a model that X was checked with
    weights : by key, host float64 (N,): zero outside a part, mean 1 over its rows with weight
    """

    placed: PlacedRows
    checked: BaseClassifier
    weights: dict[Hashable, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, X: Any, like: BaseClassifier) -> Self:
        """The rows of X for models with the `device` and `max_memory` of `like`; raises what `fit`
        raises."""
        options = {name: getattr(like, name) for name in ("device", "max_memory")}
        checked = type(like)().set_params(**options)
        X = check_x(checked, X, reset=True)
        check_parameters(type(like), options)
        return cls(place_rows(like, X), checked)

    def heads(
        self,
        model: BaseClassifier,
        targets: Targets,
        sample_weight: np.ndarray | None,
        train: np.ndarray | None = None,
        part: Hashable = None,
    ) -> list[Head]:
        """A head for every column of labels, see `make_heads`; raises what `fit` raises.

        targets, sample_weight : of the training rows, checked
        train : their host numbers in X, None for all; heads of a part have the same array
        part : equal for the heads of a part
        """
        check_parameters(type(model), model.get_params(deep=False))
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.checked, name):
                setattr(model, name, getattr(self.checked, name))
        heads = make_heads(model, self.placed, targets, sample_weight)
        for head in heads:
            # Parts share the labels of all rows where they have the same classes.
            classes = head.classes.dtype.str, tuple(head.classes.tolist())
            head.train, head.label_key = train, (head.label_key, classes)
            balance = pickle.dumps(model.class_weight)
            head.weight_key = (part, head.full_batch, balance, head.weight_key)
            if train is None and head.weights is None:
                continue
            if head.weight_key not in self.weights:
                self.weights[head.weight_key] = self._over_all(head)
            head.weights = self.weights[head.weight_key]
        return heads

    def _over_all(self, head: Head) -> np.ndarray:
        """A head's weights among all rows, divided by their mean as in a single fit.

        A row that a full-batch head names twice weighs twice. Minibatches draw it twice instead.
        """
        own = np.ones(len(head.index)) if head.weights is None else head.weights
        if head.train is None:
            return own
        out = np.zeros(int(self.placed.X.shape[0]))
        if head.full_batch:
            np.add.at(out, head.train, own)
        else:
            out[head.train] = own
        return out


def fit_candidates(
    model: BaseClassifier,
    X: Any,
    y: Any,
    candidates: Sequence[Mapping[str, Any]],
    *,
    sample_weight: Any = None,
    parts: Sequence[np.ndarray] | None = None,
    callbacks: Sequence[Callback] = (),
) -> list[list[Any]]:
    """Fit every candidate to every part of the rows, all columns of labels of each, in few passes.

    Parameters
    ----------
    model : classifier of xclf
        Its parameters are those that candidates do not set; it is not fitted.
    X, y, sample_weight : arrays
        As in `fit`; y (N, T) has T tasks.
    candidates : list of dicts
        Values by parameter, of any but device, max_memory and precision.
    parts : list of integer arrays, default=None
        Row numbers, of a fold or a draw; None is one part of all rows.
    callbacks : list of callables
        Beside the model's own: for the events of each pass.

    Returns
    -------
    models[part][candidate], each as `fit` to these rows fits it. Of several tasks, `estimators_`
    has the model of each, and `join_tasks(model, those of the best candidates)` makes a model in
    which every task has a candidate of its own. `stacked_scores` scores models together.

    Raises
    ------
    What `fit` raises.
    """
    check_parameters(type(model), model.get_params(deep=False))
    _check_candidates(candidates)
    shared = SharedRows.of(X, model)
    targets = check_targets(model, shared.placed.X, y)
    given = check_sample_weight(shared.placed.X, sample_weight)
    shared.placed = replace(shared.placed, taken=shared.placed.taken + targets.bytes_of_tasks)
    models: list[list[Any]] = []
    made: list[tuple[Any, Targets, list[Head]]] = []
    for part, train in enumerate([None] if parts is None else parts):
        own = targets if train is None else targets.of_rows(train)
        weights = given if train is None or given is None else given[train]
        models.append([])
        for changes in candidates:
            one = type(model)(**model.get_params(deep=False)).set_params(**changes)
            made.append((one, own, shared.heads(one, own, weights, train, part)))
            models[-1].append(one)
    fit_together(shared.placed, [head for *_, heads in made for head in heads], callbacks)
    for one, own, heads in made:
        if own.names is not None:
            join_tasks(one, [head.model for head in heads], own.indicators)
    return models


def _check_candidates(candidates: Sequence[Mapping[str, Any]]) -> None:
    for changes in candidates:
        fixed = [name for name in _OF_ROWS if name in changes]
        if fixed:
            raise ValueError(
                f"candidates share their rows, and cannot set {fixed[0]}: set it in the model"
            )
