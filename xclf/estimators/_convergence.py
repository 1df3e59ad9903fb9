"""Convergence diagnosis and warning text of a fit."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from xclf import _array_api
from xclf.estimators._head import Head
from xclf.rows import BlockWeights
from xclf.training import DIVERGED, FitResult, FitSpec

NO_OPTIMUM = "there is no optimum at finite weights"


def diagnose(head: Head, spec: FitSpec, result: FitResult) -> FitResult:
    """`result`; not converged where reg is 0, the classes are separated, and the loss then has no
    optimum at finite weights: weights t times as large have a smaller objective for every t > 1,
    whatever the solver's criterion says of where rounding ended it."""
    if head.model.reg > 0.0 or head.loss.attained or not head.full_batch:
        return result
    stopped = result.interrupted or "callback" in result.reason
    if stopped or not _separates(head, spec, result.objective):
        return result
    return replace(result, converged=False, reason=NO_OPTIMUM)


def convergence_warning(head: Head, spec: FitSpec, result: FitResult) -> str | None:
    """Why the fit did not converge, how near it came and what to change; None for a fit that did,
    or that a callback stopped."""
    if result.converged or "callback" in result.reason:
        return None
    if not head.full_batch and DIVERGED not in result.reason:
        return None  # running its epochs is the ordinary end of a minibatch fit
    reached = f"objective {result.objective:.6g}"
    if not math.isnan(result.grad_norm):
        reached += f", gradient {result.grad_norm:.3g}"
    if not math.isnan(result.dual_gap):
        reached += f", at most {result.dual_gap:.3g} above the optimum"
    where = "" if head.column is None else f" on {head.column}"
    return (
        f"{type(head.model).__name__} did not converge{where}: {result.reason} ({reached}, tol "
        f"{spec.tol:g}): {_advice(head, spec, result)}"
    )


def _advice(head: Head, spec: FitSpec, result: FitResult) -> str:
    model, separates = head.model, _separates(head, spec, result.objective)
    if separates and model.reg == 0:
        return (
            "set reg above 0: the model separates the classes, and without a penalty larger "
            "weights are better still"
        )
    scale = "" if model.standardize else ", or scale the features (standardize=True)"
    if "max_iter" in result.reason:
        advice = f"raise max_iter or tol{scale}"
    elif "kink" in result.reason:
        advice = "use a minibatch solver, which steps over kinks"
    elif "rounding" in result.reason:
        advice = f"raise tol{scale}"
        if model.precision is not None:
            advice += ", or leave precision at None"
        elif spec.rows.dtype == _array_api.namespace(spec.rows.x).float32:
            advice += ", or pass float64 data"
    else:
        advice = f"lower learning_rate{scale}"
    if separates:
        advice += (
            ", or raise reg: the model separates the classes, and only the penalty holds its "
            "weights"
        )
    return advice


def _separates(head: Head, spec: FitSpec, objective: float) -> bool:
    """Whether the objective alone shows that each row's own class has the largest score.

    A row of which it has not costs the loss's `error_cost` at least, times its share of the
    weights, which is the lightest row's at least, and N times the heaviest row's at most for all.
    """
    cost, lightest = float(head.loss.error_cost()), 1.0
    if isinstance(head.weights, BlockWeights):
        lightest = head.weights.lightest
    elif head.weights is not None:
        weights = head.weights[head.weights > 0.0]
        lightest = float(np.min(weights) / np.max(weights))
    return objective * len(spec.rows) < cost * lightest
