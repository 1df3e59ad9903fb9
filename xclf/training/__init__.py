"""Training: full-batch and minibatch fits of an objective over rows."""

from xclf.training._epoch import MinibatchPlan, minibatch_step
from xclf.training.augmented_lagrangian import fit_proximal
from xclf.training.events import Callback, Event, FitResult, Monitor, empty_history
from xclf.training.full_batch import fit_lbfgs
from xclf.training.minibatch import (
    DIVERGED,
    accuracy,
    fit_minibatch,
    probe_rows,
    subset,
)
from xclf.training.problem import Problem, column_moments

__all__ = [
    "DIVERGED",
    "Callback",
    "Event",
    "FitResult",
    "MinibatchPlan",
    "Monitor",
    "Problem",
    "accuracy",
    "column_moments",
    "empty_history",
    "fit_lbfgs",
    "fit_minibatch",
    "fit_proximal",
    "minibatch_step",
    "probe_rows",
    "subset",
]
