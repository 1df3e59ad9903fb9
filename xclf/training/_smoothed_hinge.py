"""The smooth problem inside a hinge fit: K heads with their multipliers and their smoothing."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from xclf._array_api import Array, accumulator, device, from_host, namespace
from xclf.kernels import proximal_hinge
from xclf.objectives import Layer, Move, ProximalSums
from xclf.optim import SpectralPreconditioner
from xclf.rows import Chunk, PerRow, sum_over_rows
from xclf.training._certificate import Certificate
from xclf.training.preconditioner import (
    MAX_CLASSES,
    passes_for_a_full_basis,
    spectral_preconditioner,
)
from xclf.training.problem import Problem

# How far anchors go, the multipliers found being at 1. Measured on CIFAR-10 and on 100 classes: 1.6
# saves a few more passes on the first, and costs half as many again on the second.
_RELAXATION = 1.3

# Passes that a full eigenbasis may cost at once. Hinge fits are long: on 10000 rows of CIFAR-10,
# where it takes the time of 100, it saves 30, 120 and 700 at reg 1e-2, 1e-3 and 1e-4.
_AT_ONCE = 300


class SmoothedHinge:
    """What L-BFGS minimises between two moves of the multipliers.

    problem : of K heads, whose reg it takes as (K,)
    margin, smoothing : host (K,)
    anchor : (K, C, N) in the dtype of the rows, beside them; moves happen in place
    """

    def __init__(
        self, problem: Problem, margin: np.ndarray, smoothing: np.ndarray, anchor: PerRow
    ) -> None:
        self.problem, self.margin, self.smoothing = problem, margin, smoothing
        self.anchor = anchor
        self.precondition: SpectralPreconditioner | None = None
        #: Evaluations after which a fit that is not near its goal should `use_full_eigenbasis`.
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
        cls, problem: Problem, margin: np.ndarray, smoothing: np.ndarray, lines: list[PerRow]
    ) -> SmoothedHinge:
        """With a head's multipliers (C, N) for each of `lines`, which is emptied, in the dtype of
        the problem's rows."""
        made = cls.at_zero(problem, margin, smoothing)
        for k in range(len(lines)):

            def write(part: Array, line: Array, k: int = k) -> Array:
                for c in range(int(line.shape[0])):  # class by class: a copy of all is as large
                    part[k, c, :] = namespace(part).astype(line[c, :], part.dtype)
                return part

            made.anchor.map(write, lines.pop(0))
        return made

    def build_preconditioner(
        self, theta: Array, like: SpectralPreconditioner | None = None
    ) -> None:
        """For linear models: spectrum of the rows, curvature of the active pairs at theta.

        like : one for the same rows, whose spectrum will do
        """
        network = self.problem.objective.network
        if not self.problem.linear or network.widths[1] > MAX_CLASSES:
            return
        self._move = Move(self._device(np.zeros(len(self.margin), dtype=bool)), self._smoothing)
        curvature = self._evaluate(theta)[-1]
        self._move = None
        reg = self.problem.objective.reg
        if like is not None:
            self.precondition = replace(like, curvature=curvature, reg=reg)
            return
        rows = self.problem.rows
        cost = passes_for_a_full_basis(rows, network, len(self.margin))
        full = cost <= _AT_ONCE
        self.precondition = spectral_preconditioner(network, rows, reg, curvature, full=full)
        if not full:
            self.full_basis_at = cost / 3

    def use_full_eigenbasis(self) -> None:
        """From now on a full basis of the features, which is dear, shapes the preconditioner."""
        assert self.precondition is not None
        network, rows, reg = (
            self.problem.objective.network,
            self.problem.rows,
            self.precondition.reg,
        )
        self.full_basis_at = math.inf
        self.precondition = spectral_preconditioner(
            network, rows, reg, self.precondition.curvature, full=True
        )

    def value_and_grad(self, theta: Array) -> tuple[Array, ...]:
        """Smoothed objective and gradient; with them, as extras: the slack's share of the gap, the
        squared norm of the weights' gradient where flows balance, what it costs to have them
        balance, and the hinge's own objective.

        Multipliers that are due to move do so in the same pass, before anything else.
        """
        value, grad, slack, plain, *curvature = self._evaluate(theta)
        xp = namespace(theta)
        (w, b), *_ = self.problem.objective.network.layers(grad)
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
        rows, objective, total = self.problem.rows, self.problem.objective, self.problem.total
        network = objective.network
        layers = network.prepared(theta, rows.dtype)
        step = ProximalSums(network, layers, self._margin, self._smoothing, self.anchor, self._move)
        width = self.problem.width(theta)
        sums = sum_over_rows(partial(_at_its_place, step), rows, width)
        loss, slack, plain = sums[:3]
        more: tuple[Array, ...] = ()
        if self._move is not None and self._move.measure:
            more = (sums[-1] / total[..., None, None],)
        gradients: list[Any] = list(zip(sums[3::2], sums[4::2], strict=False))
        gradient = objective.network.flatten(objective.network.unscaled(gradients))
        value, grad = objective.complete(theta, (loss, gradient), total)
        return value, grad, slack / total, value + (plain - loss) / total, *more

    def move(self, heads: np.ndarray, smoothing: np.ndarray) -> None:
        """At the next evaluation the multipliers of `heads` (host booleans) become the anchor, and
        `smoothing` (K,) that of all."""
        measure = self.precondition is not None
        self._move = Move(self._device(heads), self._smoothing, _RELAXATION, measure)
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

    def line(self, head: int) -> PerRow:
        """(C, N): a copy of one head's anchor."""
        return self.anchor.map(lambda part: namespace(part).asarray(part[head, ...], copy=True))

    def certify(self, theta: Array, heads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(objective, gap), host (k,), of the heads that integers `heads` name, at theta (k, P)."""
        problem = widest(self.problem.take_heads(heads))
        margin, smoothing = self.margin[heads], self.smoothing[heads]
        return Certificate(problem, theta, margin, smoothing, self.anchor, heads).bound()

    def multipliers(self, theta: Array, head: int) -> Array:
        """(C, N): those of one head at theta (K, P), which its margins give."""
        problem, margin = self.problem, float(self.margin[head])
        xp, parts = namespace(theta), []
        layers = problem.objective.network.prepared(theta[head, :], problem.rows.dtype)
        for chunk in problem.rows.chunks(
            problem.rows.chunk_rows(problem.objective.network.widths[-1])
        ):
            scores, _ = problem.objective.network.apply(layers, chunk.x)
            anchor = self.anchor[head, :, chunk.where]
            smoothing = float(self.smoothing[head])
            _, _, _, a, *_ = proximal_hinge(
                scores, chunk.labels, anchor, smoothing, margin=margin, axis=-2
            )
            parts.append(a)
        return xp.concat(parts, axis=-1)

    def as_stored(self, theta: Array, dtype: Any) -> Array:
        """The nearest parameters to theta (K, P), of a linear model, that a model of `dtype` holds.

        In raw coordinates, where models keep theirs. A vector added to the weights of all classes
        changes no difference of scores: the one for which their penalty is least is added.
        """
        network, xp = self.problem.objective.network, namespace(theta)
        (w, b) = network.layers(theta)[0]
        parts = [w - xp.mean(w, axis=-2, keepdims=True)]
        parts.append(None if b is None else b - xp.mean(b, axis=-2, keepdims=True))
        layers = network.raw([Layer(*parts)])
        back = [
            None if part is None else xp.astype(xp.astype(part, dtype), theta.dtype)
            for part in layers[0]
        ]
        return network.flatten([tuple(layer) for layer in network.fitting([Layer(*back)])])

    def _numbers(self) -> None:
        dtype = self.problem.rows.dtype
        self._margin = self._device(self.margin, dtype)
        self._smoothing = self._device(self.smoothing, dtype)

    def _device(self, values: np.ndarray, dtype: Any = None) -> Array:
        return from_host(values, self.problem.rows.x, dtype)


def _at_its_place(step: ProximalSums, chunk: Chunk) -> tuple[Array, ...]:
    return step(chunk, chunk.where)


def widest(problem: Problem) -> Problem:
    """The same problem with products in the widest dtype of the device."""
    rows = problem.rows
    return replace(problem, rows=rows.widened(accumulator(namespace(rows.x), device(rows.x))))
