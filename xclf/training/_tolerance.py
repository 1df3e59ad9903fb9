"""When a full-batch fit of a smooth objective has converged, and its rounding error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from xclf.optim import Iterate

#: Steps in a row that lower the objective by no more than its rounding error, after which a fit is
#: at the floor of its precision.
IDLE = 30


@dataclass(frozen=True)
class Tolerance:
    """When a smooth full-batch fit has converged.

    Both the gradient's max-norm has fallen to `tol` times its value at zero weights, and the
    quasi-Newton model's estimate of the distance to the optimum to `tol` times the objective. The
    second guards problems whose features differ by orders of magnitude, where the first alone is
    met far from the optimum. Rounding keeps the gradient up of a fit that has stopped falling
    (`idle` steps), or stands still with an estimate below the objective's rounding error: there
    the root of that error takes the place of `tol`, as a larger gradient has more to gain. What
    this says of a linear model is put to the proof in float64: see `settle`.

    gap : where an evaluation gives a bound of its own on the distance to the optimum, the first of
        its extras, what share of the objective it is to be
    """

    tol: float
    noise: float
    gap: float = math.inf

    def met(self, at: Iterate, start_norm: np.ndarray, idle: np.ndarray) -> np.ndarray:
        """Per head; start_norm (K,) is the gradient's max-norm at zero weights."""
        value = np.abs(at.value)
        small = at.grad_norm <= self.tol * start_norm
        close = at.decrement <= self.tol * value
        still = at.stalled & (at.decrement <= min(self.noise, self.tol) * value)
        fallen = at.grad_norm <= math.sqrt(self.noise) * start_norm
        ended = fallen & (((idle >= IDLE) & close) | still)
        if at.extra.shape[1]:
            close = close & (at.extra[:, 0] <= self.gap * value)
        done = (small & close) | ended | (at.grad_norm == 0.0)
        return np.asarray(done & np.isfinite(value))


# Measured on products of operands that were rounded as TF32 rounds them: with float32's own figure
# line searches end early, ten times as far from the optimum.
_TF32_NOISE = 2.0**-18


def rounding(dtype: object, xp: object, precision: str | None = None) -> float:
    """Relative rounding error of an objective whose rows are computed in `dtype`, those of float32
    in `precision`.

    Sums over rows run in float64: float32 rows average their own errors out, float64 rows meet
    those of the sum, a few units in the last place.
    """
    eps = float(xp.finfo(dtype).eps)  # type: ignore[attr-defined]
    if precision is not None and eps > 2.0**-52:
        return _TF32_NOISE
    return max(eps, 16.0 * 2.0**-52)
