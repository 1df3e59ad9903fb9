"""Whether full-batch fits of smooth losses are where they were to end: certified, or improved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from xclf._array_api import Array, from_host, namespace, to_host
from xclf.objectives import Layer
from xclf.training._newton import Newton, is_small
from xclf.training._newton_steps import MOST_STEPS, minimise
from xclf.training._precision import as_stored, stored, widest
from xclf.training._softmax_gap import CurvatureAt, Spread, certify
from xclf.training._stages import STOPPED, method_stage
from xclf.training.events import FitResult, Monitor
from xclf.training.problem import Problem

#: Why a fit ends: rounding hides what steps gain, or all is met, or another method is faster.
ROUNDING = "rounding left nothing to gain"
CONVERGED = "converged"
SLOW = "a small problem, on which Newton's method is faster"

#: The least distance from the optimum, relative, that `converged` stands for.
PROMISE = 1e-6

#: Rounding error of an objective, relative, above which a small problem is centred to compute it.
PRECISE = 1e-9

#: What the tolerance of a method's own criteria is multiplied by where no bound backs them.
STRICTER = 1e-2

#: How many times too large a bound may be where a method's own criteria decide: it takes all
#: directions for the flattest.
LOOSE = 10.0

#: (problem, theta (K, P), tol, max_iter, monitor, passes after which to give up as SLOW).
Run = Callable[..., list[FitResult]]


def promise(tol: float) -> float:
    """The relative distance from the optimum that `converged` stands for: a smaller tol ends fits
    by a smaller gradient."""
    return max(tol, PROMISE)


def settle(
    problem: Problem,
    results: list[FitResult],
    *,
    tol: float,
    max_iter: int,
    monitor: Monitor,
    again: Run,
    curvature_at: CurvatureAt,
    newton_first: bool = True,
    theta: Array | None = None,
) -> list[FitResult]:
    """The results of a first method on K linear heads, with what float64 says of them.

    Parameters become those that a model stores, `objective` and `grad_norm` what they give. A head
    has converged if a bound on its distance to the optimum says so. If none does, Newton's method
    goes on with a small softmax problem, and `again`, the first method in float64, with any other;
    of that its own criteria count, at a smaller tolerance, and if no parameter alone has anything
    to gain.

    newton_first : False where Newton's method, head by head, takes longer than `again` of many
        heads together: it then goes on with small problems that `again` leaves in doubt
    theta : (K, P), the parameters of all results, where they are at hand, with weights whose mean
        over the classes is 0
    """
    wide, dtype = widest(problem), problem.rows.dtype
    settled, _ = _certified(wide, results, tol, dtype, curvature_at, theta)
    small = is_small(wide)
    doubtful = [
        k
        for k, result in enumerate(settled)
        if results[k].reason == SLOW
        or (not result.converged and results[k].reason in (CONVERGED, ROUNDING))
    ]
    if problem.rows.precision and not small:
        for k in doubtful:  # less is asked of products, and of what they lead to
            one = results[k]
            settled[k] = replace(settled[k], converged=one.converged, reason=one.reason)
        return settled
    if doubtful and not (small and newton_first):
        left = max(max_iter - min(results[k].n_iter for k in doubtful), 1)
        heads = wide.take_heads(np.asarray(doubtful))
        theta = namespace(results[0].theta).stack([settled[k].theta for k in doubtful], axis=0)
        more = again(heads, theta, STRICTER * tol, left, monitor)
        stopped = any(result.interrupted or result.reason == STOPPED for result in more)
        if not any(result.interrupted for result in more):
            more = _judged(heads, more, tol, dtype, curvature_at)
        for k, result in zip(doubtful, more, strict=True):
            n_iter = min(results[k].n_iter + result.n_iter, max_iter)
            reason = result.reason.replace(f"max_iter={left}", f"max_iter={max_iter}")
            settled[k] = replace(result, n_iter=n_iter, reason=reason)
        if stopped:
            return settled
        doubtful = [k for k in doubtful if settled[k].reason == ROUNDING]
    for k in doubtful if small else []:
        with method_stage(monitor, "Newton", settled[k].theta) as stage:
            (settled[k],) = stage.results or stage.finish(
                [
                    _newton(
                        wide.take_heads(np.asarray([k])), dtype, settled[k], tol, max_iter, monitor
                    )
                ]
            )
        if settled[k].reason == STOPPED:
            break
    return settled


def _judged(
    heads: Problem,
    results: list[FitResult],
    tol: float,
    dtype: object,
    curvature_at: CurvatureAt,
) -> list[FitResult]:
    """The results of `again` in float64: converged where its own criteria are met, and a bound or
    an estimate says so too."""
    certified, near = _certified(heads, results, tol, dtype, curvature_at)
    return [
        replace(one, converged=True, reason=CONVERGED) if result.converged and close else one
        for result, one, close in zip(results, certified, near, strict=True)
    ]


def _certified(
    wide: Problem,
    results: list[FitResult],
    tol: float,
    dtype: object,
    curvature_at: CurvatureAt,
    theta: Array | None = None,
) -> tuple[list[FitResult], np.ndarray]:
    """(results with stored parameters and what holds there; whether each is near by estimate)."""
    centred = theta is not None
    if theta is None:
        theta = namespace(results[0].theta).stack([result.theta for result in results])
    theta = as_stored(wide, theta, dtype, centred)
    with np.errstate(all="ignore"):
        at = certify(wide, theta, Spread.of(wide), promise(tol), curvature_at)
        exact = at.rounding <= PRECISE if is_small(wide) else np.isfinite(at.value)
        proven = exact & (at.gap <= promise(tol) * at.value) | (at.value == 0.0)
        proven = proven | (at.grad_norm == 0.0)
        near = np.isfinite(at.value) & (at.estimate <= STRICTER * tol * at.value)
        free = np.broadcast_to(to_host(wide.objective.reg), near.shape) == 0.0
        near = near & (free | (at.gap <= LOOSE * promise(tol) * at.value))
    settled = []
    for k, result in enumerate(results):
        done = bool(proven[k]) and result.reason != STOPPED
        reason = result.reason
        if done or reason == CONVERGED:
            reason = CONVERGED if done else ROUNDING
        gap = float(at.gap[k])
        settled.append(
            replace(
                result,
                theta=theta[k, :],
                objective=float(at.value[k]),
                grad_norm=float(at.grad_norm[k]),
                dual_gap=gap if math.isfinite(gap) else math.nan,
                converged=done,
                reason=reason,
            )
        )
    return settled, near


def _newton(
    head: Problem, dtype: object, result: FitResult, tol: float, max_iter: int, monitor: Monitor
) -> FitResult:
    """`result` after Newton's method on the problem of its head alone."""
    network = head.objective.network
    like = result.theta

    step, stopped = 0 if monitor.before else result.n_iter, False

    def keep(w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        held = to_host(namespace(like).zeros((1,), dtype=dtype)).dtype
        return stored(np, w, held), stored(np, b[:, None], held)[:, 0]

    def watch(objective: float) -> bool:
        nonlocal step, stopped
        step += 1
        stopped = monitor.record(min(step, monitor.total), objective)
        return stopped

    raw = network.raw(network.layers(like))[0]
    w = np.asarray(to_host(raw.w), dtype=float)
    b = np.zeros(len(w)) if raw.b is None else np.asarray(to_host(raw.b), dtype=float)[:, 0]
    newton = Newton(head, keep)
    most = min(max_iter - result.n_iter, MOST_STEPS)
    ended = minimise(newton, w, b, tol, promise(tol), most, watch)
    layer = Layer(
        from_host(ended.w, like), from_host(ended.b[:, None], like) if network.bias else None
    )
    theta = network.flatten([tuple(layer) for layer in network.fitting([layer])])
    _, grad = head.value_and_grad(theta[None, :])
    xp = namespace(theta)
    reg = float(np.ravel(to_host(head.objective.reg))[0])
    reason = CONVERGED if ended.converged else ROUNDING
    if stopped and not ended.converged:
        reason = STOPPED
    elif not ended.converged and ended.steps >= max_iter - result.n_iter:
        reason = f"reached max_iter={max_iter}"
    return replace(
        result,
        theta=theta,
        n_iter=result.n_iter + ended.steps,
        objective=ended.value,
        grad_norm=float(to_host(xp.max(xp.abs(grad)))),
        dual_gap=ended.gap if reg > 0.0 and math.isfinite(ended.gap) else math.nan,
        converged=ended.converged,
        reason=reason,
    )
