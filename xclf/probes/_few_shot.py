"""Few-shot curves: seeded draws of k rows of every class, trained together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import stdtrit
from sklearn.base import clone

from xclf.estimators import BaseClassifier
from xclf.probes._part import Part, Picked, task_numbers
from xclf.probes._plan import Plan
from xclf.probes._progress import Stages
from xclf.probes._scores import scores_on
from xclf.probes._search import Search, search
from xclf.probes._splits import Draws, Split
from xclf.report.number_text import count

_LEVEL = 0.975  # of Student's t: both sides leave 5 %

#: Tolerance of full-batch fits that have none: no model of a draw is kept. Predictions for digits
#: were those of the estimators' own tolerance in 99.9 % of the rows; at scikit-learn's default
#: tolerance in 91 to 99 %.
_TOL = 1e-3


def check_draws(shots: Any, tries: Any, seed: int) -> Draws | None:
    """`Draws` of the arguments of `probe`; None for none. Raises ValueError for bad ones."""
    listed = [] if shots is None else np.atleast_1d(np.asarray(shots)).tolist()
    if not all(isinstance(k, int) and not isinstance(k, bool) and k >= 1 for k in listed):
        raise ValueError(f"shots must be whole numbers, 1 or more, got {shots!r}")
    if not isinstance(tries, int) or isinstance(tries, bool) or tries < 1:
        raise ValueError(f"tries must be a whole number, 1 or more, got {tries!r}")
    return Draws(tuple(sorted(set(listed))), tries, seed) if listed else None


class FewShot:
    """The curve of a probe, point by point: what Ctrl-C leaves is done.

    plan : of the probe;  train, rows : the part and its rows to draw from
    judged : rows that choose the penalty of each k, or None for `chosen`, the value of the whole
        search, or that of each task;  measured : rows of the curve
    """

    def __init__(
        self,
        plan: Plan,
        train: Part,
        rows: Picked,
        judged: Part | None,
        chosen: Sequence[float],
        measured: Part,
        metric: str,
    ) -> None:
        if judged is None:
            values = tuple(value for value in plan.protocol.values if value in chosen)
            plan = replace(plan, protocol=replace(plan.protocol, values=values))
        plan = replace(plan, estimator=_loose(plan))
        self.plan, self.train, self.rows = plan, train, rows
        self.judged, self.measured, self.metric = judged, measured, metric
        self.fixed = None if judged is not None else [values.index(value) for value in chosen]
        self.points: list[dict[str, Any]] = []

    def run(self, wanted: Draws, stages: Stages) -> None:
        """Add the points; raises KeyboardInterrupt for Ctrl-C, which leaves those that are done.

        Every task has draws of its own: k rows of each of its classes.
        """
        tasks = task_numbers(self.train)
        for shots in wanted.shots:
            size = (shots, wanted.shots[-1], wanted.tries, wanted.seed)
            own = [self.train.task(t).draws(self.rows, *size) for t in tasks]
            union = np.unique(np.concatenate([rows for each in own for rows in each]))
            part = self.train.gathered(union)
            splits = [
                Split(part.numbered(np.searchsorted(union, each[number])), self._judge()).of_task(t)
                for number in range(wanted.tries)
                for t, each in zip(tasks, own, strict=True)
            ]
            searched = search(self.plan, part, splits, self.metric, stages, count(shots, "shot"))
            if searched.interrupted:
                raise KeyboardInterrupt
            self.points.append(self._point(shots, searched, tasks))

    def results(self, wanted: Draws) -> dict[str, Any] | None:
        """The section "few_shot" of `results.json`; None without points."""
        if not self.points:
            return None
        return {
            "metric": self.metric,
            "data": self.measured.name,
            "tries": wanted.tries,
            "points": self.points,
        }

    def _judge(self) -> Callable[[], Part]:
        part = self.measured if self.judged is None else self.judged
        return lambda: part

    def _point(self, shots: int, searched: Search, tasks: Sequence[int | None]) -> dict[str, Any]:
        """The mean over tasks of the test score, by draw."""
        values, count = self.plan.protocol.values, len(tasks)
        means = searched.scores.reshape(len(values), -1, count).mean(axis=1)
        chosen = self.fixed or [self.plan.chosen(column) for column in means.T]
        by_task = []
        for number, (t, value) in enumerate(zip(tasks, chosen, strict=True)):
            models = [model for model in searched.models[value][number::count] if model is not None]
            by_task.append(scores_on(models, self.measured.task(t), self.metric))
        scores = np.mean(by_task, axis=0)
        mean, low, high = interval(scores)
        named = [values[value] for value in chosen]
        return {
            "shots": shots,
            "mean": mean,
            "low": low,
            "high": high,
            "scores": scores.tolist(),
            "chosen": named if self.train.tasks is not None else named[0],
        }


def _loose(plan: Plan) -> BaseClassifier:
    model: BaseClassifier = clone(plan.estimator)
    if model.tol is None and plan.protocol.steps is None:
        model.set_params(tol=_TOL)
    return model


def interval(scores: np.ndarray) -> tuple[float, float | None, float | None]:
    """(mean, low, high): the 95 % interval of the mean of T scores, None for a single one.

    mean -+ t s / sqrt(T),   t the 97.5 % quantile of Student's t with T - 1 degrees of freedom,
                             s the standard deviation of the scores (divided by T - 1)

    Cut to [0, 1], where all metrics of probes are: no mean of them lies elsewhere.
    """
    mean, tries = float(scores.mean()), len(scores)
    if tries < 2:
        return mean, None, None
    half = float(stdtrit(tries - 1, _LEVEL)) * float(scores.std(ddof=1)) / math.sqrt(tries)
    return mean, max(0.0, mean - half), min(1.0, mean + half)
