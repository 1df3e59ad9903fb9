"""How far a linear model can be from its optimum, at most: a duality gap in float64.

With w_i a row's share of the weights and g the gradient of the objective P, in the weights V and
the biases b, the dual at the loss's own gradient in the scores has the value P - |g_V|^2 / (4 reg),
so that P - P* is at most that, as long as the classes' masses balance: g_b = 0. (The dual's
variables are p, the softmax of the scores, or the multipliers 2 max(0, m) of the squared hinge.)
What is left of g_b adds g_b . (b - b*), about the mean of the features, and b* is bounded as no
optimum has biases far apart. Newton steps in the biases alone, whose gain is added to the bound,
make g_b small first. The features' mean squares, which this last term and that of rounding take,
are those of a sample of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xclf._array_api import Array, from_host, namespace, to_host
from xclf.objectives import Smooth, true_mask
from xclf.rows import Chunk, sum_over_rows
from xclf.training._precision import ABSENT, rounding_bounds
from xclf.training.preconditioner import sample, shared_weights
from xclf.training.problem import Problem, column_moments

#: The class curvature of a problem at theta (K, P), from a sample of its rows.
CurvatureAt = Callable[[Problem, Array], Array]

#: Rows that the spread of the features is estimated from, and steps in the biases at most.
SPREAD_ROWS, BIAS_STEPS = 16384, 3

# Features from which on few rows are a chunk, and entries of such a chunk.
_WIDE, _ENTRIES = 1000, 1 << 16


@dataclass(frozen=True)
class Spread:
    """Where the features are, in fitting coordinates: centre and mean squares about it (D,)."""

    centre: Array
    squares: Array

    @classmethod
    def of(cls, problem: Problem) -> Spread:
        rows, network = problem.rows, problem.objective.network
        rows = sample(shared_weights(rows), SPREAD_ROWS)
        # Their temporaries are as wide as the rows: few rows at a time where those are wide.
        wide = int(rows.x.shape[1])
        size = None if wide < _WIDE else max(1, _ENTRIES // wide)
        mean, variance = column_moments(rows, size)
        xp = namespace(mean)
        if network.scale is not None:
            mean = mean if network.shift is None else mean - network.shift
            mean, variance = mean / network.scale, variance / network.scale**2
        if not network.bias:
            return cls(xp.zeros_like(mean), variance + mean * mean)
        return cls(mean, variance)


class Certified(NamedTuple):
    """Host (K,) each: the objective, what it stands above the optimum at most (infinite where reg
    is 0), the gradient's max-norm, an estimate of what the objective stands above the optimum
    where the bound is not good enough, and the objective's own rounding error, relative."""

    value: np.ndarray
    gap: np.ndarray
    grad_norm: np.ndarray
    estimate: np.ndarray
    rounding: np.ndarray


def certify(
    problem: Problem, theta: Array, spread: Spread, tol: float, curvature_at: CurvatureAt
) -> Certified:
    """What holds at theta (K, P), for a problem with rows in the widest dtype.

    The bound is improved until it is `tol` times the objective, as far as that is cheap.
    """
    network, start = problem.objective.network, theta
    reg = np.broadcast_to(to_host(problem.objective.reg), (int(theta.shape[0]),))
    masses = class_masses(problem, theta)
    value, grad = problem.value_and_grad(theta)
    first = now = _numbers(problem, theta, value, grad, spread, masses)
    gap, rounding = _bound(problem, first, reg)
    inverse = None
    for _ in range(BIAS_STEPS if network.bias else 0):
        if not ((gap > tol * first.value) & (reg > 0.0) & np.isfinite(first.value)).any():
            break
        if inverse is None:  # once: it hardly changes, and takes as long as a pass
            curvature = np.asarray(to_host(curvature_at(problem, theta)), dtype=np.float64)
            inverse = np.linalg.pinv(curvature, rcond=1e-13, hermitian=True)
        theta = _bias_step(problem, theta, now, inverse)
        value, moved = problem.value_and_grad(theta)
        now = _numbers(problem, theta, value, moved, spread, masses)
        lower = np.maximum(first.value - now.value, 0.0)
        gap = np.fmin(gap, lower + _bound(problem, now, reg)[0])
    gap, estimate = np.where(np.isfinite(gap), gap, np.inf), first.value
    if (gap > tol * first.value).any():
        estimate = _estimate(problem, start, grad, spread, curvature_at)
    return Certified(first.value, gap, first.grad_norm, estimate, rounding)


class _Numbers(NamedTuple):
    """What a bound is made of, on the host, (K,) or (K, C): the objective, the gradient's max-norm,
    squared norms of the weights, of their gradient, and of the weights times the features' root
    mean squares, of which `features` are not 0; mean squares of the rows about the centre and the
    origin; gradient of the biases, the biases about the centre, the classes' shares."""

    value: np.ndarray
    grad_norm: np.ndarray
    squares: np.ndarray
    residual: np.ndarray
    scaled: np.ndarray
    features: np.ndarray
    about_centre: np.ndarray
    about_origin: np.ndarray
    push: np.ndarray
    place: np.ndarray
    share: np.ndarray


def _numbers(
    problem: Problem, theta: Array, value: Array, grad: Array, spread: Spread, masses: Array
) -> _Numbers:
    """In one copy to the host."""
    network, xp = problem.objective.network, namespace(theta)
    (gw, gb), (w, b) = network.layers(grad)[0], network.layers(theta)[0]
    push = place = xp.zeros_like(w[..., 0])
    # With few temporaries: of many heads with few rows each is as large as what a pass reads.
    if b is not None and gb is not None:
        about = gb * spread.centre
        about -= gw
        gw = about  # but for the sign
        push, place = gb[..., 0], b[..., 0] + xp.matmul(w, spread.centre)
    squares = spread.squares + spread.centre * spread.centre
    features = xp.sum(xp.astype(squares > 0.0, squares.dtype))
    own = xp.sum(w * w, axis=-2)
    parts = [value, xp.maximum(xp.max(grad, axis=-1), -xp.min(grad, axis=-1))]
    parts += [xp.sum(own, axis=-1), xp.sum(xp.vecdot(gw, gw), axis=-1), xp.matmul(own, squares)]
    shared = (features, xp.sum(spread.squares), xp.sum(squares))
    parts += [xp.zeros_like(value) + a for a in shared]
    numbers = xp.concat([xp.stack(parts, axis=-1), push, place, masses], axis=-1)
    host = np.asarray(to_host(numbers), dtype=np.float64)
    rows = np.split(host[:, len(parts) :], 3, axis=1)
    rows[2] = rows[2] / rows[2].sum(axis=-1, keepdims=True)
    return _Numbers(*host[:, : len(parts)].T, *rows)


def _estimate(
    problem: Problem, theta: Array, grad: Array, spread: Spread, curvature_at: CurvatureAt
) -> np.ndarray:
    """What steps in each parameter alone would gain, host (K,): of g^2 / 2 h the sum, h the second
    derivative in it. It does not depend on the scale of the features."""
    network, xp = problem.objective.network, namespace(theta)
    curvature = curvature_at(problem, theta)
    classes = xp.max(xp.abs(curvature), axis=-1)[..., None]
    gw, gb = network.layers(grad)[0]
    if gb is not None:
        gw = gw - gb * spread.centre
    reg = problem.objective.reg
    reg = reg[:, None, None] if getattr(reg, "ndim", 0) else reg
    second = classes * spread.squares + 2.0 * reg
    gain = xp.sum(
        xp.where(second > 0.0, gw * gw / xp.where(second > 0.0, second, 1.0), 0.0), axis=(-2, -1)
    )
    if gb is not None:
        some = classes > 0.0
        gain = gain + xp.sum(
            xp.where(some, gb * gb / xp.where(some, classes, 1.0), 0.0), axis=(-2, -1)
        )
    return 0.5 * np.asarray(to_host(gain), dtype=np.float64)


def _bound(problem: Problem, at: _Numbers, reg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(gap, relative rounding error of the objective), host (K,)."""
    network, objective = problem.objective.network, at.value
    loss = problem.objective.loss.to_host()
    assert isinstance(loss, Smooth)
    unit = float(namespace(problem.rows.x).finfo(problem.rows.dtype).eps) / 2
    inner, outer = rounding_bounds(unit, network.widths[0], len(problem.rows))
    with np.errstate(all="ignore"):
        norm, far = np.sqrt(at.squares), np.sqrt(at.about_origin)
        mass = loss.gradient_bound(objective, network.widths[-1])
        # Of the sum of |w_j x_j|, whatever the columns' scale; differences are off by two products.
        scores = 2 * inner * np.minimum(norm * far, np.sqrt(at.scaled * at.features))
        moved = scores * loss.curvature_bound(objective, network.widths[-1])
        # The dual's variables are those that were computed, with all their errors: they differ from
        # the scores' own by `moved`, which costs the square of that, and sums of them are off.
        off = 2 * outer * mass
        rounding = scores * (mass + moved)
        gap = (np.sqrt(at.residual) + off * far + 4 * reg * norm * unit) ** 2 / (4 * reg)
        gap += outer * objective + rounding + scores * moved
        if network.bias:
            there = at.share > 0.0
            least = np.where(there, at.share, 1.0).min(axis=-1)
            apart = np.where(there, at.place, -np.inf).max(axis=-1)
            apart -= np.where(there, at.place, np.inf).min(axis=-1)
            # Rows of class c: b*_j - b*_c <= lead of P / share_c + |V*_j - V*_c| |mean of x in c|.
            apart += loss.lead_bound(objective / least)
            apart += np.sqrt(2 * objective / reg / least * at.about_centre)
            pushed = np.abs(np.where(there, at.push, 0.0)).sum(axis=-1)
            gap += 0.5 * (pushed + off) * np.maximum(apart, 0.0)
            # A class that no row is in can only be given up: what it takes now may be all lost.
            gap += np.where(np.where(there, 0.0, at.push).sum(axis=-1) > 0.0, np.inf, 0.0)
        gap = np.where(np.isfinite(gap) & (reg > 0.0), gap, np.inf)
        return gap, np.where(objective > 0.0, rounding / objective, 0.0)


def _bias_step(problem: Problem, theta: Array, at: _Numbers, inverse: np.ndarray) -> Array:
    """theta after a Newton step in the biases, with the class curvature's inverse."""
    network = problem.objective.network
    w, b = network.layers(theta)[0]
    step = -np.einsum("kij,kj->ki", inverse, at.push)
    step = np.clip(np.nan_to_num(step), -4.0, 4.0)
    step = np.where(at.share > 0.0, step, -ABSENT)
    return network.flatten([(w, b + from_host(step, theta, theta.dtype)[..., None])])


@dataclass(frozen=True)
class _Masses:
    classes: int

    def __call__(self, chunk: Chunk) -> tuple[Array]:
        mask = true_mask(chunk.labels, self.classes)
        xp = namespace(mask)
        if chunk.weights is None:
            return (xp.sum(xp.astype(mask, chunk.dtype), axis=-1),)
        return (xp.sum(xp.where(mask, chunk.weights[..., None, :], 0.0), axis=-1),)


def class_masses(problem: Problem, theta: Array) -> Array:
    """Each class's weight, (K, C), in the dtype of theta."""
    xp, classes = namespace(theta), problem.objective.network.widths[-1]
    (mass,) = sum_over_rows(_Masses(classes), problem.rows, problem.width(theta))
    shape = (int(theta.shape[0]), classes)
    return xp.broadcast_to(xp.astype(mass, theta.dtype, copy=False), shape)
