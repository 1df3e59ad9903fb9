"""Default learning rates of minibatch fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from xclf._array_api import to_host
from xclf.objectives import Network
from xclf.rows import Rows

if TYPE_CHECKING:
    from xclf.estimators._fitting import Head

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
    rates = []
    for head in heads:
        rate, classes = head.settings.learning_rate, head.widths[-1]
        limited = head.model.learning_rate is None and not head.settings.solver.scale_free
        if limited and len(head.widths) == 2:
            limit = head.loss.rate_limit(classes)
            if not math.isinf(limit):
                rate = min(rate, limit / max(_largest_moment(network, rows, train), 1e-300))
        rates.append(rate)
    return rates


def _largest_moment(network: Network, rows: Rows, train: np.ndarray | None) -> float:
    """At least the largest eigenvalue of X^T X / n, X in fitting coordinates: the Frobenius norm of
    X X^T / n for rows that are spread over the training rows."""
    numbers = np.arange(len(rows)) if train is None else train
    most = max(1, min(_ROWS, _ENTRIES // network.widths[0]))
    some = rows.only(numbers[:: -(-len(numbers) // most)])
    x = np.concatenate([to_host(chunk.x) for chunk in some.chunks(len(some))]).astype(np.float64)
    if network.scale is not None:
        x = x if network.shift is None else x - to_host(network.shift)
        x = x / to_host(network.scale)
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(x @ x.T)) / len(x)
