"""The heads of a hinge fit: where each stands between its rounds and its certificates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf._array_api import Array, from_host, namespace

# A head of which nothing has been seen. A certificate that was not enough is followed by a pause of
# five evaluations.
_START: dict[str, Any] = {"ended": False, "dual": 0.0, "pause": 5}
_START |= dict.fromkeys(("since_move", "rounds", "wait"), 0)
_START |= dict.fromkeys(("least_gap", "best", "lowest"), math.inf)


@dataclass
class HingeHeads:
    """The heads that are still in the batch; host arrays (K,), and parameters (K, P).

    number, n_iter : of each head among all; iterations
    reg, margin, first_norm : penalty, margin, and the max-norm of the first gradient
    ended : heads that only wait to leave the batch
    since_move : evaluations since the multipliers moved
    rounds, least_gap : rounds since the estimated gap was least, and that
    wait, pause : evaluations until the next certificate, and to wait after one that failed
    best, dual, best_theta : the lowest objective and the highest lower bound certified
    lowest, lowest_theta : the lowest objective seen, in the method's own parameters
    certify_at : what the estimated gap must fall to, relative, before a certificate; `tol` at first
    """

    number: np.ndarray
    n_iter: np.ndarray
    reg: np.ndarray
    margin: np.ndarray
    first_norm: np.ndarray
    ended: np.ndarray
    since_move: np.ndarray
    rounds: np.ndarray
    least_gap: np.ndarray
    wait: np.ndarray
    pause: np.ndarray
    best: np.ndarray
    dual: np.ndarray
    best_theta: Array
    lowest: np.ndarray
    lowest_theta: Array
    certify_at: np.ndarray

    @classmethod
    def at_start(cls, theta: Array, whole: Array, tol: float, *given: np.ndarray) -> HingeHeads:
        """Heads of which nothing has been seen but `given`: the first five fields.

        theta : where the method starts, in its own parameters;  whole : the same of the problem
        """
        count = len(given[0])
        number, n_iter, reg, margin, first_norm = given
        return cls(
            number,
            n_iter,
            reg,
            margin,
            first_norm,
            best_theta=namespace(whole).asarray(whole, copy=True),  # written to
            lowest_theta=theta,
            certify_at=np.full(count, tol),
            **{name: np.full(count, value) for name, value in _START.items()},
        )

    def keep_lowest(self, objective: np.ndarray, theta: Array) -> None:
        """Take theta (K, P) for the lowest seen, where `objective` (K,) is lower."""
        better = (objective < self.lowest) & ~self.ended
        if better.any():
            mask = from_host(better[:, None], theta)
            self.lowest_theta = namespace(theta).where(mask, theta, self.lowest_theta)
            self.lowest = np.where(better, objective, self.lowest)

    def keep_proofs(
        self, index: np.ndarray, theta: Array, value: np.ndarray, gap: np.ndarray
    ) -> None:
        """Take into account the certified objective and gap of theta (k, P) of the heads `index`
        (k,)."""
        for place, k in enumerate(index.tolist()):
            if value[place] < self.best[k]:
                self.best[k] = value[place]
                self.best_theta[k, ...] = theta[place, ...]
            if math.isfinite(value[place]):
                self.dual[k] = max(self.dual[k], value[place] - gap[place])

    def proven(self, tol: float) -> np.ndarray:
        """(K,) booleans: whether the certified gap is at most `tol` times the objective."""
        with np.errstate(invalid="ignore"):
            near = self.best - self.dual <= tol * self.best
        return np.asarray(np.isfinite(self.best) & near)
