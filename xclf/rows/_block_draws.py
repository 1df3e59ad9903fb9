"""Which rows of a group minibatches are drawn from: those with weight that are not held out.

Rows are held out by counts: of each class a share, given to the groups by a hypergeometric draw,
and within a group drawn by its number and a seed. Nothing here grows with the number of rows, and
the rows are the same wherever a group is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf.rows._block_tasks import Beside
from xclf.rows._blocks import MANY, Engine


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows of one group that are held out.

    classes, counts : so many of each class;  seed : of the draw
    """

    classes: np.ndarray
    counts: np.ndarray
    seed: tuple[int, int]

    def of(self, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Those of the numbered rows that are held out, in order."""
        rows = np.random.default_rng(self.seed).permutation(rows)
        rows = rows[np.argsort(labels[rows], kind="stable")]
        kinds, first = np.unique(labels[rows], return_index=True)
        most = np.zeros(len(kinds), np.int64)
        most[np.searchsorted(kinds, self.classes)] = self.counts
        place = np.searchsorted(kinds, labels[rows])
        return np.sort(rows[np.arange(len(rows)) - first[place] < most[place]])


def weighted_rows(beside: Beside, every: bool = False) -> np.ndarray:
    """Numbers of a group's rows with weight; of all of them for `every`."""
    if beside.weights is None or every:
        return np.arange(beside.labels.shape[-1])
    return np.flatnonzero(np.atleast_2d(beside.weights).any(axis=0))


def drawn_rows(beside: Beside, held: HeldOut | None, every: bool = False) -> np.ndarray:
    """Numbers of the rows of a group that minibatches are drawn from.

    every : whether rows without weight are among them
    """
    rows = weighted_rows(beside, every)
    if held is None:
        return rows
    return np.setdiff1d(rows, held.of(_integers(beside.labels), rows), assume_unique=True)


def held_rows(_: None, beside: Beside, held: HeldOut) -> np.ndarray:
    """Numbers of the rows of a group that are held out."""
    return held.of(_integers(beside.labels), weighted_rows(beside))


def hold_out(
    engine: Engine, besides: Sequence[Any], share: float, rng: np.random.Generator
) -> list[HeldOut]:
    """A share of the rows with weight of all groups, stratified by their labels.

    Raises ValueError where a class has fewer than two rows, or a part has fewer rows than there
    are classes.
    """
    found = list(engine.collect(_classes, None, [(own,) for own in besides], MANY))
    totals = np.zeros(1 + max(int(classes[-1]) for classes, _ in found if len(classes)), np.int64)
    for classes, counts in found:
        totals[classes] += counts
    shares = _shares(totals, share)
    held = [np.zeros(len(classes), np.int64) for classes, _ in found]
    for kind in np.flatnonzero(shares).tolist():
        places = [(g, np.searchsorted(classes, kind)) for g, (classes, _) in enumerate(found)]
        places = [(g, k) for g, k in places if k < len(held[g]) and found[g][0][k] == kind]
        colors = [int(found[g][1][k]) for g, k in places]
        drawn = rng.multivariate_hypergeometric(colors, int(shares[kind]))
        for (g, k), count in zip(places, drawn.tolist(), strict=True):
            held[g][k] = count
    seed = int(rng.integers(1 << 62))
    return [
        HeldOut(classes, counts, (seed, g))
        for g, ((classes, _), counts) in enumerate(zip(found, held, strict=True))
    ]


def _shares(totals: np.ndarray, share: float) -> np.ndarray:
    """Rows of each class to hold out: in proportion, rounded down, those that are left one each to
    the classes with the largest remainders."""
    rows, classes = int(totals.sum()), int(np.count_nonzero(totals))
    most = math.ceil(share * rows)
    if totals[totals > 0].min() < 2:
        raise ValueError("a class has a single row, and both parts are to have each class")
    if min(most, rows - most) < classes:
        raise ValueError(
            f"{most} rows held out and {rows - most} others are to hold {classes} classes each"
        )
    exact = most * (totals / rows)
    own = np.floor(exact).astype(np.int64)
    order = np.argsort(own - exact, kind="stable")
    own[order[: most - int(own.sum())]] += 1
    return own


def _classes(_: None, beside: Beside) -> tuple[np.ndarray, np.ndarray]:
    """(classes, rows of each) with weight of a group."""
    return np.unique(_integers(beside.labels)[weighted_rows(beside)], return_counts=True)


def _integers(labels: np.ndarray) -> np.ndarray:
    own: np.ndarray = labels.argmax(axis=0) if labels.dtype == np.bool_ else labels
    return own
