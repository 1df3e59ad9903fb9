"""The search of a probe: all candidates on all splits trained together, and the best one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xclf.estimators import BaseClassifier, SoftmaxClassifier, uses_full_batches
from xclf.probes._part import Part
from xclf.probes._plan import Plan
from xclf.probes._progress import Stages
from xclf.probes._scores import scores_on
from xclf.probes._splits import Split
from xclf.sweep import Fit, comparable, fit_together


@dataclass(frozen=True, eq=False)
class Search:
    """The candidates and their scores.

    models : by value, then by split; those that Ctrl-C left without parameters are None
    scores : (values, splits), NaN for those, and for others that do not count after Ctrl-C
    chosen : number of the value with the best mean
    interrupted : whether Ctrl-C ended it; fits that have ended count then, if there are any,
        otherwise those under way with the parameters so far
    missing : how many splits do not count then; with several tasks, the most of a task
    """

    models: list[list[BaseClassifier | None]]
    scores: np.ndarray
    chosen: int
    interrupted: bool = False
    missing: int = 0

    @property
    def mean(self) -> np.ndarray:
        """(values,) the mean score over the splits that count."""
        return np.asarray(self.counting.mean(axis=1))

    @property
    def counting(self) -> np.ndarray:
        """Scores of the splits that count: all of them, but after Ctrl-C."""
        return counting(self.scores) if self.interrupted else self.scores

    @property
    def best(self) -> BaseClassifier:
        """The chosen value's model of the first split that counts."""
        return self.model(self.chosen, range(self.scores.shape[1]))

    def model(self, value: int, splits: Sequence[int]) -> BaseClassifier:
        """A value's model of the first of these splits that counts.

        Raises KeyboardInterrupt where Ctrl-C came before there was one.
        """
        for split in splits:
            model = self.models[value][split]
            if model is not None and not (self.interrupted and np.isnan(self.scores[value, split])):
                return model
        raise KeyboardInterrupt

    def converged(self, value: int) -> bool:
        """Whether every fit of a value converged, or is a minibatch fit, which runs its epochs."""
        return all(
            model is not None and (model.converged_ or not uses_full_batches(model))
            for model in self.models[value]
        )


def search(
    plan: Plan, part: Part, splits: Sequence[Split], metric: str, stages: Stages, stage: str
) -> Search:
    """Train every candidate on every split of a part's rows, and judge each.

    Raises what a fit raises; KeyboardInterrupt where Ctrl-C came before any model was trained.
    """
    models, ended, interrupted = _trained(plan, part, splits, stages, stage)
    scores = np.full((len(plan.protocol.values), len(splits)), np.nan)
    for number, split in enumerate(splits):
        column = [row[number] for row in models]
        known = [k for k, model in enumerate(column) if model is not None]
        if known:
            judged = [model for model in column if model is not None]
            scores[known, number] = scores_on(judged, split.judge(), metric)
    if interrupted:
        trained = np.asarray([[model is not None for model in row] for row in models])
        missing = 0
        for task in {split.task for split in splits}:
            own = [number for number, split in enumerate(splits) if split.task == task]
            counts = comparable(ended[:, own], trained[:, own])
            scores[:, own] = np.where(counts, scores[:, own], np.nan)
            missing = max(missing, int((~counts.any(axis=0)).sum()))
        if np.isnan(scores).all():
            raise KeyboardInterrupt
        chosen = plan.chosen(counting(scores).mean(axis=1))
        return Search(models, scores, chosen, interrupted, missing)
    return Search(models, scores, plan.chosen(scores.mean(axis=1)))


def counting(scores: np.ndarray) -> np.ndarray:
    """Of scores (values, splits) those of the splits that any value has one of."""
    return np.asarray(scores[:, ~np.isnan(scores).all(axis=0)])


def _trained(
    plan: Plan, part: Part, splits: Sequence[Split], stages: Stages, stage: str
) -> tuple[list[list[BaseClassifier | None]], np.ndarray, bool]:
    """(models by value and split, whether they have ended likewise, whether Ctrl-C came)."""
    folds, columns = [], []
    for split in splits:
        own = part.task(split.task)
        folds.append(own.fold(split.train))
        classes, _ = own.classes(split.train)
        columns.append(plan.candidates(own.count(split.train), len(classes)))
    fits = [Fit(number, model) for number, column in enumerate(columns) for model in column]
    interrupted = False
    with stages.stage(stage, len(fits)) as progress:
        try:
            tasks = [split.task for split in splits]
            fit_together(part.X, fits, folds, progress, tasks)
        except KeyboardInterrupt:
            interrupted = True
    trained = (fit.template if hasattr(fit.template, "n_iter_") else None for fit in fits)
    by_split = iter(trained)
    models = [[next(by_split) for _ in column] for column in columns]
    ended = np.reshape([fit.ended for fit in fits], (len(splits), -1)).T
    return [list(row) for row in zip(*models, strict=True)], ended, interrupted


def refitted(
    plan: Plan, found: Search, rows: Part, stages: Stages, stage: str
) -> tuple[BaseClassifier, bool]:
    """(the chosen candidate, fitted to all rows of a part; whether Ctrl-C ended that, with the best
    parameters so far).

    A full-batch softmax starts from the search's model, which is near; where it ends is the same
    optimum, to the solver's tolerance.
    """
    value = plan.protocol.values[found.chosen]
    model = plan.candidate(value, len(rows), len(rows.labels))
    if isinstance(model, SoftmaxClassifier) and uses_full_batches(model):
        near = copy.copy(found.best)
        model = near.set_params(**model.get_params(deep=False) | {"warm_start": True})
    interrupted = False
    with stages.stage(stage, 1) as progress:
        model.set_params(callbacks=[*(model.callbacks or ()), lambda event: progress(0.0, event)])
        try:
            rows.fit(model)
        except KeyboardInterrupt:
            interrupted = True
        model.set_params(callbacks=plan.estimator.callbacks, warm_start=False)
        progress(1, None)
    return model, interrupted
