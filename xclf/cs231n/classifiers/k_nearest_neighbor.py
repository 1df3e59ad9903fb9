"""The k-nearest-neighbour classifier of the first notebook."""

from __future__ import annotations

from typing import Any

import numpy as np

from xclf._array_api import Array, namespace, to_host
from xclf.cs231n._arrays import beside, checked_labels, is_floating, take_rows

__all__ = ["KNearestNeighbor"]


class KNearestNeighbor:
    """Labels by the majority of the k training rows with the smallest Euclidean distance.

        dists[i, j] = sqrt(sum_d (X[i, d] - X_train[j, d])^2)

    `train` keeps the rows. Distances are computed in the floating dtype of the rows, of integers in
    float64: a pixel squared, added up over an image, is beyond float32.
    """

    X_train: Array
    y_train: Array

    def train(self, X: Array, y: Any) -> None:
        """Keep the training rows X (N, D) and their class numbers y (N,).

        Raises ValueError for labels that are not one class number, an integer from 0, for each row.
        """
        self.y_train = checked_labels(X, y)
        self.X_train = X

    def predict(self, X: Array, k: int = 1, num_loops: int = 0) -> Array:
        """Labels (M,) of rows X (M, D), by `num_loops` 0, 1 or 2 loops over rows.

        Raises ValueError for another number of loops, and as `predict_labels` does.
        """
        ways = {
            0: self.compute_distances_no_loops,
            1: self.compute_distances_one_loop,
            2: self.compute_distances_two_loops,
        }
        if num_loops not in ways:
            raise ValueError(f"num_loops must be 0, 1 or 2, got {num_loops!r}")
        return self.predict_labels(ways[num_loops](X), k=k)

    def compute_distances_two_loops(self, X: Array) -> Array:
        """Distances (M, N) of rows X (M, D), one at a time."""
        X, T = self._floats(X)
        xp = namespace(X)
        rows = [[xp.sqrt(xp.sum((x - t) ** 2)) for t in _rows(T)] for x in _rows(X)]
        return xp.stack([xp.stack(row) for row in rows])

    def compute_distances_one_loop(self, X: Array) -> Array:
        """Distances (M, N) of rows X (M, D), those of one row at a time."""
        X, T = self._floats(X)
        xp = namespace(X)
        return xp.stack([xp.sqrt(xp.sum((T - x) ** 2, axis=1)) for x in _rows(X)])

    def compute_distances_no_loops(self, X: Array) -> Array:
        """Distances (M, N) of rows X (M, D) by one matrix product.

            dists^2 = |x|^2 + |t|^2 - 2 x . t

        Of rows that are nearly equal this difference is rounding: it is at least 0.
        """
        X, T = self._floats(X)
        xp = namespace(X)
        squares = xp.sum(X * X, axis=1)[:, None] + xp.sum(T * T, axis=1)[None, :]
        return xp.sqrt(xp.maximum(squares - 2.0 * (X @ T.T), xp.zeros_like(squares)))

    def predict_labels(self, dists: Array, k: int = 1) -> Array:
        """Labels (M,) by distances (M, N) to the training rows.

        Of labels that are equally frequent among the k nearest rows the smallest counts, of rows
        that are equally near the earlier.

        Raises ValueError for k below 1 or beyond the training rows.
        """
        number = int(self.y_train.shape[0])
        if not 1 <= k <= number:
            raise ValueError(f"k must be between 1 and the {number} training rows, got {k!r}")
        xp = namespace(dists)
        nearest = xp.argsort(dists, axis=1, stable=True)[:, :k]
        classes = np.unique(to_host(self.y_train))
        labels, known = beside(self.y_train, dists), beside(classes, dists)
        votes = sum(
            xp.astype(xp.take(labels, nearest[:, j], axis=0)[:, None] == known[None, :], xp.int64)
            for j in range(k)
        )
        return take_rows(known, to_host(xp.argmax(votes, axis=1)))

    def _floats(self, X: Array) -> tuple[Array, Array]:
        """(X, training rows) in one floating dtype, both where the training rows are."""
        if not hasattr(self, "X_train"):
            raise ValueError("train(X, y) comes first: there are no training rows")
        T = self.X_train
        if X.ndim != 2 or T.ndim != 2 or X.shape[1] != T.shape[1]:
            raise ValueError(
                f"rows must be (M, {T.shape[-1]}) as those of the training, got {tuple(X.shape)}"
            )
        xp, X = namespace(T), beside(X, T)
        dtypes = [one.dtype if is_floating(one) else xp.float64 for one in (X, T)]
        dtype = xp.result_type(*dtypes)
        return xp.astype(X, dtype, copy=False), xp.astype(T, dtype, copy=False)


def _rows(array: Array) -> list[Array]:
    return [array[i, :] for i in range(array.shape[0])]
