"""Optima of small linear problems by other methods than the library's.

The objective at any point is no less than the optimum. What an oracle returns is therefore an upper
bound of the optimum whatever became of its iterations: a model above it by more than it promises is
wrong, beyond doubt.

Problems are put into columns of mean 0 and size 1, with a penalty of its own for each; differences
are formed in extended precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: Steps of an oracle. Newton's method on a problem without an optimum would go on for ever.
MOST_STEPS = 200


@dataclass(frozen=True, eq=False)
class Problem:
    """min  share @ losses(z @ theta.T, y) + sum(penalty * theta**2)

    z : (N, P) float64, the last column 1 where there are biases;  share : (N,), sums to 1
    penalty : (P,);  margin : of both hinges
    """

    z: np.ndarray
    y: np.ndarray
    share: np.ndarray
    penalty: np.ndarray
    classes: int
    loss: str
    margin: float
    bias: bool

    def value(self, theta: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            losses = LOSSES[self.loss](self.z @ theta.T, self.y, self.margin)
            value = float(self.share @ losses + (self.penalty * theta * theta).sum())
        return value if np.isfinite(value) else np.inf


def softmax(scores: Any, y: np.ndarray, margin: float = 1.0) -> Any:
    """logsumexp(s) - s_y, also where it is tiny."""
    rows = np.arange(len(y))
    scores = scores - scores.max(axis=1, keepdims=True)
    lead, e = scores[rows, y], np.exp(scores)
    e[rows, y] = 0.0
    return np.log1p(e.sum(axis=1) + np.expm1(lead)) - lead


def excess(scores: Any, y: np.ndarray, margin: float) -> Any:
    """max(0, s_j - s_y + margin), (N, C), and 0 at the own class."""
    rows = np.arange(len(y))
    over = np.maximum(scores - scores[rows, y][:, None] + margin, 0.0)
    over[rows, y] = 0.0
    return over


LOSSES = {
    "softmax": softmax,
    "hinge": lambda scores, y, margin: excess(scores, y, margin).sum(axis=1),
    "squared_hinge": lambda scores, y, margin: (excess(scores, y, margin) ** 2).sum(axis=1),
}


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
    return interior_point(task) if task.loss == "hinge" else newton(task)


def _curvature(task: Problem, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(d (N, C), B (N, C, C)): gradient and Hessian of each row's loss in its scores."""
    rows, eye = np.arange(len(task.y)), np.eye(task.classes)
    if task.loss == "softmax":
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return p - eye[task.y], p[:, :, None] * (eye - p[:, None, :])
    over = excess(scores, task.y, task.margin)
    return _pairs(2 * over, rows, task.y), _laplacians(2.0 * (over > 0), task.y)


def _pairs(a: np.ndarray, rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """sum_j a_j (e_j - e_y) of each row."""
    g = a.copy()
    g[rows, y] -= a.sum(axis=1)
    return g


def _laplacians(a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """sum_j a_j (e_j - e_y)(e_j - e_y)^T of each row, where a_y = 0."""
    rows, classes = np.arange(len(y)), np.arange(a.shape[1])
    blocks = np.zeros((*a.shape, a.shape[1]))
    blocks[:, classes, classes] = a
    blocks[rows, y, :] -= a
    blocks[rows, :, y] -= a
    blocks[rows, y, y] = a.sum(axis=1)
    return blocks


def _hessian(task: Problem, blocks: np.ndarray) -> np.ndarray:
    """sum_i B_i (x) z_i z_i^T, (C P, C P); blocks hold the shares."""
    n, c, p = len(task.y), task.classes, task.z.shape[1]
    left = np.ascontiguousarray(blocks.transpose(1, 2, 0)).reshape(c * c, n)
    squares = (task.z[:, :, None] * task.z[:, None, :]).reshape(n, p * p)
    return (left @ squares).reshape(c, c, p, p).transpose(0, 2, 1, 3).reshape(c * p, c * p)


def newton(task: Problem) -> float:
    """Levenberg's method with eigenvalues: steps are damped until they lower the objective."""
    classes, columns = task.classes, task.z.shape[1]
    theta, damping, ends = np.zeros((classes, columns)), 1e-10, 0
    ridge, best = np.tile(2 * task.penalty, classes), task.value(theta)
    for _ in range(MOST_STEPS):
        if ends >= 3 or best == 0.0:
            break
        d, blocks = _curvature(task, task.z @ theta.T)
        hessian = _hessian(task, blocks * task.share[:, None, None]) + np.diag(ridge)
        gradient = ((d * task.share[:, None]).T @ task.z + 2 * task.penalty * theta).ravel()
        unit = 1 / np.sqrt(np.maximum(np.diag(hessian), 1e-290))
        with np.errstate(all="ignore"):
            spectrum, basis = np.linalg.eigh(hessian * unit[:, None] * unit)
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


def interior_point(task: Problem) -> float:
    """Mehrotra's predictor and corrector on the quadratic program of the hinge.

        min  sum_ij c_i t_ij + sum(penalty theta^2),   t_ij >= 0,   t_ij >= margin + s_ij - s_iy

    with multipliers a of the second constraint and c - a of the first. One step solves for theta
    alone: the Hessian is that of a loss with curvature 1 / (slack / a + t / (c - a)) in each pair.
    """
    n, c, p = len(task.y), task.classes, task.z.shape[1]
    rows = np.arange(n)
    pairs = np.ones((n, c), bool)
    pairs[rows, task.y] = False
    cost = np.where(pairs, task.share[:, None], 1.0)
    theta = np.zeros((c, p))
    t = np.full((n, c), 2.0 * task.margin)
    slack = np.full((n, c), task.margin)
    a = np.where(pairs, cost / 2, 0.0)
    rest = cost - a
    best, worse = task.value(theta), 0
    ridge = np.diag(np.tile(2 * task.penalty, c))

    def margins(of: np.ndarray) -> np.ndarray:
        scores = task.z @ of.T
        return scores - scores[rows, task.y][:, None]

    for _ in range(60):
        dual = _pairs(np.where(pairs, a, 0.0), rows, task.y).T @ task.z + 2 * task.penalty * theta
        gap = slack - t + margins(theta) + task.margin
        mean = ((a * slack + rest * t) * pairs).sum() / (2 * pairs.sum())
        with np.errstate(all="ignore"):
            weight = np.where(pairs, 1 / (slack / a + t / rest), 0.0)
        if not np.isfinite(weight).all() or worse >= 5:
            break
        hessian = _hessian(task, _laplacians(weight, task.y)) + ridge
        unit = 1 / np.sqrt(np.maximum(np.diag(hessian), 1e-290))
        hessian = hessian * unit[:, None] * unit
        hessian[np.diag_indices(len(unit))] += 1e-14
        try:
            factor = np.linalg.inv(hessian)
        except np.linalg.LinAlgError:
            break
        state = (a, rest, slack, t, theta)
        aims = (np.zeros((n, c)), np.zeros((n, c)))
        moves: tuple[np.ndarray, ...] = ()
        for corrector in (False, True):
            if corrector:
                da, ds, dt = moves[0], moves[2], moves[3]
                length = _length(state, moves, pairs)
                ahead = (a + length * da) * (slack + length * ds)
                ahead = ahead + (rest - length * da) * (t + length * dt)
                centre = (ahead * pairs).sum() / (2 * pairs.sum() * mean)
                sigma = mean * centre**3
                aims = (sigma - da * ds, sigma + da * dt)
            # a slack -> aim, rest t -> aim; slack moves with t and the margins.
            one = (aims[0] - a * slack) / np.where(pairs, a, 1.0)
            two = (aims[1] - rest * t) / np.where(pairs, rest, 1.0)
            shift = one - two + gap  # da (slack / a + t / rest) = shift + d margins
            moved = _pairs(weight * shift, rows, task.y).T @ task.z + dual
            dtheta = -(unit * (factor @ (unit * moved.ravel()))).reshape(c, p)
            da = weight * (shift + margins(dtheta))
            ds = one - slack / np.where(pairs, a, 1.0) * da
            dt = two + t / np.where(pairs, rest, 1.0) * da
            moves = (da, -da, ds, dt, dtheta)
        length = 0.995 * _length(state, moves, pairs)
        a, rest = a + length * moves[0], rest - length * moves[0]
        slack, t = slack + length * moves[2], t + length * moves[3]
        theta = theta + length * moves[4]
        new = task.value(theta)
        worse = 0 if new < best * (1 - 1e-12) else worse + 1
        best = min(best, new)
        if mean <= 1e-16 * max(best, 1e-300):
            break
    return best


def _length(state: Any, moves: Any, pairs: np.ndarray) -> float:
    """The longest step, at most 1, that leaves everything positive."""
    length = 1.0
    for at, move in zip(state[:4], moves[:4], strict=True):
        down = pairs & (move < 0.0)
        if down.any():
            length = min(length, float((-at[down] / move[down]).min()))
    return length
