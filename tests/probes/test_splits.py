"""Shares, folds and draws: which rows they hold."""

from __future__ import annotations

import numpy as np
import pytest

from xclf.probes._part import Part, draws, hold_out
from xclf.probes._splits import folds

Y = np.repeat([3, 1, 2], [30, 20, 10])
PART = Part("train", "train", np.arange(60.0)[:, None], Y)


def test_a_share_is_stratified():
    rows = np.arange(10, 60)
    kept, held = hold_out(Y, rows, 0.2, "test", 0)
    assert sorted([*kept, *held]) == rows.tolist()
    assert {k: int((Y[held] == k).sum()) for k in (1, 2, 3)} == {1: 4, 2: 2, 3: 4}
    np.testing.assert_array_equal(hold_out(Y, rows, 0.2, "test", 0)[1], held)
    assert not np.array_equal(hold_out(Y, rows, 0.2, "test", 1)[1], held)


def test_a_share_that_is_too_small():
    with pytest.raises(ValueError, match=r"cannot hold out 0\.01 of 60 rows for validation"):
        hold_out(Y, np.arange(60), 0.01, "validation", 0)


def test_folds_partition_the_rows():
    rows = np.arange(5, 60)
    splits = folds(PART, rows, 5, 0)
    judged = [split.judge() for split in splits]
    held = np.concatenate([part.X[:, 0] for part in judged])
    assert sorted(held) == rows.tolist()
    for split, part in zip(splits, judged, strict=True):
        assert not set(split.train) & set(part.X[:, 0])
        assert len(split.train) + len(part) == len(rows)
        np.testing.assert_array_equal(part.y, Y[part.X[:, 0].astype(int)])
        assert (part.y == 2).sum() == 2


def test_draws_are_balanced_seeded_and_nested():
    four, two = draws(Y, 4, 3, 7), draws(Y, 2, 3, 7)
    for large, small in zip(four, two, strict=True):
        assert [int((Y[large] == k).sum()) for k in (1, 2, 3)] == [4, 4, 4]
        assert len(set(large)) == 12
        assert set(small) < set(large)
    assert len({tuple(rows) for rows in four}) == 3
    np.testing.assert_array_equal(draws(Y, 4, 5, 7)[:3], four)  # more tries keep earlier ones
    assert not np.array_equal(draws(Y, 4, 3, 8), four)


def test_every_row_of_a_class_is_as_likely():
    counts = np.bincount(np.concatenate(draws(Y, 5, 2000, 0)), minlength=60)
    # Of 30, 20 and 10 rows 5 are drawn 2000 times: within 5 deviations of the binomial law.
    share = 5.0 / np.asarray([0, 20, 10, 30])[Y]
    deviation = np.sqrt(2000 * share * (1.0 - share))
    assert (np.abs(counts - 2000 * share) < 5.0 * deviation).all()


@pytest.mark.parametrize(
    "make", [lambda: draws(Y, 11, 1, 0), lambda: folds(PART, np.arange(60), 11, 0)]
)
def test_classes_with_fewer_rows(make):
    with pytest.raises(ValueError, match=r"11.* needs 11 rows of every class.*: 10\)"):
        make()
