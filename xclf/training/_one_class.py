"""Full-batch fits of heads whose rows with weight are all of one class."""

from __future__ import annotations

from collections.abc import Callable

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
    """`fit` of all heads but those whose rows with weight are all of one class, of which biases
    alone bring all losses to 0."""
    lone = _lone_classes(problem, theta)
    results = {k: _apart(problem, theta[k, :], k, own) for k, own in lone.items()}
    others = [k for k in range(int(theta.shape[0])) if k not in lone]
    if not lone or not others:
        return fit(problem, theta) if others else [results[k] for k in sorted(results)]
    kept = np.asarray(others)
    more = fit(problem.take_heads(kept), take_heads(theta, kept))
    results |= dict(zip(others, more, strict=True))
    return [results[k] for k in sorted(results)]


def _lone_classes(problem: Problem, theta: Array) -> dict[int, int]:
    """The class of each head of which all rows with weight are of one; of rows in blocks or on
    several devices from a pass over them."""
    if not (problem.linear and problem.objective.network.bias) or problem.rows.weights is None:
        return {}
    if not problem.rows.shards:
        return _classes_here(problem, int(theta.shape[0]))
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


def _classes_here(problem: Problem, heads: int) -> dict[int, int]:
    rows = problem.rows
    drawn = np.atleast_2d(to_host(rows.weights) > 0.0)
    index = np.atleast_2d(to_host(true_index(rows.labels)))
    every = np.arange(heads)
    weights_of = every % len(drawn) if rows.heads is None else to_host(rows.heads)
    labels_of = 0 * every if rows.tasks is None else to_host(rows.tasks)
    found: dict[tuple[int, int], int | None] = {}
    for g, t in set(zip(weights_of.tolist(), labels_of.tolist(), strict=True)):
        own = index[t][drawn[g]]
        found[g, t] = int(own[0]) if len(own) and bool(np.all(own == own[0])) else None
    pairs = zip(weights_of.tolist(), labels_of.tolist(), strict=True)
    return {k: own for k, pair in enumerate(pairs) if (own := found[pair]) is not None}
