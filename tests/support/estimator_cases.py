"""Data, models and reference objectives that the tests of training and estimators share."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import ORACLES, l2_value, reduce
from scipy.optimize import LinearConstraint, minimize

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier
from xclf.kernels import one_hot
from xclf.objectives import Network, Objective, loss_named
from xclf.optim import SOLVERS
from xclf.rows import Rows
from xclf.training import Problem

CLASSES = (SoftmaxClassifier, SVMClassifier, TwoLayerClassifier)
#: Every class with every loss.
LOSSES_OF = [(cls, name) for cls in CLASSES for name in cls._losses]
MINIBATCH = [name for name, solver in SOLVERS.items() if not solver.full_batch]


def with_loss(cls: Any, loss: str, **parameters: Any) -> Any:
    """A model of `cls` with that loss, where it has a choice."""
    return cls(**parameters) if cls is SoftmaxClassifier else cls(loss=loss, **parameters)


def blobs(
    n: int = 60, d: int = 5, c: int = 3, seed: int = 0, dtype: Any = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """(X, y): one normal cloud per class, overlapping; every class occurs."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % c)
    x = 1.5 * rng.normal(size=(c, d))[y] + rng.normal(size=(n, d))
    return x.astype(dtype), y


def ill_conditioned() -> tuple[np.ndarray, np.ndarray]:
    """2000 x 40, 20 classes: singular values from 100 down to 1e-2, far from the origin."""
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(2000, 40)))
    v, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    centred = (u * np.geomspace(100, 1e-2, 40)) @ v.T
    scores = centred @ rng.normal(size=(40, 20))
    # The largest of scores plus Gumbel noise is a draw from their softmax.
    y = np.argmax(2 * scores / scores.std() + rng.gumbel(size=scores.shape), axis=1)
    return centred + 5.0, y


def small(cls: Any, **parameters: Any) -> Any:
    """A model of `cls` that fits small data in a blink."""
    if cls is TwoLayerClassifier:
        parameters = {"hidden": 8, "random_state": 0, "max_iter": 20} | parameters
        if parameters.get("solver") != "lbfgs":
            parameters = {"learning_rate": 0.05} | parameters
    if cls is SVMClassifier:
        parameters = {"reg": 1e-1} | parameters
    return cls(**parameters)


def quick(cls: Any, **parameters: Any) -> Any:
    """A model of `cls` for tests to which it does not matter how well it fits: one epoch."""
    return small(cls, **({"solver": "adam", "max_iter": 1, "random_state": 0} | parameters))


def layers_of(model: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """(w (M, D), b (M,)) per layer from the public attributes of a fitted NumPy model."""
    if hasattr(model, "weights_"):
        return [(model.weights_[f"w{n}"].T, model.weights_[f"b{n}"]) for n in (1, 2)]
    w, b = model.coef_, model.intercept_
    if len(b) == 1:
        w, b = np.concatenate([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])
    return [(w, b)]


def scores_of(model: Any, x: np.ndarray) -> np.ndarray:
    """(N, C) in plain float64 NumPy."""
    out = np.asarray(x, dtype=np.float64)
    for place, (w, b) in enumerate(layers_of(model)):
        out = (np.maximum(out, 0) if place else out) @ w.T.astype(np.float64) + b
    return out


def objective_of(
    model: Any, x: np.ndarray, y: np.ndarray, weights: Any = None, margin: float = 1.0
) -> float:
    """What the documentation says that the model minimises, in plain loops.

    y : 0 .. C-1
    """
    loss, scores = getattr(model, "loss", "softmax"), scores_of(model, x)
    penalty = sum(l2_value(w, model.reg) for w, _ in layers_of(model))
    rows = ORACLES[loss][1](scores, y, margin)
    return float(reduce(*rows, "mean", weights)[0]) + penalty


def problem_on(
    backend: Any,
    network: Network,
    x: np.ndarray,
    y: np.ndarray,
    *,
    loss: str = "softmax",
    reg: Any = 1e-2,
    weights: np.ndarray | None = None,
    dtype: Any = np.float64,
) -> Problem:
    """`loss` + `reg` over rows on a backend of conftest."""
    labels = one_hot(backend.xp, backend.asarray(y), network.widths[-1])
    row_weights = None if weights is None else backend.asarray(weights, dtype)
    rows = Rows(backend.asarray(x, dtype), labels, row_weights, backend.dtype(dtype))
    return Problem(Objective(network, loss_named(loss), reg), rows)


def svm_by_general_solver(
    x: np.ndarray, y: np.ndarray, reg: float, weights: np.ndarray, margin: float = 1.0,
    bias: bool = True,
) -> float:  # fmt: skip
    """min 1/W sum w_i t_ij + reg |W|^2 with t_ij >= s_ij - s_iy + margin, t >= 0: SciPy's QP.

    Variables (W, b, t): a smooth objective under linear constraints, solved as such.
    """
    (n, d), c = x.shape, int(y.max()) + 1
    pairs = [(i, j) for i in range(n) for j in range(c) if j != y[i]]
    size = c * d + c * bias
    rows = np.zeros((len(pairs), size + len(pairs)))
    for place, (i, j) in enumerate(pairs):
        for k, sign in ((y[i], 1.0), (j, -1.0)):
            rows[place, k * d : (k + 1) * d] = sign * x[i]
            if bias:
                rows[place, c * d + k] = sign
        rows[place, size + place] = 1.0
    cost = np.array([weights[i] for i, _ in pairs]) / weights.sum()

    def value(v: np.ndarray) -> float:
        return float(cost @ v[size:] + reg * np.sum(v[: c * d] ** 2))

    def gradient(v: np.ndarray) -> np.ndarray:
        return np.concatenate([2 * reg * v[: c * d], np.zeros(c * bias), cost])

    start = np.concatenate([np.zeros(size), np.full(len(pairs), margin)])
    bounds = [(None, None)] * size + [(0, None)] * len(pairs)
    constraint = LinearConstraint(rows, lb=margin)
    options = {"ftol": 1e-13, "maxiter": 500}
    found = minimize(
        value, start, jac=gradient, bounds=bounds, constraints=[constraint], method="SLSQP",
        options=options,
    )  # fmt: skip
    assert found.success, found.message
    return float(found.fun)
