"""What a fit came to: whether it is an optimum, and what to say where it is not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from xclf import _array_api
from xclf.estimators._fitting import Job
from xclf.estimators._settings import FULL_BATCH
from xclf.training import DIVERGED, FitResult

NO_OPTIMUM = "there is no optimum at finite weights"


def diagnose(job: Job, reg: float, result: FitResult) -> FitResult:
    """`result`; not converged where reg is 0 and the softmax separates the classes, as weights t
    times as large then have a smaller objective for every t > 1, whatever the solver's criterion
    says of where rounding ended it."""
    if reg > 0.0 or job.loss != "softmax" or job.settings.solver not in FULL_BATCH:
        return result
    asked = result.interrupted or "callback" in result.reason
    if asked or not _separates(job, result.objective):
        return result
    return replace(result, converged=False, reason=NO_OPTIMUM)


def convergence_warning(model: Any, job: Job, result: FitResult) -> str | None:
    """What to warn of: why the fit did not converge, how near it came and what to change; None for
    a fit that did, or that ended as it was asked to."""
    if result.converged or "callback" in result.reason:
        return None
    if job.settings.solver not in FULL_BATCH and DIVERGED not in result.reason:
        return None  # running its epochs is the ordinary end of a minibatch fit
    reached = f"objective {result.objective:.6g}"
    if not math.isnan(result.grad_norm):
        reached += f", gradient {result.grad_norm:.3g}"
    if not math.isnan(result.dual_gap):
        reached += f", at most {result.dual_gap:.3g} above the optimum"
    return (
        f"{type(model).__name__} did not converge: {result.reason} ({reached}, tol "
        f"{job.settings.tol:g}): {_advice(model, job, result)}"
    )


def _advice(model: Any, job: Job, result: FitResult) -> str:
    separates = _separates(job, result.objective)
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
        elif job.rows.dtype == _array_api.namespace(job.rows.x).float32:
            advice += ", or pass float64 data"
    else:
        advice = f"lower learning_rate{scale}"
    if separates:
        advice += (
            ", or raise reg: the model separates the classes, and only the penalty holds its "
            "weights"
        )
    return advice


def _separates(job: Job, objective: float) -> bool:
    """Whether the objective alone shows that each row's own class has the largest score.

    A row of which it has not costs log 2 or the margin at least, times its share of the weights,
    which is the lightest row's at least, and N times the heaviest row's at most for all.
    """
    cost = math.log(2.0) if job.loss == "softmax" else job.margin
    lightest = 1.0
    if job.rows.weights is not None:
        weights = _array_api.to_host(job.rows.weights)
        lightest = float(np.min(weights[weights > 0.0]) / np.max(weights))
    return objective * len(job.rows) < cost * lightest
