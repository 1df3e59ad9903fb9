"""The smooth problem inside a hinge fit: K heads with their multipliers and their smoothing."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from xclf._array_api import Array, from_host, namespace
from xclf.objectives import Move, Network, ProximalSums
from xclf.optim import SpectralPreconditioner
from xclf.rows import Chunk, PerRow, sum_over_rows
from xclf.training._certificate import Certificate, Multipliers
from xclf.training._precision import widest
from xclf.training.preconditioner import (
    MAX_CLASSES,
    passes_for_a_full_basis,
    spectral_preconditioner,
)
from xclf.training.problem import Problem

#: How far anchors go, the new multipliers being at 1. Measured on CIFAR-10 and on 100 classes: 1.6
#: saves a few more passes on the first, and costs half as many again on the second.
RELAXATION = 1.3

# Passes that a full eigenbasis may cost at once. Hinge fits are long: on 10000 rows of CIFAR-10,
# where it takes the time of 100, it saves 30, 120 and 700 at reg 1e-2, 1e-3 and 1e-4.
_AT_ONCE = 300


class SmoothedHinge:
    """What L-BFGS minimises between two moves of the multipliers.

    problem : of K heads, whose reg it takes as (K,)
    margin, smoothing : host (K,)
    anchor : (K, C, N) in the dtype of the rows, beside them; moves happen in place
    """

    #: What `precondition` is one of.
    preconditioners: ClassVar[Any] = SpectralPreconditioner

    def __init__(
        self, problem: Problem, margin: np.ndarray, smoothing: np.ndarray, anchor: PerRow
    ) -> None:
        self.problem, self.margin, self.smoothing = problem, margin, smoothing
        self.anchor = anchor
        self.precondition: Any = None
        #: Evaluations after which a fit that is far from its goal should `use_full_eigenbasis`.
        self.full_basis_at = math.inf
        self._move: Move | None = None
        self._numbers()

    @classmethod
    def at_zero(cls, problem: Problem, margin: np.ndarray, smoothing: np.ndarray) -> SmoothedHinge:
        """No multipliers yet: the objective is the Huber form of the hinge."""
        rows = problem.rows
        shape = (len(margin), problem.objective.network.widths[-1])
        return cls(problem, margin, smoothing, rows.zeros(shape, rows.dtype))

    @classmethod
    def widened(
        cls, problem: Problem, margin: np.ndarray, smoothing: np.ndarray, anchors: list[PerRow]
    ) -> SmoothedHinge:
        """With the multipliers (C, N) of each head from `anchors`, which is emptied, in the dtype
        of the problem's rows."""
        inner = cls.at_zero(problem, margin, smoothing)
        for k in range(len(anchors)):

            def write(part: Array, own: Array, k: int = k) -> Array:
                for c in range(int(own.shape[0])):  # class by class: a copy of all is as large
                    part[k, c, :] = namespace(part).astype(own[c, :], part.dtype)
                return part

            inner.anchor = inner.anchor.map(write, anchors.pop(0))
        return inner

    def state(self) -> dict[str, Any]:
        """All that `from_state` needs beside the problem; not while a move is due."""
        made = None if self.precondition is None else self.precondition.state()
        return {
            "margin": self.margin,
            "smoothing": self.smoothing,
            "anchor": self.anchor.to_host(),
            "precondition": made,
            "full_basis_at": self.full_basis_at,
        }

    @classmethod
    def from_state(cls, problem: Problem, state: dict[str, Any]) -> SmoothedHinge:
        """The one whose `state` this was, for the problem of its heads."""
        anchor = problem.rows.per_row(state["anchor"])
        inner = cls(problem, state["margin"], state["smoothing"], anchor)
        if state["precondition"] is not None:
            inner.precondition = cls.preconditioners.from_state(state["precondition"])
        inner.full_basis_at = state["full_basis_at"]
        return inner

    def build_preconditioner(
        self, theta: Array, like: SpectralPreconditioner | None = None
    ) -> None:
        """For linear models: spectrum of the rows, curvature of the active pairs at theta.

        like : one for the same rows, whose spectrum will do
        """
        if not self.problem.linear or self.network.widths[1] > MAX_CLASSES:
            return
        self._move = Move(self._device(np.zeros(len(self.margin), dtype=bool)), self._smoothing)
        curvature = self._evaluate(theta)[-1]
        self._move = None
        rows, reg = self.problem.rows, self.problem.objective.reg
        if like is not None:
            self.precondition = replace(like, curvature=curvature, reg=reg)
            return
        cost = passes_for_a_full_basis(rows, self.network, len(self.margin))
        full = cost <= _AT_ONCE
        self.precondition = spectral_preconditioner(self.network, rows, reg, curvature, full=full)
        if not full:
            self.full_basis_at = cost / 3

    def use_full_eigenbasis(self) -> None:
        """Precondition with all directions of the features from now on, which takes long to set
        up."""
        old = self.precondition
        assert old is not None
        self.full_basis_at = math.inf
        self.precondition = spectral_preconditioner(
            self.network, self.problem.rows, old.reg, old.curvature, full=True
        )

    def value_and_grad(self, theta: Array) -> tuple[Array, ...]:
        """Smoothed objective and gradient; with them, as extras: the slack's share of the gap, the
        squared norm of the weights' gradient where flows balance, what it costs to have them
        balance, and the hinge's own objective.

        Multipliers that are due to move do so in the same pass, before anything else.
        """
        value, grad, slack, plain, *curvature = self._evaluate(theta)
        xp = namespace(theta)
        (w, b), *_ = self.network.layers(grad)
        cost = xp.zeros_like(value)
        if b is not None and self.precondition is not None:
            # Once flows balance the mean of the features has no share in X^T G.
            w = w - b * self.precondition.mean
            cost = self.precondition.bias_cost(b[..., 0])
        elif b is not None:
            cost = self._margin * xp.sum(xp.abs(b), axis=(-2, -1))
        weights = xp.sum(w * w, axis=(-2, -1))
        if self._move is not None and self.precondition is not None:
            moved, before = self._move.heads[:, None, None], self.precondition.curvature
            self.precondition.refresh(xp.where(moved, curvature[0], before))
        self._move = None
        return value, grad, slack, weights, cost, plain

    def _evaluate(self, theta: Array) -> tuple[Array, ...]:
        """(value, grad, slack, plain objective), and the curvature if there is a move."""
        rows, total, network = self.problem.rows, self.problem.total, self.network
        layers = network.prepared(theta, rows.dtype)
        step = ProximalSums(network, layers, self._margin, self._smoothing, self.anchor, self._move)
        sums = sum_over_rows(
            partial(_in_place, step),
            rows,
            self.problem.width(theta),
            writes=None if self._move is None else self.anchor,
        )
        loss, slack, plain = sums[:3]
        more: tuple[Array, ...] = ()
        if self._move is not None and self._move.measure:
            more = (sums[-1] / total[..., None, None],)
        gradients: list[Any] = list(zip(sums[3::2], sums[4::2], strict=False))
        gradient = network.flatten(network.unscaled(gradients))
        value, grad = self.problem.objective.complete(theta, (loss, gradient), total)
        return value, grad, slack / total, value + (plain - loss) / total, *more

    def move(self, heads: np.ndarray, smoothing: np.ndarray) -> None:
        """At the next evaluation the multipliers of `heads` (host booleans) become the anchor, and
        `smoothing` (K,) that of all."""
        measure = self.precondition is not None
        self._move = Move(self._device(heads), self._smoothing, RELAXATION, measure)
        self.smoothing = smoothing
        self._numbers()

    def keep(self, kept: np.ndarray) -> None:
        """Go on with the heads that host integers `kept` name, in increasing order; not while a
        move is due. Anchors close ranks in the memory they have."""
        self.problem = self.problem.take_heads(kept)
        self.margin, self.smoothing = self.margin[kept], self.smoothing[kept]

        def close(part: Array) -> Array:
            for place, k in enumerate(kept.tolist()):
                if place != k:
                    part[place, ...] = part[k, ...]
            return part[: len(kept), ...]

        self.anchor = self.anchor.map(close)
        self._numbers()

    def anchor_of(self, head: int) -> PerRow:
        """(C, N): a copy of one head's anchor."""
        return self.anchor.map(lambda part: namespace(part).asarray(part[head, ...], copy=True))

    def certify(self, theta: Array, heads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(objective, gap), host (k,), of the heads that integers `heads` name, at theta (k, P)."""
        problem = widest(self.problem.take_heads(heads))
        margin, smoothing = self.margin[heads], self.smoothing[heads]
        return Certificate(problem, theta, margin, smoothing, self.anchor, heads).bound()

    def multipliers(self, theta: Array, head: int) -> Array:
        """(C, N): those of one head at theta (K, P), which its margins give."""
        rows, one = self.problem.rows.take_heads(np.asarray([head])), slice(head, head + 1)
        layers = self.network.prepared(theta[one, :], rows.dtype)
        heads = self._device(np.asarray([head]))
        numbers = self._margin[one], self._smoothing[one]
        source = Multipliers(self.network, layers, *numbers, self.anchor, heads)
        parts = [
            source(chunk)[2] for chunk in rows.chunks(rows.chunk_rows(self.network.widths[-1]))
        ]
        return namespace(theta).concat(parts, axis=-1)[0, ...]

    @property
    def network(self) -> Network:
        return self.problem.objective.network

    @property
    def place(self) -> Any:
        """Where its parameters are those of."""
        return self.problem

    def inside(self, theta: Array) -> Array:
        """Its parameters at theta (K, P) of the problem."""
        return theta

    def outside(self, theta: Array, heads: np.ndarray) -> Array:
        """theta (k, P) of the problem, of its own of the heads that host integers `heads` name."""
        return theta

    def exact(self, theta: Array) -> Array:
        """Its parameters from those of one in another dtype."""
        return theta

    def _numbers(self) -> None:
        dtype = self.problem.rows.dtype
        self._margin = self._device(self.margin, dtype)
        self._smoothing = self._device(self.smoothing, dtype)

    def _device(self, values: np.ndarray, dtype: Any = None) -> Array:
        return from_host(values, self.problem.rows.x, dtype)


def _in_place(step: ProximalSums, chunk: Chunk) -> tuple[Array, ...]:
    return step(chunk, chunk.where)
