"""The probe of one feature set: splits, search, refit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf.estimators import BaseClassifier
from xclf.probes._parts import Part, Parts, Sources, joined, read
from xclf.probes._plan import Plan
from xclf.probes._progress import Stages
from xclf.probes._search import Search, refitted, search
from xclf.probes._splits import Draws, Split, check_class_counts, folds, hold_out, some_rows

#: Share of the rows that is held out where no test rows are given or come with the data.
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Settings:
    """What all feature sets of a probe share.

    folds : to judge candidates on, in the place of validation rows
    metric : what they are judged by;  normalize : rows to Euclidean norm 1
    draws : of the few-shot curve, or None
    """

    plan: Plan
    folds: int | None
    metric: str
    normalize: bool
    seed: int
    draws: Draws | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """A feature set and its probe.

    train : all rows to train on;  rows : numbers of those that candidates are trained on
    val : rows that judge them, None for folds;  tests : rows that judge the model
    model : the chosen candidate, refitted where the protocol says so
    """

    name: str
    train: Part
    rows: np.ndarray
    val: Part | None
    tests: list[Part]
    search: Search
    model: BaseClassifier
    interrupted: bool

    @property
    def score(self) -> float:
        """Of the chosen candidate, by which feature sets are compared."""
        return float(self.search.mean[self.search.chosen])


def probe_features(settings: Settings, sources: Sources, stages: Stages) -> Outcome:
    """Read one feature set, search, and refit.

    Raises KeyboardInterrupt where Ctrl-C came before any model was trained.
    """
    max_memory = settings.plan.estimator.max_memory
    parts = read(sources, normalize=settings.normalize, max_memory=max_memory)
    train, every, tests = _tested(parts, settings.seed)
    rows, val, splits = _judged(settings, parts, every)
    if settings.draws is not None:
        most = settings.draws.shots[-1]
        check_class_counts(train.y[rows], most, f"{most} shots")
        if not tests and val is None:
            raise ValueError("few-shot curves need test or validation rows: test=0 leaves none")
    found = search(settings.plan, train, splits, settings.metric, stages, _stage(sources, "search"))
    model, interrupted = found.best, found.interrupted
    if not interrupted and (settings.plan.protocol.refit or settings.folds):
        X, y = _all_rows(train, every, parts.val)
        model, interrupted = refitted(settings.plan, found, X, y, stages, _stage(sources, "refit"))
    return Outcome(sources.name, train, rows, val, tests, found, model, interrupted)


def _stage(sources: Sources, stage: str) -> str:
    return stage if sources.single else f"{sources.name}: {stage}"


def _tested(parts: Parts, seed: int) -> tuple[Part, np.ndarray, list[Part]]:
    """(train, numbers of its rows that are not held out, test parts)."""
    train, tests = parts.train, parts.tests
    every = np.arange(len(train))
    if isinstance(tests, list):
        return train, every, tests
    share = TEST_SHARE if tests is None else tests
    if not share:
        return train, every, []
    every, held = hold_out(train.y, every, share, "test", seed)
    return train, every, [some_rows(train, held, "test", "test")]


def _judged(
    settings: Settings, parts: Parts, every: np.ndarray
) -> tuple[np.ndarray, Part | None, list[Split]]:
    """(numbers of rows to train on, validation part, splits)."""
    train, seed = parts.train, settings.seed
    if settings.folds:
        return every, None, folds(train, every, settings.folds, seed)
    if isinstance(parts.val, Part):
        val, rows = parts.val, every
    else:
        share = settings.plan.protocol.validation if parts.val is None else parts.val
        rows, held = hold_out(train.y, every, share, "validation", seed)
        val = some_rows(train, held, "validation", "validation")
    return rows, val, [Split(rows, lambda: val)]


def _all_rows(train: Part, every: np.ndarray, val: Any) -> tuple[Any, np.ndarray]:
    """(X, y) of training and validation rows."""
    if len(every) < len(train):
        train = some_rows(train, every, "train", "train")
    return joined([train, val] if isinstance(val, Part) else [train])
