"""Seeded parts of rows in blocks: those of scikit-learn, and of many rows as many of each class."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

from xclf.rows import BlockColumn, Blocks, Drawing, LocalEngine, Subset

RNG = np.random.default_rng(0)
LABELS = {
    "any": RNG.integers(0, 4, 97),
    "sorted": np.sort(RNG.integers(0, 3, 60)),
    "rare": RNG.permutation(np.repeat([2, 0, 1], [50, 7, 20])),
}
STRATIFIED = pytest.mark.parametrize("stratify", [True, False], ids=["stratified", "any class"])


def drawing(labels, within=None, stratify=True):
    rows = len(labels)
    ends = np.cumsum([0, 7, 20, 4, rows - 31])
    places = [slice(*pair) for pair in pairwise(ends.tolist())]
    x = np.zeros((rows, 2))
    x = Blocks(LocalEngine(), [[x[w]] for w in places], np.diff(ends), 2, x.dtype, x[:0])
    index = BlockColumn(x.engine, [labels[None, w] for w in places], rows, 0)
    return Drawing(x, index, int(labels.max()) + 1, within, stratify)


def rows_of(subset):
    numbers = np.concatenate(subset.folds.column.parts)
    return np.flatnonzero(np.isin(numbers, subset.numbers))


def same_counts(subset, labels, stratify=True):
    own = labels[rows_of(subset)] if stratify else np.zeros(len(rows_of(subset)), int)
    np.testing.assert_array_equal(np.bincount(own, minlength=len(subset.counts)), subset.counts)


@STRATIFIED
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_a_share_of_a_share_is_that_of_scikit_learn(labels, stratify):
    rows, options = np.arange(len(labels)), {"random_state": 3}
    kept, test = drawing(labels, None, stratify).hold_out(0.2, 3)
    train, val = drawing(labels, kept, stratify).hold_out(0.3, 3)
    want = train_test_split(rows, test_size=0.2, stratify=labels if stratify else None, **options)
    own = labels[np.sort(want[0])] if stratify else None
    inner = train_test_split(np.sort(want[0]), test_size=0.3, stratify=own, **options)
    for subset, numbers in zip((kept, test, train, val), (*want, *inner), strict=True):
        np.testing.assert_array_equal(rows_of(subset), np.sort(numbers))
        same_counts(subset, labels, stratify)
        assert len(subset) == len(numbers)


@STRATIFIED
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_shuffled_folds_are_those_of_scikit_learn(labels, stratify):
    kept, _ = drawing(labels).hold_out(0.2, 0)
    rows = rows_of(kept)
    folds = drawing(labels, kept, stratify).shuffled_folds(3, 5)
    splitter = (StratifiedKFold if stratify else KFold)(3, shuffle=True, random_state=5)
    for k, (train, test) in enumerate(splitter.split(rows, labels[rows])):
        np.testing.assert_array_equal(rows_of(Subset(folds, (k,))), rows[test])
        np.testing.assert_array_equal(rows_of(folds.inside(k)), rows[train])
        same_counts(folds.inside(k), labels, stratify)


def test_draws_are_those_of_rows_in_memory():
    from xclf.probes import draws

    labels = LABELS["rare"]
    kept, _ = drawing(labels).hold_out(0.2, 0)
    rows = rows_of(kept)
    found = drawing(labels, kept).draws(3, 4, 5, 7)
    for own, want in zip(found, draws(labels[rows], 3, 5, 7), strict=True):
        np.testing.assert_array_equal(own, rows[want])


@STRATIFIED
def test_of_many_rows_as_many_of_each_class_are_drawn(monkeypatch, stratify):
    """By counts: the same numbers of rows of each class, other rows."""
    labels = LABELS["any"]
    few = drawing(labels, None, stratify).hold_out(0.2, 3)
    monkeypatch.setattr("xclf.rows._block_shares.GATHERED", 0)
    many = drawing(labels, None, stratify).hold_out(0.2, 3)
    for own, want in zip(many, few, strict=True):
        np.testing.assert_array_equal(own.counts, want.counts)
        same_counts(own, labels, stratify)
    assert not np.array_equal(rows_of(many[1]), rows_of(few[1]))
    assert sorted([*rows_of(many[0]), *rows_of(many[1])]) == list(range(len(labels)))
    again = drawing(labels, None, stratify).hold_out(0.2, 3)
    np.testing.assert_array_equal(rows_of(again[1]), rows_of(many[1]))
    folds = drawing(labels, many[0], stratify).shuffled_folds(3, 5)
    for k in range(3):
        same_counts(Subset(folds, (k,)), labels, stratify)
    if stratify:
        four, two = (drawing(labels, many[0]).draws(shots, 4, 3, 7) for shots in (4, 2))
        for large, small in zip(four, two, strict=True):
            assert set(small) < set(large) <= set(rows_of(many[0]))
            assert np.bincount(labels[large]).tolist() == [4] * 4
        assert len({tuple(rows) for rows in four}) == 3


def test_every_row_is_as_likely_by_counts(monkeypatch):
    """Of 97 rows 30 are held out, 400 times: within 5 deviations of the binomial law."""
    monkeypatch.setattr("xclf.rows._block_shares.GATHERED", 0)
    labels = LABELS["any"]
    counts = np.zeros(97)
    for seed in range(400):
        counts[rows_of(drawing(labels, None, False).hold_out(30 / 97, seed)[1])] += 1
    share = 30 / 97
    assert np.all(np.abs(counts - 400 * share) < 5 * np.sqrt(400 * share * (1 - share)))


@pytest.mark.parametrize(
    ("labels", "share", "message"),
    [
        (np.repeat([0, 1, 2], [40, 20, 1]), 0.2, "a class has a single row"),
        (np.repeat([0, 1, 2], [40, 20, 2]), 0.03, "2 rows held out and 60 others are to hold 3"),
    ],
)
def test_a_share_that_cannot_be_stratified(labels, share, message):
    with pytest.raises(ValueError, match=message):
        drawing(labels).hold_out(share, 0)
