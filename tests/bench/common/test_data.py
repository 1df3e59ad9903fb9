"""Data sets by name, k-means features, and synthetic rows."""

import argparse

import numpy as np
import pytest

from bench.common import data, features, record
from bench.common.measuring import BenchError


def test_images_are_centred_and_repeat():
    x, y = data.synthetic_images(300, 12)
    again, _ = data.synthetic_images(300, 12)
    assert x.shape == (300, 144)
    assert x.dtype == np.float32
    assert set(y.tolist()) == set(range(10))
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_array_equal(x, again)


def settings(**changed):
    wanted = {"data": None, "data_name": None, "rows": None, "keep_features": False, **changed}
    return argparse.Namespace(**wanted)


@pytest.mark.parametrize("name, shape", [("digits", (1797, 64)), ("iris", (150, 4))])
def test_named_data_are_standardised(name, shape):
    x, y = data.chosen(settings(data=name))
    assert (x.shape, x.dtype, y.dtype) == (shape, np.float32, np.int64)
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=1e-5)
    spread = x.std(axis=0)
    np.testing.assert_allclose(spread[spread > 0.0], 1.0, atol=1e-4)
    assert data.name_of(settings(data=name)) == name
    assert len(data.chosen(settings(data=name, rows=20))[0]) == 20


@pytest.mark.parametrize(
    "words, wanted",
    [
        (["fit", "--data", "digits", "--rows", "9"], "fit --data digits --rows 9"),
        (["fit", "--data=some/where.npz"], "fit --data=DATA"),
        (
            ["accelerators", "--data", "iris", "kmeans:some/where", "--json", "here.json"],
            "accelerators --data iris kmeans:DATA --json JSON",
        ),
    ],
)
def test_commands_are_recorded_without_paths(words, wanted):
    assert record.command(words) == f"python -m bench {wanted}"


# --- k-means features --------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The path of 60 pictures of 32 x 32 pixels, in CIFAR-10's layout; few patches and rounds."""
    monkeypatch.setattr(features, "_PATCHES", 3000)
    monkeypatch.setattr(features, "_ROUNDS", 3)
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (60, 3, 8, 8)).repeat(4, axis=2).repeat(4, axis=3)
    batch = np.c_[rng.integers(0, 10, 60), smooth.reshape(60, -1)].astype(np.uint8)
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(batch.tobytes())
    return path


def one_by_one(image, mean, whitening, centroids):
    """The features of one image (H, W, channels), patch by patch, as the paper has them."""
    high, wide = image.shape[0] - 5, image.shape[1] - 5
    sums = np.zeros((2, 2, len(centroids)))
    for i in range(high):
        for j in range(wide):
            patch = image[i : i + 6, j : j + 6].astype(np.float64).transpose(2, 0, 1).ravel()
            patch = (patch - patch.mean()) / np.sqrt(patch.var() + 10.0)
            distances = np.linalg.norm((patch - mean) @ whitening - centroids, axis=1)
            sums[int(i >= high // 2), int(j >= wide // 2)] += np.maximum(
                distances.mean() - distances, 0.0
            )
    return sums.reshape(-1)


def test_kmeans_features_are_those_of_the_paper(pictures, monkeypatch):
    kept = []
    dictionary = features._dictionary
    monkeypatch.setattr(features, "_dictionary", lambda *a: kept.append(dictionary(*a)) or kept[0])
    images = data.load(str(pictures)).x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    found = features.kmeans_features(images, None)
    assert found.shape == (60, 1024)
    for k in (0, 59):
        # At most 14 * 14 distances d, each off by some 110 eps of |z|^2 / d, which is near 15.
        np.testing.assert_allclose(found[k], one_by_one(images[k], *kept[0]), atol=0.02)
    centroids = kept[0][2]
    assert centroids.shape == (256, 108)
    assert len(np.unique(centroids, axis=0)) == 256


def test_kmeans_features_repeat_and_are_kept_when_asked(pictures, monkeypatch):
    x, y = data.chosen(settings(data=f"kmeans:{pictures}"))
    assert x.shape == (60, 1024)
    assert sorted(set(y.tolist())) == list(range(int(y.max()) + 1))
    file = pictures.with_name(pictures.name + ".kmeans.npy")
    assert not file.exists()
    few = data.chosen(settings(data=f"kmeans:{pictures}", rows=7, keep_features=True))[0]
    assert np.load(file).shape == (60, 1024)
    monkeypatch.setattr(features, "_features", lambda *_: pytest.fail("made again"))
    again = data.chosen(settings(data=f"kmeans:{pictures}", rows=7, keep_features=True))[0]
    np.testing.assert_array_equal(few, again)
    assert data.name_of(settings(data=f"kmeans:{pictures}")) == "k-means features"


def test_kmeans_features_need_images(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, X=np.ones((3, 5)), y=np.arange(3))
    with pytest.raises(BenchError, match="needs images"):
        data.chosen(settings(data=f"kmeans:{path}"))
