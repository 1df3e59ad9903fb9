"""An upper bound of how far a linear hinge model is from its optimum, rounding included.

For multipliers a_ij in [0, 1], 0 at the true class, let G_ij = w_i/W (a_ij - [j = y_i] sum_k a_ik).
The objective P at weights V and biases b, its margins m, and any (V*, b*) satisfy

    P - P* <= sum_i w_i/W sum_j (max(0, m_ij) - a_ij m_ij)  +  ||X^T G + 2 reg V||^2 / (4 reg)
              + 1^T G (b - b*).

The last term is 0 without biases, and where flows between classes balance (`balance`); the rest
that rounding leaves is bounded, as no optimum has biases far apart. All of it is computed in the
widest dtype, and a bound of its own rounding is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from xclf._array_api import Array, from_host, namespace, to_host
from xclf._sparse import SparseMatrix
from xclf.kernels import proximal_hinge
from xclf.objectives import Layer, Network, class_flows, true_mask
from xclf.rows import Chunk, PerRow, sum_over_rows
from xclf.training._flow_repair import balance
from xclf.training._precision import rounding_bounds
from xclf.training.problem import Problem


class Certificate:
    """Multipliers of K heads, as `proximal_hinge` gives them at theta, and the gap they prove.

    problem : with rows in the widest dtype;  theta : (K, P)
    margin, smoothing : host (K,)
    anchor : (H, C, N) beside the rows, in any dtype;  heads : host integers (K,), which of its H
    """

    def __init__(
        self,
        problem: Problem,
        theta: Array,
        margin: np.ndarray,
        smoothing: np.ndarray,
        anchor: PerRow,
        heads: np.ndarray,
    ) -> None:
        self.problem, self.theta, self.margin = problem, theta, margin
        self.network, dtype = problem.objective.network, problem.rows.dtype
        self.multipliers = Multipliers(
            self.network,
            self.network.prepared(theta, dtype),
            from_host(margin, theta, dtype),
            from_host(smoothing, theta, dtype),
            anchor,
            from_host(heads, theta),
        )
        self.total = np.broadcast_to(to_host(problem.total), margin.shape)
        self.weight = np.zeros((len(margin), self.network.widths[-1]))

    def bound(self) -> tuple[np.ndarray, np.ndarray]:
        """(P, gap), host (K,): the objective at theta, and the most that it may stand above the
        optimum. Where reg is 0 the gap is P itself: no optimum is below 0."""
        network = self.network
        repair = self._repair() if network.bias else None
        *sums, dw, db = self._sums(repair)
        xp, (w, b) = namespace(self.theta), network.layers(self.theta)[0]
        dw, db = network.unscaled([(dw, db)])[0]
        total = from_host(self.total, self.theta, dw.dtype)[:, None]
        penalty, gradient = network.penalty(self.theta, self.problem.objective.reg)
        residual = dw / total[..., None] + network.layers(gradient)[0].w
        parts = [*sums, penalty]
        parts += [xp.sum(a * a, axis=(-2, -1)) for a in (residual, w)]
        biases = [] if b is None else [db / total, xp.astype(b[..., 0], dw.dtype)]
        numbers = to_host(xp.concat([xp.stack(parts, axis=-1), *biases], axis=-1)).T
        return self._assemble(np.asarray(numbers, dtype=np.float64))

    def _assemble(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, slack, mass, squares, active, lengths = numbers[:6] / self.total
        penalty, residual, norm = numbers[6:9]
        objective = value + penalty
        reg = np.broadcast_to(to_host(self.problem.objective.reg), objective.shape)
        with np.errstate(all="ignore"):
            unit = float(namespace(self.theta).finfo(self.problem.rows.dtype).eps) / 2
            inner, outer = rounding_bounds(unit, self.network.widths[0], len(self.problem.rows))
            # Margins are off by two scores' rounding, where they count: in the hinge, or in a.
            rounding = 2 * inner * (2 * np.sqrt(norm) * lengths + self.margin * active)
            rounding += (inner + outer) * (objective + slack)
            off = 2 * (inner + outer) * (mass * np.sqrt(squares) + 2 * reg * np.sqrt(norm))
            residual = (np.sqrt(residual) + off) ** 2 / (4 * reg)
            gap = np.maximum(slack, 0.0) + residual + rounding
            if self.network.bias:
                flow, b = np.split(numbers[9:], 2)  # 1^T G and the biases, (C, K)
                gap += self._bias_term(flow, b, objective, reg, np.sqrt(squares), outer * mass)
                gap += 4 * inner * np.max(np.abs(b), axis=0) * active
        gap = np.where(np.isfinite(gap) & (reg > 0.0), gap, np.inf)
        return objective, np.where(np.isnan(objective), np.inf, np.minimum(gap, objective))

    def _bias_term(
        self,
        flow: np.ndarray,
        b: np.ndarray,
        objective: np.ndarray,
        reg: np.ndarray,
        spread: np.ndarray,
        rounding: np.ndarray,
    ) -> np.ndarray:
        """At most 1^T G (b - b*), of which the entries of 1^T G add up to 0.

        Rows of class c give  b*_j - b*_c <= P W / W_c - margin + |V*_j - V*_c| |mean x|,  with
        reg |V*|^2 <= P  and  |mean x|^2 <= W / W_c mean |x|^2.
        """
        there = self.weight.T > 0.0
        share = np.where(there, self.weight.T / self.total, 1.0).min(axis=0)
        apart = objective / share + np.sqrt(2 * objective / reg / share) * spread
        apart += np.where(there, b, -np.inf).max(axis=0) - np.where(there, b, np.inf).min(axis=0)
        imbalance: np.ndarray = np.abs(flow).sum(axis=0) + 2 * rounding
        return np.asarray(0.5 * imbalance * np.maximum(apart, 0.0))

    def _repair(self) -> tuple[Array, Array]:
        """(inner, outer) of `balance`, (K, C, C) each, in the namespace of theta."""
        rows, width = self.problem.rows, self.problem.width(self.theta)
        flows = sum_over_rows(partial(_flows, self.multipliers), rows, width)
        flow, inside, self.weight = map(to_host, flows)
        repairs = [balance(*parts) for parts in zip(flow, inside, self.weight, strict=True)]
        inner, outer = (np.stack(part) for part in zip(*repairs, strict=True))
        return from_host(inner, self.theta, rows.dtype), from_host(outer, self.theta, rows.dtype)

    def _sums(self, repair: tuple[Array, Array] | None) -> tuple[Array, ...]:
        """Sums over rows, weighted: hinge, slack, multipliers, |x|^2, the number of pairs that
        count, that times |x|, all (K,); dw and db of X^T G."""
        rows, width = self.problem.rows, self.problem.width(self.theta)
        return sum_over_rows(partial(_terms, self.multipliers, repair), rows, width)


@dataclass(frozen=True)
class Multipliers:
    """Those that `proximal_hinge` has at the parameters of K heads, a chunk of rows at a time.

    layers : `Network.prepared`;  margin, smoothing : (K,);  anchor : (H, C, N);  heads : (K,) of H
    """

    network: Network
    layers: list[Layer]
    margin: Array
    smoothing: Array
    anchor: PerRow
    heads: Array

    def __call__(self, chunk: Chunk) -> tuple[Any, Array, Array]:
        """(tape, scores, a) of a chunk."""
        scores, tape = self.network.apply(self.layers, chunk.x)
        xp = namespace(scores)
        anchor = xp.take(self.anchor[..., chunk.where], self.heads, axis=0)
        anchor = xp.astype(anchor, scores.dtype, copy=False)
        a = proximal_hinge(
            scores, chunk.labels, anchor, self.smoothing, margin=self.margin, axis=-2
        )[3]
        return tape, scores, a


def _flows(multipliers: Multipliers, chunk: Chunk) -> tuple[Array, ...]:
    """(flow, inside, weight) as `balance` takes them, summed over a chunk."""
    a = multipliers(chunk)[2]
    xp = namespace(a)
    mask = true_mask(chunk.labels, a.shape[-2])
    parts = (a, xp.minimum(a, 1.0 - a), xp.astype(mask, a.dtype) + xp.zeros_like(a))
    if chunk.weights is not None:
        parts = tuple(part * chunk.weights[..., None, :] for part in parts)
    inside = xp.where(mask, 0.0, parts[1])
    flows = [class_flows(part, chunk.labels) for part in (parts[0], inside)]
    return (*flows, xp.sum(parts[2], axis=-1))


def _terms(
    multipliers: Multipliers, repair: tuple[Array, Array] | None, chunk: Chunk
) -> tuple[Array, ...]:
    """`Certificate._sums` of a chunk."""
    tape, scores, a = multipliers(chunk)
    xp, margin = namespace(a), multipliers.margin[:, None, None]
    mask = true_mask(chunk.labels, a.shape[-2])
    if repair is not None:
        a = _repaired(a, chunk.labels, *repair)
    own = xp.sum(xp.where(mask, scores, 0.0), axis=-2, keepdims=True)
    m = xp.where(mask, 0.0, (scores - own) + margin)
    hinge = xp.maximum(m, 0.0)
    counts = ((m > -1e-6 * margin) | (a > 0.0)) & ~mask
    active = xp.sum(xp.astype(counts, a.dtype), axis=-2)
    squares = _row_squares(tape.inputs[0], multipliers.network.scale)
    terms = [xp.sum(term, axis=-2) for term in (hinge, hinge - a * m, a)]
    terms += [squares + xp.zeros_like(active), active, active * xp.sqrt(squares)]
    weights = 1.0 if chunk.weights is None else chunk.weights
    sums = [xp.sum(term * weights, axis=-1) for term in terms]
    a = a if chunk.weights is None else a * chunk.weights[..., None, :]
    gradient = xp.where(mask, -xp.sum(a, axis=-2, keepdims=True), a)
    return (*sums, *multipliers.network.gradients(gradient, tape)[0])


def _row_squares(x: Array, scale: Array | None) -> Array:
    """(n,): squared norms of rows in fitting coordinates, of features first (D, n) or sparse."""
    xp = namespace(x)
    if scale is not None:
        scale = xp.astype(scale, x.dtype)
    if isinstance(x, SparseMatrix):
        return x.scaled(scale).row_squares()
    x = xp.matrix_transpose(x)
    x = x if scale is None else x / scale
    return xp.sum(x * x, axis=-1)


def _repaired(a: Array, labels: Array, inner: Array, outer: Array) -> Array:
    """Multipliers (K, C, n) after a `Repair`."""
    xp = namespace(a)
    a = a + _by_class(inner, labels) * xp.minimum(a, 1.0 - a)
    outer = _by_class(outer, labels)
    a = xp.where(outer < 0.0, a * (1.0 + outer), a + outer * (1.0 - a))
    return xp.minimum(xp.maximum(a, 0.0), 1.0)


def _by_class(values: Array, labels: Array) -> Array:
    """(K, C, n): of values (K, C, C) each row's column, that of its true class."""
    xp = namespace(values)
    if xp.isdtype(labels.dtype, "bool"):
        return xp.matmul(values, xp.astype(labels, values.dtype))
    if labels.ndim == 1:
        return xp.take(values, labels, axis=-1)
    return xp.take_along_axis(values, labels[:, None, :], axis=-1)
