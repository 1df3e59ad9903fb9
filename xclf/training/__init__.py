"""Training: one engine for K heads over the same rows, and its methods."""

from xclf.training._draws import draw_bytes, has_few_rows
from xclf.training._stages import STOPPED, results_of, trees_of
from xclf.training.augmented_lagrangian import fit_augmented_lagrangian
from xclf.training.checkpoint import Checkpoint, CheckpointError, Stage
from xclf.training.engine import METHODS, FitSpec, Method, fit, method_of
from xclf.training.events import Callback, Event, FitResult, Monitor, empty_history
from xclf.training.full_batch import fit_lbfgs
from xclf.training.memory import FitShape, memory_budget
from xclf.training.minibatch import (
    DIVERGED,
    accuracy,
    check_gathered,
    fit_minibatch,
    probe_rows,
    subset,
)
from xclf.training.problem import Problem, column_moments
from xclf.training.steps import MinibatchPlan, plain_steps

__all__ = [
    "DIVERGED",
    "METHODS",
    "STOPPED",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "Event",
    "FitResult",
    "FitShape",
    "FitSpec",
    "Method",
    "MinibatchPlan",
    "Monitor",
    "Problem",
    "Stage",
    "accuracy",
    "check_gathered",
    "column_moments",
    "draw_bytes",
    "empty_history",
    "fit",
    "fit_augmented_lagrangian",
    "fit_lbfgs",
    "fit_minibatch",
    "has_few_rows",
    "memory_budget",
    "method_of",
    "plain_steps",
    "probe_rows",
    "results_of",
    "subset",
    "trees_of",
]
