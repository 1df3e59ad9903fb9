"""What to write in the place of parameters that other libraries have."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any, TypeVar, get_type_hints

_PENALTY = "the penalty is reg * sum(W^2), in the mean over rows"
_RATE, _STEPS = "the rate is learning_rate", "max_iter counts iterations of lbfgs, else epochs"
_HIDDEN, _SEED = "the width of the hidden layer is hidden", "the seed is random_state"

#: A parameter of another library, and its conversion.
HINTS = {
    "C": "for scikit-learn's C and n rows reg = 1 / (2 * C * n), for two classes 1 / (C * n)",
    "alpha": "for SGDClassifier's alpha reg = alpha / 2, for MLPClassifier's reg = alpha / (2 * n) "
    "with n rows in a batch",
    "weight_decay": "for PyTorch's weight_decay reg = weight_decay / 2",
    **dict.fromkeys(("penalty", "l2", "lam", "lambda_", "l2_regularization"), _PENALTY),
    "l1_ratio": "the penalty is the sum of squares alone, reg * sum(W^2)",
    **dict.fromkeys(("lr", "eta", "eta0", "learning_rate_init"), _RATE),
    **dict.fromkeys(("epochs", "n_epochs", "num_epochs", "max_epochs", "num_iters"), _STEPS),
    **dict.fromkeys(("hidden_layer_sizes", "hidden_size", "hidden_dim", "n_hidden"), _HIDDEN),
    **dict.fromkeys(("seed", "random_seed"), _SEED),
    "lr_decay": 'rates fall by lr_schedule="cosine" or "exponential"',
    "optimizer": "solver names it",
    "criterion": "loss names it",
    "activation": "the hidden layer is ReLU",
    "kernel": "the models are linear: features of a kernel can be rows",
    "gpu_id": 'device="cuda:1" chooses a GPU',
    "n_jobs": "rows are computed in threads without it; the BLAS library decides how many",
    "multi_class": "all classes are fitted together",
}

T = TypeVar("T")


def foreign(names: Iterable[str], own: Iterable[str]) -> str | None:
    """The first of `names` that is no parameter of `own`, but has a conversion."""
    return next((name for name in names if name in HINTS and name not in own), None)


def with_hints(cls: type[T]) -> type[T]:
    """Let the constructor of a class say what to write for a parameter of another library."""
    plain: Any = vars(cls)["__init__"]
    own, hints = tuple(inspect.signature(plain).parameters), get_type_hints(cls)
    # Types rather than their names, which only the modules of the fields know.
    plain.__annotations__ = {name: hints[name] for name in own if name in hints} | {"return": None}

    @functools.wraps(plain)
    def checked(self: Any, *values: Any, **parameters: Any) -> None:
        name = foreign(parameters, own)
        if name is not None:
            raise TypeError(f"{cls.__name__}: there is no parameter {name}: {HINTS[name]}")
        plain(self, *values, **parameters)

    setattr(cls, "__init__", checked)  # noqa: B010
    return cls
