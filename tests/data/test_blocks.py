"""`load(blocks=True)`: the rows of files as an array of Dask, those of `load`."""

from __future__ import annotations

import dask_cases
import numpy as np
import pytest

from xclf.data import DataError, Split, load

dask_cases.need("dask.array")

N, D = 60, 4
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
Y = np.arange(N) % 3


@pytest.fixture
def folder(tmp_path):
    """Parts of 10, 20 and 30 rows."""
    for k, where in enumerate((slice(0, 10), slice(10, 30), slice(30, N))):
        np.savez(tmp_path / f"part{k}.npz", X=X[where], y=Y[where])
        np.save(tmp_path / f"x{k}.npy", X[where])
        np.save(tmp_path / f"y{k}.npy", Y[where])
    return tmp_path


def same(source, **options):
    lazy, memory = load(source, blocks=True, **options), load(source, **options)
    np.testing.assert_array_equal(lazy.x.compute(), memory.x)
    assert lazy.x.dtype == memory.x.dtype
    np.testing.assert_array_equal(lazy.y, memory.y)
    assert lazy.feature_names == memory.feature_names
    return lazy


def test_several_files_are_blocks(folder):
    assert same(f"{folder}/*.npz").x.chunks[0] == (10, 20, 30)
    assert same(f"{folder}/x*.npy,{folder}/y*.npy").x.chunks[0] == (10, 20, 30)


def test_tables_are_blocks(tmp_path):
    pytest.importorskip("pyarrow")
    import pandas as pd

    for k, where in enumerate((slice(0, 25), slice(25, N))):
        frame = pd.DataFrame(X[where], columns=list("abcd"))
        frame["label"] = np.array(["x", "y", "z"])[Y[where]]
        frame.to_parquet(tmp_path / f"part{k}.parquet")
        frame.to_csv(tmp_path / f"part{k}.csv", index=False)
    assert same(f"{tmp_path}/*.parquet").x.chunks[0] == (25, 35)
    assert same(f"{tmp_path}/*.csv").x.chunks[0] == (25, 35)


def test_a_mapped_file_is_read_in_slices(folder, monkeypatch):
    monkeypatch.setattr("xclf.data._blocks._BLOCK", 8 * D * 4)
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    assert same(f"{folder}/x.npy,{folder}/y.npy").x.chunks[0] == (*[8] * 7, 4)


def test_rows_are_held_out_in_order(folder):
    lazy = Split.hold_out(load(f"{folder}/*.npz", blocks=True), 0.2, 0)
    assert isinstance(lazy.test.x, np.ndarray)
    assert lazy.test.x.shape == (12, D)
    rows = np.concatenate([lazy.train.x.compute(), lazy.test.x])
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(X[:, 0]))
    every = {tuple(row): label for row, label in zip(X.tolist(), Y.tolist(), strict=True)}
    labels = [every[tuple(row)] for row in lazy.train.x.compute().tolist()]
    assert labels == lazy.train.y.tolist()


def test_sparse_rows_are_refused(tmp_path):
    (tmp_path / "a.svmlight").write_text("0 1:1.5\n1 2:2.5\n")
    with pytest.raises(DataError, match="sparse rows are not read in blocks"):
        load(tmp_path / "a.svmlight", blocks=True)
