"""Records of a fit: events for callbacks, history, result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from xclf._array_api import Array
from xclf.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Event:
    """One epoch or iteration of a fit, as callbacks receive it.

    step : 1-based number of the epoch or iteration;  total : the most there will be
    unit : "epoch" or "iteration"
    objective : of the best head; for minibatch methods on the rows that `history_` describes
    val_accuracy : on held-out rows, or None
    heads : models still training
    elapsed : seconds since the fit began
    """

    step: int
    total: int
    unit: str
    objective: float
    heads: int
    elapsed: float
    val_accuracy: float | None = None


Callback: TypeAlias = Callable[[Event], Any]


def empty_history() -> dict[str, list[float]]:
    """The four lists of `history_`."""
    return {"loss": [], "val_loss": [], "val_accuracy": [], "seconds": []}


@dataclass
class Monitor:
    """The history of a fit, its callbacks, of which one that returns True stops the fit, and its
    checkpoint.

    before, waiting : of a fit in several runs, steps of those that have ended, and heads of those
        that have not begun
    """

    callbacks: Sequence[Callback]
    unit: str
    total: int
    history: dict[str, list[float]] = field(default_factory=empty_history)
    start: float = field(default_factory=time.perf_counter)
    checkpoint: Checkpoint | None = None
    before: int = 0
    waiting: int = 0

    def record(
        self,
        step: int,
        objective: float,
        *,
        val_loss: float = math.nan,
        val_accuracy: float = math.nan,
        heads: int = 1,
    ) -> bool:
        """Append to the history and call the callbacks; True if one of them stops the fit."""
        elapsed = time.perf_counter() - self.start
        values = (objective, val_loss, val_accuracy, elapsed)
        for name, value in zip(empty_history(), values, strict=True):
            self.history[name].append(value)
        seen = None if math.isnan(val_accuracy) else val_accuracy
        step = min(self.before + step, self.total)
        event = Event(step, self.total, self.unit, objective, heads + self.waiting, elapsed, seen)
        # Every callback receives every event, also when an earlier one stops the fit.
        answers = [callback(event) for callback in self.callbacks]
        # A comparison of NumPy numbers gives a NumPy boolean.
        return any(isinstance(answer, bool | np.bool_) and bool(answer) for answer in answers)


@dataclass
class FitResult:
    """The result of one head.

    theta : (P,) flat parameters in fitting coordinates
    n_iter : iterations or epochs done;  objective : at theta, over all rows
    converged : whether the method's own criterion was met;  reason : why it ended, for people
    dual_gap : certified bound on what the objective stands above the optimum; NaN without one
    grad_norm : max-norm of the objective's gradient; NaN where it was not computed
    state : an update rule's state, to go on with
    interrupted : the user pressed Ctrl-C; theta is the best so far
    """

    theta: Array
    n_iter: int
    objective: float
    converged: bool
    reason: str
    grad_norm: float = math.nan
    state: tuple[Any, ...] | None = None
    interrupted: bool = False
    dual_gap: float = math.nan
