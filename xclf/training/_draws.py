"""Heads with few rows of their own, as the draws of a few-shot curve have them.

They share X and hardly a row of it: a pass over the rows of all would mostly compute for rows
without weight. Each draw is a small problem; those of one shape are computed together, as stacks of
small arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from xclf._array_api import Array, device, namespace, to_host
from xclf._heads import take_heads
from xclf.objectives import Objective
from xclf.rows import Rows, Streamed
from xclf.training._newton_terms import Terms, penalty_of, terms_of
from xclf.training._rotated_rows import RotatedRows
from xclf.training.newton_cg import MOST_ROWS, suits
from xclf.training.problem import Problem

# Share of the rows that a draw has less than.
_FEW = 0.5

# Arrays like the scores of a head of each draw that are alive at once, and like its rows while it
# is rotated.
_SCORES, _ROTATED = 8, 4


def has_few_rows(rows: int, every: int) -> bool:
    """Whether heads that have so many rows each, of `every` row, are draws."""
    return rows <= MOST_ROWS and rows < _FEW * every


def draw_bytes(rows: int, widths: Sequence[int]) -> int:
    """Of a draw of so many rows, while it is trained on together with others."""
    (d, c), r = widths, min(rows, widths[0])
    return 8 * (rows * d + d * r + 3 * rows * (r + 1) + _SCORES * rows * c)


@dataclass(frozen=True)
class Draws:
    """Heads by their rows with weight: for each draw the numbers of its heads, and their problem
    over its rows alone."""

    heads: list[np.ndarray]
    problems: list[Problem]

    @classmethod
    def of(cls, problem: Problem, heads: int) -> Self | None:
        """Of the K heads of a problem; one draw where they share their rows, None where Newton's
        method with conjugate gradients does not suit."""
        draws = cls._of_few_rows(problem, heads)
        if draws is None:
            draws = cls([np.arange(heads)], [problem])
        return draws if draws._suit() else None

    @classmethod
    def _of_few_rows(cls, problem: Problem, heads: int) -> Self | None:
        rows = problem.rows
        away = rows.in_blocks or isinstance(rows.x, Streamed) or bool(rows.shards)
        if away or not problem.linear or rows.weights is None or rows.weights.ndim < 2:
            return None
        drawn = to_host(rows.weights) > 0.0
        counts = np.unique(drawn.sum(axis=1))
        if len(counts) > 1 or not has_few_rows(int(counts[0]), len(rows)):
            return None
        found = cls([], [])
        for (vector, _), own in _by_draw(rows, heads).items():
            found.heads.append(own)
            index = np.flatnonzero(drawn[vector])
            found.problems.append(_alone(problem.take_heads(own), vector, index))
        return found if len(found.heads) > 1 else None

    def _suit(self) -> bool:
        """Whether Newton's method suits each of them, and memory takes all together."""
        rows, widths = self.problems[0].rows, self.problems[0].objective.network.widths
        n, count = len(rows), len(self.problems)
        if count == 1:
            return suits(self.problems[0], len(self.heads[0]))
        needed = count * draw_bytes(n, widths) + 8 * _ROTATED * n * widths[0]
        return needed <= rows.budget.for_basis() and all(
            suits(one, len(own)) for one, own in zip(self.problems, self.heads, strict=True)
        )

    def inside(self, rotated: list[RotatedRows], theta: Array) -> Array:
        """(K, C, m) of theta (K, P)."""
        if len(rotated) == 1:
            return rotated[0].inside(theta)
        xp = namespace(theta)
        if not bool(xp.any(theta != 0.0)):
            classes, m = self.problems[0].objective.network.widths[-1], rotated[0].z.shape[1]
            return xp.zeros((theta.shape[0], classes, m), dtype=theta.dtype, device=device(theta))
        heads = zip(self.heads, rotated, strict=True)
        parts = [rows.inside(take_heads(theta, own)) for own, rows in heads]
        return take_heads(xp.concat(parts), np.argsort(np.concatenate(self.heads)))

    def terms(self, rotated: list[RotatedRows], objective: Objective) -> Terms | DrawTerms:
        """`Terms` of all heads, whose objective this is."""
        each = [terms_of(one, rows) for one, rows in zip(self.problems, rotated, strict=True)]
        if len(each) == 1:
            return each[0]
        xp = namespace(each[0].z)
        shares = [one.share for one in each]
        draw = np.argsort(np.concatenate(self.heads))
        draw = np.repeat(np.arange(len(each)), list(map(len, self.heads)))[draw]
        vectors = {
            name: xp.stack([getattr(one, name) for one in each])[:, None, ...]
            for name in ("spectrum", "units")
        }
        terms = replace(
            each[0],
            loss=None,
            z=xp.stack([one.z for one in each]),
            narrow=xp.stack([one.narrow for one in each]),
            far=xp.stack([one.far for one in each])[:, None],
            mask=xp.stack([one.mask for one in each]),
            share=shares[0],
            penalty=each[0].penalty[:1, ...],
            **vectors,
        )
        if not all(isinstance(share, float) for share in shares):
            ones = xp.ones_like(each[0].z[:, 0])
            terms = replace(terms, share=xp.stack([share * ones for share in shares]))
        return DrawTerms(objective, terms, draw)


@dataclass(frozen=True)
class DrawTerms:
    """`Terms` of K heads, whose arrays of rows are held once for each draw.

    objective : of the heads;  by_draw : `Terms` without a loss, with the arrays of each draw
    draw : (K,), the heads'
    """

    objective: Objective
    by_draw: Terms
    draw: np.ndarray

    def take_heads(self, kept: np.ndarray) -> Terms:
        """Of the heads that host integers name."""
        terms, objective = self.by_draw.take_heads(self.draw[kept]), self.objective.take_heads(kept)
        return replace(terms, loss=objective.loss, penalty=penalty_of(objective, terms.z))


@dataclass(frozen=True)
class RotatedHeads:
    """K heads of a problem in the coordinates of rotated rows, (K, C, m)."""

    problem: Problem
    terms: Terms | DrawTerms

    @property
    def objective(self) -> Objective:
        """Of all heads."""
        return self.problem.objective

    @property
    def rows(self) -> Rows:
        """Those of all heads."""
        return self.problem.rows

    def take_heads(self, kept: np.ndarray) -> RotatedHeads:
        """The heads that host integers name."""
        return RotatedHeads(self.problem.take_heads(kept), self.terms.take_heads(kept))

    def value_and_grad(self, theta: Array) -> tuple[Array, Array]:
        """Objective (K,) and its gradient, of heads that were taken."""
        assert isinstance(self.terms, Terms)
        value, dscores = self.terms.value(theta)
        return value, self.terms.gradient(theta, dscores)


def _by_draw(rows: Rows, heads: int) -> dict[tuple[int, int], np.ndarray]:
    """Numbers of the heads by (vector of weights, label set)."""
    every = np.arange(heads)
    vectors = every if rows.heads is None else to_host(rows.heads)
    sets = 0 * every if rows.tasks is None else to_host(rows.tasks)
    found: dict[tuple[int, int], list[int]] = {}
    for k, key in enumerate(zip(vectors.tolist(), sets.tolist(), strict=True)):
        found.setdefault(key, []).append(k)
    return {key: np.asarray(own) for key, own in found.items()}


def _alone(problem: Problem, vector: int, index: np.ndarray) -> Problem:
    """The problem of heads of one label set over the rows that host integers number, which have the
    weights of that vector."""
    rows = problem.rows.only(index)
    labels, weights = rows.labels, rows.weights
    assert weights is not None
    own: Array | None = weights[vector, :]
    if rows.tasks is not None:
        labels = labels[int(to_host(rows.tasks)[0]), :]
    if bool(namespace(weights).all(own == weights[vector, 0])):
        own = None
    return replace(problem, rows=replace(rows, labels=labels, weights=own, heads=None, tasks=None))
