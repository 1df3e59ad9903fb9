"""The course's k-nearest-neighbour classifier, and what the facade says of parts it lacks."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

import xclf.cs231n
from xclf.cs231n.classifiers import KNearestNeighbor

RNG = np.random.default_rng(0)
TRAIN, ROWS = RNG.standard_normal((12, 5)), RNG.standard_normal((4, 5))
Y = np.array([0, 1, 2, 1, 0, 2, 2, 1, 0, 0, 1, 2])
WAYS = [f"compute_distances_{name}" for name in ("two_loops", "one_loop", "no_loops")]


def plain(rows, train) -> np.ndarray:
    """Distances term by term."""
    return np.array([[math.dist(x.tolist(), t.tolist()) for t in train] for x in rows])


def vote(row, k) -> int:
    """The most frequent label of the k nearest, of several the smallest."""
    nearest = sorted(range(len(row)), key=lambda j: (row[j], j))[:k]
    labels = [int(Y[j]) for j in nearest]
    return min(set(labels), key=lambda label: (-labels.count(label), label))


@pytest.mark.parametrize("way", WAYS)
def test_distances_on_every_backend(backend, dtype, way):
    train, rows = TRAIN.astype(dtype), ROWS.astype(dtype)
    model = KNearestNeighbor()
    model.train(backend.asarray(train), Y)
    dists = getattr(model, way)(backend.asarray(rows))
    found, expected = backend.to_host(dists), plain(rows, train)
    assert found.dtype == dtype
    # A square of a distance is a sum of 15 products at most, whose sizes add up to |x|^2 + |t|^2 +
    # 2 |x||t| <= 2 (|x|^2 + |t|^2): off by gamma_18 of that, which the root divides by twice the
    # distance.
    u = np.finfo(dtype).eps / 2
    squares = (rows.astype(float) ** 2).sum(1)[:, None] + (train.astype(float) ** 2).sum(1)
    assert np.all(np.abs(found - expected) <= 18 * u * 2 * squares / (2 * expected) + u * expected)


@pytest.mark.parametrize("k", [1, 3, 5, 12])
def test_labels_on_every_backend(backend, k):
    model = KNearestNeighbor()
    model.train(backend.asarray(TRAIN), backend.asarray(Y))
    expected = [vote(row, k) for row in plain(ROWS, TRAIN)]
    for loops in (0, 1, 2):
        found = model.predict(backend.asarray(ROWS), k=k, num_loops=loops)
        assert backend.to_host(found).tolist() == expected


def test_ties_go_to_the_smaller_label_and_the_earlier_row():
    model = KNearestNeighbor()
    model.train(np.zeros((4, 1)), np.array([3, 1, 3, 1]))
    assert model.predict_labels(np.array([[1.0, 1.0, 1.0, 1.0]]), k=1).tolist() == [3]
    assert model.predict_labels(np.array([[1.0, 1.0, 1.0, 1.0]]), k=2).tolist() == [1]
    assert model.predict_labels(np.array([[1.0, 1.0, 0.5, 1.0]]), k=3).tolist() == [3]


@pytest.mark.parametrize("way", WAYS)
def test_pixels_are_not_added_up_in_bytes(way):
    train = RNG.integers(0, 256, (6, 3072), dtype=np.uint8)
    rows = np.concatenate([train[:2], 255 - train[2:3]])
    model = KNearestNeighbor()
    model.train(train, Y[:6])
    found = getattr(model, way)(rows)
    squares = [
        [sum((int(a) - int(b)) ** 2 for a, b in zip(x, t, strict=True)) for t in train]
        for x in rows
    ]
    # Whole numbers below 2^53 are exact: the root is rounded once.
    np.testing.assert_array_equal(found, np.sqrt(np.array(squares, dtype=float)))


def test_what_it_cannot_do():
    model = KNearestNeighbor()
    with pytest.raises(ValueError, match="train\\(X, y\\) comes first"):
        model.predict(ROWS)
    with pytest.raises(ValueError, match="one label for each of the 12 rows"):
        model.train(TRAIN, Y[:5])
    model.train(TRAIN, Y)
    with pytest.raises(ValueError, match="k must be between 1 and the 12 training rows, got 13"):
        model.predict(ROWS, k=13)
    with pytest.raises(ValueError, match="num_loops must be 0, 1 or 2, got 3"):
        model.predict(ROWS, num_loops=3)
    with pytest.raises(ValueError, match=r"rows must be \(M, 5\)"):
        model.predict(ROWS[:, :4])


@pytest.fixture
def installed():
    before, finders = dict(sys.modules), list(sys.meta_path)
    xclf.cs231n.install()
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "cs231n"]:
        if name not in before:
            del sys.modules[name]
    sys.meta_path[:] = finders


@pytest.mark.parametrize("module", ["features", "classifiers.cnn", "fast_layers", "rnn_layers"])
def test_modules_that_are_not_covered(installed, module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=f"no cs231n.{module}: xclf.cs231n covers"):
        exec(f"import cs231n.{module}")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("classifiers", "CaptioningRNN"),
        ("layers", "conv_forward_naive"),
        ("layer_utils", "conv_relu_forward"),
    ],
)
def test_names_that_are_not_covered(installed, module, name):
    with pytest.raises(ImportError, match=f"{name} is not part of it: xclf.cs231n covers"):
        exec(f"from cs231n.{module} import {name}")
    with pytest.raises(ImportError, match="cannot import name 'conv'"):
        exec(f"from cs231n.{module} import conv")


def test_the_course_s_own_files_are_found(installed, tmp_path, monkeypatch):
    folder = tmp_path / "cs231n" / "classifiers"
    folder.mkdir(parents=True)
    (folder.parent / "features.py").write_text("def hog_feature(im):\n    return im.sum()\n")
    (folder / "cnn.py").write_text("from cs231n.layers import affine_forward\nNAME = 'cnn'\n")
    (folder / "softmax.py").write_text("raise AssertionError('ours comes first')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    scope: dict = {}
    exec("from cs231n.features import *\nfrom cs231n.classifiers.cnn import NAME", scope)
    assert scope["hog_feature"](np.ones(3)) == 3
    assert scope["NAME"] == "cnn"
    exec("from cs231n.classifiers.softmax import softmax_loss_naive", scope)
