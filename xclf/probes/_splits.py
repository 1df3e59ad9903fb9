"""Which rows candidates train on, and which they are judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xclf.probes._part import Part, Picked, check_class_counts


@dataclass(frozen=True, eq=False)
class Split:
    """train : rows to train on, as their part picks them;  judge : returns the part to judge by
    task : whose labels these are; None for labels of one column
    """

    train: Picked
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


def folds(part: Part, rows: Picked, number: int, seed: int) -> list[Split]:
    """Folds of these rows, shuffled, and stratified where labels are one column. Raises ValueError
    where a class has fewer rows."""
    if part.tasks is None:
        check_class_counts(part.classes(rows), number, f"folds={number}")

    def judge(held: Picked) -> Callable[[], Part]:
        return lambda: part.picked(held, "validation", "validation")

    return [Split(train, judge(held)) for train, held in part.folds(rows, number, seed)]
