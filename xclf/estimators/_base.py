"""What the three classifiers share: the scikit-learn surface over objectives and training."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if

from xclf import _array_api
from xclf._array_api import Array
from xclf.estimators import _border as border
from xclf.estimators._convergence import convergence_warning, diagnose
from xclf.estimators._devices import move_to_device, shares_rows
from xclf.estimators._fitted import FittedModel, fitted_widths
from xclf.estimators._fitting import (
    Job,
    computing_dtype,
    make_rows,
    row_weights,
    standardized,
)
from xclf.estimators._memory import FitShape, count_weight_vectors, memory_budget
from xclf.estimators._printer import Printer
from xclf.estimators._settings import (
    FULL_BATCH,
    Settings,
    check_parameters,
    resolve,
    resolve_in_parts,
)
from xclf.objectives import Layer, Network
from xclf.rows import product_precision
from xclf.training import Callback, FitResult, Monitor


def _learns_in_parts(model: BaseClassifier) -> bool:
    if model.solver in FULL_BATCH:
        raise AttributeError(
            f"partial_fit needs a minibatch solver or 'auto', got solver={model.solver!r}"
        )
    return True


class BaseClassifier(FittedModel, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Shared by the estimators; not for direct use. Subclasses say what the model is."""

    def __init__(
        self,
        reg: float = 1e-4,
        *,
        fit_intercept: bool = True,
        standardize: bool = False,
        solver: str = "auto",
        max_iter: int | None = None,
        tol: float | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        momentum: float | None = None,
        lr_schedule: str | None = None,
        class_weight: Any = None,
        early_stopping: bool = False,
        validation_fraction: float | None = None,
        n_iter_no_change: int | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        callbacks: Any = None,
        verbose: int = 0,
        device: Any = None,
        precision: str | None = None,
        max_memory: Any = None,
    ) -> None:
        self.reg = reg
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.lr_schedule = lr_schedule
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.random_state = random_state
        self.callbacks = callbacks
        self.verbose = verbose
        self.device = device
        self.precision = precision
        self.max_memory = max_memory

    # What a subclass tells.

    @property
    @abstractmethod
    def _loss_name(self) -> str:
        """ "softmax" or "hinge"."""

    @property
    @abstractmethod
    def _auto_solver(self) -> str:
        """What solver="auto" stands for in `fit`."""

    @abstractmethod
    def _initial(self, network: Network, rng: np.random.Generator) -> np.ndarray:
        """Host float64 (P,) to start from."""

    @abstractmethod
    def _set_layers(self, layers: list[Layer]) -> None:
        """Keep raw layers, one score per class, as fitted attributes."""

    def _set_extras(self, result: FitResult) -> None:
        """Keep what only this model has, beside the parameters."""

    # Training.

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model to rows X (N, D) with labels y (N,).

        X : array of any Array API library, or a list or data frame (which count as NumPy); real
            numbers. The fit runs where X is, in float64 for float64 data and float32 for the rest;
            integers are widened a chunk at a time.
        y : labels, numbers or strings; where X is, or in host memory, of any library
        sample_weight : (N,) weights >= 0, in such places too; the data term is their mean

        Returns self. Raises ValueError for input that does not fit (see the README, "What is
        checked"); warns with ConvergenceWarning when a full-batch method stops before its
        tolerance. Ctrl-C leaves the best parameters so far in place and raises KeyboardInterrupt.
        """
        with self._whole_or_nothing():
            self._fit(X, y, sample_weight)
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> None:
        check_parameters(type(self).__name__, self._own_parameters())
        X = border.check_x(self, X, reset=True)
        X, taken = move_to_device(X, self.device, self.max_memory, several=shares_rows(self))
        settings = self._settings(X, self._auto_solver)
        with _array_api.on_device(X), product_precision(X, computing_dtype(X), self.precision):
            self._fit_rows(X, y, sample_weight, settings, taken)

    def _fit_rows(
        self, X: Array, y: Any, sample_weight: Any, settings: Settings, taken: int
    ) -> None:
        classes, index = border.encode(border.check_y(self, X, y))
        weights = border.check_sample_weight(X, sample_weight)
        weights = row_weights(index, classes, self.class_weight, weights)
        if weights is not None:
            weights = weights / weights.max()  # first: the sum of large weights overflows
            weights = weights / weights[weights > 0.0].mean()  # rows without weight are not drawn
        start = self._warm_layers(X, classes) if self.warm_start else None
        self.classes_ = classes
        job = self._job(X, index, weights, settings, start, taken=taken)
        if self.standardize:
            job.network = standardized(job.network, job.rows, job.theta_dtype())
        self.__dict__.pop("_resume", None)
        self._finish(job, job.run())

    @available_if(_learns_in_parts)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One epoch of minibatches over these rows, going on from where the model stands.

        classes : every label that will ever come; needed at the first call only
        sample_weight : as in `fit`, but taken as it is: weights mean the same in every call

        "auto" stands for adam here. Every call takes reg, fit_intercept, margin, hidden, loss,
        batch_size, learning_rate, momentum, class_weight, callbacks, verbose, device, precision and
        max_memory as they then are, the first one random_state. The rate is constant within a call:
        `set_params(learning_rate=...)` between calls makes a schedule. When `fit` begins anew and
        when it stops is all that warm_start, max_iter, tol, n_iter_no_change and
        validation_fraction say: here calls go on, and it is for the caller to end them.

        Raises ValueError as `fit` does, for labels that are not among the classes, and for what
        needs all rows or the number of epochs: standardize, early_stopping, class_weight="balanced"
        and any lr_schedule but "constant".
        """
        with self._whole_or_nothing():
            self._partial_fit(X, y, classes, sample_weight)
        return self

    def _partial_fit(self, X: Any, y: Any, classes: Any, sample_weight: Any) -> None:
        check_parameters(type(self).__name__, self._own_parameters())
        settings = resolve_in_parts(self)
        first = not hasattr(self, "classes_")
        known = self._check_classes(classes, first)
        X = border.check_x(self, X, reset=first)
        X, taken = move_to_device(X, self.device, self.max_memory, several=False, tell=False)
        with _array_api.on_device(X), product_precision(X, computing_dtype(X), self.precision):
            self._partial_rows(X, y, known, sample_weight, settings, taken)

    def _partial_rows(
        self,
        X: Array,
        y: Any,
        known: np.ndarray,
        sample_weight: Any,
        settings: Settings,
        taken: int,
    ) -> None:
        first = not hasattr(self, "classes_")
        if not first:
            self._check_resumable(X)
        index = border.encode_known(border.check_y(self, X, y), known)
        weights = border.check_sample_weight(X, sample_weight)
        weights = row_weights(index, known, self.class_weight, weights)
        self.classes_ = known
        resume = self.__dict__.get("_resume") or {}
        start = None if first else self._layers()
        job = self._job(X, index, weights, settings, start, resume.get("rng"), taken)
        if not first:
            # A copy: a part that fails must leave the history as it was.
            job.monitor.history = {key: list(line) for key, line in self.history_.items()}
        job.monitor.total = 1
        result = job.run(one_epoch=True, state=resume.get(settings.solver))
        result.n_iter += 0 if first else self.n_iter_
        self._resume = {"rng": job.rng, settings.solver: result.state}
        self._finish(job, result)

    def _check_resumable(self, X: Array) -> None:
        layers = self._layers()
        border.check_same_as_model(layers[0].w, X)
        fitted, asked = fitted_widths(layers), self._widths(len(self.classes_))
        if fitted != asked:
            raise ValueError(
                f"partial_fit cannot go on: the model has layers of widths {fitted}, its "
                f"parameters now ask for {asked}; call fit"
            )

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        """On an error the model is as it was: a failed refit leaves no half-written attributes."""
        before = dict(self.__dict__)
        try:
            yield
        except _Interrupted:
            raise KeyboardInterrupt from None  # the best parameters so far are in place
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _own_parameters(self) -> dict[str, Any]:
        return dict(self.get_params(deep=False))

    def _settings(self, X: Array, auto: str) -> Settings:
        xp = _array_api.namespace(X)
        return resolve(
            self,
            auto=auto,
            hinge=self._loss_name == "hinge",
            single=computing_dtype(X) == xp.float32,
        )

    def _check_classes(self, classes: Any, first: bool) -> np.ndarray:
        if classes is None:
            if first:
                raise ValueError("classes must be passed on the first call to partial_fit")
            return self.classes_
        listed = np.asarray(
            _array_api.to_host(classes) if _array_api.is_array(classes) else classes
        )
        known, _ = border.encode(listed, "classes")
        if not first and not np.array_equal(known, self.classes_):
            raise ValueError(
                f"classes={known.tolist()} differs from the classes of the first call, "
                f"{self.classes_.tolist()}"
            )
        return known

    def _job(
        self,
        X: Array,
        index: np.ndarray,
        weights: np.ndarray | None,
        settings: Settings,
        start: list[Layer] | None,
        rng: np.random.Generator | None = None,
        taken: int = 0,
    ) -> Job:
        widths = self._widths(len(self.classes_))
        network = Network(widths, bias=bool(self.fit_intercept))
        if start is not None and not network.bias:
            start = [Layer(w, None) for w, _ in start]
        rng = _array_api.generator(self.random_state) if rng is None else rng
        unit = "iteration" if settings.solver in FULL_BATCH else "epoch"
        callbacks: list[Callback] = list(self.callbacks or ())
        if self.verbose:
            callbacks.append(Printer(int(self.verbose)))
        rows = make_rows(X, index, widths[-1], weights, computing_dtype(X))
        kind = FitShape.of(self, settings, network, rows.x, count_weight_vectors(rows.weights))
        budget = memory_budget(kind, self.max_memory, taken=taken)
        return Job(
            settings=settings,
            network=network,
            rows=replace(rows, budget=budget, precision=self.precision),
            loss=self._loss_name,
            margin=float(getattr(self, "margin", 1.0)),
            reg=float(self.reg),
            init=self._initial(network, rng) if start is None else None,
            rng=rng,
            monitor=Monitor(callbacks, unit, settings.max_iter),
            start=start,
        )

    def _finish(self, job: Job, result: FitResult) -> None:
        result = diagnose(job, self.reg, result)
        xp = _array_api.namespace(result.theta)
        layers = job.network.raw(job.network.layers(result.theta))
        dtype = job.rows.dtype
        self._set_layers(
            [
                Layer(
                    xp.astype(w, dtype, copy=False),
                    None if b is None else xp.astype(b, dtype, copy=False),
                )
                for w, b in layers
            ]
        )
        self.n_iter_ = result.n_iter
        self.objective_ = result.objective
        self.converged_ = result.converged
        self.grad_norm_ = result.grad_norm
        self.history_ = job.monitor.history
        self._set_extras(result)
        if result.interrupted:
            raise _Interrupted
        told = convergence_warning(self, job, result)
        if told is not None:
            # The line that called fit or partial_fit.
            warnings.warn(told, ConvergenceWarning, stacklevel=5)

    def _warm_layers(self, X: Array, classes: np.ndarray) -> list[Layer] | None:
        """The fitted layers for these classes: kept ones go on, new ones start at zero."""
        if not hasattr(self, "classes_"):
            return None
        layers = self._layers()
        border.check_same_as_model(layers[0].w, X)
        if fitted_widths(layers)[:-1] != self._widths(len(self.classes_))[:-1]:
            return None  # other features, or another hidden width: nothing to go on from
        xp = _array_api.namespace(X)
        last = layers[-1]
        device_choice = {label: place for place, label in enumerate(self.classes_.tolist())}
        weights, biases = [], []
        for label in classes.tolist():
            place = device_choice.get(label)
            row = slice(0, 1) if place is None else slice(place, place + 1)
            keep = 0.0 if place is None else 1.0
            weights.append(last.w[row, :] * keep)
            if last.b is not None:
                biases.append(last.b[row, :] * keep)
        return [*layers[:-1], Layer(xp.concat(weights, axis=0), xp.concat(biases, axis=0))]


class _Interrupted(BaseException):
    """A fit that Ctrl-C ended, after its best parameters were put in place."""
