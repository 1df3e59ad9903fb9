"""Rows and labels of one role, and what a probe does with them; those in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

from xclf import _array_api
from xclf._sparse import stacked_rows
from xclf.estimators import BaseClassifier, hashes_of
from xclf.report.number_text import plain
from xclf.report.results import data_facts
from xclf.rows import RowSketch
from xclf.sweep import Fold, rows_of

#: Rows of a part by number: host integers, of a `BlockPart` a `Subset`, or None for all.
Picked = Any

NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Part:
    """Rows and labels of one role.

    role : "train", "validation" or "test";  name : in messages and among metrics
    X : (N, D) where the user has it;  y : host labels (N,), or (N, T) of T tasks
    source : where they come from, for people
    tasks : names of the columns of y; None for labels of one column
    feature_names, index_base : of the columns of X, as a `Dataset` has them
    """

    role: str
    name: str
    X: Any
    y: Any
    source: str = "arrays"
    class_names: tuple[str, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    pixel_layout: str | None = None
    tasks: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    index_base: int | None = None

    def __len__(self) -> int:
        return len(self.y)

    def task(self, number: int | None) -> Part:
        """The same rows with the labels of one task."""
        return self if number is None else replace(self, y=self.y[:, number], tasks=None)

    @property
    def label(self) -> str:
        """The name of one of several test sets, or where the rows come from."""
        return self.source if self.name == self.role else self.name

    @property
    def labels(self) -> np.ndarray:
        """The sorted distinct labels, of one column."""
        return np.unique(self.y)

    @property
    def indicators(self) -> bool:
        """Whether labels (N, T) are a multi-label indicator: 0 and 1 in every column."""
        y = self.y
        return y.dtype.kind in "biuf" and all(np.array_equal(np.unique(own), (0, 1)) for own in y.T)

    @property
    def every(self) -> Picked:
        """All rows."""
        return np.arange(len(self))

    def count(self, rows: Picked) -> int:
        return len(rows)

    def classes(self, rows: Picked) -> tuple[np.ndarray, np.ndarray]:
        """(the sorted distinct labels of these rows, how many rows each has), of one column."""
        classes, counts = np.unique(self.y[rows], return_counts=True)
        return classes, counts

    def hold_out(self, rows: Picked, share: float, role: str, seed: int) -> tuple[Picked, Picked]:
        """(kept, held out) of these rows, stratified where labels are one column.

        Raises ValueError where a class has too few rows for that.
        """
        return hold_out(self.y, rows, share, role, seed)

    def folds(self, rows: Picked, number: int, seed: int) -> list[tuple[Picked, Picked]]:
        """(train, held out) of folds of these rows, shuffled, and stratified where labels are one
        column."""
        y = self.y[rows]
        kind = StratifiedKFold if y.ndim == 1 else KFold
        splitter = kind(number, shuffle=True, random_state=seed)
        return [(rows[train], rows[held]) for train, held in splitter.split(y, y)]

    def picked(self, rows: Picked, role: str, name: str) -> Part:
        """These rows as a part of another role."""
        share = f"{self.count(rows) / len(self):.0%} of {self.source}"
        shape, layout = self.image_shape, self.pixel_layout
        own = (share, self.class_names, shape, layout, self.tasks)
        return Part(role, name, rows_of(self.X, rows), self.y[rows], *own)

    def with_validation(self, rows: Picked, val: Any) -> Part:
        """These rows, and those of a validation part if it is one: what a refit takes."""
        parts = [self if len(rows) == len(self) else self.picked(rows, "train", "train")]
        parts += [val] if isinstance(val, Part) else []
        X, y = _joined(parts)
        return replace(self, X=X, y=y)

    def fold(self, rows: Picked) -> Fold:
        """These rows to train on, of labels of one column."""
        return Fold(rows, NOTHING, self.y[rows])

    def fit(self, model: BaseClassifier) -> None:
        """Fit a model to all rows."""
        model.fit(self.X, self.y)

    def draws(self, rows: Picked, shots: int, most: int, tries: int, seed: int) -> list[np.ndarray]:
        """Numbers of `shots` of these rows of every class, `tries` times, see `draws`; a draw of
        `most` rows of a class holds them."""
        return [rows[own] for own in draws(self.y[rows], shots, tries, seed)]

    def gathered(self, numbers: np.ndarray) -> Part:
        """The rows of these numbers, which are few, by themselves."""
        return self.picked(numbers, "train", "draws")

    def numbered(self, numbers: np.ndarray) -> Picked:
        """The rows of these numbers, sorted."""
        return numbers

    def facts(self) -> dict[str, Any]:
        """The entry of `data` in `results.json`."""
        classes = len(np.unique(self.y))
        own = data_facts(self.role, self.label, self.X, self.y, classes)
        return own | {"data": self.name}  # as `metrics`, `few_shot` and `confusion` call the rows

    def sketch(self, rows: Picked) -> RowSketch:
        return RowSketch.of(hashes_of(self.X)[rows])


def _joined(parts: Sequence[Part]) -> tuple[Any, np.ndarray]:
    """(X, y) of several parts, one after the other."""
    if len(parts) == 1:
        return parts[0].X, parts[0].y
    X = [part.X for part in parts]
    with _array_api.on_device(X[0]):
        return stacked_rows(X), np.concatenate([p.y for p in parts])


def task_numbers(part: Part) -> list[int | None]:
    """The tasks of a part by number; [None] for labels of one column."""
    return [None] if part.tasks is None else list(range(len(part.tasks)))


def hold_out(
    y: np.ndarray, rows: np.ndarray, share: float, role: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held out): row numbers `rows`, in order, stratified by their labels y[rows] where
    these are one column.

    Raises ValueError where a class has too few rows for that.
    """
    labels = y[rows] if y.ndim == 1 else None
    try:
        parts = train_test_split(rows, test_size=share, stratify=labels, random_state=seed)
    except ValueError as error:
        raise cannot_hold_out(share, len(rows), role, error) from None
    kept, held = (np.sort(numbers) for numbers in parts)
    return kept, held


def cannot_hold_out(share: float, rows: int, role: str, error: ValueError) -> ValueError:
    return ValueError(
        f"cannot hold out {plain(share)} of {rows} rows for {role}, stratified: {error}"
    )


def draws(y: np.ndarray, shots: int, tries: int, seed: int) -> list[np.ndarray]:
    """Numbers of `shots` rows of every class, `tries` times; sorted.

    Draw t depends on the seed and t alone, and holds that of fewer shots: curves over shots differ
    by the rows that are added.
    Raises ValueError where a class has fewer rows.
    """
    check_class_counts(np.unique(y, return_counts=True), shots, f"{shots} shots")
    order = np.argsort(y, kind="stable")
    starts = np.flatnonzero(np.r_[True, y[order][1:] != y[order][:-1]])
    by_class = np.split(order, starts[1:])
    drawn = []
    for number in range(tries):
        rng = np.random.default_rng((seed, number))
        drawn.append(np.sort(np.concatenate([rng.permutation(r)[:shots] for r in by_class])))
    return drawn


def check_class_counts(counted: tuple[np.ndarray, np.ndarray], least: int, what: str) -> None:
    """ValueError where a class has fewer than `least` rows, which `what` needs.

    counted : (classes, rows of each)
    """
    classes, counts = counted
    few = classes[counts < least].tolist()
    if few:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        raise ValueError(
            f"{what} needs {least} rows of every class to train on; fewer has "
            f"{', '.join(map(repr, few[:5]))}{more} (the least: {counts.min()})"
        )
