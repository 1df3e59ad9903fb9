"""NumPy files: .npz by name, .npy pairs and folders, what is mapped, and what is refused."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_cases import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from xclf.data import DataError, load

X = np.arange(20, dtype=np.float32).reshape(5, 4)
Y = np.array([3, 1, 2, 1, 3])


def save_pair(folder: Path, x=X, y=Y) -> str:
    np.save(folder / "a.npy", x)
    np.save(folder / "b.npy", y)
    return f"{folder / 'a.npy'},{folder / 'b.npy'}"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, X=X, y=Y)
    data = load(path)
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y, Y)
    assert data.x.dtype == np.float32
    assert data.y.dtype == np.int64
    assert data.test is None
    assert data.source == str(path)
    assert data.image_shape is data.pixel_layout is data.class_names is None


def test_npz_held_out_part(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=X, y=Y, X_test=X[:2] + 1, y_test=Y[:2])
    data = load(path)
    np.testing.assert_array_equal(data.test.x, X[:2] + 1)
    np.testing.assert_array_equal(data.test.y, Y[:2])
    np.savez(path, x_train=X, y_train=Y, x_test=X[:2] + 1, y_test=Y[:2])  # as Keras names them
    data = load(path, x_name="x_train", y_name="y_train")
    np.testing.assert_array_equal(data.test.x, X[:2] + 1)
    np.savez(path, X=X, y=Y, X_test=X[:2])
    assert load(path).test is None
    np.savez(path, X=X, y=Y, X_test=X[:2, :3], y_test=Y[:2])
    refused(path, r"X_test, y_test\): test rows have 3 columns, training rows 4")
    np.savez(path, X=X, y=Y, X_test=X[:2], y_test=Y)
    refused(path, "2 rows but 5 labels")


def test_npz_names(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, rows=X, codes=Y)
    assert "rows, codes" in refused(path, "no array 'X'; it holds")
    refused(path, "no array 'y'", x_name="rows")
    np.testing.assert_array_equal(load(path, x_name="rows", y_name="codes").y, Y)
    data = load(path, x_name="rows", need_labels=False)
    np.testing.assert_array_equal(data.x, X)
    assert data.y is None
    np.savez(path, **{f"array_{i}": X for i in range(30)})
    assert "and 18 more" in refused(path, "no array 'X'")


def test_npz_members_are_mapped_where_possible(tmp_path):
    path = tmp_path / "a.npz"
    images = (np.arange(5 * 784) % 256).astype(np.uint8).reshape(5, 784)
    np.savez(path, X=images, y=Y)
    data = load(path)
    assert isinstance(data.x, np.memmap)
    assert not data.x.flags.writeable
    np.testing.assert_array_equal(data.x, images)
    for x in (images.astype(np.float64), np.asfortranarray(images.astype(np.float64))):
        np.savez(path, X=x, y=Y)
        data = load(path, max_memory=50)
        assert isinstance(data.x, np.memmap)
        np.testing.assert_array_equal(data.x, images)
    np.savez_compressed(path, X=images, y=Y)
    refused(path, r"3\.8 KiB in memory, more than max_memory = 50 bytes", max_memory=50)


def test_npz_damage_in_mapped_values_is_found(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=np.zeros((100, 100), np.uint8), y=np.zeros(100, int))
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    refused(path, "Bad CRC-32")


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file" * 10])
def test_broken_npz(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    assert str(path) in refused(path, "empty|zip")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_npz(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, X=X, y=Y)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        refused(path, "a.npz")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"", "empty"),
        (b"text", "not a .npy"),
        (b"\x93NUMPY\x09\x00", r"version \(9, 0\)"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f8'", "damaged"),
    ],
)
def test_npz_with_other_members(tmp_path, member, message):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X.npy", member)
        archive.writestr("y.npy", member)
        archive.writestr("readme.txt", "arrays")
    refused(path, message)


def npy(shape: str, descr: str = "'<f8'", data: bytes = b"", version: int = 1) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def zipped(folder):
    """The arrays that `save_pair` wrote there, in one .npz."""
    source = folder / "a.npz"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "a.npy", "X.npy")
        archive.write(folder / "b.npy", "y.npy")
    return source


def test_npy_version_2(tmp_path):
    source = save_pair(tmp_path, Y.astype(np.float64)[:, None])
    (tmp_path / "a.npy").write_bytes(npy("(5, 1)", data=Y.astype("<f8").tobytes(), version=2))
    np.testing.assert_array_equal(load(source).x[:, 0], Y)


@pytest.mark.parametrize("shape", ["(1000000000000, 8)", "(-1, 4)", "(2, 99999999999999999999)"])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_sizes_in_a_header_are_not_trusted(tmp_path, shape, kind):
    source = save_pair(tmp_path)
    (tmp_path / "a.npy").write_bytes(npy(shape, data=bytes(64)))
    if kind == "npz":
        source = zipped(tmp_path)
    refused(source, "cut short|damaged|max_memory")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_strings_without_characters(tmp_path, kind):
    """A header may claim any number of them; NumPy makes each as wide as one character."""
    source = save_pair(tmp_path)
    (tmp_path / "b.npy").write_bytes(npy("(22147483648,)", descr="'<U0'"))
    if kind == "npz":
        source = zipped(tmp_path)
    refused(source, "holds strings without characters")


def test_npy_pair_is_mapped(tmp_path):
    data = load(save_pair(tmp_path))
    assert isinstance(data.x, np.memmap)
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y, Y)
    assert type(data.y) is np.ndarray


def test_npy_alone(tmp_path):
    save_pair(tmp_path)
    refused(tmp_path / "a.npy", "rows without labels; give both as")
    data = load(tmp_path / "a.npy", need_labels=False)
    np.testing.assert_array_equal(data.x, X)
    assert data.y is None


def test_npy_pair_with_a_comma_in_its_folder(tmp_path):
    folder = tmp_path / "a,b"
    folder.mkdir()
    np.testing.assert_array_equal(load(save_pair(folder)).y, Y)


def test_npy_folder(tmp_path):
    np.save(tmp_path / "X.npy", X)
    refused(tmp_path, r"y\.npy: no such file; labels for X\.npy are expected there")
    assert load(tmp_path, need_labels=False).y is None
    np.save(tmp_path / "y.npy", Y)
    data = load(tmp_path)
    assert isinstance(data.x, np.memmap)
    np.testing.assert_array_equal(data.y, Y)
    assert data.test is None
    np.save(tmp_path / "X_test.npy", X[:2])
    np.save(tmp_path / "y_test.npy", Y[:2])
    np.testing.assert_array_equal(load(tmp_path).test.x, X[:2])
    data = load(tmp_path, x_name="X_test", y_name="y_test")
    np.testing.assert_array_equal(data.x, X[:2])


@pytest.mark.parametrize(
    ("shape", "image_shape", "layout"),
    [
        ((5, 4, 6), (4, 6, 1), "channel_last"),
        ((5, 4, 6, 3), (4, 6, 3), "channel_last"),
        ((5, 4, 6, 1), (4, 6, 1), "channel_last"),
        ((5, 3, 4, 6), (4, 6, 3), "channel_first"),
    ],
)
def test_arrays_of_images(tmp_path, shape, image_shape, layout):
    x = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    data = load(save_pair(tmp_path, x))
    np.testing.assert_array_equal(data.x, x.reshape(5, -1))
    assert isinstance(data.x, np.memmap)
    assert data.x.dtype == np.uint8
    assert (data.image_shape, data.pixel_layout) == (image_shape, layout)
    images = x.transpose(0, 2, 3, 1) if layout == "channel_first" else x.reshape(5, *image_shape)
    np.testing.assert_array_equal(data.images(), images)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[0], r"table \(N, D\) or images"),
        (X.reshape(5, 2, 1, 2, 1), r"table \(N, D\) or images"),
        (X.reshape(5, 2, 2, 1)[:, :, :0], r"table \(N, D\) or images"),
        (np.zeros((5, 2, 2, 2)), "1, 3 or 4 channels"),
        (X[:0], r"at least one row and one column.*\(0, 4\)"),
        (X[:, :0], r"at least one row and one column.*\(5, 0\)"),
        (X[:-1], "4 rows but 5 labels"),
        (X[:1], "1 row but 5 labels"),
        (X.astype(str), "rows must be numbers, but the array has dtype <U"),
        (X.astype(complex), "rows must be numbers"),
        (X.astype("datetime64[s]"), "rows must be numbers"),
        (X.astype(object), "Python objects"),
        (np.zeros((5, 1), [("a", "f4")]), "rows must be numbers"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, x, message):
    refused(save_pair(tmp_path, x), message)


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (Y.astype(np.uint8), Y),
        (Y.astype(">i4"), Y),
        (Y.astype(float), Y),
        (Y[:, None], Y),
        (Y == 1, (Y == 1).astype(np.int64)),
        (np.array(["a", "b", "é", "d", "e"]), np.array(["a", "b", "é", "d", "e"])),
        (np.array(["a", "b", "é", "d", "e"], dtype=">U3"), np.array(["a", "b", "é", "d", "e"])),
        (np.array([b"a", b"b", b"\xc3\xa9", b"d", b"e"]), np.array(["a", "b", "é", "d", "e"])),
        (np.array([0, 1, 2, 3, 2**63 - 1], np.uint64), np.array([0, 1, 2, 3, 2**63 - 1])),
    ],
)
def test_labels_of_any_type(tmp_path, y, expected):
    got = load(save_pair(tmp_path, y=y)).y
    np.testing.assert_array_equal(got, expected)
    assert got.dtype.isnative
    assert got.dtype == np.int64 or got.dtype.kind == "U"


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.eye(5), r"one per row.*shape \(5, 5\).*argmax"),
        (np.array(1), "one per row"),
        (Y[:0], "5 rows but 0 labels"),
        (Y + 0.5, "fractions"),
        (np.array([1, 2, np.nan, 1, 2]), "label 3 is missing"),
        (np.array([1, 2, np.inf, 1, 2]), "label 3 is missing"),
        (np.array(["a", "", "b", "c", "d"]), "label 2 is missing"),
        (np.array([b"\xff"] * 5), "not UTF-8"),
        (Y.astype(complex), "integers or strings"),
        (Y * 1e30, "64-bit"),
        (np.array([0, 0, 0, 0, 2**64 - 1], np.uint64), "64-bit"),
        (Y.astype(object), "Python objects"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, y, message):
    refused(save_pair(tmp_path, y=y), message)


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (X.astype(">f4"), np.float32),
        (X.astype(">f8"), np.float64),
        (X.astype(">i2"), np.int16),
        (X > 7, np.uint8),
    ],
)
def test_rows_have_native_byte_order_and_booleans_are_bytes(tmp_path, x, dtype):
    data = load(save_pair(tmp_path, x))
    assert data.x.dtype == dtype
    assert data.x.dtype.isnative
    np.testing.assert_array_equal(data.x, x)


def test_missing_and_short_npy(tmp_path):
    source = save_pair(tmp_path)
    content = (tmp_path / "a.npy").read_bytes()
    for length in range(0, len(content), 5):
        (tmp_path / "a.npy").write_bytes(content[:length])
        refused(source, "a.npy")
    (tmp_path / "a.npy").unlink()
    refused(source, r"a\.npy: no such file")


@settings(max_examples=200)
@given(data=st.data())
def test_damage_is_a_data_error_or_harmless(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged_arrays"
    folder.mkdir(exist_ok=True)
    kind = data.draw(st.sampled_from(["npy", "npz", "npz_compressed"]))
    source: str | Path = save_pair(folder)
    path = folder / "a.npy"
    if kind != "npy":
        source = path = folder / "a.npz"
        (np.savez if kind == "npz" else np.savez_compressed)(path, X=X, y=Y)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.unlink()  # the earlier file may still be mapped
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert load(source).x.ndim == 2


PAIRS = [("x", "y"), ("X_train", "y_train"), ("x_train", "y_train"), ("arr_0", "arr_1")]


@pytest.mark.parametrize("names", [*PAIRS, ("train_images", "train_labels")])
@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_usual_names_are_found(tmp_path, names, kind):
    arrays = dict(zip(names, (X, Y), strict=True))
    if "train" in names[0]:
        test = (name.replace("train", "test") for name in names)
        arrays |= dict(zip(test, (X[:2], Y[:2]), strict=True))
    source = tmp_path / "a.npz" if kind == "npz" else tmp_path
    if kind == "npz":
        np.savez(source, **arrays)
    else:
        for name, array in arrays.items():
            np.save(source / f"{name}.npy", array)
    data = load(source)
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y, Y)
    assert (data.test is not None) == ("train" in names[0])
    assert data.test is None or data.test.x.shape[0] == 2


def test_the_names_asked_for_go_first_and_rows_alone_will_do(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=X, y=Y, x_train=X[:2], y_train=Y[:2])
    assert len(load(path).x) == len(X)
    np.savez(path, X)
    np.testing.assert_array_equal(load(path, need_labels=False).x, X)
    message = refused(path, "no array 'arr_1'; it holds arr_0; name the rows X and the labels y")
    assert "--x NAME --y NAME" in message


LIKELY = [
    *(("features", "labels"), ("embeddings", "targets"), ("X", "labels"), ("data", "target")),
    *(("feats", "label"), ("train_features", "train_labels"), ("clip_embeds", "y_train")),
    *(("Xtrain", "ytrain"), ("image-features", "fine_labels")),
]


@pytest.mark.parametrize("names", LIKELY, ids=str)
def test_other_usual_names_are_found_where_one_pair_fits(tmp_path, names):
    path = tmp_path / "a.npz"
    arrays = dict(zip(names, (X, Y), strict=True))
    test = [n.replace("train", "test") if "train" in n else f"{n}_test" for n in names]
    both = arrays | {"paths": np.arange(3), "label_names": np.array(["a", "b"])}
    for extra in ({}, dict(zip(test, (X[:2], Y[:2]), strict=True))):
        np.savez(path, **both, **extra)
        data = load(path)
        np.testing.assert_array_equal(data.x, X)
        np.testing.assert_array_equal(data.y, Y)
        assert data.source == f"{path} ({names[0]}, {names[1]})"
        np.testing.assert_array_equal(load(path, need_labels=False).x, X)
        np.testing.assert_array_equal(load(path, y_name=names[1]).y, Y)
    assert data.test.x.shape[0] == 2


def test_more_than_one_pair_that_fits(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, image_features=X, text_features=X, labels=Y, val_labels=Y)
    message = refused(path, "Rows could be image_features, text_features, labels labels; say")
    assert "--x NAME" in message
    np.testing.assert_array_equal(load(path, x_name="text_features").y, Y)
    refused(path, "no array 'features'", x_name="features")
