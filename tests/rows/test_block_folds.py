"""Folds of rows in blocks: those of scikit-learn's splitters."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from sklearn.model_selection import KFold, StratifiedKFold

from xclf._sparse import SparseMatrix
from xclf.rows import (
    BlockColumn,
    Blocks,
    Judged,
    LocalEngine,
    SparseBlocks,
    consecutive_folds,
    count_guesses,
    stratified_folds,
)

RNG = np.random.default_rng(0)
LABELS = {
    "any": RNG.integers(0, 4, 97),
    "sorted": np.sort(RNG.integers(0, 3, 60)),
    "rare": RNG.permutation(np.repeat([2, 0, 1], [50, 5, 20])),
}


def in_blocks(x, labels, sizes, kind=Blocks):
    """X of groups of these sizes, each of two blocks, and labels beside it."""
    ends = np.cumsum([0, *sizes])
    places = [slice(*pair) for pair in pairwise(ends.tolist())]
    groups = [[x[where, :][:3, :], x[where, :][3:, :]] for where in places]
    blocks = kind(LocalEngine(), groups, sizes, x.shape[1], np.dtype("float64"), x[:0, :])
    return blocks, BlockColumn(blocks.engine, [labels[None, w] for w in places], len(labels), 0)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("folds", [2, 5])
@pytest.mark.parametrize(
    ("make", "splitter"), [(stratified_folds, StratifiedKFold), (consecutive_folds, KFold)]
)
def test_they_are_those_of_a_splitter(labels, folds, make, splitter):
    rows, classes = len(labels), int(labels.max()) + 1
    x, index = in_blocks(np.zeros((rows, 2)), labels, [7, 20, 4, rows - 31])
    found = make(x, index, classes, folds)
    numbers = np.concatenate(found.column.parts)
    for k, (train, test) in enumerate(splitter(folds).split(labels, labels)):
        np.testing.assert_array_equal(np.flatnonzero(numbers == k), test)
        np.testing.assert_array_equal(
            np.concatenate(found.inside(k).weights().parts).nonzero()[0], train
        )
        np.testing.assert_array_equal(found.counts[k], np.bincount(labels[test], minlength=classes))


def test_too_few_rows_make_none():
    labels = np.asarray([0, 1, 1, 1, 1, 0, 1])
    x, index = in_blocks(np.zeros((7, 1)), labels, [4, 3])
    assert stratified_folds(x, index, 2, 3) is None
    assert stratified_folds(x, index, 2, 2) is not None
    assert consecutive_folds(x, index, 2, 8) is None


def guesses(x):
    """Classes by two columns of integers."""
    return (x.matrix.toarray() if isinstance(x, SparseMatrix) else x)[:, :2].astype(np.int64)


@pytest.mark.parametrize("kind", [Blocks, SparseBlocks])
def test_guesses_are_counted(kind, monkeypatch):
    """Against loops over the rows; some rows are judged at a time."""
    monkeypatch.setattr("xclf.rows._block_judged._JUDGED", 500)
    labels = LABELS["any"]
    rows, classes, folds = len(labels), 4, 3
    dense = np.random.default_rng(1).integers(0, classes, (rows, 5)).astype(np.float64)
    x = SparseMatrix(scipy.sparse.csr_array(dense)) if kind is SparseBlocks else dense
    x, index = in_blocks(x, labels, [7, 20, 4, rows - 31], kind)
    found = stratified_folds(x, index, classes, folds)
    numbers = np.concatenate(found.column.parts)
    judged = [Judged(guesses, 2, own) for own in ((0,), (1, 2), (2,), (0, 1))]
    right, pairs = (
        count_guesses(judged, x, index, found.column, classes=classes, pairs=own)
        for own in (False, True)
    )
    for own, hits, table in zip(judged, right, pairs, strict=True):
        want = np.zeros((2, classes, classes), np.int64)
        for row in range(rows):
            if numbers[row] in own.numbers:
                for k in range(2):
                    want[k, labels[row], int(dense[row, k])] += 1
        np.testing.assert_array_equal(table.reshape(want.shape), want)
        np.testing.assert_array_equal(hits, np.diagonal(want, axis1=1, axis2=2))
