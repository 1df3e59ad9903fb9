"""Linear classifiers trained by stochastic gradient descent."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from xclf._array_api import Array, namespace
from xclf.cs231n._arrays import (
    beside,
    checked_labels,
    draw_rows,
    floats,
    is_floating,
    load_arrays,
    predict_classes,
    print_loss,
    same_float,
    save_arrays,
)
from xclf.cs231n.classifiers.linear_svm import svm_loss_vectorized
from xclf.cs231n.classifiers.softmax import softmax_loss_vectorized
from xclf.cs231n.optim import sgd
from xclf.kernels import affine

__all__ = ["LinearClassifier", "LinearSVM", "Softmax"]


class LinearClassifier:
    """Scores X W, where X has a last column of ones for the bias; subclasses define the loss.

    W : (D, C), None before training; in the namespace and on the device of the training rows.
    """

    def __init__(self) -> None:
        self.W: Array | None = None

    def train(
        self,
        X: Array,
        y: Array,
        learning_rate: float = 1e-3,
        reg: float = 1e-5,
        num_iters: int = 100,
        batch_size: int = 200,
        verbose: bool = False,
    ) -> list[float]:
        """W <- W - learning_rate * dW on `num_iters` batches, each drawn with replacement.

        X : (N, D);  y : (N,) integers in [0, C), on the host or beside X

        W starts as 0.001 * randn(D, C), in the floating dtype of X, C being max(y) + 1, unless an
        earlier call left weights. Random numbers come from NumPy's global stream: randn once, then
        one choice(N, batch_size) per step.

        Returns the loss of every step. Raises ValueError for labels that do not fit.
        """
        y = checked_labels(X, y)
        if self.W is None:
            C = int(namespace(y).max(y)) + 1
            dtype = X.dtype if is_floating(X) else None
            self.W = beside(0.001 * np.random.randn(X.shape[1], C), X, dtype)
        losses = []
        for step in range(num_iters):
            loss, dW = self.loss(*draw_rows(X, y, batch_size), reg)
            losses.append(loss)
            self.W, _ = sgd(self.W, dW, {"learning_rate": learning_rate})
            if verbose:
                print_loss(step, num_iters, loss)
        return floats(losses)

    def predict(self, X: Array) -> Array:
        """(N,) integers: the class with the largest score in each row of X (N, D)."""
        rows, W = same_float(X, self._weights(X))
        return predict_classes(affine(rows, W, None))

    def loss(self, X_batch: Array, y_batch: Array, reg: float) -> tuple[Any, Array]:
        """(loss, dW) of a batch with the penalty reg * sum(W^2), by a subclass."""
        raise NotImplementedError(f"{type(self).__name__} has no loss: use LinearSVM or Softmax")

    def save(self, fname: str | os.PathLike[str]) -> None:
        """Write W to a file of exactly this name (npz format, no pickle)."""
        if self.W is None:
            raise ValueError("nothing to save yet: W is None; call train first")
        save_arrays(fname, {"W": self.W})

    def load(self, fname: str | os.PathLike[str]) -> bool:
        """Read W, as a NumPy array, from a file that `save` wrote. Returns True.

        Raises FileNotFoundError, or ValueError for a file that save() did not write.
        """
        self.W = load_arrays(fname, ["W"])["W"]
        return True

    def _weights(self, X: Array) -> Array:
        if self.W is None:
            raise ValueError("no weights yet: W is None; call train, or load")
        return beside(self.W, X)


class LinearSVM(LinearClassifier):
    """Linear classifier with the multiclass hinge loss."""

    def loss(self, X_batch: Array, y_batch: Array, reg: float) -> tuple[Any, Array]:
        """(loss, dW) by `svm_loss_vectorized`."""
        return svm_loss_vectorized(self._weights(X_batch), X_batch, y_batch, reg)


class Softmax(LinearClassifier):
    """Linear classifier with the softmax loss."""

    def loss(self, X_batch: Array, y_batch: Array, reg: float) -> tuple[Any, Array]:
        """(loss, dW) by `softmax_loss_vectorized`."""
        return softmax_loss_vectorized(self._weights(X_batch), X_batch, y_batch, reg)
