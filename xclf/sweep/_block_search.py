"""Searches over rows in blocks: labels, folds and weights stay beside the rows.

scikit-learn's search runs over the numbers of the folds in the place of row numbers, and scorers
get what was counted where the rows are (`_block_scores.py`).
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.model_selection import KFold, StratifiedKFold

from xclf.estimators import Targets, among_classes, targets_beside, weights_beside
from xclf.rows import (
    BlockColumn,
    BlockFolds,
    Blocks,
    Drawing,
    class_counts,
    consecutive_folds,
    given_folds,
    stratified_folds,
)
from xclf.sweep._fits import Fold, first_steps, last_step

# Splitters of scikit-learn that hold out each row once, and splits that are listed.
_PARTITIONS = (
    "KFold",
    "StratifiedKFold",
    "GroupKFold",
    "StratifiedGroupKFold",
    "PredefinedSplit",
    "_CVIterableWrapper",
)


@dataclass(frozen=True)
class RowsBeside:
    """Labels and weights of all rows in blocks, and the fold of each, beside the rows.

    weights : of the rows, or None
    """

    X: Blocks
    targets: Targets
    folds: BlockFolds
    weights: BlockColumn | None = None
    _present: dict[int, Targets] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        """Whether labels have several columns."""
        return self.targets.names is not None

    @property
    def classes(self) -> np.ndarray:
        """Of labels of one column."""
        return self.targets.tasks[0][0]

    @property
    def splits(self) -> list[Fold]:
        """Splits of the numbers of the folds."""
        every = np.arange(len(self.folds.counts))
        return [Fold(np.delete(every, k), every[k : k + 1]) for k in every.tolist()]

    def targets_without(self, fold: int) -> Targets:
        """The labels, of the classes that all other folds have."""
        if fold not in self._present:
            there = []
            for classes, index in self.targets.tasks:
                counts = self.folds.counts
                if self.several or counts.shape[1] != len(classes):
                    own = (len(classes), self.folds.column, len(counts))
                    counts = class_counts(index, *own)
                there.append(counts.sum(axis=0) > counts[fold])
            names = self.targets.names or ["y"]
            self._present[fold] = among_classes(self.targets, there, names)
        return self._present[fold]


def rows_beside(search: Any, X: Any, y: Any, params: dict[str, Any]) -> RowsBeside | None:
    """For a search over rows in blocks whose labels need not come to this process to be split;
    None where they have to: for splitters that are not scikit-learn's own of one seed, or of groups
    (`split_beside`), and for parameters that `fit` does not know.
    """
    if not _stays_beside(search, X, params, {"sample_weight"}):
        return None
    targets = targets_beside(last_step(search.estimator), X, y)
    folds = _folds(search.cv, X, targets)
    return None if folds is None else _with_folds(X, targets, folds, params)


def split_beside(
    search: Any, X: Any, y: Any, params: dict[str, Any], splits: Iterable[Any], splitter: Any
) -> RowsBeside | None:
    """`rows_beside` of splits that are made here, one after the other, where each row is held out
    once and trained on else: the number of its fold goes to it. The labels leave this process.

    params : beside `groups`, for the splitter
    """
    known = {"groups", "sample_weight"}
    if type(splitter).__name__ not in _PARTITIONS or not _stays_beside(search, X, params, known):
        return None
    held = np.full(X.shape[0], -1, np.int32)
    for number, (train, test) in enumerate(splits):
        inside = np.zeros(len(held), bool)
        inside[train] = True
        whole = len(train) + len(test) == len(held) and inside.sum() == len(train)
        if not whole or inside[test].any() or np.any(held[test] >= 0):
            return None
        held[test] = number
    if held.min() < 0:
        return None
    targets = targets_beside(last_step(search.estimator), X, y)
    classes, index = targets.tasks[0]
    return _with_folds(X, targets, given_folds(X, index, len(classes), held), params)


def _stays_beside(search: Any, X: Any, params: dict[str, Any], known: set[str]) -> bool:
    """Whether nothing but the splits may need labels in this process."""
    given = {name for name, value in params.items() if value is not None}
    # Which of several consumers metadata goes to is scikit-learn's business.
    routed = bool(given) and get_config()["enable_metadata_routing"]
    return (
        isinstance(X, Blocks)
        and not first_steps(search.estimator)
        and not routed
        and given <= known
    )


def _with_folds(
    X: Blocks, targets: Targets, folds: BlockFolds, params: dict[str, Any]
) -> RowsBeside:
    return RowsBeside(X, targets, folds, weights_beside(X, params.get("sample_weight")))


def _folds(cv: Any, X: Blocks, targets: Targets) -> BlockFolds | None:
    """Those of a `cv` of scikit-learn that needs nothing but labels, beside the rows; else None."""
    several = targets.names is not None
    if cv is None or (isinstance(cv, numbers.Integral) and int(cv) > 1):
        cv = (KFold if several else StratifiedKFold)(5 if cv is None else int(cv))
    if type(cv) not in (KFold, StratifiedKFold) or (several and type(cv) is StratifiedKFold):
        return None
    (classes, index), stratify = targets.tasks[0], type(cv) is StratifiedKFold
    if not cv.shuffle:
        make = stratified_folds if stratify else consecutive_folds
        return make(X, index, len(classes), int(cv.n_splits))
    if not isinstance(cv.random_state, numbers.Integral):
        return None
    drawing = Drawing(X, index, len(classes), None, stratify)
    # What scikit-learn says of too few rows it says of the labels.
    few = drawing.totals[drawing.totals > 0].min() < cv.n_splits
    return None if few else drawing.shuffled_folds(int(cv.n_splits), int(cv.random_state))
