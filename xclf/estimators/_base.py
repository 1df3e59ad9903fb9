"""What the three classifiers share: the scikit-learn surface over objectives and training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if

from xclf import _array_api
from xclf._array_api import Array
from xclf._warnings import GatheredWarnings, warn_caller
from xclf.estimators import _border as border
from xclf.estimators._block_labels import block_index, block_sample_weight, block_targets
from xclf.estimators._block_weights import block_weights, block_weights_as_they_are
from xclf.estimators._convergence import convergence_warning, diagnose
from xclf.estimators._devices import place_rows
from xclf.estimators._fitted import FittedModel
from xclf.estimators._fitting import fit_heads
from xclf.estimators._foreign import HINTS, foreign
from xclf.estimators._head import Head, loss_of, make_heads
from xclf.estimators._labels import (
    check_classes,
    check_sample_weight,
    check_targets,
    check_y,
    encode_known,
    label_columns,
    row_weights,
)
from xclf.estimators._printer import Printer
from xclf.estimators._resume import Resume
from xclf.estimators._scores import fitted_widths
from xclf.estimators._settings import check_parameters, resolve_in_parts
from xclf.estimators._tasks import join_tasks
from xclf.estimators._together import fit_in_passes
from xclf.estimators._types import ClassWeight, Device, LrSchedule, Precision, RandomState, Solver
from xclf.estimators._unit_rows import unit_rows
from xclf.estimators._values import computed, is_collection, optimized_together
from xclf.objectives import Layer, Network
from xclf.optim import SOLVERS
from xclf.rows import Blocks
from xclf.training import Callback, FitResult, FitSpec


def _learns_in_parts(model: BaseClassifier) -> bool:
    if model.solver in SOLVERS and SOLVERS[model.solver].full_batch:
        raise AttributeError(
            f"partial_fit needs a minibatch solver or 'auto', got solver={model.solver!r}"
        )
    return True


@dataclass(kw_only=True, eq=False, repr=False)
class BaseClassifier(FittedModel, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Shared by the estimators; not for direct use. Subclasses define the model.

    The fields are the parameters: `dataclass` makes `__init__` of them.
    """

    fit_intercept: bool = True
    standardize: bool = False
    solver: Solver = "auto"
    max_iter: int | None = None
    tol: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    lr_schedule: LrSchedule | None = None
    class_weight: ClassWeight | None = None
    early_stopping: bool = False
    validation_fraction: float | None = None
    n_iter_no_change: int | None = None
    warm_start: bool = False
    random_state: RandomState | None = None
    callbacks: Sequence[Callback] | None = None
    verbose: int = 0
    device: Device | None = None
    precision: Precision | None = None
    max_memory: int | str | None = None

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        """scikit-learn's, once a class: it reads signatures, which takes as long as a small fit."""
        names: list[str] = super()._get_param_names()
        return names

    # What a subclass defines.

    #: Names that the parameter `loss` takes; of a model without it, its one loss.
    _losses: ClassVar[tuple[str, ...]]

    @property
    def _loss_name(self) -> str:
        """The name of the loss, as `LOSSES` has it."""
        return str(getattr(self, "loss", self._losses[0]))

    @property
    @abstractmethod
    def _auto_solver(self) -> str:
        """The solver that "auto" stands for in `fit`."""

    @abstractmethod
    def _initial(self, network: Network, rng: np.random.Generator) -> np.ndarray:
        """Host float64 (P,) to start from."""

    @abstractmethod
    def _set_layers(self, layers: list[Layer]) -> None:
        """Set the fitted arrays from raw layers with one score per class."""

    def _set_extras(self, result: FitResult) -> None:
        """Set attributes that only this model has."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_label = True
        return tags

    def set_params(self, **params: Any) -> Self:
        """Set parameters, as in scikit-learn.

        Parameters
        ----------
        **params : parameters of the constructor

        Returns
        -------
        The model itself.

        Raises
        ------
        ValueError
            For a name that is no parameter; for one of another library it says the conversion.
        """
        name = foreign(params, self.get_params(deep=False))
        if name is not None:
            raise ValueError(f"Invalid parameter {name!r} for {type(self).__name__}: {HINTS[name]}")
        super().set_params(**params)
        return self

    # Training.

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model to rows X with labels y.

        Parameters
        ----------
        X : array or sparse matrix (N, D)
            Of any Array API library, or a list or data frame (which count as NumPy); real numbers.
            Sparse matrices are those of `scipy.sparse`, in any format.
            The fit runs where X is, in float64 for float64 data and float32 for the rest; integers
            are widened a chunk at a time. Or an array (of sparse blocks too) or a data frame of
            Dask, which stays in blocks: on the cluster of the default `distributed.Client`, or read
            group by group without one.
        y : array (N,) or (N, T)
            Labels, numbers or strings; where X is, or in host memory, of any library. With T
            columns (a data frame's keep their dtypes, lists are rows) T tasks are trained together,
            and each is what a fit to that column is; columns of 0 and 1 are multi-label indicators.
        sample_weight : array (N,), default=None
            Weights >= 0, where y may be; the data term is their mean.

        Returns
        -------
        The model itself.

        Raises
        ------
        ValueError
            For invalid input (guide, First fit: "What is checked"); the model is then as it was.
        KeyboardInterrupt
            For Ctrl-C, which leaves the best parameters so far in place.

        Warns
        -----
        ConvergenceWarning
            If a full-batch method stops before its tolerance.
        """
        with self._whole_or_nothing():
            self._fit(X, y, sample_weight)
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> None:
        check_parameters(type(self), self.get_params(deep=False))
        X, y, sample_weight = optimized_together(X, y, sample_weight)
        placed = place_rows(self, border.check_x(self, X, reset=True))
        targets = block_targets(placed.X, y)
        weights: Any = block_sample_weight(placed.X, sample_weight)
        with _array_api.on_device(placed.X):
            if targets is None:
                targets = check_targets(self, placed.X, computed(y))
            if weights is None:
                weights = check_sample_weight(placed.X, computed(sample_weight))
        placed = replace(placed, taken=placed.taken + targets.bytes_of_tasks)
        weigh = partial(block_weights, placed.X) if isinstance(placed.X, Blocks) else None
        heads = make_heads(self, placed, targets, weights, weigh)
        if self.warm_start:
            with _array_api.on_device(placed.X):
                self._go_on(placed.X, heads)
        self._resume = None
        self.__dict__.pop("class_names_", None)  # of other labels, perhaps
        for name in ("_trained_on", "_unit_rows"):
            self.__dict__.pop(name, None)
        with GatheredWarnings(len(heads), "tasks"):
            results = fit_in_passes(placed, heads)
        if targets.names is not None:
            join_tasks(self, [head.model for head in heads], targets.indicators)
        if any(result.interrupted for result in results):
            raise Interrupted

    @available_if(_learns_in_parts)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train one epoch of minibatches over these rows, from the current parameters on.

        Parameters
        ----------
        X, y : arrays
            As in `fit`.
        classes : array (C,), default=None
            Every label that will ever occur; required in the first call only.
        sample_weight : array (N,), default=None
            As in `fit`, but not divided by its mean: weights mean the same in every call.

        Returns
        -------
        The model itself.

        Raises
        ------
        ValueError
            As in `fit`; for labels that are not among the classes; and for what needs all rows or
            the number of epochs: standardize, early_stopping, class_weight="balanced" and any
            lr_schedule but "constant".

        Notes
        -----
        "auto" stands for adam here. Every call takes reg, fit_intercept, margin, hidden, loss,
        batch_size, learning_rate, momentum, class_weight, callbacks, verbose, device, precision and
        max_memory as they then are, the first one random_state. warm_start, max_iter, tol,
        n_iter_no_change and validation_fraction have no effect: they are about where a fit starts
        and when it stops. The rate is constant within a call: `set_params(learning_rate=...)`
        between calls makes a schedule.
        """
        with self._whole_or_nothing():
            self._partial_fit(X, y, classes, sample_weight)
        return self

    def _partial_fit(self, X: Any, y: Any, classes: Any, sample_weight: Any) -> None:
        check_parameters(type(self), self.get_params(deep=False))
        X, y, sample_weight = optimized_together(X, y, sample_weight)
        if getattr(y, "ndim", 0) != 1:
            y = computed(y)
        several = y is not None and not is_collection(y) and label_columns(y) is not None
        if self._task_models is not None or several:
            raise ValueError(
                "partial_fit takes labels of one column: train a model for each column of y"
            )
        settings = resolve_in_parts(self, type(loss_of(self)))
        first = not hasattr(self, "classes_")
        known = check_classes(classes, None if first else self.classes_)
        X = border.check_x(self, X, reset=first)
        placed = place_rows(self, unit_rows(X) if self._unit_rows else X, several=False, warn=False)
        if not first:
            self._check_resumable(placed.X)
        index: Any = block_index(placed.X, y, known)
        given: Any = block_sample_weight(placed.X, sample_weight)
        with _array_api.on_device(placed.X):
            if index is None:
                index = encode_known(check_y(self, placed.X, computed(y)), known)
            if given is None:
                given = check_sample_weight(placed.X, computed(sample_weight))
        there = isinstance(placed.X, Blocks)
        weigh = partial(block_weights_as_they_are, placed.X) if there else row_weights
        weights = weigh(index, known, self.class_weight, given)
        head = Head(self, settings, loss_of(self), known, index, weights=weights)
        head.start = None if first else self._layers()
        self.classes_ = known
        resume, solver = self._resume, settings.solver.name
        rng = _array_api.generator(self.random_state) if resume is None else resume.rng
        epochs = 0 if first else self.n_iter_
        # A copy: a part that fails must leave the history as it was.
        history = None if first else {name: list(curve) for name, curve in self.history_.items()}
        state = None if resume is None else resume.state_for(solver)
        (result,) = fit_heads(placed, [head], rng=rng, state=state, one_epoch=True, history=history)
        self.n_iter_ += epochs
        assert result.state is not None  # as minibatch fits have it
        self._resume = Resume(rng, solver, result.state)
        if result.interrupted:
            raise Interrupted

    def _check_resumable(self, X: Array) -> None:
        layers = self._layers()
        border.check_same_as_model(layers[0].w, X)
        fitted, wanted = fitted_widths(layers), self._widths(len(self.classes_))
        if fitted != wanted:
            raise ValueError(
                f"partial_fit cannot go on: the model has layers of widths {fitted}, its "
                f"parameters now ask for {wanted}; call fit"
            )

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        """Restore the model if an error is raised: no half-written attributes remain."""
        before = dict(self.__dict__)
        try:
            yield
        except Interrupted:
            raise KeyboardInterrupt from None  # the best parameters so far are in place
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _callbacks(self) -> list[Callback]:
        """The callbacks of the user, and the printer of `verbose`."""
        callbacks: list[Callback] = list(self.callbacks or ())
        return [*callbacks, Printer(int(self.verbose))] if self.verbose else callbacks

    def _take(
        self, head: Head, spec: FitSpec, result: FitResult, history: dict[str, list[float]]
    ) -> None:
        """Set the fitted attributes from a result; warns if the fit did not converge."""
        result = diagnose(head, spec, result)
        network, dtype = spec.network, spec.rows.dtype
        xp = _array_api.namespace(result.theta)
        self.__dict__.pop("estimators_", None)
        self.classes_ = head.classes
        # Copies: views would keep the parameters of all heads alive.
        self._set_layers(
            [
                Layer(*(None if a is None else xp.astype(a, dtype, copy=True) for a in layer))
                for layer in network.raw(network.layers(result.theta))
            ]
        )
        self.n_iter_ = result.n_iter
        self.objective_ = result.objective
        self.converged_ = result.converged
        self.grad_norm_ = result.grad_norm
        self.history_ = history
        self._set_extras(result)
        message = convergence_warning(head, spec, result)
        if message is not None and not result.interrupted:
            warn_caller(message, ConvergenceWarning)

    def _go_on(self, X: Array, heads: list[Head]) -> None:
        """Let `heads` start from the fitted layers: classes that persist go on, new ones start at
        zero."""
        if not hasattr(self, "classes_"):
            return
        before = [self] if self._task_models is None else self._task_models
        if len(before) != len(heads):
            return
        for head, fitted in zip(heads, before, strict=True):
            layers = fitted._layers()
            border.check_same_as_model(layers[0].w, X)
            if fitted_widths(layers)[:-1] != head.widths[:-1]:
                return  # other features, or another hidden width: nothing to go on from
            old, new = fitted.classes_.tolist(), head.classes.tolist()
            head.start = [*layers[:-1], _for_classes(layers[-1], old, new)]


def _for_classes(layer: Layer, old: list[Any], new: list[Any]) -> Layer:
    """`layer`, with an output for each of the old classes, for the new ones: rows of zeros for
    those that are not among the old."""
    xp = _array_api.namespace(layer.w)
    row_of = {label: row for row, label in enumerate(old)}
    rows = np.asarray([row_of.get(label, len(old)) for label in new])
    index = _array_api.from_host(rows, layer.w)
    assert layer.b is not None  # zeros where none were fitted
    w, b = (xp.concat([a, xp.zeros_like(a[:1, :])], axis=0) for a in (layer.w, layer.b))
    return Layer(xp.take(w, index, axis=0), xp.take(b, index, axis=0))


class Interrupted(BaseException):
    """A fit that Ctrl-C ended, after its best parameters were put in place."""
