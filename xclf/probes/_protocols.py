"""The protocols of linear probes: one record each. Adding one touches this file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from xclf.report.number_text import count

Parameter = Literal["C", "reg", "learning_rate"]


@dataclass(frozen=True)
class Protocol:
    """How a probe is fitted: the candidates, and what becomes of the best one.

    name, text, source : for people
    parameter : what candidates differ by. C is scikit-learn's: `regularisation` converts it
    values : of that parameter, ascending
    options : parameters of the estimator, those that the user leaves at their defaults
    steps : of a minibatch solver, about so many; epochs are counted from the rows
    refit : whether the best candidate is fitted again, to training and validation rows
    validation : share of the training rows that is held out where no validation rows are given
    """

    name: str
    text: str
    source: str
    parameter: Parameter
    values: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    refit: bool = True
    validation: float = 0.1

    @property
    def strongest_last(self) -> bool:
        """Whether larger values are a stronger penalty."""
        return self.parameter == "reg"


def regularisation(C: float, rows: int, *, one_vector: bool) -> float:
    """`reg` of the same objective as scikit-learn's C.

        reg = 1 / (2 C rows);   1 / (C rows) for a linear model of two classes

    one_vector : whether the model is linear and has two classes: scikit-learn then penalises one
        vector w, and here W = (-w/2, w/2), of half the squared norm
    """
    return 1.0 / ((1.0 if one_vector else 2.0) * C * rows)


_LBFGS = {"solver": "lbfgs", "max_iter": 1000}
_SIMCLR_VALUES = tuple(np.logspace(-6, 5, 45).tolist())
_REFIT = (
    "L-BFGS, at most 1000 iterations; the best on the validation rows is fitted again to training "
    "and validation rows."
)
_SIMCLR_TEXT = f"45 values of C, log-spaced from 1e-6 to 1e5; {_REFIT}"

#: Every protocol by its name.
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "dinov2",
            _SIMCLR_TEXT,
            "Oquab et al. (2023), DINOv2: dinov2/eval/log_regression.py",
            "C",
            _SIMCLR_VALUES,
            _LBFGS,
        ),
        Protocol(
            "simclr",
            _SIMCLR_TEXT,
            "Chen et al. (2020), SimCLR, appendix B.8, after Kornblith et al. (2019)",
            "C",
            _SIMCLR_VALUES,
            _LBFGS,
        ),
        Protocol(
            "clip",
            "97 values of C, log-spaced from 1e-6 to 1e6, 8 a decade, all of them where the "
            f"original searches by halving; {_REFIT}",
            "Radford et al. (2021), CLIP, appendix A.3",
            "C",
            tuple(np.logspace(-6, 6, 97).tolist()),
            _LBFGS,
        ),
        Protocol(
            "dinov2-linear",
            "13 learning rates from 1e-5 to 0.1, times batch size / 256; SGD with momentum 0.9, "
            "about 12,500 steps of 128 rows, cosine schedule, no penalty; the best on the "
            "validation rows is the model.",
            "Oquab et al. (2023), DINOv2: dinov2/eval/linear.py",
            "learning_rate",
            (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1),
            {"solver": "momentum", "lr_schedule": "cosine", "batch_size": 128, "reg": 0.0},
            steps=12_500,
            refit=False,
        ),
    )
}


def free_grid(parameter: Parameter, values: Sequence[float]) -> Protocol:
    """The protocol of a user's own values."""
    return Protocol(
        "grid",
        f"{count(len(values), 'value')} of {parameter}; the best is fitted again to training and "
        "validation rows.",
        "values of the user",
        parameter,
        tuple(sorted({float(value) for value in values})),
        {"solver": "momentum"} if parameter == "learning_rate" else {},
    )
