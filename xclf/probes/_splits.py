"""Which rows candidates train on, and which they are judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

from xclf.probes._parts import Part, joined
from xclf.report.number_text import plain
from xclf.sweep import rows_of


@dataclass(frozen=True, eq=False)
class Split:
    """train : host numbers of rows to train on;  judge : returns the part to judge by
    task : whose labels these are; None for labels of one column
    """

    train: np.ndarray
    judge: Callable[[], Part]
    task: int | None = None

    def of_task(self, number: int | None) -> Split:
        """The same rows with the labels of one task; None for labels of one column."""
        return Split(self.train, lambda: self.judge().task(number), number)


@dataclass(frozen=True)
class Draws:
    """shots : rows of every class, one number for each point of the curve;  tries : draws of each;
    seed : of the draws"""

    shots: tuple[int, ...]
    tries: int
    seed: int


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
        raise ValueError(
            f"cannot hold out {plain(share)} of {len(rows)} rows for {role}, stratified: {error}"
        ) from None
    kept, held = (np.sort(numbers) for numbers in parts)
    return kept, held


def some_rows(part: Part, rows: np.ndarray, role: str, name: str) -> Part:
    """The rows of these numbers as a part of another role."""
    return Part(
        role,
        name,
        rows_of(part.X, rows),
        part.y[rows],
        f"{len(rows) / len(part):.0%} of {part.source}",
        part.class_names,
        part.image_shape,
        part.pixel_layout,
        part.tasks,
    )


def all_rows(train: Part, every: np.ndarray, val: Any) -> tuple[Any, np.ndarray]:
    """(X, y) of training and validation rows."""
    if len(every) < len(train):
        train = some_rows(train, every, "train", "train")
    return joined([train, val] if isinstance(val, Part) else [train])


def folds(part: Part, rows: np.ndarray, number: int, seed: int) -> list[Split]:
    """Folds of the rows of these numbers, shuffled, and stratified where labels are one column.
    Raises ValueError where a class has fewer rows."""
    y = part.y[rows]
    if y.ndim == 1:
        check_class_counts(y, number, f"folds={number}")
    kind = StratifiedKFold if y.ndim == 1 else KFold
    splitter = kind(number, shuffle=True, random_state=seed)

    def judge(held: np.ndarray) -> Callable[[], Part]:
        return lambda: some_rows(part, held, "validation", "validation")

    return [Split(rows[train], judge(rows[held])) for train, held in splitter.split(y, y)]


def draws(y: np.ndarray, shots: int, tries: int, seed: int) -> list[np.ndarray]:
    """Numbers of `shots` rows of every class, `tries` times; sorted.

    Draw t depends on the seed and t alone, and holds that of fewer shots: curves over shots differ
    by the rows that are added.
    Raises ValueError where a class has fewer rows.
    """
    check_class_counts(y, shots, f"{shots} shots")
    order = np.argsort(y, kind="stable")
    starts = np.flatnonzero(np.r_[True, y[order][1:] != y[order][:-1]])
    by_class = np.split(order, starts[1:])
    drawn = []
    for number in range(tries):
        rng = np.random.default_rng((seed, number))
        drawn.append(np.sort(np.concatenate([rng.permutation(r)[:shots] for r in by_class])))
    return drawn


def check_class_counts(y: np.ndarray, least: int, what: str) -> None:
    """ValueError where a class has fewer than `least` rows, which `what` needs."""
    classes, counts = np.unique(y, return_counts=True)
    few = classes[counts < least].tolist()
    if few:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        raise ValueError(
            f"{what} needs {least} rows of every class to train on; fewer has "
            f"{', '.join(map(repr, few[:5]))}{more} (the least: {counts.min()})"
        )
