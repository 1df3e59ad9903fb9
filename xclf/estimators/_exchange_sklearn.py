"""Fitted models from scikit-learn's estimators, and as them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelBinarizer, Normalizer
from sklearn.svm import LinearSVC
from sklearn.utils.validation import check_is_fitted

from xclf import _array_api
from xclf.estimators._base import BaseClassifier
from xclf.estimators._exchange import layers_on_host
from xclf.estimators._linear import SoftmaxClassifier, SVMClassifier
from xclf.estimators._two_layer import TwoLayerClassifier
from xclf.training import empty_history

# Losses of SGDClassifier whose model is a score for each class, the largest of which decides.
_SCORES = ("hinge", "squared_hinge", "perceptron")


def from_sklearn(estimator: Any, *, rows: float | None = None) -> BaseClassifier:
    """A fitted model of this library from one of scikit-learn's.

    Parameters
    ----------
    estimator : fitted LogisticRegression, LinearSVC, SGDClassifier or MLPClassifier
        - `LogisticRegression`, multinomial or with two classes, gives a `SoftmaxClassifier`;
        - `LinearSVC`, and `SGDClassifier` with a hinge, give an `SVMClassifier` with the same
          scores and predictions, though its `fit` minimises another sum (Weston-Watkins);
        - `SGDClassifier` with loss="log_loss" and two classes gives a `SoftmaxClassifier`;
        - `MLPClassifier` with one hidden layer of ReLU gives a `TwoLayerClassifier`.
    rows : float, default=None
        Rows (the sum of their weights) that it was fitted to, by which C, and alpha of an
        `MLPClassifier`, become `reg`; a fitted model does not say how many there were. Without it
        `reg` is NaN: predictions do not depend on it, and `fit` asks for a number.

    Returns
    -------
    A model with the same predictions, to rounding; it saves, exports and goes on with
    `warm_start`. What scikit-learn does not know is empty: `objective_` is NaN, `converged_` False.
    `fit_intercept`, `class_weight` and an integer `random_state` are the estimator's; `max_iter`
    and `tol`, which bound other things there, are the defaults. `reg` of penalties other than the
    squared norm, which have no equivalent here, is NaN too. Until it is fitted anew or its
    `reg` is changed, `to_sklearn` gives an estimator of the same class with all parameters, C among
    them; files do not keep these.

    Raises
    ------
    TypeError
        For other estimators.
    ValueError
        For what has no equivalent here; NotFittedError, one too, if it is not fitted.
    """
    from sklearn.neural_network import MLPClassifier  # takes time to import, and few need it

    if not isinstance(estimator, LogisticRegression | LinearSVC | SGDClassifier | MLPClassifier):
        raise TypeError(
            "from_sklearn takes a LogisticRegression, LinearSVC, SGDClassifier or MLPClassifier, "
            f"got {type(estimator).__name__}"
        )
    check_is_fitted(estimator)
    if not isinstance(estimator.classes_, np.ndarray) or estimator.classes_.ndim != 1:
        raise ValueError("models of several label columns have no equivalent here")
    layers = isinstance(estimator, MLPClassifier)
    model: Any = _from_layers(estimator) if layers else _from_scores(estimator)
    model.fit_intercept = bool(getattr(estimator, "fit_intercept", True))
    model.class_weight = getattr(estimator, "class_weight", None)
    seed = estimator.random_state
    model.random_state = seed if isinstance(seed, int | np.integer) else None
    model.classes_ = estimator.classes_
    model.n_features_in_ = int(estimator.n_features_in_)
    if hasattr(estimator, "feature_names_in_"):
        model.feature_names_in_ = estimator.feature_names_in_
    model.n_iter_ = int(np.max(estimator.n_iter_))
    model.objective_, model.converged_ = math.nan, False
    model.grad_norm_, model.history_ = math.nan, empty_history()
    model.reg = _reg(estimator, math.nan if rows is None else float(rows))
    model._taken_from = _Origin(clone(estimator), _parameters(model), float(model.reg))
    return model  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Origin:
    """The estimator that a model was taken from.

    blank : not fitted
    fitted, reg : the model's parameters and penalty then
    """

    blank: Any
    fitted: Any = field(repr=False)
    reg: float

    def copy(self, model: BaseClassifier) -> Any:
        """An estimator like it, not fitted; None where the model has changed since."""
        same = self.fitted is _parameters(model) and repr(self.reg) == repr(float(model.reg))
        return clone(self.blank) if same else None


def _parameters(model: Any) -> Any:
    return model.weights_ if isinstance(model, TwoLayerClassifier) else model.coef_


def _from_scores(estimator: Any) -> BaseClassifier:
    """A linear model of an estimator with `coef_` (C, D), or (1, D) for two classes."""
    several, loss = len(estimator.classes_) > 2, getattr(estimator, "loss", "")
    model: SoftmaxClassifier | SVMClassifier = SVMClassifier()
    if isinstance(estimator, LogisticRegression):
        if several and "liblinear" in estimator.solver:
            raise ValueError("LogisticRegression of one class against the rest is no softmax")
        if several and getattr(estimator, "multi_class", "auto") == "ovr":
            raise ValueError("LogisticRegression of one class against the rest is no softmax")
        model = SoftmaxClassifier()
    elif isinstance(estimator, SGDClassifier):
        if loss == "log_loss" and not several:
            model = SoftmaxClassifier()
        elif loss not in _SCORES:
            more = " for more than two classes" if loss == "log_loss" else ""
            raise ValueError(f"SGDClassifier with loss={loss!r} has no equivalent here{more}")
    coef = np.asarray(estimator.coef_)
    dtype = coef.dtype if coef.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    model.coef_ = np.array(coef, dtype=dtype, order="C")
    bias = np.zeros(len(coef)) + np.ravel(estimator.intercept_)
    model.intercept_ = bias.astype(dtype)
    return model


def _from_layers(estimator: Any) -> TwoLayerClassifier:
    if len(estimator.coefs_) != 2 or estimator.activation != "relu":
        raise ValueError(
            "TwoLayerClassifier has one hidden layer with ReLU, this MLPClassifier has "
            f"{len(estimator.coefs_) - 1} with {estimator.activation}"
        )
    if estimator._label_binarizer.y_type_.startswith("multilabel"):
        raise ValueError("models of several labels a row have no equivalent here")
    (w1, w2), (b1, b2) = estimator.coefs_, estimator.intercepts_
    if w2.shape[1] == 1:  # the score of the second class against the first
        w2, b2 = np.concatenate([-w2, w2], axis=1) / 2, np.concatenate([-b2, b2]) / 2
    model = TwoLayerClassifier(hidden=int(w1.shape[1]))
    parts = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    model.weights_ = {name: np.array(part, order="C") for name, part in parts.items()}
    return model


def _reg(estimator: Any, rows: float) -> float:
    """The penalty that stands for C or alpha; NaN for one that has no equivalent, and for rows of
    unknown number."""
    two, penalty = len(estimator.classes_) == 2, getattr(estimator, "penalty", "l2")
    if penalty is None:
        return 0.0
    ratio = getattr(estimator, "l1_ratio", None) if penalty in ("elasticnet", "deprecated") else 0.0
    if penalty == "l1" or ratio:
        return math.nan
    if isinstance(estimator, LogisticRegression):
        c = float(np.mean(getattr(estimator, "C_", estimator.C)))
        return 0.0 if math.isinf(c) else (1.0 if two else 0.5) / (c * rows)
    if isinstance(estimator, LinearSVC):
        return 0.5 / (float(estimator.C) * rows)
    if isinstance(estimator, SGDClassifier):
        return 0.5 * float(estimator.alpha)
    return 0.5 * float(estimator.alpha) / rows


def to_sklearn(model: BaseClassifier, rows: float | None) -> Any:
    """See `FittedModel.to_sklearn`."""
    layers = layers_on_host(model)
    origin: _Origin | None = getattr(model, "_taken_from", None)
    made: Any = None if origin is None else origin.copy(model)
    seed = model.random_state if isinstance(model.random_state, int | np.integer) else None
    if made is not None and seed is None:
        seed = made.random_state
    if isinstance(model, TwoLayerClassifier):
        if model.loss != "softmax":
            raise ValueError(f"MLPClassifier has no loss like {model.loss!r}: no equivalent")
        made = _mlp(made, model, layers)
    else:
        if made is None:
            softmax = isinstance(model, SoftmaxClassifier)
            made = LogisticRegression() if softmax else LinearSVC(multi_class="crammer_singer")
        linear: Any = model
        made.coef_ = np.array(_array_api.to_host(linear.coef_))
        made.intercept_ = np.array(_array_api.to_host(linear.intercept_))
        made.fit_intercept = bool(model.fit_intercept)
        made.class_weight = model.class_weight
        made.n_iter_ = model.n_iter_
        if isinstance(made, LogisticRegression):
            made.n_iter_ = np.asarray([model.n_iter_], dtype=np.int32)
    made.random_state = seed
    made.classes_, made.n_features_in_ = model.classes_, model.n_features_in_
    if rows is not None and not math.isnan(model.reg):
        _set_penalty(made, float(model.reg), float(rows))
    first = Normalizer() if model._unit_rows else made
    first.n_features_in_ = model.n_features_in_
    if hasattr(model, "feature_names_in_"):
        first.feature_names_in_ = model.feature_names_in_
    return made if first is made else make_pipeline(first, made)


def _set_penalty(made: Any, reg: float, rows: float) -> None:
    if hasattr(made, "alpha"):
        made.alpha = 2.0 * reg * (1.0 if isinstance(made, SGDClassifier) else rows)
        return
    two = len(made.classes_) == 2 and isinstance(made, LogisticRegression)
    made.C = (1.0 if two else 0.5) / (reg * rows) if reg else math.inf


def _mlp(made: Any, model: TwoLayerClassifier, layers: list[tuple[np.ndarray, np.ndarray]]) -> Any:
    from sklearn.neural_network import MLPClassifier

    (w1, b1), (w2, b2) = layers
    two = len(model.classes_) == 2
    if two:
        w2, b2 = w2[1:] - w2[:1], b2[1:] - b2[:1]
    if made is None:
        made = MLPClassifier(hidden_layer_sizes=(len(w1),), activation="relu")
    made.coefs_ = [np.array(w1.T), np.array(w2.T)]
    made.intercepts_ = [np.array(b1), np.array(b2)]
    made.n_layers_, made.n_outputs_ = 3, len(w2)
    made.out_activation_ = "logistic" if two else "softmax"
    made.n_iter_, made.loss_ = model.n_iter_, model.objective_
    made._label_binarizer = LabelBinarizer().fit(model.classes_)
    return made
