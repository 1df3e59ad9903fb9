"""From checked input to a trained parameter vector: what `fit` and `partial_fit` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from xclf import _array_api
from xclf._array_api import Array
from xclf.estimators._settings import MINIBATCH, Settings
from xclf.kernels import one_hot
from xclf.objectives import Layer, Network, Objective, data_loss
from xclf.optim import State
from xclf.rows import MASK_CLASSES, Rows, blas_threads
from xclf.training import (
    FitResult,
    MinibatchPlan,
    Monitor,
    Problem,
    column_moments,
    fit_lbfgs,
    fit_minibatch,
    fit_proximal,
    subset,
)


def computing_dtype(X: Array) -> Any:
    """float64 for float64 data; float32 for everything else, integers included."""
    xp = _array_api.namespace(X)
    return xp.float64 if X.dtype == xp.float64 else xp.float32


def row_weights(
    index: np.ndarray,
    classes: np.ndarray,
    class_weight: Any,
    sample_weight: np.ndarray | None,
) -> np.ndarray | None:
    """Product of sample and class weights, host float64 (N,), or None where all are 1.

    "balanced" weighs class c by sum(w) / (C * sum of w in c): inversely to its weighted frequency;
    a class without weight keeps none. A dict may name classes that are not among these rows, as
    folds lack rare ones, unless it leaves others out: then one of the names is a slip.
    """
    if class_weight is None:
        return sample_weight
    if isinstance(class_weight, Mapping):
        labels = classes.tolist()
        unknown = [key for key in class_weight if key not in labels]
        if unknown and any(label not in class_weight for label in labels):
            raise ValueError(
                f"class_weight names classes that are not in y: {unknown[:5]}; y has {labels[:20]}"
            )
        per_class = np.asarray([float(class_weight.get(label, 1.0)) for label in labels])
    else:
        mass = np.bincount(index, weights=sample_weight, minlength=len(classes))
        per_class = np.zeros(len(classes))
        np.divide(mass.sum(), len(classes) * mass, out=per_class, where=mass > 0.0)
    weights = per_class[index] if sample_weight is None else per_class[index] * sample_weight
    if not weights.any():
        raise ValueError("class_weight and sample_weight leave every row with weight 0")
    return np.asarray(weights, dtype=np.float64)


def make_rows(
    X: Array, index: np.ndarray, n_classes: int, weights: np.ndarray | None, dtype: Any
) -> Rows:
    """X with its encoded labels and weights beside it, on its device."""
    labels = _array_api.from_host(index.astype(np.int64, copy=False), X)
    if n_classes <= MASK_CLASSES:
        labels = one_hot(_array_api.namespace(X), labels, n_classes)
    return Rows(
        X, labels, None if weights is None else _array_api.from_host(weights, X, dtype), dtype
    )


def standardized(network: Network, rows: Rows, dtype: Any) -> Network:
    """`network` in coordinates with (weighted) mean 0 and deviation 1; constant features keep
    theirs.

    Without biases nothing can absorb a shift, and features are only scaled.
    """
    xp = _array_api.namespace(rows.x)
    mean, variance = column_moments(rows)
    # A deviation at rounding level of the mean is a constant feature, whose scale stays 1.
    tiny = (10.0 * xp.finfo(rows.dtype).eps * xp.abs(mean)) ** 2
    scale = xp.where(variance > tiny, xp.sqrt(variance), 1.0)
    shift = xp.astype(mean, dtype) if network.bias else None
    return replace(network, shift=shift, scale=xp.astype(scale, dtype))


@dataclass
class Job:
    """One call of fit or partial_fit, everything checked and in place.

    start : raw layers to go on from (a warm start), or None
    init : host float64 (P,), the parameters to start from otherwise, until they are taken up
    """

    settings: Settings
    network: Network
    rows: Rows
    loss: str
    margin: float
    reg: float
    init: np.ndarray | None
    rng: np.random.Generator
    monitor: Monitor
    start: list[Layer] | None = None

    def run(self, *, one_epoch: bool = False, state: State | None = None) -> FitResult:
        """Train; the result's theta is in fitting coordinates of `network`.

        one_epoch : a single pass, going on with an update rule's `state`
        """
        with blas_threads(self.rows.x, self._largest_product()):
            return self._train(one_epoch, state)

    def _largest_product(self) -> int:
        """Multiply-adds of the largest product of a chunk or a minibatch."""
        rows = min(len(self.rows), self.rows.chunk_rows(max(self.network.widths[1:])))
        if self.settings.solver in MINIBATCH:
            rows = min(len(self.rows), self.settings.batch_size)
        pairs = zip(self.network.widths[:-1], self.network.widths[1:], strict=True)
        return rows * max(d * m for d, m in pairs)

    def _train(self, one_epoch: bool, state: State | None) -> FitResult:
        problem = Problem(
            Objective(self.network, data_loss(self.loss, self.margin), self.reg), self.rows
        )
        s = self.settings
        if s.solver in MINIBATCH:
            plan = self._plan()
            if one_epoch:
                plan = replace(plan, epochs=1, patience=None)
            # A part takes its weights as they are: rows without weight count in its batches.
            train, validation = (None, None) if one_epoch else self._split()
            (result,) = fit_minibatch(
                problem,
                self._theta()[None, :],
                plan,
                self.rng,
                self.monitor,
                train=train,
                validation=validation,
                state=state,
                measure_all=not one_epoch,
            )
            return result
        if self.loss == "hinge":
            (result,) = fit_proximal(
                problem,
                self._theta()[None, :],
                margin=self.margin,
                tol=s.tol,
                max_iter=s.max_iter,
                monitor=self.monitor,
            )
            return result
        (result,) = fit_lbfgs(
            problem, self._theta()[None, :], tol=s.tol, max_iter=s.max_iter, monitor=self.monitor
        )
        return result

    def _plan(self) -> MinibatchPlan:
        s = self.settings
        return MinibatchPlan(
            rule=s.rule,
            rate=s.learning_rate,
            batch_size=min(s.batch_size, len(self.rows)),
            epochs=s.max_iter,
            schedule=s.lr_schedule,
            tol=s.tol,
            patience=s.patience,
        )

    def _theta(self) -> Array:
        dtype = self.theta_dtype()
        if self.start is None:
            theta = _array_api.from_host(self.init, self.rows.x, dtype)
            self.init = None  # it takes as much memory as the parameters
            return theta
        xp = _array_api.namespace(self.rows.x)
        layers = [
            Layer(xp.astype(w, dtype), None if b is None else xp.astype(b, dtype))
            for w, b in self.start
        ]
        return self.network.flatten([(w, b) for w, b in self.network.fitting(layers)])

    def theta_dtype(self) -> Any:
        """Full-batch solvers keep parameters in float64 where they can; products stay narrow."""
        if self.settings.solver in MINIBATCH:
            return self.rows.dtype
        x = self.rows.x
        return _array_api.accumulator(_array_api.namespace(x), _array_api.device(x))

    def _split(self) -> tuple[np.ndarray, Rows | None]:
        """(rows to train on, held-out rows): those with weight, and a stratified share of them."""
        fraction = self.settings.validation_fraction
        rows = np.arange(len(self.rows))
        if self.rows.weights is not None:
            rows = np.flatnonzero(_array_api.to_host(self.rows.weights))
        if fraction is None:
            return rows, None
        train, held = hold_out(rows, self._host_labels()[rows], fraction, self.rng)
        return train, subset(self.rows, held)

    def _host_labels(self) -> np.ndarray:
        labels = _array_api.to_host(self.rows.labels)
        return labels.argmax(axis=0) if labels.ndim == 2 else labels


def hold_out(
    rows: np.ndarray, labels: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(train, held): row numbers `rows` shared out, stratified by their labels, each in order."""
    seed = int(rng.integers(2**31))
    try:
        train, held = train_test_split(rows, test_size=fraction, stratify=labels, random_state=seed)
    except ValueError as error:
        raise ValueError(
            f"early_stopping cannot hold out validation_fraction={fraction} of "
            f"{len(labels)} rows: {error}"
        ) from None
    return np.sort(train), np.sort(held)
