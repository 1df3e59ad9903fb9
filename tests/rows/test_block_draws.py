"""Rows that are held out of blocks: as many of each class as a stratified share has."""

from __future__ import annotations

import numpy as np
import pytest

from xclf.kernels import one_hot
from xclf.rows import LocalEngine
from xclf.rows._block_draws import drawn_rows, held_rows, hold_out
from xclf.rows._block_tasks import Beside

RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat([0, 1, 2], [60, 25, 15]))
WEIGHTS = np.where(RNG.random(100) < 0.2, 0.0, 1.0)
SIZES = (30, 1, 49, 20)


def besides(labels=LABELS, weights=None, *, mask=False, sizes=SIZES):
    own = one_hot(np, labels, 3) if mask else labels
    ends = np.cumsum([0, *sizes])
    places = [slice(first, first + size) for first, size in zip(ends, sizes, strict=False)]
    return [Beside(own[..., w], None if weights is None else weights[..., w]) for w in places]


def held_of(parts, share, seed=0):
    """Numbers, in all rows, of those that are held out and of the others."""
    held = hold_out(LocalEngine(), parts, share, np.random.default_rng(seed))
    starts = np.cumsum([0, *(part.labels.shape[-1] for part in parts)])
    pairs = [
        (held_rows(None, part, own) + start, drawn_rows(part, own) + start)
        for part, own, start in zip(parts, held, starts, strict=False)
    ]
    return [np.concatenate(own) for own in zip(*pairs, strict=True)]


@pytest.mark.parametrize("weights", [None, WEIGHTS, np.stack([WEIGHTS, np.eye(100)[3]])])
@pytest.mark.parametrize("mask", [False, True])
def test_a_share_of_each_class(weights, mask):
    """Of n rows ceil(share n), each class within a row of its share of these."""
    drawn = np.ones(100, bool) if weights is None else np.atleast_2d(weights).any(axis=0)
    held, others = held_of(besides(weights=weights, mask=mask), 0.3)
    np.testing.assert_array_equal(np.sort(np.r_[held, others]), np.flatnonzero(drawn))
    assert len(held) == np.ceil(0.3 * drawn.sum())
    each = np.bincount(LABELS[held]) - len(held) * np.bincount(LABELS[drawn]) / drawn.sum()
    assert np.abs(each).max() < 1.0


def test_every_row_is_drawn_as_often():
    """3,000 draws of 0.2: each row is held out 600 times, with a deviation of 22; of 100 rows the
    furthest lies within 5 of these with a probability of 1 - 6e-5."""
    times = np.zeros(100)
    for seed in range(3000):
        times[held_of(besides(), 0.2, seed)[0]] += 1
    assert np.abs(times - 600).max() < 5 * 22


def test_the_draw_depends_on_the_seed_and_the_groups_alone():
    first, again = held_of(besides(), 0.3)[0], held_of(besides(mask=True), 0.3)[0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, held_of(besides(), 0.3, seed=1)[0])


@pytest.mark.parametrize(
    ("labels", "share", "message"),
    [
        (np.r_[np.zeros(99, int), 1], 0.3, "a class has a single row"),
        (LABELS, 0.01, "1 rows held out and 99 others are to hold 3 classes each"),
        (LABELS, 0.99, "99 rows held out and 1 others"),
    ],
)
def test_shares_that_cannot_be(labels, share, message):
    with pytest.raises(ValueError, match=message):
        held_of(besides(labels), share)
