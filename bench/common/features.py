"""k-means features of images: whitened patches, triangle code, 2 x 2 sum pooling.

Coates, Ng & Lee (2011), "An analysis of single-layer networks in unsupervised feature learning":
6 x 6 patches, each with its mean taken off and divided by its standard deviation, whitened by ZCA;
k-means finds the centroids; a patch z is coded as max(0, mean_j |z - c_j| - |z - c_k|), and the
codes are summed over the four quarters of the image. 256 centroids give 1024 features.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import threadpool_limits

from bench.common.measuring import progress

SIDE, CENTROIDS = 6, 256
_PATCHES, _ROUNDS = 100_000, 20  # that k-means sees, and how often it moves the centroids
_CONTRAST, _WHITENING = 10.0, 0.1  # added to variances: of a patch (pixels 0..255), of a direction
_IMAGES = 16  # of a chunk, whose distances stay in cache


def kmeans_features(images: np.ndarray, beside: str | None, rows: int | None = None) -> np.ndarray:
    """(N, 4 * CENTROIDS) float32 features of the first `rows` images (N, H, W, channels).

    The centroids are those of all images whatever `rows`, from a fixed seed.
    beside : a path next to which the features of all images are kept, and looked for
    """
    if beside is None:
        return _features(images, rows)
    path = Path(beside)
    file = path.with_name(path.name + ".kmeans.npy")
    if file.is_file() and (kept := np.load(file)).shape == (len(images), 4 * CENTROIDS):
        return kept[:rows]
    results = _features(images, None)
    np.save(file, results)
    return results[:rows]


def _features(images: np.ndarray, rows: int | None) -> np.ndarray:
    progress(f"k-means features of {len(images[:rows])} images")
    rng = np.random.default_rng(0)
    mean, whitening, centroids = _dictionary(_some_patches(images, rng), rng)
    images = images[:rows]
    out = np.empty((len(images), 4 * CENTROIDS), np.float32)

    def work(start: int) -> None:
        part = images[start : start + _IMAGES]
        patches = _normalised(_patches(part))
        high, wide = patches.shape[1:3]
        z = (patches.reshape(-1, patches.shape[-1]) - mean) @ whitening
        code = _triangle(z, centroids).reshape(len(part), high, wide, CENTROIDS)
        halves = (slice(None, high // 2), slice(high // 2, None))
        across = (slice(None, wide // 2), slice(wide // 2, None))
        pooled = [code[:, a, b].sum(axis=(1, 2)) for a in halves for b in across]
        out[start : start + _IMAGES] = np.concatenate(pooled, axis=1)

    with threadpool_limits(1), ThreadPoolExecutor() as pool:
        list(pool.map(work, range(0, len(images), _IMAGES)))
    return out


def _patches(images: np.ndarray) -> np.ndarray:
    """(n, H - 5, W - 5, SIDE * SIDE * channels) float32."""
    windows = sliding_window_view(images, (SIDE, SIDE), axis=(1, 2))
    return windows.reshape(*windows.shape[:3], -1).astype(np.float32)


def _some_patches(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(_PATCHES, SIDE * SIDE * channels), drawn at random."""
    windows = sliding_window_view(images, (SIDE, SIDE), axis=(1, 2))
    where = tuple(rng.integers(0, size, _PATCHES) for size in windows.shape[:3])
    return _normalised(windows[where].reshape(_PATCHES, -1).astype(np.float32))


def _normalised(patches: np.ndarray) -> np.ndarray:
    patches -= patches.mean(axis=-1, keepdims=True)
    variance = np.einsum("...d,...d->...", patches, patches) / patches.shape[-1]
    patches /= np.sqrt(variance + _CONTRAST)[..., None]
    return patches


def _dictionary(
    patches: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean (d,), ZCA (d, d), centroids (CENTROIDS, d)) of patches (n, d), by Lloyd's rounds."""
    mean = patches.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    whitening = ((vectors / np.sqrt(values + _WHITENING)) @ vectors.T).astype(np.float32)
    z = (patches - mean) @ whitening
    centroids = z[rng.choice(len(z), CENTROIDS, replace=False)]
    for _ in range(_ROUNDS):
        nearest = (z @ centroids.T - 0.5 * (centroids**2).sum(axis=1)).argmax(axis=1)
        order = np.argsort(nearest, kind="stable")
        present, starts, count = np.unique(nearest[order], return_index=True, return_counts=True)
        centroids[present] = np.add.reduceat(z[order], starts, axis=0) / count[:, None]
    return mean, whitening, centroids


def _triangle(z: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """max(0, mean_j |z - c_j| - |z - c_k|), (n, CENTROIDS)."""
    distances = z @ (-2.0 * centroids.T)
    distances += (centroids**2).sum(axis=1)
    distances += np.einsum("nd,nd->n", z, z)[:, None]
    np.sqrt(np.maximum(distances, 0.0, out=distances), out=distances)
    np.subtract(distances.mean(axis=1, keepdims=True), distances, out=distances)
    return np.maximum(distances, 0.0, out=distances)
