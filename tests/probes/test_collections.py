"""Probes of the rows of Dask's collections: those of rows in memory."""

from __future__ import annotations

import dask_cases
import numpy as np
import pytest
import scipy.sparse
from estimator_cases import blobs

import xclf

dask_cases.need("dask.array")
import dask.array as da  # noqa: E402

X, Y = blobs(300, 6, 3)
OTHER = blobs(90, 6, 3, seed=0)


@pytest.fixture(autouse=True)
def in_blocks(monkeypatch, every_problem_is_large):
    dask_cases.small_groups(monkeypatch)
    monkeypatch.setattr("xclf.estimators._fitting.GATHERED", 0)


def lazy(x, y):
    return da.from_array(x, chunks=(70, 4)), da.from_array(y, chunks=50)


def same(there, here):
    """Two optima within the tolerance; no row of this data is that near to a border."""
    assert there.chosen == here.chosen
    assert there.accuracy == here.accuracy
    for section in ("search", "metrics"):
        scores = [
            [row.get(name) for row in rows for name in ("score", "accuracy", "data", "value")]
            for own in (there, here)
            for rows in [own.results[section]["points"] if section == "search" else own.metrics]
        ]
        assert scores[0] == scores[1]


@pytest.mark.parametrize("options", [{}, {"normalize": True, "val": 0.3}, {"folds": 3}], ids=str)
def test_a_probe_is_that_of_rows_in_memory(options):
    grid = {"reg": [1e-2, 1e-1, 1.0], "seed": 0}
    same(xclf.probe(lazy(X, Y), **grid, **options), xclf.probe((X, Y), **grid, **options))


def test_sparse_blocks():
    x = np.where(np.random.default_rng(2).random(X.shape) < 0.5, X, 0.0)
    blocks, memory = lazy(x, Y)[0].rechunk((70, -1)), scipy.sparse.csr_array(x)
    blocks = blocks.map_blocks(scipy.sparse.csr_array)
    grid = {"reg": [1e-2, 1e-1], "seed": 0, "normalize": True}
    held_out = memory[:90], Y[:90]
    there = xclf.probe((blocks, Y), val=held_out, test=(blocks, Y), **grid)
    same(there, xclf.probe((memory, Y), val=held_out, test=(memory, Y), **grid))


def test_parts_of_their_own():
    """Training rows in blocks, validation rows in memory, test rows in blocks."""
    grid = {"reg": [1e-2, 1e-1], "seed": 0}
    there = xclf.probe(lazy(X, Y), val=OTHER, test=lazy(*OTHER), **grid)
    same(there, xclf.probe((X, Y), val=OTHER, test=OTHER, **grid))
