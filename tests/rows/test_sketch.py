"""Hashes and sketches of rows."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from backends import Backend

from xclf._sparse import SparseMatrix
from xclf.rows import RowSketch, row_hashes

MASK = (1 << 64) - 1


def mixed(value: int) -> int:
    """The finaliser of SplitMix64, in whole numbers of Python."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def hashed(row: np.ndarray) -> int:
    total = 0
    for column, value in enumerate(row.tolist(), start=1):
        bits = int(np.float32(value + 0.0).view(np.uint32))
        total += (bits ^ (bits >> 16)) * (mixed(column) | 1)
    return mixed(total & MASK)


def rows(count: int = 50, columns: int = 7) -> np.ndarray:
    x = np.random.default_rng(0).integers(-3, 4, size=(count, columns)).astype(np.float64)
    x[0] *= -0.0
    return x + np.where(np.arange(columns) == 2, 0.25, 0.0)


def test_hashes_are_the_formula():
    x = rows()
    assert row_hashes(x).tolist() == [hashed(row) for row in x]


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_rows_of_other_dtypes_are_the_same_rows(dtype):
    x = np.floor(rows())
    np.testing.assert_array_equal(row_hashes(x.astype(dtype)), row_hashes(x))


def test_sparse_rows_have_the_hashes_of_dense_ones():
    x = np.floor(rows())
    matrix = SparseMatrix(scipy.sparse.csr_array(x.astype(np.float32)))
    np.testing.assert_array_equal(row_hashes(matrix), row_hashes(x))


def test_hashes_of_any_library(backend: Backend):
    x = np.floor(rows()).astype(np.float32)
    np.testing.assert_array_equal(row_hashes(backend.asarray(x)), row_hashes(x))


def test_rows_that_differ_have_other_hashes():
    """In one value, its sign, or the order of two."""
    x = np.arange(1.0, 6.0)[None]
    variants = [x, x[:, ::-1], -x, x + np.eye(5)[:1], x[:, [1, 0, 2, 3, 4]], x * 2.0]
    assert len(np.unique(np.concatenate([row_hashes(v) for v in variants]))) == 6
    pixels = np.unique(np.random.default_rng(1).integers(0, 3, size=(20_000, 16)), axis=0)
    assert len(np.unique(row_hashes(pixels.astype(np.uint8)))) == len(pixels)


def test_a_sketch_of_few_rows_is_exact():
    hashes = row_hashes(np.arange(300.0)[:, None])
    sketch = RowSketch.of(np.concatenate([hashes[:200], hashes[:50]]))
    assert (len(sketch.hashes), sketch.complete) == (200, True)
    assert sketch.known(hashes) == (200, 300)
    assert sketch.known(hashes[250:]) == (0, 50)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7, 1.0])
def test_a_sketch_of_many_rows_looks_at_a_sample(share):
    hashes = row_hashes(np.arange(80_000.0)[:, None])
    sketch = RowSketch.of(hashes[:40_000])
    assert (len(sketch.hashes), sketch.complete) == (1024, False)
    first = round(40_000 * (1.0 - share))
    known, looked_at = sketch.known(hashes[first : first + 40_000])
    # A sample of 1024 -+ 32, binomial: five standard deviations.
    assert abs(looked_at - 1024) < 5 * 32
    deviation = np.sqrt(share * (1.0 - share) / looked_at)
    assert abs(known / looked_at - share) <= 5 * deviation
