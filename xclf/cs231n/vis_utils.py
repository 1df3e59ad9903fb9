"""Pictures of weights."""

from __future__ import annotations

import math

import numpy as np

from xclf._array_api import Array, to_host

__all__ = ["visualize_grid"]


def visualize_grid(Xs: Array, ubound: float = 255.0, padding: int = 1) -> np.ndarray:
    """A square grid of pictures, each stretched to the range 0..ubound.

    Xs : (N, H, W, C), any backend
    padding : black pixels between neighbours

    Returns (A, B, C) floats on the host, A = G * H + (G - 1) * padding with G = ceil(sqrt(N)), row
    by row; empty places and pictures of one single value are black. `.astype("uint8")` makes it
    what `imshow` shows. Raises ValueError for another number of axes.
    """
    pictures = np.asarray(to_host(Xs), dtype=float)
    if pictures.ndim != 4:
        raise ValueError(f"Xs must have shape (N, H, W, C), got {pictures.shape}")
    N, H, W, C = pictures.shape
    side = math.ceil(math.sqrt(N))
    grid = np.zeros(
        (max(side * (H + padding) - padding, 0), max(side * (W + padding) - padding, 0), C)
    )
    for k, picture in enumerate(pictures):
        top, left = (k // side) * (H + padding), (k % side) * (W + padding)
        grid[top : top + H, left : left + W] = _stretched(picture, ubound)
    return grid


def _stretched(picture: np.ndarray, ubound: float) -> np.ndarray:
    low, high = np.min(picture), np.max(picture)
    if low == high:
        return np.zeros_like(picture)
    stretched: np.ndarray = ubound * (picture - low) / (high - low)
    return stretched
