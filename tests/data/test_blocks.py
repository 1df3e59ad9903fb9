"""`load(blocks=True)`: the rows of files as an array of Dask, those of `load`."""

from __future__ import annotations

import weakref

import dask_cases
import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import dump_svmlight_file

from xclf.data import DataError, Dataset, Split, load
from xclf.estimators import hashes_of
from xclf.report.run import fingerprint
from xclf.rows import is_mapped

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
    lazy = same(f"{folder}/x.npy,{folder}/y.npy")
    assert lazy.x.chunks[0] == (*[8] * 7, 4)
    assert is_mapped(lazy.x.to_delayed()[1, 0].compute())


def test_rows_are_held_out_in_order(folder):
    lazy = Split.hold_out(load(f"{folder}/*.npz", blocks=True), 0.2, 0)
    assert isinstance(lazy.test.x, np.ndarray)
    assert lazy.test.x.shape == (12, D)
    rows = np.concatenate([lazy.train.x.compute(), lazy.test.x])
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(X[:, 0]))
    every = {tuple(row): label for row, label in zip(X.tolist(), Y.tolist(), strict=True)}
    labels = [every[tuple(row)] for row in lazy.train.x.compute().tolist()]
    assert labels == lazy.train.y.tolist()


@pytest.fixture
def sparse_files(tmp_path):
    """Parts of 25 and 35 rows; only the second has entries in the first column."""
    x = np.where(np.random.default_rng(1).random((N, 9)) < 0.4, 1.0 + np.arange(9), 0.0)
    x[:25, 0], x[30, 0], x[:, 8] = 0.0, 7.0, np.arange(N)
    for k, where in enumerate((slice(0, 25), slice(25, N))):
        own = scipy.sparse.csr_array(x[where].astype(np.float32))
        dump_svmlight_file(own, Y[where], str(tmp_path / f"p{k}.svmlight"), zero_based=True)
        scipy.sparse.save_npz(tmp_path / f"x{k}.npz", own)
        np.save(tmp_path / f"y{k}.npy", Y[where])
    return tmp_path, x


@pytest.mark.parametrize("pattern", ["{}/*.svmlight", "{0}/x*.npz,{0}/y*.npy"])
def test_sparse_files_are_sparse_blocks(sparse_files, pattern):
    """Columns are those of all files, whatever the first index that each of them uses."""
    folder, want = sparse_files
    source = pattern.format(folder)
    lazy, memory = load(source, blocks=True), load(source)
    assert lazy.x.chunks[0] == (25, 35)
    assert scipy.sparse.issparse(lazy.x._meta)
    for x in (lazy.x.compute(), memory.x):
        assert isinstance(x, scipy.sparse.csr_array)
        np.testing.assert_array_equal(x.toarray(), want)
    np.testing.assert_array_equal(lazy.y, Y)
    assert lazy.index_base == memory.index_base
    assert fingerprint(lazy.x, lazy.y) == fingerprint(memory.x, memory.y)
    np.testing.assert_array_equal(hashes_of(lazy.x), hashes_of(memory.x))
    held = Split.hold_out(lazy, 0.2, 0)
    rows = np.concatenate([held.train.x.compute().toarray(), held.test.x.toarray()])
    np.testing.assert_array_equal(np.sort(rows[:, 8]), np.arange(N))


def test_sparse_and_dense_files_do_not_mix(sparse_files):
    folder, x = sparse_files
    np.savez(folder / "x1.npz", X=x[25:])
    with pytest.raises(DataError, match="some files hold sparse rows, others dense ones"):
        load(f"{folder}/x*.npz,{folder}/y*.npy", blocks=True)


def test_one_file_is_in_memory_at_a_time(folder, monkeypatch):
    """Labels and ids of all stay, rows of none."""
    seen, most = [], []

    def counted(self):
        checked(self)
        if isinstance(self.x, np.ndarray):
            seen.append(weakref.ref(self.x))
            most.append(len({id(x) for ref in seen if (x := ref()) is not None}))

    checked = Dataset.__post_init__
    monkeypatch.setattr(Dataset, "__post_init__", counted)
    for k in range(3, 9):
        np.savez(folder / f"part{k}.npz", X=X, y=Y)
    load(f"{folder}/*.npz", blocks=True)
    assert max(most) <= 3  # the first, the one before, and one that takes its place


def test_ids_of_all_files(tmp_path):
    for k in range(3):
        rows = [f"r{k}{i},{x},{x % 3}" for i, x in enumerate(range(k, k + 5))]
        (tmp_path / f"p{k}.csv").write_text("\n".join(["name,a,label", *rows]))
    lazy = same(f"{tmp_path}/*.csv", id="name")
    assert len(lazy.ids) == 15
    np.testing.assert_array_equal(lazy.ids, load(f"{tmp_path}/*.csv", id="name").ids)
