"""CIFAR-10 in both layouts, whole and broken, from small batches made here."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from data_cases import CIFAR_BATCHES, CIFAR_NAMES, CIFAR_ROWS, cifar_batch, write_cifar

from xclf.data import DataError, load, read_cifar10


@pytest.fixture(params=["bin", "py"])
def archive(request, tmp_path) -> Path:
    home = tmp_path / f"cifar-10-batches-{request.param}"
    return write_cifar(home, python=request.param == "py")


@pytest.mark.parametrize("given", ["folder", "parent", "text", "load"])
def test_both_layouts(archive, given):
    reader = load if given == "load" else read_cifar10
    source = {"parent": archive.parent, "text": str(archive)}.get(given, archive)
    data = reader(source)
    expected = [cifar_batch(name) for name in CIFAR_BATCHES]
    np.testing.assert_array_equal(data.x, np.concatenate([x for x, _ in expected[:5]]))
    np.testing.assert_array_equal(data.y, np.concatenate([y for _, y in expected[:5]]))
    np.testing.assert_array_equal(data.test.x, expected[5][0])
    np.testing.assert_array_equal(data.test.y, expected[5][1])
    assert data.x.dtype == data.test.x.dtype == np.uint8
    assert data.y.dtype == data.test.y.dtype == np.int64
    assert data.x.flags.c_contiguous
    assert data.x.flags.writeable
    assert data.class_names == data.test.class_names == CIFAR_NAMES
    assert data.image_shape == (32, 32, 3)
    assert data.pixel_layout == "channel_first"
    assert data.source == str(archive)


def test_images_puts_the_channel_last(archive):
    data = read_cifar10(archive)
    images = data.images()
    assert images.shape == (5 * CIFAR_ROWS, 32, 32, 3)
    for channel, row, column in [(0, 0, 0), (1, 0, 5), (2, 7, 31)]:
        pixel = data.x[:, channel * 1024 + row * 32 + column]
        np.testing.assert_array_equal(images[:, row, column, channel], pixel)


def test_binary_goes_before_python(tmp_path):
    write_cifar(tmp_path / "cifar-10-batches-py", python=True)
    home = write_cifar(tmp_path / "cifar-10-batches-bin")
    assert read_cifar10(tmp_path).source == str(home)


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch"])
def test_one_batch(archive, name):
    path = archive / (name + (".bin" if archive.name.endswith("bin") else ""))
    data = load(path)
    x, y = cifar_batch(name)
    np.testing.assert_array_equal(data.x, x)
    np.testing.assert_array_equal(data.y, y)
    assert data.test is None
    assert data.class_names == CIFAR_NAMES


def test_names_are_known_without_their_file(archive):
    for path in archive.glob("batches.meta*"):
        path.unlink()
    assert read_cifar10(archive).class_names == CIFAR_NAMES


def test_missing_batches_are_named(archive):
    for path in [*archive.glob("data_batch_3*"), *archive.glob("test_batch*")]:
        path.unlink()
    with pytest.raises(DataError, match=r"missing data_batch_3(\.bin)?, test_batch(\.bin)?;"):
        read_cifar10(archive)


@pytest.mark.parametrize("where", ["empty", "absent"])
def test_no_archive(tmp_path, where):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no CIFAR-10 batches"):
        read_cifar10(tmp_path / where)


RECORD = bytes(3073)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (RECORD[:-1], r"3\.0 KiB is not a whole number of 3073-byte"),
        (RECORD + b"\0", "not a whole number"),
        (RECORD + b"\x0a" + RECORD[1:], r"labels outside 0\.\.9"),
    ],
)
def test_broken_binary(tmp_path, content, message):
    home = write_cifar(tmp_path)
    (home / "data_batch_4.bin").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_cifar10(home)
    assert str(caught.value).startswith(str(home / "data_batch_4.bin"))


X, Y = cifar_batch("data_batch_1")
LABELS = Y.tolist()
NINE = CIFAR_NAMES[:9]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"labels": LABELS}, "no 'data' in this batch, which holds labels"),
        ({"data": X}, "no 'labels' in this batch"),
        ({"data": X.tolist(), "labels": LABELS}, "not a table of bytes"),
        ({"data": X.astype(float), "labels": LABELS}, "not a table of bytes"),
        ({"data": X[0], "labels": LABELS}, "not a table of bytes"),
        ({"data": X[:, :-1], "labels": LABELS}, r"shape \(4, 3071\)"),
        ({"data": X[:0], "labels": []}, r"shape \(0, 3072\)"),
        ({"data": X, "labels": LABELS[:-1]}, "4 images but 3 labels"),
        ({"data": X, "labels": [0, 0, 1, 10]}, r"outside 0\.\.9"),
        ({"data": X, "labels": [0, 0, 1, -1]}, r"outside 0\.\.9"),
        ({"data": X, "labels": [0, 0, 1, 2**70]}, r"outside 0\.\.9"),
        ({"data": X, "labels": [0, 0, 1, "2"]}, "not a list of integers"),
        ({"data": X, "labels": [0, 0, 1, True]}, "not a list of integers"),
        ({"data": X, "labels": "012"}, "not a list of integers"),
        ({"data": X, "labels": Y.astype(float)}, "not a list of integers"),
        ([1], "holds a list, not a dictionary"),
    ],
)
def test_broken_python(tmp_path, value, message):
    home = write_cifar(tmp_path, python=True)
    (home / "data_batch_4").write_bytes(pickle.dumps(value))
    with pytest.raises(DataError, match=message) as caught:
        read_cifar10(home)
    assert str(caught.value).startswith(str(home / "data_batch_4"))
    assert "\n" not in str(caught.value)


def test_labels_may_be_an_array(tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": X, "labels": Y.astype(np.uint8)}))
    np.testing.assert_array_equal(load(path).y, Y)


@pytest.mark.parametrize(
    ("names", "ok"),
    [(CIFAR_NAMES, True), (NINE, False), ([*NINE, ""], False), ([*NINE, 1], False)],
)
def test_class_names(tmp_path, names, ok):
    home = write_cifar(tmp_path, python=True)
    for label_names in (list(names), None if not ok else list(names)):
        (home / "batches.meta").write_bytes(pickle.dumps({"label_names": label_names}))
        if ok:
            assert read_cifar10(home).class_names == CIFAR_NAMES
        else:
            with pytest.raises(DataError, match="does not hold 10 class names"):
                read_cifar10(home)


@pytest.mark.parametrize("content", [b"cat\ndog\n", b"", b"\xff\xfe"])
def test_class_names_of_binary(tmp_path, content):
    home = write_cifar(tmp_path)
    (home / "batches.meta.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"batches\.meta\.txt"):
        read_cifar10(home)


@pytest.mark.parametrize(
    "labels",
    [tuple(LABELS), Y.astype(">i2"), list(Y), list(Y.astype("u1"))],
    ids=["tuple", "int16", "NumPy integers", "NumPy bytes"],
)
def test_labels_in_other_containers(tmp_path, labels):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": X, "labels": labels}))
    np.testing.assert_array_equal(load(path).y, Y)


FINE = np.array([0, 99, 42, 7])
FINE_NAMES = [f"fine{k}" for k in range(100)]
COARSE_NAMES = [f"coarse{k}" for k in range(20)]


@pytest.fixture(params=["binary", "python"])
def hundred(request, tmp_path) -> Path:
    """CIFAR-100 as shipped: two labels before the pixels, or two lists in a pickle."""
    home = tmp_path / f"cifar-100-{request.param}"
    home.mkdir()
    for name, rows in (("train", 4), ("test", 2)):
        x, fine, coarse = X[:rows], FINE[:rows], FINE[:rows] // 5
        if request.param == "binary":
            records = np.c_[coarse.astype(np.uint8), fine.astype(np.uint8), x]
            (home / f"{name}.bin").write_bytes(records.tobytes())
        else:
            labels = {b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist()}
            (home / name).write_bytes(pickle.dumps({b"data": x, **labels}, protocol=2))
    if request.param == "binary":
        (home / "fine_label_names.txt").write_text("\n".join(FINE_NAMES))
        (home / "coarse_label_names.txt").write_text("\n".join(COARSE_NAMES))
    else:
        names = {"fine_label_names": FINE_NAMES, "coarse_label_names": COARSE_NAMES}
        (home / "meta").write_bytes(pickle.dumps(names))
    return home


def test_cifar_100(hundred):
    for source in (hundred, hundred.parent):
        data = load(source)
        np.testing.assert_array_equal(data.x, X)
        np.testing.assert_array_equal(data.y, FINE)
        np.testing.assert_array_equal(data.test.x, X[:2])
        assert data.class_names == tuple(FINE_NAMES)
        assert data.image_shape == (32, 32, 3)
    name = "test.bin" if hundred.name.endswith("binary") else "test"
    np.testing.assert_array_equal(load(hundred / name).y, FINE[:2])
    (hundred / name).unlink()
    with pytest.raises(DataError, match=f"missing {name}; unpack the archive again"):
        load(hundred)


def test_the_labels_of_cifar_100(hundred):
    data = load(hundred, label="coarse")
    np.testing.assert_array_equal(data.y, FINE // 5)
    np.testing.assert_array_equal(data.test.y, FINE[:2] // 5)
    assert data.class_names == data.test.class_names == tuple(COARSE_NAMES)
    both = load(hundred, label=("coarse", "fine"))
    np.testing.assert_array_equal(both.y, np.stack([FINE // 5, FINE], axis=1))
    assert both.task_names == ("coarse", "fine")
    assert both.class_names is None
    with pytest.raises(DataError, match=r"no labels .species.: .* fine \(100 classes\)"):
        load(hundred, label="species")
    assert load(hundred, label="species", missing_ok=True).class_names == tuple(FINE_NAMES)


def test_broken_cifar_100(hundred):
    path = hundred / ("train.bin" if hundred.name.endswith("binary") else "train")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"3074-byte CIFAR-100 records|not a complete pickle"):
        load(hundred)
