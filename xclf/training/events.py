"""What a fit tells its watchers, and what it keeps: events, history, result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from xclf._array_api import Array


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
    """Keeps the history of a fit and tells the callbacks; a callback that returns True stops it."""

    callbacks: Sequence[Callback]
    unit: str
    total: int
    history: dict[str, list[float]] = field(default_factory=empty_history)
    start: float = field(default_factory=time.perf_counter)

    def record(
        self,
        step: int,
        objective: float,
        *,
        val_loss: float = math.nan,
        val_accuracy: float = math.nan,
        heads: int = 1,
    ) -> bool:
        """Write one line of history; True if a callback asked to stop."""
        elapsed = time.perf_counter() - self.start
        self.history["loss"].append(objective)
        self.history["val_loss"].append(val_loss)
        self.history["val_accuracy"].append(val_accuracy)
        self.history["seconds"].append(elapsed)
        seen = None if math.isnan(val_accuracy) else val_accuracy
        event = Event(step, self.total, self.unit, objective, heads, elapsed, seen)
        # Every callback hears every event, also when an earlier one wants to stop.
        wishes = [callback(event) for callback in self.callbacks]
        # A comparison of NumPy numbers gives a NumPy boolean.
        return any(isinstance(wish, bool | np.bool_) and bool(wish) for wish in wishes)


@dataclass
class FitResult:
    """What a fit ends with.

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
