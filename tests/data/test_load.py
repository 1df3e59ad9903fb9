"""`load`: the kinds of source, svmlight files, and the messages when nothing fits."""

from __future__ import annotations

import bz2
import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
from data_cases import refused
from sklearn.datasets import load_digits

import xclf.data
from xclf.data import DataError, Dataset, Split, load
from xclf.data._dataset import listing, reading, size


def test_all_is_exact():
    public = {name for name in vars(xclf.data) if not name.startswith("_")}
    assert public == set(xclf.data.__all__)


def test_digits():
    data = load("digits")
    expected = load_digits()
    np.testing.assert_array_equal(data.images()[..., 0], expected.images)
    np.testing.assert_array_equal(data.y, expected.target)
    assert data.x.dtype == np.uint8
    assert data.y.dtype == np.int64
    assert data.class_names == tuple("0123456789")
    assert data.image_shape == (8, 8, 1)


def test_a_data_error_is_a_value_error_of_one_line():
    error = DataError("a\nb\x1b[2Jc")
    assert isinstance(error, ValueError)
    assert str(error) == "a b [2Jc"


def test_dataset_checks_its_shapes():
    x, y = np.zeros((4, 6)), np.zeros(4, int)
    assert Dataset(x, y, "here").test is None
    for wrong in (
        {"x": np.zeros(4)},
        {"x": np.zeros((0, 6))},
        {"y": y[:3]},
        {"y": np.zeros((4, 2, 2))},
        {"image_shape": (2, 2, 1)},
        {"test": Dataset(x[:, :5], y, "there")},
    ):
        with pytest.raises(DataError, match=r"here|there"):
            Dataset(**{"x": x, "y": y, "source": "here", **wrong})
    with pytest.raises(DataError, match="not known to be images"):
        Dataset(x, y, "here").images()


@pytest.mark.parametrize("layout", ["channel_first", "channel_last"])
def test_mirrored_rows_are_left_to_right_in_both_layouts(layout):
    x = np.arange(24, dtype=np.uint8).reshape(2, 12)
    data = Dataset(x, np.array([0, 1]), "here", image_shape=(2, 2, 3), pixel_layout=layout)
    twice = data.mirrored()
    np.testing.assert_array_equal(twice.y, [0, 1, 0, 1])
    np.testing.assert_array_equal(twice.x[:2], x)
    np.testing.assert_array_equal(twice.images()[2:, :, ::-1], data.images())
    assert twice.x.dtype == np.uint8
    with pytest.raises(DataError, match="not known to be images"):
        Dataset(x, None, "here").mirrored()


def test_a_split_holds_out_a_stratified_share_that_the_seed_repeats():
    y = np.arange(40) % 4
    data = Dataset(np.arange(80.0).reshape(40, 2), y, "here", class_names=tuple("abcd"))
    split = Split.hold_out(data, 0.2, seed=3)
    assert split.origin == "20% held out, stratified, seed 3"
    assert split.train.class_names == split.test.class_names == data.class_names
    np.testing.assert_array_equal(np.bincount(split.test.y), [2, 2, 2, 2])
    parts = np.concatenate([split.train.x, split.test.x])
    np.testing.assert_array_equal(parts[parts[:, 0].argsort()], data.x)
    for part in (split.train, split.test):
        np.testing.assert_array_equal(part.y, part.x[:, 0] // 2 % 4)
    again, other = (Split.hold_out(data, 0.2, seed).test.x for seed in (3, 4))
    np.testing.assert_array_equal(split.test.x, again)
    assert (split.test.x != other).any()


def test_no_such_source(tmp_path):
    assert "did you mean digits?" in refused("digit", "no such file or folder")
    (tmp_path / "train.csv").touch()
    assert "did you mean train.csv?" in refused(tmp_path / "trian.csv", "no such file")
    assert ".parquet" in refused(tmp_path / "quite-another-name", "DATA can be digits, ")
    refused(tmp_path / "no" / "such" / "a.csv", "no such file or folder$")
    refused(f"{tmp_path}/a.npy,{tmp_path}/b.npy", r"a\.npy: no such file")
    refused(f"{tmp_path}/a.npy,{tmp_path}/b.csv", "no such file or folder")
    refused("", "no data set in this folder|no such file")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.tar.gz", "unpack this archive"),
        ("a.zip", "unpack this archive"),
        ("a.pkl", "pickles are programs"),
        ("a.txt", "not known; DATA can be"),
        ("README", "not known"),
    ],
)
def test_files_of_other_kinds(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"abc")
    refused(tmp_path / name, message)


def test_folder_of_other_things(tmp_path):
    (tmp_path / "a.txt").touch()
    refused(tmp_path, "no data set in this folder; looked for X.npy and y.npy, CIFAR-10")


@pytest.mark.parametrize("name", ["1.png", "train/cats/1.JPEG", "cats/1.jpg"])
def test_a_folder_of_images(tmp_path, name):
    file = tmp_path / "images" / name
    file.parent.mkdir(parents=True)
    file.touch()
    folder = tmp_path / "images" / ("train" if name.startswith("train") else "")
    says = r"a folder of image files, which are not read: save .* with np.savez\(FILE, X=X, y=y\)"
    refused(folder, says)


def test_two_folders_of_shards(tmp_path):
    """As the same rows and labels by patterns, in the order of the names."""
    x, y = np.arange(14.0).reshape(7, 2), np.arange(7) % 3
    for name, values in (("x, d", x), ("yd", y)):
        (tmp_path / name).mkdir()
        for part, start in enumerate((0, 3, 5)):
            np.save(tmp_path / name / f"{part}.npy", values[start : (3, 5, 7)[part]])
    rows, labels = tmp_path / "x, d", tmp_path / "yd"
    for name in (f"{rows},{labels}", f"{rows}, {labels}/", f"{rows},{labels}/*.npy"):
        data = load(name)
        np.testing.assert_array_equal(data.x, x)
        np.testing.assert_array_equal(data.y, y)
    (labels / "2.npy").unlink()
    refused(f"{rows},{labels}", "found 3 of rows and 2 of labels")
    (tmp_path / "none").mkdir()
    refused(f"{rows},{tmp_path / 'none'}", "none: no files of one array each")


def test_a_folder_named_like_a_file(tmp_path):
    (tmp_path / "a.csv").mkdir()
    refused(tmp_path / "a.csv", "no data set in this folder")
    (tmp_path / "data_batch_1").mkdir()
    refused(tmp_path, "no data set in this folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,label\n1,2\n")
    path.chmod(0)
    refused(path, "cannot be read: Permission denied")


def test_the_reason_of_the_system_is_passed_on(tmp_path):
    (tmp_path / "a.npy").mkdir()
    (tmp_path / "b.npy").touch()
    refused(f"{tmp_path}/a.npy,{tmp_path}/b.npy", r"a\.npy: cannot be read: Is a directory$")
    with (
        pytest.raises(DataError, match=r"^a\.csv: does not fit in memory$"),
        reading(Path("a.csv")),
    ):
        raise MemoryError


def test_max_memory_must_be_positive():
    for wrong in (0, -1, "", "4X", "-1GB", "nan", 1.5):
        refused("digits", "max_memory must be a number of bytes or a size", max_memory=wrong)
    for good in (10**6, "4G", "4GB", "1.5 GiB", "500mb"):
        assert len(load("digits", max_memory=good).x) == 1797


def test_sizes_and_lists_in_messages():
    assert [size(n) for n in (0, 1023, 1024, 4 * 2**30, 2**60)] == [
        "0 bytes",
        "1023 bytes",
        "1.0 KiB",
        "4.0 GiB",
        "1048576.0 TiB",
    ]
    assert listing([]) == "none"
    assert listing(["a", 1]) == "a, 1"
    assert listing("abc", limit=2) == "a, b and 1 more"
    assert len(listing(["x" * 1000])) == 60


SVMLIGHT = "1 1:0.5 3:2 # a comment\n-1 2:1\n1 qid:3 1:1e-3\n"


@pytest.mark.parametrize("name", ["a.svmlight", "a.libsvm", "a.svm", "A.SVM"])
def test_svmlight(tmp_path, name):
    path = tmp_path / name
    path.write_text(SVMLIGHT)
    data = load(path)
    np.testing.assert_array_equal(data.x.toarray(), [[0.5, 0, 2], [0, 1, 0], [1e-3, 0, 0]])
    assert data.x.dtype == np.float64
    np.testing.assert_array_equal(data.y, [1, -1, 1])
    assert data.y.dtype == np.int64


def test_svmlight_columns(tmp_path):
    path = tmp_path / "a.svm"
    path.write_text(SVMLIGHT)
    data = load(path, n_features=5)
    assert not data.x[:, 3:].nnz
    assert data.x.shape == (3, 5)
    refused(path, "has 3 columns, more than the 2 expected", n_features=2)
    path.write_text("1 0:1 2:5\n2 1:3\n")
    np.testing.assert_array_equal(load(path).x.toarray(), [[1, 0, 5], [0, 3, 0]])


def test_svmlight_stays_sparse(tmp_path):
    path = tmp_path / "a.svm"
    path.write_text("1 1:1\n2 2000000000:1\n")
    text = refused(path, "weights of 2,000,000,000 columns: 14.9 GiB in memory")
    assert "more than max_memory = 4.0 GiB" in text
    path.write_text("1 1:1\n2 200000000:1\n")
    assert load(path).x.nnz == 2
    path.write_text(SVMLIGHT)
    assert load(path, max_memory=60).x.nnz == 4  # 12 bytes a colon
    refused(path, re.escape("60 bytes in memory, more than max_memory = 59 bytes"), max_memory=59)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("\n", "at least one row"),
        ("# nothing\n", "at least one row"),
        ("1 1:2\nx 2:1\n", "could not convert"),
        ("1 1:2\n1 2:\n", "a.svm: damaged"),
        ("1 1:2\n1 2=1\n", "a.svm: damaged"),
        ("1 3:2 1:1\n", "a.svm: damaged"),
        ("1,2 1:2\n", "a.svm: damaged"),
        ("1 99999999999999:2\n", "a.svm: damaged"),
        ("1 -5:2\n", "a.svm"),
        ("0.5 1:2\n0.25 1:1\n", "labels are fractions"),
        ("nan 1:2\n", "label 1 is missing"),
    ],
)
def test_broken_svmlight(tmp_path, text, message):
    path = tmp_path / "a.svm"
    path.write_text(text)
    refused(path, message)


def test_svmlight_files_that_belong_together(tmp_path):
    train, test = tmp_path / "a.svm", tmp_path / "b.svm"
    train.write_text("0 0:1 2:0.1\n1 1:1 2:0.1\n")
    test.write_text("1 1:1\n")
    data = load(train)
    assert data.index_base == 0
    own = load(test)
    assert own.index_base == 1
    np.testing.assert_array_equal(own.x.toarray(), [[1]])
    together = load(test, n_features=3, index_base=data.index_base)
    np.testing.assert_array_equal(together.x.toarray(), [[0, 1, 0]])
    assert "write both files with the same first index" in refused(
        train, "has the index 0, but the columns of the training data count from 1", index_base=1
    )
    refused(test, "index_base must be 0 or 1, got 2", index_base=2)
    test.write_text("1\n0\n")
    empty = load(test, n_features=3, index_base=0).x
    assert empty.shape == (2, 3)
    assert not empty.nnz


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.svm", bytes),
        ("a.svm", gzip.compress),
        ("a.svm.gz", gzip.compress),
        ("a.svm.gz", bytes),
        ("a.libsvm.bz2", bz2.compress),
        ("iris.scale", bytes),
        ("iris", bytes),
        ("covtype.scale.bz2", bz2.compress),
        ("covtype.gz", gzip.compress),
    ],
)
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
def test_svmlight_by_other_names_and_packed(tmp_path, name, start, pack):
    (tmp_path / name).write_bytes(pack(start + SVMLIGHT.encode()))
    data = load(tmp_path / name)
    np.testing.assert_array_equal(data.x.toarray(), [[0.5, 0, 2], [0, 1, 0], [1e-3, 0, 0]])
    np.testing.assert_array_equal(data.y, [1, -1, 1])


def test_packed_svmlight_stops_at_the_memory_that_it_may_take(tmp_path):
    path = tmp_path / "a.svm.gz"
    path.write_bytes(gzip.compress(b"1 1:1 2:1\n" * 1000 + b"what comes later is not read\n"))
    refused(path, "its first 34 rows: 816 bytes in memory, more than max_memory", max_memory=800)


def test_names_that_are_no_use(tmp_path):
    """Of columns, for rows without names, and of arrays, for files that hold none."""
    rows, labels = np.ones((4, 2)), np.arange(4) % 2
    np.savez(tmp_path / "a.npz", A=rows, B=labels)
    np.savez(tmp_path / "b.npz", X=rows, y=labels)
    (tmp_path / "a.csv").write_text("u,v,label\n1,2,x\n3,4,y\n")
    for source in ("digits", tmp_path / "b.npz"):
        refused(
            source, r"its columns have no names; label= \(in the shell --label\) 'u'", label="u"
        )
        refused(source, "no names; drop= .* 'u, v' is for tables", drop=["u", "v"])
    for source in ("digits", tmp_path / "a.csv"):
        refused(source, r"holds no arrays with names; x_name= .*--x\) 'A' is for", x_name="A")
        refused(source, r"holds no arrays with names; y_name= .*--y\) 'B' is for", y_name="B")
    assert load(tmp_path / "a.npz", x_name="A", y_name="B").array_names == ("A", "B")
    assert load("digits", label="u", drop="v", x_name="A", missing_ok=True).y is not None
