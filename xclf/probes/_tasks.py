"""Several tasks: columns of labels of the same rows, each with a choice of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import clone

from xclf.estimators import BaseClassifier, join_tasks
from xclf.probes._measure import measured
from xclf.probes._outcome import Outcome, Settings
from xclf.probes._part import Part
from xclf.probes._plan import Plan
from xclf.probes._progress import Stages
from xclf.probes._search import Search, counting, search
from xclf.probes._splits import Split
from xclf.report.class_names import names_of
from xclf.report.metrics import mean_metrics, task_metrics
from xclf.sweep import Fit, fit_together


def search_tasks(
    settings: Settings,
    train: Part,
    splits: Sequence[Split],
    rows: Part | None,
    stages: Stages,
    names: tuple[str, str],
) -> tuple[Search, list[int], BaseClassifier]:
    """(search, chosen value of each task, model of all tasks).

    All candidates of all tasks on all splits are heads that train together; scores are (values,
    tasks), means over the splits.

    rows : to fit the chosen candidates to again, or None
    names : of the stages search and refit
    Ctrl-C keeps what is done: the search is `interrupted`, and tasks that are not fitted again keep
    their model of the search. Raises KeyboardInterrupt where it came before every task had one.
    """
    assert train.tasks is not None
    plan, tasks = settings.plan, range(len(train.tasks))
    every = [split.of_task(number) for split in splits for number in tasks]
    found = search(plan, train, every, settings.metric, stages, names[0])
    columns = [range(number, len(every), len(tasks)) for number in tasks]
    by_task = [found.scores[:, own] for own in columns]
    if found.interrupted:
        by_task = [counting(own) for own in by_task]
        if any(own.shape[1] == 0 for own in by_task):
            raise KeyboardInterrupt
    scores = np.stack([own.mean(axis=1) for own in by_task], axis=1)
    choices = [plan.chosen(scores[:, number]) for number in tasks]
    searched = [found.model(k, own) for k, own in zip(choices, columns, strict=True)]
    models, interrupted = list(searched), found.interrupted
    if rows is not None and not interrupted:
        models, interrupted = _refitted(plan, choices, rows, stages, names[1], models)
    chosen = plan.chosen(scores.mean(axis=1))
    found = Search(found.models, scores, chosen, interrupted, found.missing)
    model: BaseClassifier = clone(plan.estimator)
    join_tasks(model, models, indicators=train.indicators)
    return found, choices, model


def _refitted(
    plan: Plan,
    choices: list[int],
    part: Part,
    stages: Stages,
    stage: str,
    searched: list[Any],
) -> tuple[list[Any], bool]:
    """(the chosen candidates fitted to all rows of a part, whether Ctrl-C ended that: those that it
    left without parameters are the `searched` ones)."""
    own, every = [part.task(t) for t in range(len(choices))], part.every
    folds = [task.fold(every) for task in own]
    fits = [
        Fit(t, plan.candidate(plan.protocol.values[k], len(part), len(own[t].labels)))
        for t, k in enumerate(choices)
    ]
    interrupted = False
    with stages.stage(stage, len(fits)) as progress:
        try:
            fit_together(part.X, fits, folds, progress, list(range(len(choices))))
        except KeyboardInterrupt:
            interrupted = True
    models = [
        fit.template if hasattr(fit.template, "n_iter_") else other
        for fit, other in zip(fits, searched, strict=True)
    ]
    return models, interrupted


def task_sections(settings: Settings, outcome: Outcome) -> dict[str, Any]:
    """The sections `metrics`, of means over tasks, and `tasks` of `results.json`.

    The average precision of a task of two classes is that of the second.
    """
    names, models = outcome.train.tasks, outcome.model.estimators_
    assert names is not None
    searched = [outcome.search.models[k][t] for t, k in enumerate(outcome.choices)]
    parts = [(part, models) for part in outcome.tests]
    if outcome.val is not None:  # by models that have not seen them
        parts.insert(0, (outcome.val, searched))
    rows, tasks = [], []
    for part, own in parts:
        tasks = [_metrics(model, part.task(t), settings.top_k) for t, model in enumerate(own)]
        rows.append({"data": part.name} | mean_metrics(tasks))
    entries = [
        {
            "name": name,
            "classes": names_of(models[t].classes_, None),
            "chosen": settings.plan.protocol.values[outcome.choices[t]],
            "metrics": tasks[t] if tasks else {},
        }
        for t, name in enumerate(names)
    ]
    return {"metrics": rows, "tasks": entries}


def _metrics(model: Any, part: Part, top_k: int) -> dict[str, Any]:
    sections = measured(model, part, names_of(model.classes_, None), top_k)
    return task_metrics(sections, len(model.classes_))
