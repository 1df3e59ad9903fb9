"""Default learning rates of minibatch fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from xclf._array_api import namespace, to_host
from xclf._sparse import SparseMatrix
from xclf.objectives import Network
from xclf.rows import BlockRows, Rows

if TYPE_CHECKING:
    from xclf.estimators._head import Head

#: Rows, and entries of them, that the features' second moment is taken from.
_ROWS, _ENTRIES = 256, 1 << 24


def learning_rates(
    network: Network, heads: Sequence[Head], rows: Rows, train: np.ndarray | None
) -> list[float]:
    """Each head's rate: the model's own, or the solver's default, which is at most the loss's
    `rate_limit` over the features' largest second moment.

    A linear model's scores move by the rate times that moment in a step: raw pixels would throw
    those of a hinge far beyond any margin, and a squared hinge to infinity.
    """
    rates = [head.settings.learning_rate for head in heads]
    limits = [_limit(head) for head in heads]
    if all(map(math.isinf, limits)):
        return rates
    moment = _largest_moment(network, rows, train)
    if moment == 0.0 or math.isinf(moment):
        return rates
    return [min(rate, limit / moment) for rate, limit in zip(rates, limits, strict=True)]


def _limit(head: Head) -> float:
    """The loss's `rate_limit` where the rate is the default and has one; else infinite."""
    linear, solver = len(head.widths) == 2, head.settings.solver
    if head.model.learning_rate is not None or solver.scale_free or not linear:
        return math.inf
    return float(head.loss.rate_limit(head.widths[-1]))


def _largest_moment(network: Network, rows: Rows, train: np.ndarray | None) -> float:
    """At least the largest eigenvalue of X^T X / n, X in fitting coordinates: the Frobenius norm of
    X X^T / n for rows that are spread over the training rows."""
    most = max(1, min(_ROWS, _ENTRIES // network.widths[0]))
    if train is None and isinstance(rows, BlockRows):
        some = rows.sample(most)
    else:
        numbers = np.arange(len(rows)) if train is None else train
        some = rows.only(numbers[:: -(-len(numbers) // most)])
    with np.errstate(over="ignore"):
        if isinstance(some.x, SparseMatrix):
            own = some.x.astype(namespace(some.x).float64).scaled(network.scale)
            gram = to_host(own.gram())
            return float(np.linalg.norm(gram)) / len(gram)
        parts = [to_host(chunk.x) for chunk in some.chunks(len(some))]
        x = np.concatenate(parts).astype(np.float64)
        if network.scale is not None:
            x = x if network.shift is None else x - to_host(network.shift)
            x = x / to_host(network.scale)
        return float(np.linalg.norm(x @ x.T)) / len(x)
