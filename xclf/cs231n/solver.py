"""Training of any model that has `.params` and `.loss(X, y)`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from xclf._array_api import Array, namespace
from xclf.cs231n import optim
from xclf.cs231n._arrays import (
    accuracy,
    beside,
    checked_labels,
    draw_rows,
    floats,
    predict_classes,
    save_arrays,
)

__all__ = ["Solver"]

# Attributes that a checkpoint holds besides the arrays.
_SETTINGS = (
    "update_rule",
    "lr_decay",
    "batch_size",
    "num_epochs",
    "num_train_samples",
    "num_val_samples",
    "epoch",
    "best_val_acc",
)


class Solver:
    """Trains `model` on `data` by one of the rules of `optim`.

    model : has a dict `params` of arrays and `loss(X, y=None)`, which gives scores (N, C), or
            (loss, grads) with the keys of `params`
    data : dict of X_train, y_train, X_val, y_val
    update_rule : a name in `optim`;  optim_config : its settings, copied for every parameter
    lr_decay : multiplies every learning rate at the end of an epoch
    num_train_samples, num_val_samples : rows drawn to estimate an accuracy; None takes all
    checkpoint_name : if set, {checkpoint_name}_epoch_{epoch}.npz is written with every accuracy
    print_every : steps between printed losses;  verbose : False prints nothing

    loss_history : the loss of every step. train_acc_history, val_acc_history : one entry after the
    first step, one at the end of each epoch, one after the last step. best_val_acc, best_params :
    the best validation accuracy seen, and copies of the parameters that gave it.

    Batches and samples are drawn with replacement from NumPy's global stream. Raises ValueError
    for an unknown keyword or rule and for labels that do not fit.
    """

    def __init__(
        self,
        model: Any,
        data: dict[str, Array],
        *,
        update_rule: str = "sgd",
        optim_config: dict[str, Any] | None = None,
        lr_decay: float = 1.0,
        batch_size: int = 100,
        num_epochs: int = 10,
        num_train_samples: int | None = 1000,
        num_val_samples: int | None = None,
        checkpoint_name: str | None = None,
        print_every: int = 10,
        verbose: bool = True,
        **unknown: Any,
    ) -> None:
        if unknown:
            names = ", ".join(map(repr, sorted(unknown)))
            raise ValueError(f"Solver does not know the keyword {names}")
        if update_rule not in optim.__all__:
            raise ValueError(f"update_rule must be one of {optim.__all__}, got {update_rule!r}")
        self.model = model
        self.X_train, self.X_val = data["X_train"], data["X_val"]
        self.y_train = checked_labels(self.X_train, data["y_train"])
        self.y_val = checked_labels(self.X_val, data["y_val"])
        self.update_rule = update_rule
        self.optim_config = dict(optim_config or {})
        self.lr_decay, self.batch_size, self.num_epochs = lr_decay, batch_size, num_epochs
        self.num_train_samples, self.num_val_samples = num_train_samples, num_val_samples
        self.checkpoint_name = checkpoint_name
        self.print_every, self.verbose = print_every, verbose

        self.epoch = 0
        self.best_val_acc = 0.0
        self.best_params: dict[str, Array] = {}
        self.loss_history: list[Any] = []
        self.train_acc_history: list[float] = []
        self.val_acc_history: list[float] = []
        self.optim_configs = {name: dict(self.optim_config) for name in model.params}

    def train(self) -> None:
        """Run `num_epochs` epochs of max(N // batch_size, 1) steps.

        At the end the model holds the parameters with the best validation accuracy.
        """
        steps_per_epoch = max(self.X_train.shape[0] // self.batch_size, 1)
        num_steps = self.num_epochs * steps_per_epoch
        try:
            for step in range(1, num_steps + 1):
                self._step()
                if self.verbose and (step - 1) % self.print_every == 0:
                    loss = float(self.loss_history[-1])
                    print(f"(Iteration {step} / {num_steps}) loss: {loss:f}")
                if step % steps_per_epoch == 0:
                    self._end_epoch()
                if step in (1, num_steps) or step % steps_per_epoch == 0:
                    self._check_accuracies()
        finally:
            self.loss_history = floats(self.loss_history)
        if self.best_params:
            self.model.params = self.best_params

    def check_accuracy(
        self, X: Array, y: Array, num_samples: int | None = None, batch_size: int = 100
    ) -> float:
        """The share of rows that the model gets right, in batches of `batch_size`.

        num_samples : at most so many rows, drawn with replacement; None takes all
        """
        y = beside(y, X)
        if num_samples is not None and X.shape[0] > num_samples:
            X, y = draw_rows(X, y, num_samples)
        N = X.shape[0]
        predicted = [
            predict_classes(self.model.loss(X[start : min(start + batch_size, N), ...]))
            for start in range(0, N, batch_size)
        ]
        return accuracy(namespace(X).concat(predicted), y)

    def _step(self) -> None:
        """One batch, one update of every parameter. The loss stays on the device."""
        loss, grads = self.model.loss(*draw_rows(self.X_train, self.y_train, self.batch_size))
        self.loss_history.append(loss)
        rule = getattr(optim, self.update_rule)
        for name, w in self.model.params.items():
            self.model.params[name], self.optim_configs[name] = rule(
                w, grads[name], self.optim_configs[name]
            )

    def _end_epoch(self) -> None:
        self.epoch += 1
        for config in self.optim_configs.values():
            config["learning_rate"] *= self.lr_decay

    def _check_accuracies(self) -> None:
        """Record both accuracies, copy the parameters if they are the best, write a checkpoint."""
        train_acc = self.check_accuracy(self.X_train, self.y_train, self.num_train_samples)
        val_acc = self.check_accuracy(self.X_val, self.y_val, self.num_val_samples)
        self.train_acc_history.append(train_acc)
        self.val_acc_history.append(val_acc)
        if self.verbose:
            print(
                f"(Epoch {self.epoch} / {self.num_epochs}) "
                f"train acc: {train_acc:f}; val_acc: {val_acc:f}"
            )
        if val_acc > self.best_val_acc or not self.best_params:
            self.best_val_acc = val_acc
            self.best_params = {
                name: namespace(w).asarray(w, copy=True) for name, w in self.model.params.items()
            }
        if self.checkpoint_name is not None:
            self._save_checkpoint(self.checkpoint_name)

    def _save_checkpoint(self, name: str) -> None:
        """One npz file, to be read with np.load.

        Arrays are named params/W1, best_params/W1, optim/W1/velocity, bn/1/running_mean, ..., and
        loss_history and so on; `settings` is a JSON text with everything that is not an array.
        """
        arrays: dict[str, Any] = {f"params/{k}": v for k, v in self.model.params.items()}
        arrays |= {f"best_params/{k}": v for k, v in self.best_params.items()}
        settings: dict[str, Any] = {key: getattr(self, key) for key in _SETTINGS}
        states = {f"optim/{k}": v for k, v in self.optim_configs.items()}
        bn_params = enumerate(getattr(self.model, "bn_params", ()), start=1)
        states |= {f"bn/{k}": state for k, state in bn_params}
        for prefix, state in states.items():
            arrays |= {f"{prefix}/{k}": v for k, v in state.items() if hasattr(v, "shape")}
            settings[prefix] = {k: v for k, v in state.items() if not hasattr(v, "shape")}
        for history in ("loss_history", "train_acc_history", "val_acc_history"):
            arrays[history] = np.asarray(floats(getattr(self, history)))
        arrays["settings"] = np.asarray(json.dumps(settings, default=float))
        save_arrays(f"{name}_epoch_{self.epoch}.npz", arrays)
