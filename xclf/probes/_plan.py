"""The candidates of a probe: a protocol with an estimator, for a number of rows and classes."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from xclf.estimators import (
    BaseClassifier,
    SoftmaxClassifier,
    SVMClassifier,
    TwoLayerClassifier,
    check_parameters,
)
from xclf.probes._protocols import PROTOCOLS, Parameter, Protocol, free_grid, regularisation

#: Estimators by the names that `probe` takes.
ESTIMATORS: dict[str, type[BaseClassifier]] = {
    "softmax": SoftmaxClassifier,
    "svm": SVMClassifier,
    "two-layer": TwoLayerClassifier,
}
_EARLIER = {"net": "two-layer"}  # names that are understood and not shown

_BATCH_OF_RATES = 256  # rows of a minibatch that nominal learning rates are for


@dataclass(frozen=True)
class Plan:
    """protocol : of the probe;  estimator : whose parameters the candidates share"""

    protocol: Protocol
    estimator: BaseClassifier

    def candidates(self, rows: int, classes: int) -> list[BaseClassifier]:
        """An estimator for each value of the protocol, for fits to so many rows."""
        like = self._prepared(rows)
        values = self.protocol.values
        return [self._with(copy.copy(like), value, rows, classes) for value in values]

    def candidate(self, value: float, rows: int, classes: int) -> BaseClassifier:
        """The estimator of one value."""
        return self._with(self._prepared(rows), value, rows, classes)

    def _prepared(self, rows: int) -> BaseClassifier:
        """An estimator with all that its candidates share."""
        model: BaseClassifier = clone(self.estimator)
        model.set_params(**self._options())
        if self.protocol.steps is not None:
            model.set_params(**_epochs(self.protocol.steps, rows, model.batch_size or 200))
        return model

    def _with(self, model: BaseClassifier, value: float, rows: int, classes: int) -> BaseClassifier:
        if self.protocol.parameter == "C":
            one_vector = classes == 2 and not isinstance(model, TwoLayerClassifier)
            model.reg = regularisation(value, rows, one_vector=one_vector)
            return model
        if self.protocol.parameter == "learning_rate" and self.protocol.steps is not None:
            value *= min(model.batch_size or 200, rows) / _BATCH_OF_RATES
        model.set_params(**{self.protocol.parameter: value})
        return model

    def chosen(self, scores: np.ndarray) -> int:
        """The number of the best value; of equally good ones that of the strongest penalty, or the
        smallest learning rate. Scores that are not known are NaN."""
        known = np.where(np.isnan(scores), -np.inf, scores)
        if self.protocol.strongest_last:
            return len(known) - 1 - int(known[::-1].argmax())
        return int(known.argmax())

    def _options(self) -> dict[str, Any]:
        """The protocol's, but for those that the user has set."""
        own, default = self.estimator.get_params(deep=False), type(self.estimator)()
        return {
            name: value
            for name, value in self.protocol.options.items()
            if own[name] == getattr(default, name)
        }


def _epochs(steps: int, rows: int, batch: int) -> dict[str, Any]:
    """Parameters of a fit of about `steps` minibatches that runs to its end."""
    epochs = max(1, round(steps / math.ceil(rows / batch)))
    return {"max_iter": epochs, "n_iter_no_change": epochs + 1, "tol": 0.0}


def make_plan(
    protocol: str,
    estimator: str | BaseClassifier,
    grids: dict[Parameter, Any],
    seed: int,
    parameters: dict[str, Any],
) -> Plan:
    """The plan of these arguments of `probe`. Raises ValueError or TypeError for bad ones."""
    model = _estimator(estimator, parameters)
    if model.random_state is None:
        model.set_params(random_state=seed)
    given = {name: values for name, values in grids.items() if values is not None}
    if len(given) > 1:
        raise ValueError(f"give one of {', '.join(grids)}: a probe has one grid")
    for name, values in given.items():
        listed = np.atleast_1d(np.asarray(values, dtype=np.float64))
        if listed.ndim != 1 or not len(listed) or not np.isfinite(listed).all():
            raise ValueError(f"{name} must be finite numbers in a list, got {values!r}")
        if (listed < 0.0).any() or (name != "reg" and (listed == 0.0).any()):
            raise ValueError(f"{name} must be above 0, got {listed.min():g}")
        return Plan(free_grid(name, listed.tolist()), model)
    if protocol not in PROTOCOLS:
        names = ", ".join(PROTOCOLS)
        raise ValueError(f"protocol must be one of {names}, got {protocol!r}")
    return Plan(PROTOCOLS[protocol], model)


def _estimator(estimator: str | BaseClassifier, parameters: dict[str, Any]) -> BaseClassifier:
    name = _EARLIER.get(estimator, estimator) if isinstance(estimator, str) else ""
    if name in ESTIMATORS:
        model = ESTIMATORS[name]()
    elif isinstance(estimator, BaseClassifier):
        model = clone(estimator)
    else:
        raise ValueError(
            f"estimator must be one of {', '.join(ESTIMATORS)}, or a classifier of xclf, got "
            f"{estimator!r}"
        )
    known = model.get_params(deep=False)
    unknown = [name for name in parameters if name not in known]
    if unknown:
        raise TypeError(
            f"probe got {unknown[0]!r}, which is neither its own parameter nor one of "
            f"{type(model).__name__}"
        )
    check_parameters(type(model), known | parameters)
    model.set_params(**parameters)
    return model
