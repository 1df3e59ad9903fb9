"""Softmax fits to the same distance from the optimum, beside scikit-learn's and torch's L-BFGS.

    python -m bench fit

The optimum is the lowest objective of long fits in float64. `xclf` and torch are stopped when
their own objective reaches it to the gap; scikit-learn, which cannot be watched, runs with the
smallest max_iter whose result does (found beforehand, not timed). The gap that each ended with is
measured in float64 afterwards.
"""

from __future__ import annotations

import argparse
import math
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from bench._data import correlated, given
from bench._measure import (
    NOT_INSTALLED,
    OURS,
    Call,
    Contender,
    add_one_thread,
    alternate,
    optional,
    show,
    summarise,
    thread_words,
    timing,
)
from xclf import SoftmaxClassifier

COLUMNS = [OURS, "scikit-learn", "torch"]
_MOST = 3000  # iterations after which a fit is called too slow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--data", metavar="PATH", help="these rows, standardised")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--reg", type=float, nargs="+", default=[1e-3, 1e-5])
    parser.add_argument("--gap", type=float, default=1e-4, help="relative, above the optimum")
    parser.add_argument("--repeats", type=int, default=5)
    add_one_thread(parser)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints the table; returns one entry per reg."""
    if args.data is not None:
        x, y = given(args.data, args.rows)
    else:
        x, y = correlated(*((300, 12, 4) if args.quick else (args.rows, 784, 10)))
    shape = f"{x.shape[0]} x {x.shape[1]} x {int(y.max()) + 1} float32"
    with timing(args.one_thread) as clock:
        found = [
            _compare(_Problem.of(x, y, reg, args.gap), args.repeats, clock) for reg in args.reg
        ]
    threads = thread_words(args.one_thread)
    show(
        f"softmax fit, {shape}, to {args.gap:g} of the optimum, {threads}",
        [(entry["problem"], entry["seconds"]) for entry in found],
        COLUMNS,
    )
    return [{**entry, "shape": shape, "gap": args.gap, "threads": threads} for entry in found]


@dataclass
class _Problem:
    """One fit: rows, reg, and the objective to reach."""

    x: np.ndarray
    y: np.ndarray
    reg: float
    gap: float
    best: float = math.nan

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, reg: float, gap: float) -> _Problem:
        model = SoftmaxClassifier(reg, tol=1e-8, max_iter=_MOST)
        problem = cls(x, y, reg, gap)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(x.astype(np.float64), y)
        problem.best = problem.objective(model.coef_, model.intercept_)
        return problem

    @property
    def goal(self) -> float:
        return self.best * (1.0 + self.gap)

    def objective(self, coef: np.ndarray, intercept: np.ndarray) -> float:
        """In float64, written apart from the library."""
        coef, intercept = (np.asarray(a, dtype=np.float64) for a in (coef, intercept))
        if len(coef) == 1:  # two classes: half the difference in each
            coef, intercept = (np.concatenate([-a, a]) / 2.0 for a in (coef, intercept))
        scores = self.x.astype(np.float64) @ coef.T + intercept
        top = scores.max(axis=1)
        sums = np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top
        loss = (sums - scores[np.arange(len(scores)), self.y]).mean()
        return float(loss + self.reg * (coef**2).sum())


def _compare(problem: _Problem, repeats: int, clock: Call) -> dict[str, Any]:
    ended: dict[str, Any] = {}
    contenders: dict[str, Contender] = {
        OURS: _ours(problem, ended),
        "scikit-learn": _sklearn(problem, ended),
        "torch": _torch(problem, ended),
    }
    seconds: dict[str, Any] = summarise(alternate(contenders, repeats, clock=clock))
    for name, (coef, intercept, iterations) in ended.items():
        gap = problem.objective(coef, intercept) / problem.best - 1.0
        seconds[name] |= {"reached_gap": gap, "iterations": iterations}
    seconds |= {name: why for name, why in contenders.items() if isinstance(why, str)}
    return {"problem": f"reg {problem.reg:g}", "objective": problem.best, "seconds": seconds}


def _ours(problem: _Problem, ended: dict[str, Any]) -> Contender:
    def call() -> None:
        model = SoftmaxClassifier(
            problem.reg,
            tol=0.0,
            max_iter=_MOST,
            callbacks=[lambda event: event.objective <= problem.goal],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(problem.x, problem.y)
        ended[OURS] = (model.coef_, model.intercept_, model.n_iter_)

    return call


def _sklearn(problem: _Problem, ended: dict[str, Any]) -> Contender:
    def fitted(max_iter: int) -> Any:
        strength = 1.0 / (2.0 * problem.reg * len(problem.x))
        model = LogisticRegression(C=strength, tol=1e-14, max_iter=max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.fit(problem.x, problem.y)

    def reaches(max_iter: int) -> bool:
        model = fitted(max_iter)
        return problem.objective(model.coef_, model.intercept_) <= problem.goal

    high = 64
    while not reaches(high):
        if high >= _MOST:
            return f"not in {high} iterations"
        high *= 2
    low = high // 2 if high > 64 else 0
    while high - low > max(1, high // 16):  # to 6 %: each try is a whole fit
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)

    def call() -> None:
        model = fitted(high)
        ended["scikit-learn"] = (model.coef_, model.intercept_, high)

    return call


class _ReachedError(Exception):
    """Thrown out of torch's optimiser when the objective is low enough."""


def _torch(problem: _Problem, ended: dict[str, Any]) -> Contender:
    torch = optional("torch")
    if torch is None:
        return NOT_INSTALLED
    x, y = torch.from_numpy(problem.x), torch.from_numpy(problem.y)
    classes = int(problem.y.max()) + 1
    goal = problem.goal

    def call() -> None:
        w = torch.zeros((classes, x.shape[1]), requires_grad=True)
        b = torch.zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [w, b],
            max_iter=_MOST,
            max_eval=2 * _MOST,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            history_size=50,
            line_search_fn="strong_wolfe",
        )
        evaluations = 0

        def closure() -> Any:
            nonlocal evaluations
            evaluations += 1
            optimizer.zero_grad(set_to_none=True)
            scores = torch.nn.functional.linear(x, w, b)
            loss = torch.nn.functional.cross_entropy(scores, y) + problem.reg * w.square().sum()
            if float(loss.detach()) <= goal:
                raise _ReachedError
            loss.backward()
            return loss

        with suppress(_ReachedError):
            optimizer.step(closure)
        ended["torch"] = (w.detach().numpy(), b.detach().numpy(), evaluations)

    return call
