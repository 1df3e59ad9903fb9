"""The two-layer net."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.utils.metaestimators import available_if

from xclf import _array_api
from xclf._array_api import Array
from xclf.estimators._base import BaseClassifier
from xclf.estimators._docs import with_shared_docs
from xclf.estimators._foreign import with_hints
from xclf.estimators._probabilities import ProbabilityMixin
from xclf.estimators._types import Loss
from xclf.objectives import LOSSES, Layer, Network


def _has_probabilities(net: TwoLayerClassifier) -> bool:
    if not LOSSES[net.loss].probabilistic:
        raise AttributeError(
            f"probabilities need loss='softmax'; this TwoLayerClassifier has loss={net.loss!r}"
        )
    return True


@with_shared_docs
@with_hints
@dataclass(eq=False, repr=False)
class TwoLayerClassifier(BaseClassifier):
    """Two-layer ReLU net where the arrays live.

        s_i = relu(x_i w1 + b1) w2 + b2
        min  1/sum(w) sum_i w_i L(s_i, y_i) + reg * (sum(w1^2) + sum(w2^2))

    with L the softmax cross-entropy, or the Weston-Watkins hinge or its square (margin 1). Biases
    are not penalised.

    Parameters
    ----------
    hidden : int, default=100
        Units of the hidden layer.
    reg : float, default=1e-4
        Penalty on the squared weights of both layers, >= 0.
    loss : {"softmax", "hinge", "squared_hinge"}, default="softmax"
        L. Only "softmax" gives probabilities.
    {PARAMETERS}

    Attributes
    ----------
    weights_ : dict of arrays
        w1 (D, H), b1 (H,), w2 (H, C), b2 (C,).
    {ATTRIBUTES}

    Notes
    -----
    The problem is not convex: lbfgs finds a local minimum, and `converged_` speaks of the gradient,
    not of the distance to an optimum. Weights start from a normal distribution with variance 2 / D
    and 1 / H, drawn on the host, the same on every backend. Scale raw features (standardize=True):
    the net is not indifferent to units.

    References
    ----------
    He, Zhang, Ren & Sun (2015), Delving deep into rectifiers: the initial weights, for layers
    followed by ReLU and not.

    Examples
    --------
    >>> import xclf
    >>> from sklearn.datasets import load_digits
    >>> x, y = load_digits(return_X_y=True)
    >>> net = xclf.TwoLayerClassifier(32, standardize=True, learning_rate=0.01, random_state=0)
    >>> bool(net.fit(x, y).score(x, y) > 0.98)
    True
    """

    hidden: int = 100
    reg: float = 1e-4
    loss: Loss = field(default="softmax", kw_only=True)

    _losses = tuple(LOSSES)

    @property
    def _auto_solver(self) -> str:
        return "adam"

    def _widths(self, n_classes: int) -> tuple[int, ...]:
        return (self.n_features_in_, int(self.hidden), n_classes)

    def _initial(self, network: Network, rng: np.random.Generator) -> np.ndarray:
        inputs, hidden, classes = network.widths
        w1 = rng.standard_normal((hidden, inputs)) * np.sqrt(2.0 / inputs)
        w2 = rng.standard_normal((classes, hidden)) * np.sqrt(1.0 / hidden)
        b1, b2 = np.zeros((hidden, 1)), np.zeros((classes, 1))
        return np.asarray(network.flatten([(w1, b1), (w2, b2)]))

    def _set_layers(self, layers: list[Layer]) -> None:
        xp = _array_api.namespace(layers[0].w)
        self.weights_: dict[str, Array] = {}
        for n, (w, b) in enumerate(layers, start=1):
            bias = xp.zeros_like(w[:, 0]) if b is None else b[:, 0]
            self.weights_[f"w{n}"] = xp.asarray(xp.matrix_transpose(w), copy=True)
            self.weights_[f"b{n}"] = bias

    def _layers(self) -> list[Layer]:
        xp = _array_api.namespace(self.weights_["w1"])
        return [
            Layer(xp.matrix_transpose(self.weights_[f"w{n}"]), self.weights_[f"b{n}"][:, None])
            for n in (1, 2)
        ]

    def _array_names(self) -> tuple[str, ...]:
        return ("weights_",)

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """Probabilities (N, C) of rows X (N, D); only with loss="softmax"."""
        return ProbabilityMixin.predict_proba(self, X)

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Array:
        """Log-probabilities (N, C) of rows X (N, D); only with loss="softmax"."""
        return ProbabilityMixin.predict_log_proba(self, X)
