"""The two-layer net of the older handouts, with its own training loop."""

from __future__ import annotations

from typing import Any

from xclf._array_api import Array
from xclf.cs231n._arrays import (
    accuracy,
    checked_labels,
    draw_rows,
    floats,
    predict_classes,
    print_loss,
)
from xclf.cs231n.classifiers import _net
from xclf.cs231n.optim import sgd

__all__ = ["TwoLayerNet"]


class TwoLayerNet:
    """scores = max(0, X W1 + b1) W2 + b2 with softmax loss and the penalty reg * sum(W^2).

    params : W1 (D, H), b1 (H,), W2 (H, C), b2 (C,): NumPy at first, float64, drawn from NumPy's
             global stream as std * randn, W1 before W2; they move to where X is at the first use.
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, std: float = 1e-4
    ) -> None:
        self.params: dict[str, Array] = dict(
            _net.initial((input_size, hidden_size, output_size), std)
        )

    def loss(self, X: Array, y: Array | None = None, reg: float = 0.0) -> Any:
        """Scores (N, C) if y is None, else (loss, grads).

            loss = 1/N sum_i -log P(y_i) + reg * (sum(W1^2) + sum(W2^2))

        X : (N, D);  y : (N,) integers in [0, C), on the host or beside X. `grads` has the keys and
        shapes of `params`.
        """
        return _net.evaluate(self.params, X, y, reg)

    def train(
        self,
        X: Array,
        y: Array,
        X_val: Array,
        y_val: Array,
        learning_rate: float = 1e-3,
        learning_rate_decay: float = 0.95,
        reg: float = 5e-6,
        num_iters: int = 100,
        batch_size: int = 200,
        verbose: bool = False,
    ) -> dict[str, list[float]]:
        """Stochastic gradient descent on `num_iters` batches, each drawn with replacement.

        After the first step of every epoch (max(N // batch_size, 1) steps) the accuracies on that
        batch and on X_val are recorded, then the learning rate is multiplied by the decay.

        Returns loss_history (one entry per step), train_acc_history and val_acc_history (one per
        epoch). Raises ValueError for labels that do not fit.
        """
        y = checked_labels(X, y)
        steps_per_epoch = max(X.shape[0] // batch_size, 1)
        losses, train_accuracies, val_accuracies = [], [], []
        for step in range(num_iters):
            X_batch, y_batch = draw_rows(X, y, batch_size)
            loss, grads = self.loss(X_batch, y_batch, reg)
            losses.append(loss)
            for name in self.params:
                config = {"learning_rate": learning_rate}
                self.params[name], _ = sgd(self.params[name], grads[name], config)
            if verbose:
                print_loss(step, num_iters, loss)
            if step % steps_per_epoch == 0:
                train_accuracies.append(accuracy(self.predict(X_batch), y_batch))
                val_accuracies.append(accuracy(self.predict(X_val), y_val))
                learning_rate *= learning_rate_decay
        return {
            "loss_history": floats(losses),
            "train_acc_history": train_accuracies,
            "val_acc_history": val_accuracies,
        }

    def predict(self, X: Array) -> Array:
        """(N,) integers: the class with the largest score in each row of X (N, D)."""
        return predict_classes(self.loss(X))
