"""What a probe of one feature set is given, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xclf.estimators import BaseClassifier
from xclf.probes._part import Part, Picked
from xclf.probes._plan import Plan
from xclf.probes._search import Search
from xclf.probes._splits import Draws
from xclf.report.metrics import TOP_K


@dataclass(frozen=True)
class Settings:
    """What all feature sets of a probe share.

    folds : to judge candidates on, in the place of validation rows
    metric : what they are judged by;  normalize : rows to Euclidean norm 1
    draws : of the few-shot curve, or None;  reading : options of `xclf.data.load`
    top_k : of the top-k accuracy
    """

    plan: Plan
    folds: int | None
    metric: str
    normalize: bool
    seed: int
    draws: Draws | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    top_k: int = TOP_K


@dataclass(frozen=True, eq=False)
class Outcome:
    """A feature set and its probe.

    train : all rows to train on;  rows : those that candidates are trained on
    val : rows that judge them, None for folds;  tests : rows that judge the model
    model : the chosen candidate, refitted where the protocol says so
    choices : of several tasks, the number of the value that each has chosen
    test_size : share of the rows that was held out to test on, None where none was
    seen : the rows of `train` that the model was trained on
    """

    name: str
    train: Part
    rows: Picked
    val: Part | None
    tests: list[Part]
    search: Search
    model: BaseClassifier
    interrupted: bool
    choices: list[int] = field(default_factory=list)
    test_size: float | None = None
    seen: Picked = None

    @property
    def score(self) -> float:
        """Of the chosen candidate, by which feature sets are compared; the mean over tasks."""
        if self.choices:
            return float(np.mean([self.search.scores[k, t] for t, k in enumerate(self.choices)]))
        return float(self.search.mean[self.search.chosen])
