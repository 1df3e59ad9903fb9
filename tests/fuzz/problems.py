"""A linear problem in float64 NumPy: its objective, and the derivatives that the oracles need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


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


def curvature(task: Problem, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(d (N, C), B (N, C, C)): gradient and Hessian of each row's loss in its scores."""
    rows, eye = np.arange(len(task.y)), np.eye(task.classes)
    if task.loss == "softmax":
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return p - eye[task.y], p[:, :, None] * (eye - p[:, None, :])
    over = excess(scores, task.y, task.margin)
    return along_pairs(2 * over, rows, task.y), laplacians(2.0 * (over > 0), task.y)


def along_pairs(a: np.ndarray, rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """sum_j a_j (e_j - e_y) of each row."""
    g = a.copy()
    g[rows, y] -= a.sum(axis=1)
    return g


def laplacians(a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """sum_j a_j (e_j - e_y)(e_j - e_y)^T of each row, where a_y = 0."""
    rows, classes = np.arange(len(y)), np.arange(a.shape[1])
    blocks = np.zeros((*a.shape, a.shape[1]))
    blocks[:, classes, classes] = a
    blocks[rows, y, :] -= a
    blocks[rows, :, y] -= a
    blocks[rows, y, y] = a.sum(axis=1)
    return blocks


def hessian(task: Problem, blocks: np.ndarray) -> np.ndarray:
    """sum_i B_i (x) z_i z_i^T, (C P, C P); blocks hold the shares."""
    n, c, p = len(task.y), task.classes, task.z.shape[1]
    left = np.ascontiguousarray(blocks.transpose(1, 2, 0)).reshape(c * c, n)
    squares = (task.z[:, :, None] * task.z[:, None, :]).reshape(n, p * p)
    return (left @ squares).reshape(c, c, p, p).transpose(0, 2, 1, 3).reshape(c * p, c * p)
