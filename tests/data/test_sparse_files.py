"""Sparse rows in .npz files: what `scipy.sparse.save_npz` writes, whole or broken."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import xclf
from xclf.data import DataError, load

X = sp.random_array((20, 9), density=0.3, rng=np.random.default_rng(0), format="csr")
Y = np.arange(20) % 2


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int8", "bool"])
def test_a_file_of_rows_beside_one_of_labels(tmp_path, kind, compressed, dtype):
    x = (10 * X).astype(dtype).asformat(kind)
    sp.save_npz(tmp_path / "x.npz", x, compressed=compressed)
    np.save(tmp_path / "y.npy", Y)
    data = load(f"{tmp_path / 'x.npz'},{tmp_path / 'y.npy'}")
    assert data.x.format == "csr"
    assert data.x.dtype == ("float64" if dtype == "float64" else "float32")
    assert np.array_equal(data.x.toarray(), x.toarray())
    assert np.array_equal(data.y, Y)
    assert load(tmp_path / "x.npz", need_labels=False).y is None
    with pytest.raises(DataError, match=r"rows without labels; give both as '.*x.npz,LABELS.npy'"):
        load(tmp_path / "x.npz")


def parts(x):
    """The arrays of such a file."""
    return {"format": x.format.encode(), "shape": x.shape, "data": x.data} | {
        name: getattr(x, name) for name in ("indices", "indptr")
    }


def test_labels_in_the_same_archive(tmp_path):
    np.savez(tmp_path / "both.npz", **parts(X), y=Y)
    data = load(tmp_path / "both.npz")
    assert np.array_equal(data.y, Y)
    assert np.array_equal(data.x.toarray(), X.toarray())


BROKEN = {
    "a column outside": ({"indices": np.where(X.indices == 4, 9, X.indices)}, "column 9, of 9"),
    "a row outside": ({"indptr": np.where(np.arange(21) == 20, 999, X.indptr)}, "index pointer"),
    "another format": ({"format": b"bsr"}, "format 'bsr'; save X.tocsr"),
    "no format": ({"format": np.zeros(0)}, "format ''"),
    "complex": ({"data": X.data * 1j}, "Complex data not supported"),
    "text": ({"data": X.data.astype(str)}, "."),
    "objects": ({"data": X.data.astype(object)}, "Python objects"),
    "shape": ({"shape": (20, -9)}, "."),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_clear_error(tmp_path, case):
    changed, message = BROKEN[case]
    np.savez(tmp_path / "x.npz", **(parts(X) | changed))
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / "x.npz", need_labels=False)
    assert "x.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_one_data_set(tmp_path):
    """Of svmlight files the widest says how many columns there are."""
    (tmp_path / "a.svm").write_text("0 1:1\n1 2:1\n")
    (tmp_path / "b.svm").write_text("0 4:2\n1 1:1\n")
    data = load(tmp_path / "*.svm")
    assert np.array_equal(
        data.x.toarray(), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 2], [1, 0, 0, 0]]
    )
    assert data.y.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("normalize", [False, True])
def test_a_probe_of_sparse_rows(tmp_path, normalize):
    rng = np.random.default_rng(1)
    x = sp.random_array((90, 12), density=0.4, rng=rng, format="csr")
    y = (x.toarray()[:, :3].argmax(axis=1)).astype(int)
    given = {"test": (x[60:], y[60:]), "normalize": normalize, "reg": [1e-3, 1e-2], "val": 0.25}
    sparse = xclf.probe((x[:60], y[:60]), **given)
    given["test"] = (x[60:].toarray(), y[60:])
    dense = xclf.probe((x[:60].toarray(), y[:60]), **given)
    assert (sparse.accuracy, sparse.chosen) == (dense.accuracy, dense.chosen)
