"""Optima of small linear problems by other methods than the library's.

The objective at any point is no less than the optimum. What an oracle returns is therefore an upper
bound of the optimum whatever became of its iterations: a model above it by more than it promises is
wrong, beyond doubt.

Problems are put into columns of mean 0 and size 1, with a penalty of its own for each; differences
are formed in extended precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

from tests.fuzz.interior_point import InteriorPoint
from tests.fuzz.problems import LOSSES, Problem, curvature, excess, hessian, softmax

#: Steps of an oracle. Newton's method on a problem without an optimum would go on for ever.
MOST_STEPS = 200


def raw_penalty(model: Any, x: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, penalty of the square of each weight in the columns of x).

    `standardize` divides columns by their deviations, but those that are constant as far as the
    dtype can tell.
    """
    single, wide = x.dtype != np.float64, x.astype(float)
    mean = share @ wide
    mean += share @ (wide - mean)
    penalty = np.full(x.shape[1], float(model.reg))
    if model.standardize:
        top = np.maximum(np.abs(wide - mean).max(axis=0), 1e-300)
        deviation = top * np.sqrt(share @ ((wide - mean) / top) ** 2)
        eps = np.finfo(np.float32 if single else np.float64).eps
        penalty *= np.where(deviation > 10 * eps * np.abs(mean), deviation, 1.0) ** 2
    return mean, penalty


def problem(model: Any, x: np.ndarray, y: np.ndarray, share: np.ndarray) -> Problem:
    """The problem that `model` has solved; y : 0 .. C-1."""
    mean, penalty = raw_penalty(model, x, share)
    there = share > 0.0
    z = x[there].astype(np.longdouble)
    share, y = share[there], y[there]
    if model.fit_intercept:
        z = z - mean
        z -= share @ z
        constant = np.abs(z).max(axis=0) <= 4e-16 * np.abs(x[there].astype(float)).max(axis=0)
        z[:, constant] = 0.0
    size = np.abs(z).max(axis=0)
    size[size == 0.0] = 1.0
    columns = (z / size).astype(float)
    penalty = (penalty / size / size).astype(float)
    if model.fit_intercept:
        columns, penalty = np.c_[columns, np.ones(len(columns))], np.append(penalty, 0.0)
    return Problem(
        columns,
        y,
        share,
        penalty,
        len(model.classes_),
        getattr(model, "loss", "softmax"),
        getattr(model, "margin", 1.0),
        bool(model.fit_intercept),
    )


def reached(model: Any, x: np.ndarray, y: np.ndarray, share: np.ndarray) -> float:
    """The objective at `coef_`, `intercept_`, in extended precision."""
    w, b = model.coef_.astype(np.longdouble), model.intercept_.astype(np.longdouble)
    if len(w) == 1:
        w, b = np.concatenate([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])
    loss, margin = getattr(model, "loss", "softmax"), getattr(model, "margin", 1.0)
    losses = LOSSES[loss](x.astype(np.longdouble) @ w.T + b, y, margin)
    return float(share @ losses + (raw_penalty(model, x, share)[1] * w * w).sum())


def rounding(model: Any, x: np.ndarray, y: np.ndarray, share: np.ndarray) -> float:
    """Bound of the rounding error of the same objective in float64: scores are products of D + 1
    terms (Higham), and the loss of a row moves by its slopes in them."""
    w, b = np.abs(model.coef_.astype(float)), np.abs(model.intercept_.astype(float))
    unit = 2.0**-53 * (x.shape[1] + 4)
    sizes = np.abs(x.astype(float)) @ w.T + b
    loss, margin = getattr(model, "loss", "softmax"), getattr(model, "margin", 1.0)
    off = unit * (2 * sizes.max(axis=1) + margin)
    signed = x.astype(float) @ model.coef_.astype(float).T + model.intercept_.astype(float)
    if len(w) == 1:
        signed = np.c_[-signed / 2, signed / 2]
    if loss == "softmax":  # the slopes add up to 2 (1 - p_y)
        return float(share @ (off * -2 * np.expm1(-softmax(signed, y))))
    over = excess(signed, y, margin)
    active = (excess(signed, y, margin + 2 * off.max()) > 0).sum(axis=1)
    if loss == "hinge":
        return float(share @ (off * active))
    return float(share @ (2 * off * over.sum(axis=1) + active * off * off))


def optimum(task: Problem) -> float:
    """The least objective found: no less than the optimum."""
    return InteriorPoint(task).minimise() if task.loss == "hinge" else newton(task)


def newton(task: Problem) -> float:
    """Levenberg's method with eigenvalues: steps are damped until they lower the objective."""
    classes, columns = task.classes, task.z.shape[1]
    theta, damping, ends = np.zeros((classes, columns)), 1e-10, 0
    ridge, best = np.tile(2 * task.penalty, classes), task.value(theta)
    for _ in range(MOST_STEPS):
        if ends >= 3 or best == 0.0:
            break
        d, blocks = curvature(task, task.z @ theta.T)
        matrix = hessian(task, blocks * task.share[:, None, None]) + np.diag(ridge)
        gradient = ((d * task.share[:, None]).T @ task.z + 2 * task.penalty * theta).ravel()
        unit = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-290))
        with np.errstate(all="ignore"):
            scaled = matrix * unit[:, None] * unit
        if not np.isfinite(scaled).all():
            break  # what there is, is a bound from above
        try:
            spectrum, basis = np.linalg.eigh(scaled)
        except np.linalg.LinAlgError:  # divide and conquer may fail where QR iterations do not
            spectrum, basis = scipy.linalg.eigh(scaled, driver="ev")
        along = basis.T @ (unit * gradient)
        while damping < 1e10:
            step = unit * (basis @ (along / (np.maximum(spectrum, 0) + damping)))
            new = task.value(theta - step.reshape(theta.shape))
            if new < best:
                break
            damping *= 10
        else:
            damping, ends = 1e-12, ends + 1
            continue
        theta = theta - step.reshape(theta.shape)
        theta -= theta.mean(axis=0)  # of no use to any score, and rounding would let it grow
        ends = ends + 1 if best - new < 1e-14 * best else 0
        best, damping = new, max(damping / 30, 1e-15)
    return best
