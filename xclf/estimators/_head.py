"""One model that is to be fitted, with what it is trained on."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xclf import _array_api
from xclf._array_api import Array
from xclf.estimators._devices import PlacedRows
from xclf.estimators._labels import Targets, mean_row_weights
from xclf.estimators._settings import Settings, resolve
from xclf.objectives import Layer, Loss, Network, loss_named, loss_parameters
from xclf.training import FitShape, method_of

if TYPE_CHECKING:
    from xclf.estimators._base import BaseClassifier


#: Weights of rows, of mean 1, or None where all are: see `make_heads`.
Weigh = Callable[[Any, np.ndarray, Any, Any], Any]


@dataclass(eq=False)
class Head:
    """One model that is to be fitted, checked, with what it is trained on.

    loss : the model's, with its parameters bound
    classes, index : the sorted distinct labels, and the index of each training row's among them
    train : host numbers of the training rows in X, or None for all of them
    weights : float64 (N,) for all rows of X, 0 for those that are not trained on, on the host or
        beside them; None for 1
    weight_key : equal for heads with equal weights
    label_key : equal for heads that have the same label for every row that both are trained on
    start : raw layers to go on from, or None
    column : the name of the labels among several columns, for messages
    """

    model: BaseClassifier
    settings: Settings
    loss: Loss
    classes: np.ndarray
    index: Any
    train: np.ndarray | None = None
    weights: Any = None
    weight_key: Hashable = None
    label_key: Hashable = None
    start: list[Layer] | None = None
    column: str | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """Layer widths from features to classes."""
        return self.model._widths(len(self.classes))

    @property
    def full_batch(self) -> bool:
        return self.settings.solver.full_batch

    def shape(
        self, network: Network, x: Array, dtype: Any, weight_vectors: int, label_sets: int = 1
    ) -> FitShape:
        """The fit as memory planning sees it."""
        settings = self.settings
        return FitShape(
            network,
            x,
            dtype,
            weight_vectors,
            label_sets,
            multipliers=self.full_batch and method_of(self.loss).multipliers,
            widens=self.full_batch and method_of(self.loss).widens,
            batch=0 if self.full_batch else settings.batch_size,
            held_out=settings.validation_fraction or 0.0,
            drawn=None if self.train is None else len(self.train),
            standardize=bool(self.model.standardize),
            penalised=bool(self.model.reg > 0.0),
        )


def loss_of(model: BaseClassifier) -> Loss:
    """The loss of a model with its parameters, those that the model has, bound."""
    names = loss_parameters(model._loss_name)
    own = {name: float(getattr(model, name)) for name in names if hasattr(model, name)}
    return loss_named(model._loss_name, **own)


def make_head(
    model: BaseClassifier,
    placed: PlacedRows,
    labels: tuple[np.ndarray, Any],
    sample_weight: Any,
    weigh: Weigh,
) -> Head:
    """A model that is to be fitted to rows whose (classes, index) are `labels`."""
    loss, (classes, index) = loss_of(model), labels
    single = placed.dtype == _array_api.namespace(placed.X).float32
    settings = resolve(model, auto=model._auto_solver, loss=type(loss), single=single)
    weights = weigh(index, classes, model.class_weight, sample_weight)
    return Head(model, settings, loss, classes, index, weights=weights)


def make_heads(
    model: BaseClassifier,
    placed: PlacedRows,
    targets: Targets,
    sample_weight: Any,
    weigh: Weigh | None = None,
) -> list[Head]:
    """A head for every task of `targets`: of `model` itself where labels are one column, else of
    models with its parameters, one for each column.

    weigh : makes the weights of the rows, of mean 1, of (index, classes, class_weight,
        sample_weight); by default on the host
    """
    weigh = weigh or mean_row_weights
    if targets.names is None:
        return [make_head(model, placed, targets.tasks[0], sample_weight, weigh)]
    heads: list[Head] = []
    for number, (labels, name) in enumerate(zip(targets.tasks, targets.names, strict=True)):
        try:
            head = make_head(_task_model(model), placed, labels, sample_weight, weigh)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        head.label_key, head.column = number, name
        if model.class_weight is not None:
            head.weight_key = number
        elif heads:
            head.weights = heads[0].weights
        heads.append(head)
    return heads


def _task_model(model: BaseClassifier) -> BaseClassifier:
    """An unfitted model with the parameters of `model`, for rows that it has checked."""
    own = type(model)(**model.get_params(deep=False))
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(model, name):
            setattr(own, name, getattr(model, name))
    return own
