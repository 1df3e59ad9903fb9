"""A Wolfe line search on host scalars, written as a coroutine.

It yields trial steps and is sent the value and derivative there, so one caller can drive many
searches (one per head) with one evaluation of the objective for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import NamedTuple

#: Sufficient decrease and curvature constants; Nocedal & Wright (2006), section 3.1.
DECREASE, CURVATURE = 1e-4, 0.9

_MAX_TRIALS = 25


class Trial(NamedTuple):
    """Value, and derivative along the direction, at a step of the search."""

    value: float
    derivative: float


class Accepted(NamedTuple):
    """How a search ended: `step` was the last one tried; `ok` says whether to take it."""

    step: float
    ok: bool


def wolfe_search(
    start: Trial, first: float, noise: float = 0.0
) -> Generator[float, Trial, Accepted]:
    """Find a step t > 0 that satisfies the strong Wolfe conditions along a descent direction.

        f(t) <= f(0) + 1e-4 t f'(0) + noise,      |f'(t)| <= 0.9 |f'(0)|

    start : value and derivative at t = 0; a derivative that is not negative ends the search at once
    first : the first step to try; 1 for a scaled quasi-Newton direction
    noise : rounding error of a value: near the optimum a decrease below it cannot be seen, and the
            derivatives, which are still accurate, decide (Hager & Zhang, 2005, the approximate
            conditions)

    Yields steps, is sent `Trial`s, and returns `Accepted`; the accepted step is always the last
    one tried, so the caller holds its gradient. Bracketing with cubic interpolation; a value that
    is not finite counts as too long a step.
    """
    if not start.derivative < 0.0:
        return Accepted(0.0, False)
    low, low_step = start, 0.0
    high: Trial | None = None
    high_step = math.inf
    step = first
    for _ in range(_MAX_TRIALS):
        trial = yield step
        finite = math.isfinite(trial.value) and math.isfinite(trial.derivative)
        fell = finite and trial.value <= start.value + DECREASE * step * start.derivative + noise
        if fell and abs(trial.derivative) <= -CURVATURE * start.derivative:
            return Accepted(step, True)
        if fell and trial.derivative < 0.0:
            low, low_step = trial, step
        else:
            high, high_step = (trial if finite else None), step
        if math.isinf(high_step):
            step *= 4.0
        else:
            step = _between(low, low_step, high, high_step)
        if not low_step < step < high_step:
            break  # the bracket has shrunk to neighbouring floats
    return Accepted(step, False)


def _between(low: Trial, low_step: float, high: Trial | None, high_step: float) -> float:
    """A step inside the bracket: the cubic's minimiser, kept off its ends by a tenth."""
    width = high_step - low_step
    if high is None:
        return low_step + 0.1 * width
    # Cubic through both values and derivatives; Nocedal & Wright (2006), equation 3.59.
    secant = low.derivative + high.derivative - 3.0 * (high.value - low.value) / width
    root = secant * secant - low.derivative * high.derivative
    if root >= 0.0:
        root = math.sqrt(root)
        bottom = high.derivative - low.derivative + 2.0 * root
        share = 1.0 - (high.derivative + root - secant) / bottom if bottom else 0.5
    else:
        share = 0.5
    if not math.isfinite(share):
        share = 0.5
    return low_step + width * min(0.9, max(0.1, share))
