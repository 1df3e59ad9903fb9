"""An estimator from the options of `train` and `sweep`."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path
from typing import Any

from xclf.cli._console import UserError
from xclf.cli._devices import ChosenDevice
from xclf.cli._options import CLASSES, Model, one_of
from xclf.estimators import check_parameters
from xclf.estimators import load as load_model

#: Estimator parameters that an option of the same name sets.
PARAMETERS = (
    *("reg", "standardize", "hidden", "loss", "margin"),
    *("solver", "max_iter", "tol", "batch_size", "learning_rate", "momentum", "lr_schedule"),
    *("early_stopping", "validation_fraction", "n_iter_no_change", "max_memory"),
)


def estimator_options(given: dict[str, Any], swept: Container[str] = ()) -> dict[str, Any]:
    """Estimator parameters from the arguments of a command, all but those `swept`.

    None, for an option that is not given and a flag that is off, leaves a parameter as it is.
    """
    names = (name for name in PARAMETERS if name not in swept)
    return {
        **{name: given[name] for name in names if given[name] is not False},
        "fit_intercept": False if given["no_intercept"] else None,
        "random_state": given["seed"],
        "class_weight": parse_class_weight(given["class_weight"]),
    }


def load_fitted(path: Path, device: ChosenDevice, max_memory: str | None) -> Any:
    """A saved model on this device, with --max-memory if it is given."""
    model = load_model(path)
    if max_memory is not None:
        model.set_params(max_memory=max_memory)
    return device.put_model(model)


def parse_class_weight(text: str | None) -> Any:
    """None, "balanced", or a dict from 'LABEL=WEIGHT,...'; whole numbers are int labels."""
    if text is None or text == "balanced":
        return text
    weights: dict[Any, float] = {}
    for part in text.split(","):
        key, equals, value = part.rpartition("=")
        try:
            weight = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise UserError(
                f"--class-weight must be balanced or LABEL=WEIGHT,LABEL=WEIGHT,... got {text!r}"
            )
        weights[int(key) if re.fullmatch(r"-?[0-9]+", key) else key] = weight
    return weights


def check_options(model: Model, options: dict[str, Any]) -> None:
    """An error, in words of the shell, for an option that is not for this model, or a bad value."""
    for name in options:
        owners = tuple(kind for kind, cls in CLASSES.items() if name in _parameters(cls))
        if model not in owners:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is for --model {one_of(owners)} only")
    check_parameters(CLASSES[model], options)


def make_estimator(model: Model, options: dict[str, Any], start: Path | None = None) -> Any:
    """An estimator of this kind with `options`, or the saved one `start`, to go on from.

    options : None means not given: the default, or what `start` was trained with
    """
    given = {name: value for name, value in options.items() if value is not None}
    check_options(model, given)
    estimator = CLASSES[model](**given) if start is None else _continued(model, given, start)
    if estimator.random_state is None:
        estimator.set_params(random_state=0)
    return estimator


def _continued(model: Model, given: dict[str, Any], start: Path) -> Any:
    estimator = load_model(start)
    if hasattr(estimator, "estimators_"):
        raise UserError(f"--start {start} is a model of several tasks: give one of a single task")
    if type(estimator) is not CLASSES[model]:
        kind = next(kind for kind, cls in CLASSES.items() if cls is type(estimator))
        raise UserError(f"--start {start} is a {type(estimator).__name__}: add --model {kind}")
    if "hidden" in given and given["hidden"] != estimator.hidden:
        raise UserError(f"--start {start} has {estimator.hidden} hidden units: leave --hidden out")
    return estimator.set_params(**{"warm_start": True, **given})


def _parameters(cls: Any) -> dict[str, Any]:
    return dict(cls().get_params(deep=False))
