"""The steps of Newton's method, and the proof of their end at what a model stores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from xclf.training._newton import EPS, Newton, Point
from xclf.training._precision import ABSENT

#: Steps at most, and those that a fit may take to come closer once its estimate is good enough.
MOST_STEPS, LAST_STEPS = 200, 4

#: How many times a bound is to be below what it has to prove: it is itself subject to rounding.
SAFETY = 2.0


class Ended(NamedTuple):
    """Where Newton's method ended: raw weights (C, D) and biases (C,) as the model stores them, the
    objective, a bound on what it stands above the optimum (infinite without one), the gradient's
    max-norm in raw coordinates, whether the optimum is as near as asked for, steps taken."""

    w: np.ndarray
    b: np.ndarray
    value: float
    gap: float
    converged: bool
    steps: int


def minimise(
    newton: Newton,
    w: np.ndarray,
    b: np.ndarray,
    tol: float,
    promise: float,
    most: int,
    watch: Callable[[float], bool],
) -> Ended:
    """From raw w (C, D), b (C,), as the model stores them, to `tol` times the objective; what lies
    along directions without curvature may be `promise` times.

    most : steps at most;  watch : is given the objective after each, and says whether to stop
    """
    with np.errstate(all="ignore"):
        best, at = _judge(newton, newton.inside(w, b), tol, promise)
        proven = at
        zero = np.zeros_like(at.theta)
        if not (best.converged or at.value <= newton.value(zero)):
            at = _at(newton, zero)
        steps = final = 0
        while not best.converged and steps < most and at.step is not None:
            near = at.step.square <= tol * at.value and at.step.reach <= 1.0
            final += near or final > 0
            theta = _search(newton, at)
            if at.value < newton.separated or theta is None or final > LAST_STEPS:
                break
            steps += 1
            if final or steps == most:
                ended, at = _judge(newton, theta, tol, promise)
                if ended.converged or ended.value < best.value:
                    best, proven = ended, at
            else:
                at = _at(newton, theta)
            if watch(at.value):
                break
        if not best.converged and not final:
            ended, at = _judge(newton, at.theta, tol, promise)
            if ended.value < best.value:
                best, proven = ended, at
        if math.isinf(best.gap) and proven.step is not None:
            proof = newton.proof(proven)
            best = best._replace(gap=newton.bound(proof) + proof.hidden)
        best = _corrected(newton, best, proven)
    return best._replace(steps=steps)


def _at(newton: Newton, theta: np.ndarray) -> Point:
    value, grad, d = newton.gradient(theta)
    step = newton.step(grad, d) if math.isfinite(value) else None
    if step is not None and not math.isfinite(step.square):
        step = None
    return Point(theta, value if math.isfinite(value) else math.inf, grad, d, step)


def _corrected(newton: Newton, ended: Ended, at: Point) -> Ended:
    """`ended`, which is at `at`, after the step from there, which is known; its bound stays."""
    if at.step is None:
        return ended
    w, b = _stored(newton, newton.balanced(at.theta + at.step.change))
    value = newton.value(newton.inside(w, b))
    if not value < ended.value:
        return ended
    return ended._replace(w=w, b=b, value=value, converged=ended.converged or value == 0.0)


def _stored(newton: Newton, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Raw weights and biases as the model stores them."""
    w, b = newton.outside(theta)
    b = b - b[newton.present].mean()
    if not newton.present.all():
        low = newton.z @ newton.inside(w, b)[newton.present].T
        b = np.where(newton.present, b, float(low.max(axis=1).min()) - ABSENT)
        w = np.where(newton.present[:, None], w, 0.0)
    w, b = newton.stored(w, b)
    return w, b


def _judge(newton: Newton, theta: np.ndarray, tol: float, promise: float) -> tuple[Ended, Point]:
    """What theta comes to as the model stores it, and the point that this is."""
    w, b = _stored(newton, theta)
    at = _at(newton, newton.inside(w, b))
    gap, converged = math.inf, at.value == 0.0
    # The bound is at least half the square, and takes as long as the Hessian.
    if at.step is not None and at.step.square <= tol * at.value:
        proof = newton.proof(at)
        bound = newton.bound(proof)
        gap = bound + proof.hidden
        # It needs an optimum at finite weights. Where scores may grow for ever, as in exp(-t), the
        # steps have length 1 and gain what is left: l^2.
        flat = proof.square + proof.hidden <= tol / 8.0 * at.value and at.step.reach <= 1.5
        proven = SAFETY * bound <= tol * at.value and SAFETY * gap <= promise * at.value
        converged = converged or proven or flat
    return Ended(w, b, at.value, gap, bool(converged), 0), at


def _search(newton: Newton, at: Point) -> np.ndarray | None:
    """theta after a step that lowers the objective, to rounding; None without one."""
    assert at.step is not None
    derivative, length = float(np.sum(at.grad * at.step.change)), 1.0
    noise = 64.0 * EPS * abs(at.value)
    for _ in range(60):
        trial = newton.balanced(at.theta + length * at.step.change)
        if newton.value(trial) <= at.value + 1e-4 * length * derivative + noise:
            return np.asarray(trial)
        length *= 0.5
    return None
