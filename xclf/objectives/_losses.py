"""The losses by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from xclf.objectives._hinge import Hinge
from xclf.objectives._loss import Loss
from xclf.objectives._softmax import Softmax
from xclf.objectives._squared_hinge import SquaredHinge

#: Every loss by its name. To add one: a kernel, a file like `_squared_hinge.py`, an entry here.
LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in (Softmax, Hinge, SquaredHinge)}


def loss_named(name: str, **parameters: Any) -> Loss:
    """The loss of that name; of `parameters` it takes those that it has, each a number or (K,)."""
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {tuple(LOSSES)}, got {name!r}")
    loss = LOSSES[name]
    own = loss_parameters(name)
    return loss(**{key: value for key, value in parameters.items() if key in own})


def loss_parameters(name: str) -> tuple[str, ...]:
    """Names of the parameters of a loss."""
    return tuple(field.name for field in fields(LOSSES[name]))
