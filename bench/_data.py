"""Rows for the benchmarks: a data set that is given, or random numbers of the same shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits

from bench._measure import BenchError
from xclf.data import DataError, load


def given(path: str, rows: int | None, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Standardised rows (N, D) and labels 0..C-1 of a data set on disk, the first `rows` of it."""
    try:
        found = load(path)
    except DataError as error:
        raise BenchError(str(error)) from None
    if found.y is None:
        raise BenchError(f"{path}: holds no labels")
    x = np.asarray(found.x[:rows], dtype=dtype)
    x = (x - x.mean(axis=0, dtype=np.float64).astype(dtype)) / np.maximum(x.std(axis=0), 1e-6)
    labels = np.unique(found.y[:rows], return_inverse=True)[1]
    return np.ascontiguousarray(x, dtype=dtype), labels.astype(np.int64)


def gaussian(
    rows: int, features: int, classes: int, dtype: Any = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Independent normal rows and uniform labels: for timings that do not depend on values."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, features), dtype=np.float32)
    return x.astype(dtype, copy=False), rng.integers(0, classes, rows)


def correlated(rows: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose spectrum falls as a power law, as images' and embeddings' do, and labels of a
    noisy linear teacher: a convex problem that is as badly conditioned as real ones."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((features, features)))[0]
    spread = np.arange(1, features + 1) ** -1.0
    x = (rng.standard_normal((rows, features)) * spread) @ basis.T
    x *= np.sqrt(features) / np.linalg.norm(spread)
    teacher = rng.standard_normal((features, classes)) / np.sqrt(features)
    scores = 3.0 * x @ teacher + rng.gumbel(size=(rows, classes))
    return x.astype(np.float32), scores.argmax(axis=1)


def images(rows: int, side: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Centred pictures of side x side pixels, in 10 classes: scikit-learn's digits, drawn at
    random, each turned, slanted, moved and scaled at random, with a little noise."""
    small, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    pick = rng.integers(0, len(y), rows)
    angle, slant, zoom = rng.normal(0.0, [0.15, 0.15, 0.1], (rows, 3)).T
    place = 3.5 + rng.normal(0.0, 0.4, (rows, 2))
    middle = np.full(2, (side - 1) / 2.0)
    x = np.empty((rows, side, side), np.float32)
    for i, k in enumerate(pick):
        cos, sin = np.cos(angle[i]), np.sin(angle[i])
        turn = np.array([[cos, slant[i] - sin], [sin, cos]]) * (8.8 / side * np.exp(zoom[i]))
        picture = small[k].reshape(8, 8) / 16.0
        affine_transform(picture, turn, place[i] - turn @ middle, output=x[i], order=1)
    x += 0.05 * rng.standard_normal(x.shape, dtype=np.float32)
    flat = x.reshape(rows, side * side)
    return flat - flat.mean(axis=0), y[pick]
