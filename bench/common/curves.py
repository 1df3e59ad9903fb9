"""Softmax fits that can be watched: who lowers the objective how far in how many seconds.

Each contender tells its `Watch` the objective after every iteration and is stopped when it has
reached the goal or its time is up; so one run gives its whole curve of time against gap.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from bench.common.measuring import NOT_INSTALLED, OURS, Call, optional
from bench.common.softmax import Problem
from xclf import SoftmaxClassifier

_MOST = 100_000  # iterations: the goal or the clock ends a fit

Weights = tuple[np.ndarray, np.ndarray]


@dataclass
class Watch:
    """The curve of one fit, and when it is to end.

    goal : objective to reach;  cap : seconds it may take
    """

    goal: float
    cap: float = float("inf")
    clock: Call = time.perf_counter
    seconds: list[float] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    began: float = 0.0

    def start(self) -> None:
        self.began = self.clock()

    def see(self, objective: float) -> bool:
        """Write a point down; True if the fit is to end."""
        now = self.clock() - self.began
        self.seconds.append(now)
        self.objectives.append(objective)
        return bool(objective <= self.goal or now >= self.cap)

    @property
    def reached(self) -> bool:
        return bool(self.objectives) and min(self.objectives) <= self.goal

    @property
    def ended(self) -> str:
        """What ended the fit: the "goal", the "cap", or "itself", which no more time would help."""
        if self.reached:
            return "goal"
        return "cap" if self.took >= self.cap else "itself"

    @property
    def took(self) -> float:
        return self.seconds[-1] if self.seconds else 0.0


#: Fits a problem under a watch, which it starts once its data are in place.
Fitter = Callable[[Problem, Watch], Weights]


def fitters() -> dict[str, Fitter | str]:
    """By name; a reason where there is none."""
    results: dict[str, Fitter | str] = {
        OURS: ours,
        "scikit-learn": scikit_learn,
        "torch": torch_lbfgs,
    }
    if optional("torch") is None:
        results["torch"] = NOT_INSTALLED
    return results


def ours(problem: Problem, watch: Watch) -> Weights:
    model = fit_watched(problem.x, problem.y, problem.reg, watch)
    return model.coef_, model.intercept_


def fit_watched(x: Any, y: Any, reg: float, watch: Watch, **settings: Any) -> SoftmaxClassifier:
    """The public estimator, whole: checks, labels, preconditioner and all."""
    callbacks = [lambda event: watch.see(event.objective)]
    model = SoftmaxClassifier(reg, tol=0.0, max_iter=_MOST, callbacks=callbacks, **settings)
    watch.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def scikit_learn(problem: Problem, watch: Watch, most: int = _MOST) -> Weights:
    """LogisticRegression(solver="lbfgs", tol=1e-14) for three classes or more, from its own parts.

    It takes no callback in all versions; this is its call of SciPy with its own loss, options and
    start, so that iterations are its own, bit for bit. Its checks of the input are not timed.
    """
    from scipy.optimize import minimize
    from sklearn._loss.loss import HalfMultinomialLoss
    from sklearn.linear_model._linear_loss import LinearModelLoss

    x, classes = problem.x, problem.classes
    loss = LinearModelLoss(base_loss=HalfMultinomialLoss(n_classes=classes), fit_intercept=True)
    start = np.zeros((classes, x.shape[1] + 1), order="F", dtype=x.dtype).ravel(order="F")
    target = problem.y.astype(x.dtype)
    strength = 1.0 / (1.0 / (2.0 * problem.reg * len(x)) * len(x))

    def callback(intermediate_result: Any) -> None:
        if watch.see(float(intermediate_result.fun)):
            raise StopIteration

    watch.start()
    results = minimize(
        loss.loss_gradient,
        start,
        method="L-BFGS-B",
        jac=True,
        args=(x, target, None, strength, 1),
        options={
            "maxiter": most,
            "maxls": 50,
            "gtol": 1e-14,
            "ftol": 64.0 * np.finfo(float).eps,
        },
        callback=callback,
    )
    weights = results.x.reshape((classes, -1), order="F")
    return weights[:, :-1], weights[:, -1]


class _EndError(Exception):
    """Thrown out of torch's optimiser when the watch has seen enough."""


def torch_lbfgs(problem: Problem, watch: Watch) -> Weights:
    """torch.optim.LBFGS(strong_wolfe) on the CPU."""
    torch = optional("torch")
    assert torch is not None
    x, y = torch.from_numpy(problem.x), torch.from_numpy(problem.y)
    w, b = torch_descent(torch, x, y, problem.classes, problem.reg, watch)
    return w.numpy(), b.numpy()


def torch_descent(torch: Any, x: Any, y: Any, classes: int, reg: float, watch: Watch) -> Any:
    """torch.optim.LBFGS(strong_wolfe) as people write it; seen at every evaluation. The weights
    and biases, on the device of x."""
    place = {"dtype": x.dtype, "device": x.device, "requires_grad": True}
    w, b = torch.zeros((classes, x.shape[1]), **place), torch.zeros(classes, **place)
    optimizer = torch.optim.LBFGS(
        [w, b],
        max_iter=_MOST,
        max_eval=2 * _MOST,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Any:
        optimizer.zero_grad(set_to_none=True)
        scores = torch.nn.functional.linear(x, w, b)
        loss = torch.nn.functional.cross_entropy(scores, y) + reg * w.square().sum()
        if watch.see(float(loss.detach())):
            raise _EndError
        loss.backward()
        return loss

    watch.start()
    with suppress(_EndError):
        optimizer.step(closure)
    return w.detach(), b.detach()
