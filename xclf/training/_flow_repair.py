"""Balanced multipliers: the flow into every class equals the flow out of it.

With unpenalised biases the hinge's dual has the constraint that the multipliers a_ij of rows i with
true class c, summed to flows F[j, c] = sum w_i a_ij, form a circulation over the classes. Here
flows that nearly do are repaired on the host: they are C x C, however many the rows are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Rounds of routing: each ends with edges at their capacity, which the next leaves out.
_ROUNDS = 40
# An imbalance that may remain, as a share of all weight; the certificate counts it.
_REST = 1e-14
# A share of the diagonal that keeps the Laplacian of a graph in pieces solvable.
_PIECES = 1e-12


class Repair(NamedTuple):
    """How the multipliers change, by class j of the multiplier and true class c: both (C, C).

    First  a <- a + inner[j, c] min(a, 1 - a),   which leaves those at a bound where they are;
    then   a <- a (1 + outer[j, c])              where outer is negative,
           a <- a + outer[j, c] (1 - a)          where it is positive.
    All entries are in [-1, 1], so that a stays in [0, 1].
    """

    inner: np.ndarray
    outer: np.ndarray


def balance(flow: np.ndarray, inside: np.ndarray, weight: np.ndarray) -> Repair:
    """The repair after which flows balance, up to rounding.

    flow : (C, C) F[j, c], 0 on the diagonal
    inside : (C, C) the same sums of min(a, 1 - a): the most that multipliers within the box can
        change, at next to no cost, as their pairs are close to the kink
    weight : (C,) sum of w_i by true class: the most that F[j, c] could be

    Where the multipliers inside do not suffice those at their bounds take part; where that fails
    too the result is a circulation that surely exists, min(F, F^T). Nothing can flow out of a class
    without weight, and so nothing may flow in.
    """
    open_ = (weight > 0.0)[:, None] & (weight > 0.0) & ~np.eye(len(weight), dtype=bool)
    flow, inside = np.where(open_, flow, 0.0), np.where(open_, inside, 0.0)
    limit = _REST * max(weight.sum(), 1e-300)
    route, _ = _route(flow, -inside, inside, limit)
    inner = _share(route, inside)
    flow = np.clip(flow + route, 0.0, weight)
    budget = np.where(open_, weight - flow, 0.0)
    route, rest = _route(flow, -flow, budget, limit)
    if rest > 1e3 * limit:
        route = np.minimum(flow, flow.T) - flow
    outer = np.where(route < 0.0, _share(route, flow), _share(route, budget))
    # The own class has no multiplier; those towards a class without weight go to 0.
    outer = np.where(open_ | np.eye(len(weight), dtype=bool), outer, -1.0)
    return Repair(inner, outer)


def imbalance(flow: np.ndarray) -> np.ndarray:
    """(C,): the flow into every class less the flow out of it."""
    return np.asarray(flow.sum(axis=1) - flow.sum(axis=0))


def _route(
    flow: np.ndarray, low: np.ndarray, high: np.ndarray, limit: float
) -> tuple[np.ndarray, float]:
    """(T, rest): T within [low, high] for which flow + T balances, but for `rest`.

    Electrical flows: currents between potentials, each edge conducting in proportion to its
    remaining capacity; an edge at its limit conducts no more.
    """
    route = np.zeros_like(flow)
    conduct = high - low
    best, least = route, np.inf
    for _ in range(_ROUNDS):
        excess = imbalance(flow + route)
        rest = float(np.max(np.abs(excess)))
        if rest < least:
            best, least = route, rest
        if rest <= limit:
            break
        both = conduct + conduct.T
        degree = both.sum(axis=1)
        ridge = np.where(degree > 0.0, degree * (1.0 + _PIECES), 1.0)
        try:
            potential = np.linalg.solve(np.diag(ridge) - both, -excess)
        except np.linalg.LinAlgError:
            break
        unbounded = route + conduct * (potential[:, None] - potential)
        if not np.isfinite(unbounded).all():
            break
        route = np.clip(unbounded, low, high)
        conduct = np.where(route == unbounded, conduct, 0.0)
    return best, least


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, within [-1, 1], and 0 where there is nothing."""
    out = np.zeros_like(part)
    np.divide(part, whole, out=out, where=whole > 0.0)
    return np.asarray(np.clip(out, -1.0, 1.0))
