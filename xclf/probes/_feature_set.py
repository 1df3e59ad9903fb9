"""The probe of one feature set: splits, search, refit."""

from __future__ import annotations

from typing import Any

import numpy as np

from xclf.estimators import check_memory
from xclf.probes._outcome import Outcome, Settings
from xclf.probes._part import Part, Picked, check_class_counts, task_numbers
from xclf.probes._parts import Parts, Sources, read
from xclf.probes._progress import Stages
from xclf.probes._search import refitted, search
from xclf.probes._splits import Split, folds
from xclf.probes._tasks import search_tasks

#: Share of the rows that is held out where no test rows are given or come with the data.
TEST_SHARE = 0.2


def probe_features(settings: Settings, sources: Sources, stages: Stages) -> Outcome:
    """Read one feature set, search, and refit.

    Raises KeyboardInterrupt where Ctrl-C came before any model was trained.
    """
    parts = read(sources, normalize=settings.normalize, reading=settings.reading)
    share = _share(parts)
    train, every, tests = _tested(parts, share, settings.seed)
    rows, val, splits = _judged(settings, parts, every)
    if settings.draws is not None:
        most = settings.draws.shots[-1]
        for task in task_numbers(train):
            of_task = f" of task {train.tasks[task]}" if train.tasks and task is not None else ""
            check_class_counts(train.task(task).classes(rows), most, f"{most} shots{of_task}")
        if not tests and val is None:
            raise ValueError("few-shot curves need test or validation rows: test=0 leaves none")
    _check_memory(settings, train, every, parts.val)
    share = share or None
    plan, names = settings.plan, (_stage(sources, "search"), _stage(sources, "refit"))
    again = plan.protocol.refit or settings.folds is not None
    if train.tasks is not None:
        all_rows = train.with_validation(every, parts.val) if again else None
        found, choices, model = search_tasks(settings, train, splits, all_rows, stages, names)
        stopped, seen = found.interrupted, every if again else rows
        ends = (found, model, stopped, choices, share, seen)
        return Outcome(sources.name, train, rows, val, tests, *ends)
    found = search(plan, train, splits, settings.metric, stages, names[0])
    model, interrupted, seen = found.best, found.interrupted, rows
    if again and not interrupted:
        seen = every
        all_rows = train.with_validation(every, parts.val)
        model, interrupted = refitted(plan, found, all_rows, stages, names[1])
    return Outcome(
        sources.name, train, rows, val, tests, found, model, interrupted, test_size=share, seen=seen
    )


def _check_memory(settings: Settings, train: Part, every: Picked, val: Any) -> None:
    """ValueError before the search where its fits, or the refit, cannot keep to max_memory."""
    x, rows = train.X, train.count(every) + (len(val) if isinstance(val, Part) else 0)
    if isinstance(x, np.ndarray):
        if not settings.plan.protocol.refit or settings.plan.estimator.device not in (None, "cpu"):
            return  # fits are to fewer rows, or elsewhere
        x = np.broadcast_to(np.zeros(1, x.dtype), (rows, x.shape[1]))
    for task in task_numbers(train):
        classes = len(train.task(task).labels)
        (like, *_) = settings.plan.candidates(rows, classes)
        check_memory(like, x, classes, parts=True)


def _stage(sources: Sources, stage: str) -> str:
    return stage if sources.single else f"{sources.name}: {stage}"


def _share(parts: Parts) -> float | None:
    """The share of the rows to hold out for testing; None where test rows are given."""
    if isinstance(parts.tests, list):
        return None
    return TEST_SHARE if parts.tests is None else parts.tests


def _tested(parts: Parts, share: float | None, seed: int) -> tuple[Part, Picked, list[Part]]:
    """(train, its rows that are not held out, test parts)."""
    train, tests = parts.train, parts.tests
    every = train.every
    if isinstance(tests, list):
        return train, every, tests
    if not share:
        return train, every, []
    every, held = train.hold_out(every, share, "test", seed)
    return train, every, [train.picked(held, "test", "test")]


def _judged(
    settings: Settings, parts: Parts, every: Picked
) -> tuple[Picked, Part | None, list[Split]]:
    """(rows to train on, validation part, splits)."""
    train, seed = parts.train, settings.seed
    if settings.folds:
        return every, None, folds(train, every, settings.folds, seed)
    if isinstance(parts.val, Part):
        val, rows = parts.val, every
    else:
        share = settings.plan.protocol.validation if parts.val is None else parts.val
        rows, held = train.hold_out(every, share, "validation", seed)
        val = train.picked(held, "validation", "validation")
    return rows, val, [Split(rows, lambda: val)]
