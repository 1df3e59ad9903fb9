"""Linear classifiers trained by stochastic gradient descent."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from xclf._array_api import Array, namespace
from xclf.cs231n._arrays import (
    beside,
    check_rows,
    floats,
    is_floating,
    load_arrays,
    same_float,
    save_arrays,
    take_rows,
)
from xclf.cs231n.classifiers.linear_svm import svm_loss_vectorized
from xclf.cs231n.classifiers.softmax import softmax_loss_vectorized
from xclf.cs231n.optim import sgd
from xclf.kernels import affine

__all__ = ["LinearClassifier", "LinearSVM", "Softmax"]


class LinearClassifier:
    """Scores X W, where X has a last column of ones for the bias; subclasses give the loss.

    W : (D, C), None before training; it lives where the rows it was trained on live.
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
        y = beside(y, X)
        check_rows(X, y)
        if self.W is None:
            C = int(namespace(y).max(y)) + 1
            dtype = X.dtype if is_floating(X) else None
            self.W = beside(0.001 * np.random.randn(X.shape[1], C), X, dtype)
        losses = []
        for step in range(num_iters):
            rows = np.random.choice(X.shape[0], batch_size, replace=True)
            loss, dW = self.loss(take_rows(X, rows), take_rows(y, rows), reg)
            losses.append(loss)
            self.W, _ = sgd(self.W, dW, {"learning_rate": learning_rate})
            if verbose and step % 100 == 0:
                print(f"iteration {step} / {num_iters}: loss {float(loss):f}")
        return floats(losses)

    def predict(self, X: Array) -> Array:
        """(N,) integers: the class with the largest score in each row of X (N, D)."""
        rows, W = same_float(X, self._weights(X))
        return namespace(X).argmax(affine(rows, W, None), axis=1)

    def loss(self, X_batch: Array, y_batch: Array, reg: float) -> tuple[Any, Array]:
        """(loss, dW) of a batch with the penalty reg * sum(W^2); a subclass's to give."""
        raise NotImplementedError(f"{type(self).__name__} has no loss: use LinearSVM or Softmax")

    def save(self, fname: str | os.PathLike[str]) -> None:
        """Writes W to a file of exactly this name (npz format, no pickle)."""
        if self.W is None:
            raise ValueError("nothing to save yet: W is None; call train first")
        save_arrays(fname, {"W": self.W})

    def load(self, fname: str | os.PathLike[str]) -> bool:
        """Reads W, as a NumPy array, from a file that `save` wrote. Returns True.

        Raises FileNotFoundError, or ValueError for a file that save() did not write.
        """
        arrays = load_arrays(fname)
        if "W" not in arrays:
            raise ValueError(f"{fname}: holds {sorted(arrays)}, but a linear classifier needs W")
        self.W = arrays["W"]
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
    """Linear classifier with softmax and cross-entropy."""

    def loss(self, X_batch: Array, y_batch: Array, reg: float) -> tuple[Any, Array]:
        """(loss, dW) by `softmax_loss_vectorized`."""
        return softmax_loss_vectorized(self._weights(X_batch), X_batch, y_batch, reg)
