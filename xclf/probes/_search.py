"""The search of a probe: all candidates on all splits trained together, and the best one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf.estimators import BaseClassifier, SoftmaxClassifier, uses_full_batches
from xclf.probes._parts import Part
from xclf.probes._plan import Plan
from xclf.probes._progress import Stages
from xclf.probes._scores import scores_on
from xclf.probes._splits import Split
from xclf.sweep import Fit, Fold, fit_together

_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Search:
    """The candidates and their scores.

    models : by value, then by split; those that Ctrl-C left without parameters are None
    scores : (values, splits), NaN for those
    chosen : number of the value with the best mean
    interrupted : whether Ctrl-C ended it; scores are then those of the parameters so far
    """

    models: list[list[BaseClassifier | None]]
    scores: np.ndarray
    chosen: int
    interrupted: bool = False

    @property
    def mean(self) -> np.ndarray:
        """(values,) the mean score over the splits."""
        return np.asarray(self.scores.mean(axis=1))

    @property
    def best(self) -> BaseClassifier:
        """The chosen value's model of the first split."""
        model = self.models[self.chosen][0]
        assert model is not None
        return model

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
    models, interrupted = _trained(plan, part, splits, stages, stage)
    scores = np.full((len(plan.protocol.values), len(splits)), np.nan)
    for number, split in enumerate(splits):
        column = [row[number] for row in models]
        known = [k for k, model in enumerate(column) if model is not None]
        if known:
            judged = [model for model in column if model is not None]
            scores[known, number] = scores_on(judged, split.judge(), metric)
    mean = scores.mean(axis=1)
    if np.isnan(mean).all():
        raise KeyboardInterrupt
    return Search(models, scores, plan.chosen(mean), interrupted)


def _trained(
    plan: Plan, part: Part, splits: Sequence[Split], stages: Stages, stage: str
) -> tuple[list[list[BaseClassifier | None]], bool]:
    folds, columns = [], []
    for split in splits:
        y = part.task(split.task).y
        folds.append(Fold(split.train, _NOTHING, y[split.train]))
        columns.append(plan.candidates(len(split.train), len(np.unique(y))))
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
    return [list(row) for row in zip(*models, strict=True)], interrupted


def refitted(
    plan: Plan, found: Search, X: Any, y: np.ndarray, stages: Stages, stage: str
) -> tuple[BaseClassifier, bool]:
    """(the chosen candidate, fitted to all these rows; whether Ctrl-C ended that, with the best
    parameters so far).

    A full-batch softmax starts from the search's model, which is near; where it ends is the same
    optimum, to the solver's tolerance.
    """
    value = plan.protocol.values[found.chosen]
    model = plan.candidate(value, len(y), len(np.unique(y)))
    if isinstance(model, SoftmaxClassifier) and uses_full_batches(model):
        near = copy.copy(found.best)
        model = near.set_params(**model.get_params(deep=False) | {"warm_start": True})
    interrupted = False
    with stages.stage(stage, 1) as progress:
        model.set_params(callbacks=[*(model.callbacks or ()), lambda event: progress(0.0, event)])
        try:
            model.fit(X, y)
        except KeyboardInterrupt:
            interrupted = True
        model.set_params(callbacks=plan.estimator.callbacks, warm_start=False)
        progress(1, None)
    return model, interrupted
