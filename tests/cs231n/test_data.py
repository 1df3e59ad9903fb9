"""CIFAR-10 for the notebooks, and the grid of pictures."""

from __future__ import annotations

import numpy as np
import pytest
from data_cases import CIFAR_BATCHES, CIFAR_ROWS, cifar_batch, write_cifar

from xclf.cs231n import data_utils
from xclf.cs231n.vis_utils import visualize_grid
from xclf.data import DataError


@pytest.fixture
def archive(tmp_path):
    """A small CIFAR-10 folder, and (labels, pixels) of its training and its test part."""
    folder = write_cifar(tmp_path / "cifar-10-batches-bin")
    batches = [cifar_batch(name) for name in CIFAR_BATCHES]
    parts = [(y, x.reshape(-1, 3, 32, 32)) for x, y in batches]
    train = [np.concatenate(arrays) for arrays in zip(*parts[:5], strict=True)]
    return folder, train, parts[5]


def test_pictures_are_height_width_channels_in_float64(archive):
    folder, (labels, pixels), (test_labels, test_pixels) = archive
    X_train, y_train, X_test, y_test = data_utils.load_CIFAR10(folder)
    assert X_train.shape == (5 * CIFAR_ROWS, 32, 32, 3)
    assert X_train.dtype == X_test.dtype == np.float64
    np.testing.assert_array_equal(X_train, pixels.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(X_test, test_pixels.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(y_train, labels)
    np.testing.assert_array_equal(y_test, test_labels)
    assert X_train.flags.c_contiguous
    assert X_train.flags.writeable


def test_the_split_takes_rows_in_order_and_the_mean_of_the_training_part(archive):
    folder, (labels, pixels), (test_labels, test_pixels) = archive
    data = data_utils.get_CIFAR10_data(12, 5, 3, root=folder)
    assert list(data) == ["X_train", "y_train", "X_val", "y_val", "X_test", "y_test"]
    mean = pixels[:12].astype(float).mean(axis=0)
    for name, part in (
        ("X_train", pixels[:12]),
        ("X_val", pixels[12:17]),
        ("X_test", test_pixels[:3]),
    ):
        assert data[name].dtype == np.float64
        np.testing.assert_allclose(data[name], part - mean, atol=1e-12)
    np.testing.assert_array_equal(data["y_val"], labels[12:17])
    np.testing.assert_array_equal(data["y_test"], test_labels[:3])
    raw = data_utils.get_CIFAR10_data(12, 5, 3, subtract_mean=False, root=folder)
    np.testing.assert_array_equal(raw["X_train"], pixels[:12])


def test_the_folder_may_come_from_the_environment_or_the_handouts_place(archive, monkeypatch):
    folder, _, _ = archive
    monkeypatch.setenv("CIFAR10_DIR", str(folder))
    assert data_utils.get_CIFAR10_data(2, 1, 1)["X_train"].shape == (2, 3, 32, 32)
    monkeypatch.delenv("CIFAR10_DIR")
    home = folder.parent
    (home / "cs231n/datasets").mkdir(parents=True)
    folder.rename(home / "cs231n/datasets/cifar-10-batches-py")
    monkeypatch.chdir(home)
    assert data_utils.get_CIFAR10_data(2, 1, 1)["X_val"].shape == (1, 3, 32, 32)


def test_a_missing_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CIFAR10_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"cs231n/datasets/cifar-10-batches-py.*CIFAR10_DIR"
    ):
        data_utils.get_CIFAR10_data()
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        data_utils.load_CIFAR10("elsewhere")
    with pytest.raises(DataError, match="no CIFAR-10 batches"):
        data_utils.load_CIFAR10(tmp_path)


def test_parts_that_are_larger_than_the_data_are_refused(archive):
    folder, _, _ = archive
    with pytest.raises(ValueError, match="val: rows 18 to 22 of 20"):
        data_utils.get_CIFAR10_data(18, 4, 1, root=folder)


# --- pictures -------------------------------------------------------------------------------


def test_a_grid_places_stretched_pictures_row_by_row(backend):
    pictures = np.arange(3 * 2 * 2 * 1, dtype=float).reshape(3, 2, 2, 1) - 5
    grid = visualize_grid(backend.asarray(pictures), ubound=30.0, padding=1)
    assert isinstance(grid, np.ndarray)
    assert grid.shape == (5, 5, 1)
    # Each picture is four numbers in steps of one: 0, 1/3, 2/3 and 1 of the upper bound.
    stretched = np.array([[0.0, 10.0], [20.0, 30.0]])
    for top, left in ((0, 0), (0, 3), (3, 0)):
        np.testing.assert_allclose(grid[top : top + 2, left : left + 2, 0], stretched, atol=1e-12)
    assert not grid[3:, 3:].any()
    assert not grid[2].any()
    assert not grid[:, 2].any()


def test_a_picture_of_one_value_is_black_and_the_default_bound_is_255():
    assert not visualize_grid(np.full((1, 2, 2, 3), 7.0)).any()
    grid = visualize_grid(np.array([0.0, 1.0]).reshape(1, 1, 2, 1))
    np.testing.assert_array_equal(grid[:, :, 0], [[0, 255]])


@pytest.mark.parametrize("count, side", [(1, 1), (4, 2), (5, 3), (10, 4), (50, 8)])
def test_the_grid_is_the_smallest_square(count, side):
    grid = visualize_grid(np.random.default_rng(0).random((count, 4, 5, 3)), padding=2)
    assert grid.shape == (side * 4 + (side - 1) * 2, side * 5 + (side - 1) * 2, 3)
    assert 0 <= grid.min() <= grid.max() <= 255


def test_anything_but_pictures_is_refused():
    with pytest.raises(ValueError, match=r"\(N, H, W, C\)"):
        visualize_grid(np.ones((3, 3)))
