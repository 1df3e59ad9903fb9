"""Rows that many models share: heads for parts of them, and for columns of labels."""

from __future__ import annotations

import pickle
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from xclf.estimators._base import BaseClassifier
from xclf.estimators._block_weights import block_weights
from xclf.estimators._border import check_x
from xclf.estimators._devices import PlacedRows, place_rows
from xclf.estimators._head import Head, Weigh, make_heads
from xclf.estimators._labels import Targets
from xclf.estimators._settings import check_parameters
from xclf.rows import BlockColumn, Blocks, Subset


@dataclass
class SharedRows:
    """X, checked and placed once for all fits, and the heads of fits to parts of its rows.

    placed : X on the models' `device`;  checked : a model that X was checked with
    weights : by key, float64 (N,) on the host or beside the rows: zero outside a part, mean 1 over
        its rows with weight
    accepted : by class, the parameters of the last model
    """

    placed: PlacedRows
    checked: BaseClassifier
    weights: dict[Hashable, Any] = field(default_factory=dict)
    accepted: dict[type, dict[str, Any]] = field(default_factory=dict)

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
        train: np.ndarray,
        part: Hashable,
    ) -> list[Head]:
        """A head for every column of labels, see `make_heads`; raises what `fit` raises.

        targets, sample_weight : of the training rows, checked
        train : their host numbers in X; heads of a part have the same array
        part : equal for the heads of a part
        """
        heads = self._made(model, targets, sample_weight, part, None)
        for head in heads:
            head.train = train
            if head.weight_key not in self.weights:
                self.weights[head.weight_key] = self._over_all(head, train)
            head.weights = self.weights[head.weight_key]
        return heads

    def heads_beside(
        self,
        model: BaseClassifier,
        targets: Targets,
        subset: Subset | None,
        part: Hashable,
        weights: BlockColumn | None = None,
    ) -> list[Head]:
        """As `heads`, for a subset of rows in blocks, or all; labels are beside them."""
        X: Blocks = self.placed.X

        def weigh(index: Any, classes: np.ndarray, class_weight: Any, _: Any) -> Any:
            labels = None if class_weight is None else (id(index.parts), index.columns)
            key = (part, pickle.dumps(class_weight), labels)
            if key not in self.weights:
                own: Any = weights
                if subset is not None:
                    own = subset.weights() if weights is None else subset.weighted(weights)
                if class_weight is not None or weights is not None:
                    own = block_weights(X, index, classes, class_weight, own)
                self.weights[key] = own
            return self.weights[key]

        return self._made(model, targets, None, part, weigh)

    def _made(
        self,
        model: BaseClassifier,
        targets: Targets,
        sample_weight: np.ndarray | None,
        part: Hashable,
        weigh: Weigh | None,
    ) -> list[Head]:
        parameters, kind = model.get_params(deep=False), type(model)
        before = self.accepted.get(kind, {})
        new = {name: v for name, v in parameters.items() if v is not before.get(name, self)}
        check_parameters(kind, new)
        self.accepted[kind] = parameters
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.checked, name):
                setattr(model, name, getattr(self.checked, name))
        heads = make_heads(model, self.placed, targets, sample_weight, weigh)
        for head in heads:
            # Parts share the labels of all rows where they have the same classes.
            classes = head.classes.dtype.str, tuple(head.classes.tolist())
            head.label_key = (head.label_key, classes)
            balance = pickle.dumps(model.class_weight)
            head.weight_key = (part, head.full_batch, balance, head.weight_key)
        return heads

    def _over_all(self, head: Head, train: np.ndarray) -> np.ndarray:
        """A head's weights among all rows, divided by their mean as in a single fit.

        A row that a full-batch head names twice weighs twice. Minibatches draw it twice instead.
        """
        own = np.ones(len(train)) if head.weights is None else head.weights
        out = np.zeros(int(self.placed.X.shape[0]))
        if head.full_batch:
            np.add.at(out, train, own)
        else:
            out[train] = own
        return out
