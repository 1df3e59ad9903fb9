"""The two linear classifiers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from xclf import _array_api
from xclf.estimators._base import BaseClassifier
from xclf.estimators._docs import with_shared_docs
from xclf.estimators._foreign import with_hints
from xclf.estimators._probabilities import ProbabilityMixin
from xclf.estimators._types import AnyArray, MarginLoss
from xclf.objectives import LOSSES, Layer, Network, loss_parameters
from xclf.training import FitResult


class LinearClassifier(BaseClassifier):
    """Scores x @ coef_.T + intercept_; with two classes one vector stands for the difference."""

    coef_: AnyArray
    intercept_: AnyArray
    dual_gap_: float

    @property
    def _auto_solver(self) -> str:
        return "lbfgs"

    def _widths(self, n_classes: int) -> tuple[int, ...]:
        return (self.n_features_in_, n_classes)

    def _initial(self, network: Network, rng: np.random.Generator) -> np.ndarray:
        return np.zeros(network.size)  # convex: no symmetry to break

    def _set_layers(self, layers: list[Layer]) -> None:
        w, b = layers[0]
        xp = _array_api.namespace(w)
        bias = xp.zeros_like(w[:, 0]) if b is None else b[:, 0]
        if w.shape[0] == 2:
            w, bias = w[1:, :] - w[:1, :], bias[1:] - bias[:1]
        self.coef_, self.intercept_ = w, bias

    def _set_extras(self, result: FitResult) -> None:
        self.__dict__.pop("dual_gap_", None)
        if not math.isnan(result.dual_gap):
            self.dual_gap_ = result.dual_gap

    def _layers(self) -> list[Layer]:
        w, b = self.coef_, self.intercept_[:, None]
        if w.shape[0] == 1:
            # Two classes: the penalty is least when the difference is shared evenly.
            xp = _array_api.namespace(w)
            w, b = xp.concat([-0.5 * w, 0.5 * w], axis=0), xp.concat([-0.5 * b, 0.5 * b], axis=0)
        return [Layer(w, b)]

    def _array_names(self) -> tuple[str, ...]:
        return ("coef_", "intercept_")


@with_shared_docs
@with_hints
@dataclass(eq=False, repr=False)
class SoftmaxClassifier(ProbabilityMixin, LinearClassifier):
    """Multinomial logistic regression where the arrays live.

        min  1/sum(w) sum_i w_i (logsumexp(s_i) - s_i[y_i]) + reg * sum(W^2),   s_i = W x_i + b

    Biases are not penalised.

    Parameters
    ----------
    reg : float, default=1e-4
        Penalty on the squared weights, >= 0. With 0, classes that can be separated have no optimum
        at finite weights: a full-batch fit then says so, and `converged_` is False.
    {PARAMETERS}

    Attributes
    ----------
    {COEFFICIENTS}
    {ATTRIBUTES}
    dual_gap_ : float
        After lbfgs with reg above 0: what objective_ stands above the optimum at most, as far as
        float64 can tell; without a bound it is missing.

    Notes
    -----
    scikit-learn's `LogisticRegression` minimises the same objective with C = 1 / (2 * reg * sum(w))
    for three classes and more, and C = 1 / (reg * sum(w)) for two; PyTorch's weight_decay is
    2 * reg.

    Examples
    --------
    >>> import numpy as np, xclf
    >>> x = np.asarray([[0.0, 1.0], [1.0, 0.0], [0.9, 0.1], [0.1, 0.9]])
    >>> model = xclf.SoftmaxClassifier(reg=0.01).fit(x, ["up", "right", "right", "up"])
    >>> model.predict(x[:2]).tolist()
    ['up', 'right']
    """

    reg: float = 1e-4

    _losses = ("softmax",)


@with_shared_docs
@with_hints
@dataclass(eq=False, repr=False)
class SVMClassifier(LinearClassifier):
    """Multiclass SVM, Weston-Watkins sum form, where the arrays live.

        min  1/sum(w) sum_i w_i sum_{j != y_i} max(0, s_ij - s_i[y_i] + margin) + reg * sum(W^2)

    with s_i = W x_i + b; the squared hinge squares each max. Biases are not penalised. Not the
    Crammer-Singer max form. There are no probabilities.

    Parameters
    ----------
    reg : float, default=1e-4
        Penalty on the squared weights, >= 0. With 0, classes that can be separated end at objective
        0, without any margin being the widest: that takes reg > 0.
    loss : {"hinge", "squared_hinge"}, default="hinge"
        The squared hinge is continuously differentiable: of many rows lbfgs takes fewer passes.
    margin : float, default=1.0
        By how much the own class's score must lead, > 0, in units of score.
    {PARAMETERS}

    Attributes
    ----------
    {COEFFICIENTS}
    {ATTRIBUTES}
    dual_gap_ : float
        After lbfgs only: what objective_ stands above the optimum at most, a bound computed in
        float64 from the fitted coef_ and intercept_, also where the fit ended early. With reg = 0
        it is objective_ itself for the hinge, no optimum being below 0, and `converged_` speaks of
        the gradient of the smoothed problem; for the squared hinge it is missing.

    Notes
    -----
    The hinge has kinks at which a quasi-Newton method stalls; lbfgs therefore runs inside an
    augmented Lagrangian. The minibatch solvers follow subgradients, 0 at a kink.

    References
    ----------
    Weston & Watkins (1999), Support vector machines for multi-class pattern recognition.

    Examples
    --------
    >>> import xclf
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> model = xclf.SVMClassifier(reg=0.01).fit(x, y)
    >>> model.converged_, model.dual_gap_ <= 1e-6 * model.objective_
    (True, True)
    """

    reg: float = 1e-4
    loss: MarginLoss = field(default="hinge", kw_only=True)
    margin: float = field(default=1.0, kw_only=True)

    _losses = tuple(name for name in LOSSES if "margin" in loss_parameters(name))
