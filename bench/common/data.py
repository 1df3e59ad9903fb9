"""Rows for the benchmarks: real data sets by name or path, synthetic ones for other shapes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import affine_transform
from sklearn.datasets import load_breast_cancer, load_digits, load_iris

from bench.common.features import kmeans_features
from bench.common.measuring import BenchError
from xclf.data import DataError, load

NAMED = {"digits": load_digits, "breast_cancer": load_breast_cancer, "iris": load_iris}
KMEANS = "kmeans:"
_ABOUT = (
    f"real rows, standardised: {', '.join(NAMED)}, a path, or {KMEANS}PATH for the k-means "
    "features of the images there"
)

Data = tuple[np.ndarray, np.ndarray]


def add_data(parser: argparse.ArgumentParser, rows: int | None, **more: Any) -> None:
    """--data, --data-name and --rows of it, which is None for all."""
    parser.add_argument("--data", metavar="DATA", help=_ABOUT, **more)
    parser.add_argument("--data-name", help="what to call the rows of --data")
    parser.add_argument("--rows", type=int, default=rows, help="the first so many; all by default")
    parser.add_argument(
        "--keep-features", action="store_true", help="keep k-means features beside the images"
    )


def chosen(args: argparse.Namespace, source: str | None = None, dtype: Any = np.float32) -> Data:
    """Standardised rows (N, D) and labels 0..C-1 of `--data`, or of one of several."""
    source = source or args.data
    if source in NAMED:
        x, y = NAMED[source](return_X_y=True)
    elif source.startswith(KMEANS):
        x, y = _kmeans(source.removeprefix(KMEANS), args.rows, args.keep_features)
    else:
        x, y = _loaded(source).x, _loaded(source).y
    x, y = np.asarray(x[: args.rows], dtype=dtype), np.asarray(y[: args.rows])
    x = (x - x.mean(axis=0, dtype=np.float64).astype(dtype)) / np.maximum(x.std(axis=0), 1e-6)
    labels = np.unique(y, return_inverse=True)[1]
    return np.ascontiguousarray(x, dtype=dtype), labels.astype(np.int64)


def name_of(args: argparse.Namespace, source: str | None = None) -> str:
    """What results call the rows of `--data`."""
    source = source or args.data
    if args.data_name is not None:
        return str(args.data_name)
    return "k-means features" if source.startswith(KMEANS) else Path(source).name


def hidden(source: str) -> str:
    """A data set as a recorded command has it: without the path."""
    if source in NAMED:
        return source
    return (KMEANS if source.startswith(KMEANS) else "") + "DATA"


def _loaded(path: str) -> Any:
    try:
        results = load(path)
    except DataError as error:
        raise BenchError(str(error)) from None
    if results.y is None:
        raise BenchError(f"{path}: holds no labels")
    return results


def _kmeans(path: str, rows: int | None, keep: bool) -> Data:
    results = _loaded(path)
    if results.image_shape is None:
        raise BenchError(f"{path}: {KMEANS} needs images, and these rows are none")
    images = results.x.reshape(-1, *results.image_shape)
    if results.pixel_layout == "channel_first":
        height, width, channels = results.image_shape
        images = results.x.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    return kmeans_features(images, path if keep else None, rows), results.y


def synthetic(rows: int, features: int, classes: int, dtype: Any = np.float32) -> Data:
    """Independent normal rows and uniform labels: for timings that do not depend on values."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, features), dtype=np.float32)
    return x.astype(dtype, copy=False), rng.integers(0, classes, rows)


def power_law(rng: np.random.Generator, features: int) -> np.ndarray:
    """(D, D): standard normal rows times it have a spectrum that falls as a power law, as images'
    and embeddings' do, so that problems are as badly conditioned as real ones."""
    basis = np.linalg.qr(rng.standard_normal((features, features)))[0]
    spread = np.arange(1, features + 1) ** -1.0
    return np.asarray((spread * np.sqrt(features) / np.linalg.norm(spread))[:, None] * basis.T)


def synthetic_embeddings(rows: int, features: int, classes: int) -> Data:
    """Rows of a power-law spectrum, and labels of a noisy linear teacher."""
    rng = np.random.default_rng(0)
    mix = power_law(rng, features)
    x = rng.standard_normal((rows, features)) @ mix
    teacher = rng.standard_normal((features, classes)) / np.sqrt(features)
    scores = 3.0 * x @ teacher + rng.gumbel(size=(rows, classes))
    return x.astype(np.float32), scores.argmax(axis=1)


def synthetic_images(rows: int, side: int = 28) -> Data:
    """Centred pictures of side x side pixels, in 10 classes: scikit-learn's digits, drawn at
    random, each turned, slanted, moved and scaled at random, with a little noise."""
    small, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    pick = rng.integers(0, len(y), rows)
    angle, slant, zoom = rng.normal(0.0, [0.15, 0.15, 0.1], (rows, 3)).T
    centre = 3.5 + rng.normal(0.0, 0.4, (rows, 2))
    middle = np.full(2, (side - 1) / 2.0)
    x = np.empty((rows, side, side), np.float32)
    for i, k in enumerate(pick):
        cos, sin = np.cos(angle[i]), np.sin(angle[i])
        turn = np.array([[cos, slant[i] - sin], [sin, cos]]) * (8.8 / side * np.exp(zoom[i]))
        picture = small[k].reshape(8, 8) / 16.0
        affine_transform(picture, turn, centre[i] - turn @ middle, output=x[i], order=1)
    x += 0.05 * rng.standard_normal(x.shape, dtype=np.float32)
    flat = x.reshape(rows, side * side)
    return flat - flat.mean(axis=0), y[pick]
