"""Rows and labels of one role in blocks: labels, shares and folds stay beside the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xclf.estimators import (
    BaseClassifier,
    Targets,
    among_classes,
    known_beside,
    put_beside,
    targets_joined,
)
from xclf.probes._part import NOTHING, Part, Picked, cannot_hold_out
from xclf.report.results import data_facts
from xclf.report.run import InParts
from xclf.rows import (
    GATHERED,
    Drawing,
    RowSketch,
    Subset,
    SubsetRows,
    class_counts,
    given_folds,
    labels_at,
    labels_of,
    subsets_joined,
)
from xclf.sweep import Fold


@dataclass(frozen=True, eq=False)
class BlockPart(Part):
    """A `Part` of rows in blocks. Its rows are picked by a `Subset`; None picks all.

    X : `Blocks`;  y : `Targets`, beside the rows
    within : the rows of the part, of those of X
    counted : rows of each class that were counted before
    """

    within: Subset | None = None
    counted: dict[Any, tuple[Any, np.ndarray]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count(self.within)

    def task(self, number: int | None) -> Part:
        if number is None:
            return self
        return replace(self, y=Targets([self.y.tasks[number]]), tasks=None)

    @property
    def labels(self) -> np.ndarray:
        return self.classes(self.within)[0]

    @property
    def indicators(self) -> bool:
        return bool(self.y.indicators)

    @property
    def every(self) -> Picked:
        return self.within

    def count(self, rows: Picked) -> int:
        return int(self.X.shape[0]) if rows is None else len(rows)

    def classes(self, rows: Picked) -> tuple[np.ndarray, np.ndarray]:
        classes, _ = self.y.tasks[0]
        counts = self._counts(0, rows)
        return classes[counts > 0], counts[counts > 0]

    def class_counts(self, rows: Picked) -> np.ndarray:
        """(C,) rows of each class, of one column."""
        return self._counts(0, rows)

    def _counts(self, task: int, rows: Subset | None) -> np.ndarray:
        """(C,) rows of each class of a task."""
        classes, index = self.y.tasks[task]
        folds = None if rows is None else rows.folds
        if rows is not None and rows.folds.counts.shape[1] == len(classes):
            return rows.counts  # drawn by these classes
        key = (id(index.parts), index.columns, id(folds))
        if key not in self.counted:
            number = 1 if folds is None else len(folds.counts)
            column = None if folds is None else folds.column
            self.counted[key] = folds, class_counts(index, len(classes), column, number)
        numbers = [0] if rows is None else list(rows.numbers)
        return np.asarray(self.counted[key][1][numbers].sum(axis=0))

    def hold_out(self, rows: Picked, share: float, role: str, seed: int) -> tuple[Picked, Picked]:
        try:
            return self._drawing(rows).hold_out(share, seed)
        except ValueError as error:
            raise cannot_hold_out(share, self.count(rows), role, error) from None

    def folds(self, rows: Picked, number: int, seed: int) -> list[tuple[Picked, Picked]]:
        folds = self._drawing(rows).shuffled_folds(number, seed)
        return [(folds.inside(k), Subset(folds, (k,))) for k in range(number)]

    def _drawing(self, rows: Subset | None) -> Drawing:
        classes, index = self.y.tasks[0]
        return Drawing(self.X, index, len(classes), rows, self.tasks is None)

    def picked(self, rows: Picked, role: str, name: str) -> Part:
        share = f"{self.count(rows) / len(self):.0%} of {self.source}"
        own = {"role": role, "name": name, "source": share, "within": rows}
        return replace(self, **own, feature_names=None, index_base=None)

    def with_validation(self, rows: Picked, val: Any) -> Part:
        if not isinstance(val, Part):
            return replace(self, within=rows)
        X = self.X.joined([val.X])
        known = [classes for classes, _ in self.y.tasks]
        if isinstance(val, BlockPart):
            labels, within = known_beside(val.y, known), val.within
        else:
            columns = [val.y] if val.tasks is None else list(val.y.T)
            index = [np.searchsorted(*own) for own in zip(known, columns, strict=True)]
            alone = X.groups_from(len(self.X.groups))
            labels, within = put_beside(alone, list(zip(known, index, strict=True))), None
        y = targets_joined([self.y, labels])
        both = subsets_joined([(self.X, rows), (X.groups_from(len(self.X.groups)), within)])
        return replace(self, X=X, y=y, within=both, counted={})

    def fold(self, rows: Picked) -> Fold:
        return Fold(rows, NOTHING, self._among(rows))

    def fit(self, model: BaseClassifier) -> None:
        weights = None if self.within is None else self.within.weights()
        model.fit(self.X, self._among(self.within), weights)

    def _among(self, rows: Subset | None) -> Targets:
        """The labels, of the classes that these rows have."""
        tasks = range(len(self.y.tasks))
        names = ["y"] if self.y.names is None else self.y.names
        return among_classes(self.y, [self._counts(t, rows) > 0 for t in tasks], names)

    def draws(self, rows: Picked, shots: int, most: int, tries: int, seed: int) -> list[np.ndarray]:
        return self._drawing(rows).draws(shots, most, tries, seed)

    def gathered(self, numbers: np.ndarray) -> Part:
        index = [labels_at(self.X, own, numbers) for _, own in self.y.tasks]
        tasks = [(classes, own) for (classes, _), own in zip(self.y.tasks, index, strict=True)]
        if len(numbers) * self.X.row_bytes > GATHERED:
            X = self.X.at(numbers)
            targets = put_beside(X, tasks, self.y.names)
            return replace(self, X=X, y=targets, within=None, counted={})
        labels = [classes[own] for classes, own in tasks]
        y = labels[0] if self.tasks is None else np.stack(labels, axis=1)
        return Part("train", "draws", self.X.take(numbers), y, self.source, tasks=self.tasks)

    def numbered(self, numbers: np.ndarray) -> Picked:
        folds = np.full(self.X.shape[0], -1, np.int32)
        folds[numbers] = 0
        classes, index = self.y.tasks[0]
        return Subset(given_folds(self.X, index, len(classes), folds), (0,))

    def facts(self) -> dict[str, Any]:
        several = self.tasks is not None
        classes = 0 if several else len(self.labels)
        X = self.X if self.within is None else SubsetRows(self.X, self.within)
        shape = (len(self), len(self.y.tasks)) if several else (len(self),)
        y = InParts(shape, self._label_parts)
        return data_facts(self.role, self.label, X, y, classes) | {"data": self.name}

    def _label_parts(self) -> Iterator[np.ndarray]:
        """The labels of consecutive rows."""
        columns = [
            map(classes.__getitem__, labels_of(index, self.within))
            for classes, index in self.y.tasks
        ]
        for own in zip(*columns, strict=True):
            yield own[0] if self.tasks is None else np.stack(own, axis=1)

    def sketch(self, rows: Picked) -> RowSketch:
        return RowSketch.of_blocks(self.X, rows)
