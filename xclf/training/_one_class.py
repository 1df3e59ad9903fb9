"""Full-batch fits of heads whose rows with weight are all of one class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from xclf._array_api import Array, from_host, namespace, to_host
from xclf._heads import take_heads
from xclf.objectives import true_index
from xclf.training._precision import ABSENT
from xclf.training._settle import CONVERGED
from xclf.training._softmax_gap import class_masses
from xclf.training.events import FitResult
from xclf.training.problem import Problem


def without_spare_rows(
    fit: Callable[[Problem, Array], list[FitResult]], problem: Problem, theta: Array
) -> list[FitResult]:
    """`fit` of all heads; of one whose rows with weight are all of one class, of which biases alone
    bring all losses to 0, to one of them."""
    if problem.rows.shards:
        classes = _lone_classes(problem, theta)
        results = {k: _apart(problem, theta[k, :], k, own) for k, own in classes.items()}
        lone = dict.fromkeys(classes, 0)
    else:
        lone, results = _rows_of_one_class(problem, int(theta.shape[0])), {}
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


def _lone_classes(problem: Problem, theta: Array) -> dict[int, int]:
    """The class of each head of which all rows with weight are of one, from a pass over rows in
    blocks or on several devices."""
    if not (problem.linear and problem.objective.network.bias) or problem.rows.weights is None:
        return {}
    there = np.asarray(to_host(class_masses(problem, theta))) > 0.0
    return {k: int(np.argmax(own)) for k, own in enumerate(there) if own.sum() == 1}


def _apart(problem: Problem, theta: Array, head: int, own: int) -> FitResult:
    """Weights of 0, and biases so far apart that no row of class `own` has a loss."""
    network, loss, xp = problem.objective.network, problem.objective.loss, namespace(theta)
    far = ABSENT
    if loss.attained:
        margin = np.ravel(to_host(loss.margin))  # type: ignore[attr-defined]
        far = 2.0 * float(margin[head if len(margin) > 1 else 0])
    d, c = network.widths[0], network.widths[-1]
    bias = from_host(np.where(np.arange(c) == own, 0.0, -far)[:, None], theta, theta.dtype)
    weights = xp.zeros_like(xp.reshape(theta[: c * d], (c, d)))
    theta = network.flatten([(weights, bias)])
    return FitResult(theta, 1, 0.0, True, CONVERGED, 0.0, dual_gap=0.0)


def _rows_of_one_class(problem: Problem, heads: int) -> dict[int, int]:
    """The first row with weight of each head of which all such rows are of one class."""
    rows = problem.rows
    biases = problem.linear and problem.objective.network.bias
    if not biases or rows.weights is None:
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
