"""Names of classes: those of the data, or the labels themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def names_of(classes: np.ndarray, names: Sequence[str] | None) -> list[str]:
    """Labels as text: names of the data where they are positions among its names."""
    labels = classes.tolist()
    if names is None or classes.dtype.kind not in "iu":
        return [str(label) for label in labels]
    known = range(len(names))
    return [names[label] if label in known else str(label) for label in labels]


def names_of_model(model: Any, names: Sequence[str] | None = None) -> list[str]:
    """The names that a fitted model of one task has itself, or `names_of` its classes."""
    return list(model.class_names_ or names_of(model.classes_, names))


def name_classes(model: Any, names: Sequence[str] | None) -> None:
    """Let a fitted model of one task keep the names of the data, where they are other than its
    labels."""
    own = names_of(model.classes_, names)
    model.class_names_ = None if own == names_of(model.classes_, None) else own
