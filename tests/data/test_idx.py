"""IDX files under both ways of naming, gz or not, whole and broken."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from data_cases import refused

from xclf.data import load

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5)).astype(np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


def write(folder: Path, name: str, content: bytes, packed: bool = False, sep: str = "-") -> Path:
    name = name.replace("-idx", f"{sep}idx") + (".gz" if packed else "")
    (folder / name).write_bytes(gzip.compress(content) if packed else content)
    return folder / name


def write_set(folder: Path, packed: bool = False, sep: str = "-", test: bool = True) -> Path:
    write(folder, "train-images-idx3-ubyte", idx(IMAGES), packed, sep)
    write(folder, "train-labels-idx1-ubyte", idx(LABELS), packed, sep)
    if test:
        write(folder, "t10k-images-idx3-ubyte", idx(IMAGES[:3]), packed, sep)
        write(folder, "t10k-labels-idx1-ubyte", idx(LABELS[:3]), packed, sep)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sep", ["-", "."])
def test_folder(tmp_path, packed, sep):
    data = load(write_set(tmp_path, packed, sep))
    np.testing.assert_array_equal(data.x, IMAGES.reshape(7, 20))
    np.testing.assert_array_equal(data.images()[..., 0], IMAGES)
    np.testing.assert_array_equal(data.y, LABELS)
    np.testing.assert_array_equal(data.test.x, IMAGES[:3].reshape(3, 20))
    np.testing.assert_array_equal(data.test.y, LABELS[:3])
    assert data.x.dtype == data.test.x.dtype == np.uint8
    assert data.y.dtype == np.int64
    assert data.image_shape == (4, 5, 1)
    assert data.pixel_layout == "channel_last"
    assert isinstance(data.x, np.memmap) is not packed
    assert data.source == str(tmp_path)


def test_folder_without_test_part(tmp_path):
    assert load(write_set(tmp_path, test=False)).test is None


def test_gz_goes_by_content(tmp_path):
    write_set(tmp_path, packed=True, test=False)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(idx(IMAGES))  # a browser unpacked it and kept the name
    np.testing.assert_array_equal(load(tmp_path).images()[..., 0], IMAGES)


@pytest.mark.parametrize("packed", [False, True])
def test_single_file(tmp_path, packed):
    write_set(tmp_path, packed)
    suffix = ".gz" if packed else ""
    data = load(tmp_path / f"t10k-images-idx3-ubyte{suffix}")
    np.testing.assert_array_equal(data.y, LABELS[:3])
    assert data.test is None
    refused(tmp_path / f"train-labels-idx1-ubyte{suffix}", "give the images file")


def test_names_of_other_sets(tmp_path):
    path = write(tmp_path, "emnist-train-images-idx3-ubyte", idx(IMAGES), packed=True)
    refused(path, r"emnist-train-labels-idx1-ubyte\.gz: no such file")
    assert load(path, need_labels=False).y is None
    write(tmp_path, "emnist-train-labels-idx1-ubyte", idx(LABELS))
    np.testing.assert_array_equal(load(path).y, LABELS)


@pytest.mark.parametrize("name", ["train-images-idx3", "train-labels-idx1", "t10k-labels-idx1"])
def test_missing_file_is_named(tmp_path, name):
    (write_set(tmp_path) / f"{name}-ubyte").unlink()
    refused(tmp_path, name)
    if name.startswith("train-labels"):
        assert load(tmp_path, need_labels=False).y is None


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (b"", "empty"),
        (b"\0\0", "not an IDX file"),
        (b"\x01\0\x08\x03" + bytes(40), "starts with 01000803, not an IDX file"),
        (b"GIF89a" * 5, "not an IDX file"),
        (b"\0\0\x0d\x03" + bytes(12), r"type 0x0d; only bytes"),
        (idx(LABELS), r"holds labels \(idx1\) where images \(idx3\) are expected"),
        (b"\0\0\x08\x07" + bytes(28), "holds 7 axes"),
        (idx(IMAGES)[:12], "cut short inside its header"),
        (idx(IMAGES)[:-1], r"cut short: its header says shape \(7, 4, 5\), 140 bytes, but 139"),
        (idx(IMAGES)[:16], "but 0 follow"),
        (idx(IMAGES) + b"\0", r"too long: its header says shape \(7, 4, 5\), 140 bytes, but 141"),
        (idx(IMAGES[:0]), r"holds no data: its header says shape \(0, 4, 5\)"),
        (idx(IMAGES[:6]), "6 rows but 7 labels"),
    ],
)
def test_broken_images(tmp_path, packed, images, message):
    write_set(tmp_path, packed)
    write(tmp_path, "train-images-idx3-ubyte", images, packed)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (b"", "train-labels.*empty"),
        (idx(IMAGES), r"holds images \(idx3\) where labels \(idx1\)"),
        (idx(LABELS[:5]), "7 rows but 5 labels"),
        (idx(LABELS)[:-2], "cut short"),
    ],
)
def test_broken_labels(tmp_path, labels, message):
    write_set(tmp_path)
    write(tmp_path, "train-labels-idx1-ubyte", labels)
    refused(tmp_path, message)


def test_images_of_another_size_in_the_test_part(tmp_path):
    write_set(tmp_path)
    write(tmp_path, "t10k-images-idx3-ubyte", idx(IMAGES[:3, :3]))
    refused(tmp_path, "test rows have 15 columns, training rows 20")


def test_broken_gz(tmp_path):
    path = write_set(tmp_path, packed=True) / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for length in range(2, len(whole), 3):
        path.write_bytes(whole[:length])
        refused(tmp_path, r"train-images-idx3-ubyte\.gz")
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # the checksum
    path.write_bytes(flipped)
    refused(tmp_path, "CRC")
    path.write_bytes(whole + b"garbage")
    refused(tmp_path, r"train-images-idx3-ubyte\.gz")


def test_sizes_in_a_header_are_not_allocated(tmp_path):
    huge = b"\0\0\x08\x03" + b"\x7f\xff\xff\xff" + b"\0\0\x10\0" * 2
    for packed in (False, True):
        write(write_set(tmp_path, packed), "train-images-idx3-ubyte", huge, packed)
        refused(tmp_path, "max_memory = 4.0 GiB" if packed else "cut short")
        for path in tmp_path.iterdir():
            path.unlink()
    write(write_set(tmp_path, True), "train-images-idx3-ubyte", huge, True)
    refused(tmp_path, "cut short", max_memory=2**60)


@pytest.mark.parametrize("below", ["MNIST/raw", "FashionMNIST/raw", "raw"])
def test_the_folder_of_torchvision(tmp_path, below):
    (tmp_path / below).mkdir(parents=True)
    write_set(tmp_path / below)
    data = load(tmp_path)
    np.testing.assert_array_equal(data.y, LABELS)
    assert len(data.test.x) == 3


@pytest.mark.parametrize("packed", [False, True])
def test_emnist(tmp_path, packed):
    for part, rows in (("train", 7), ("test", 3)):
        stem = f"emnist-letters-{part}"
        write(tmp_path, f"{stem}-images-idx3-ubyte", idx(IMAGES[:rows]), packed)
        write(tmp_path, f"{stem}-labels-idx1-ubyte", idx(LABELS[:rows]), packed)
    data = load(tmp_path)
    np.testing.assert_array_equal(data.y, LABELS)
    np.testing.assert_array_equal(data.test.y, LABELS[:3])
    write(tmp_path, "emnist-digits-train-images-idx3-ubyte", idx(IMAGES), packed)
    write(tmp_path, "emnist-digits-train-labels-idx1-ubyte", idx(LABELS), packed)
    refused(tmp_path, r"several sets \(emnist-digits-, emnist-letters-\); give a folder with one")
    suffix = ".gz" if packed else ""
    assert len(load(tmp_path / f"emnist-digits-train-images-idx3-ubyte{suffix}").x) == 7


@pytest.mark.parametrize("packed", [False, True])
def test_qmnist(tmp_path, packed):
    table = np.zeros((7, 8), ">i4")
    table[:, 0] = LABELS
    content = b"\0\0\x0c\2" + np.array(table.shape, ">u4").tobytes() + table.tobytes()
    write(tmp_path, "qmnist-train-images-idx3-ubyte", idx(IMAGES), packed)
    labels = write(tmp_path, "qmnist-train-labels-idx2-int", content, packed)
    data = load(tmp_path)
    np.testing.assert_array_equal(data.y, LABELS)
    assert data.y.dtype == np.int64
    pack = gzip.compress if packed else bytes
    labels.write_bytes(pack(content[:-4]))
    refused(tmp_path, "cut short or too long: its header says 7 x 8")
    labels.write_bytes(pack(b"\0\0\x08" + content[3:]))
    refused(tmp_path, "not an IDX table of integers")
