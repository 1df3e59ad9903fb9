"""Full-batch fits of heads whose rows with weight are all of one class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from xclf._array_api import Array, to_host
from xclf._heads import take_heads
from xclf.objectives import true_index
from xclf.training.events import FitResult
from xclf.training.problem import Problem


def without_spare_rows(
    fit: Callable[[Problem, Array], list[FitResult]], problem: Problem, theta: Array
) -> list[FitResult]:
    """`fit` of all heads; of one whose rows with weight are all of one class, of which biases alone
    bring all losses to 0, to one of them."""
    lone = _rows_of_one_class(problem, int(theta.shape[0]))
    results: dict[int, FitResult] = {}
    for k, row in lone.items():
        one = problem.take_heads(np.asarray([k]))
        one = replace(one, rows=one.rows.only(np.asarray([row])))
        (results[k],) = fit(one, theta[k : k + 1, :])
    others = [k for k in range(int(theta.shape[0])) if k not in lone]
    if not lone or not others:
        return fit(problem, theta) if others else [results[k] for k in sorted(results)]
    kept = np.asarray(others)
    more = fit(problem.take_heads(kept), take_heads(theta, kept))
    results |= dict(zip(others, more, strict=True))
    return [results[k] for k in sorted(results)]


def _rows_of_one_class(problem: Problem, heads: int) -> dict[int, int]:
    """The first row with weight of each head of which all such rows are of one class."""
    rows = problem.rows
    biases = problem.linear and problem.objective.network.bias
    if not biases or rows.shards or rows.weights is None:
        return {}
    drawn = np.atleast_2d(to_host(rows.weights) > 0.0)
    index = np.atleast_2d(to_host(true_index(rows.labels)))
    every = np.arange(heads)
    weights_of = every % len(drawn) if rows.heads is None else to_host(rows.heads)
    labels_of = 0 * every if rows.tasks is None else to_host(rows.tasks)
    first: dict[tuple[int, int], int | None] = {}
    for g, t in set(zip(weights_of.tolist(), labels_of.tolist(), strict=True)):
        own = np.flatnonzero(drawn[g])
        same = len(own) and bool(np.all(index[t][own] == index[t][own[0]]))
        first[g, t] = int(own[0]) if same else None
    pairs = zip(weights_of.tolist(), labels_of.tolist(), strict=True)
    return {k: row for k, pair in enumerate(pairs) if (row := first[pair]) is not None}
