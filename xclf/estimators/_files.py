"""Model files: safetensors with metadata, written atomically, read without running anything.

A file holds the fitted arrays, those that `partial_fit` goes on from, and one metadata entry, a
JSON text: class, parameters, classes, feature names, results, versions, and a SHA-256 digest over
that text and all arrays. JSON and raw numbers are all there is: nothing in a file can run code.
"""

from __future__ import annotations

import copy
import json
import math
import numbers
import re
from pathlib import Path
from typing import Any

import numpy as np
import sklearn

from xclf import _array_api
from xclf._tensor_file import TensorFileError, read_tensors, write_tensors
from xclf._version import __version__
from xclf._warnings import warn_caller
from xclf.estimators._base import BaseClassifier
from xclf.estimators._fitted import FittedModel
from xclf.estimators._resume import read_resume
from xclf.estimators._scores import fitted_shape, fitted_widths
from xclf.estimators._tasks import join_tasks
from xclf.estimators._trained_on import TrainedOn, check_class_names
from xclf.rows import parse_bytes

FORMAT = "xclf-model"
SUFFIX = ".safetensors"
#: That of models of several tasks; those of one are written as version 1, which has no tasks.
VERSION = 2

# Results kept beside the arrays.
_RESULTS = ("n_iter_", "objective_", "converged_", "history_", "n_features_in_")
# Those that not every solver, or every version of this library, gives.
_MORE_RESULTS = ("grad_norm_", "dual_gap_")
# All labels together: a dtype in a file may claim any width.
_MOST_LABEL_BYTES = 2**28
# Parameters that hold live objects, which no file can.
_UNSAVED = ("callbacks",)

# What a text or arrays that do not describe a model raise on the way to one; brackets in brackets
# exhaust the recursion limit.
_UNREADABLE = (
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    MemoryError,
)


class ModelFileError(ValueError):
    """A model file that cannot be read: missing parts, altered, or not one of ours."""


# What follows the last dot of a name without one: the decimals in "probe_reg0.01", or a version.
_NO_SUFFIX = re.compile(r"(\.v?[0-9].*)?")


def check_model_path(path: Path) -> None:
    """ValueError for the suffix of another format: a pickle, say, or a table."""
    if path.suffix.lower() != SUFFIX and not _NO_SUFFIX.fullmatch(path.suffix):
        raise ValueError(
            f"a model file is safetensors: its name must end in {SUFFIX}, got {path.name!r}"
        )


def save_model(model: FittedModel, path: Path) -> None:
    """Write `model` to `path`; see `FittedModel.save`."""
    check_model_path(path)
    body = json.dumps(_describe(model), sort_keys=True, allow_nan=False)
    write_tensors(path, FORMAT, body, _flat_arrays(model))


def load(path: str | Path, like: Any = None) -> BaseClassifier:
    """Read a fitted model that `save` wrote.

    Parameters
    ----------
    path : str or Path
    like : array, default=None
        The model's arrays go to its namespace and device; None: NumPy.

    Returns
    -------
    SoftmaxClassifier, SVMClassifier or TwoLayerClassifier, as it was saved.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ModelFileError
        A ValueError of one line: the file is cut, altered, from a later version, or no model.
    """
    path = Path(path)
    if not path.is_file():
        inside = sorted(one.name for one in path.glob(f"*{SUFFIX}")) if path.is_dir() else []
        hint = f": it is a folder, with {path / inside[0]} in it" if inside else ""
        raise FileNotFoundError(f"no model file at {path}{hint}")
    try:
        body, arrays = read_tensors(path, FORMAT, "xclf model")
    except TensorFileError as error:
        raise ModelFileError(str(error)) from None
    try:
        description = json.loads(body)
        if description["version"] > VERSION:
            writer = description["versions"]["xclf"]
            raise ModelFileError(f"{path} was written by a later xclf ({writer}): update xclf")
        model = _rebuild(description, arrays)
    except ModelFileError:
        raise
    except _UNREADABLE as error:
        raise ModelFileError(f"{path} is not a readable xclf model: {error}") from None
    if like is None:
        return model
    return model.to_namespace(_array_api.namespace(like), device=_array_api.device(like))


def _flat_arrays(model: FittedModel) -> dict[str, np.ndarray]:
    """The arrays by their names in a file; those of task k begin with "k:"."""
    flat: dict[str, np.ndarray] = {}
    if model._task_models is not None:
        for number, task in enumerate(model._task_models):
            own = _flat_arrays(task).items()
            flat |= {f"{number}:{name}": array for name, array in own}
        return flat
    for name in model._array_names():
        value = getattr(model, name)
        entries = value.items() if isinstance(value, dict) else [("", value)]
        for key, array in entries:
            flat[f"{name}.{key}" if key else name] = _array_api.to_host(array)
    resume = model._resume
    if resume is not None and resume.describe() is not None:
        flat |= {name: _array_api.to_host(array) for name, array in resume.arrays().items()}
    return flat


def _describe(model: FittedModel) -> dict[str, Any]:
    names, tasks = getattr(model, "feature_names_in_", None), model._task_models
    trained_on = model._trained_on
    about = {
        "version": 1 if tasks is None else VERSION,
        "class": type(model).__name__,
        "parameters": _parameters(model),
        "feature_names": None if names is None else [str(name) for name in names],
        "index_base": getattr(model, "_index_base", None),
        "trained_on": None if trained_on is None else trained_on.describe(),
        "versions": {"xclf": __version__, "numpy": np.__version__, "sklearn": sklearn.__version__},
    }
    if model._unit_rows:  # as earlier versions write what has it not
        about["unit_rows"] = True
    if tasks is None:
        return about | _describe_fitted(model)
    return about | {
        "indicators": model._indicators,
        "tasks": [_describe_fitted(task) for task in tasks],
    }


def _describe_fitted(model: FittedModel) -> dict[str, Any]:
    results = {name: _plain(getattr(model, name)) for name in _RESULTS}
    results |= {
        name: _plain(getattr(model, name)) for name in _MORE_RESULTS if hasattr(model, name)
    }
    resume, names = model._resume, model.class_names_
    return {
        "classes": _encode_labels(model.classes_),
        "class_names": None if names is None else check_class_names(names, len(model.classes_)),
        "results": results,
        "resume": None if resume is None else _plain(resume.describe()),
    }


def _parameters(model: FittedModel) -> dict[str, Any]:
    saved = {}
    for name, value in model.get_params(deep=False).items():
        if name in _UNSAVED:
            value = None
        elif name == "class_weight" and not (value is None or isinstance(value, str)):
            labels = np.asarray(list(value))
            weights = [float(weight) for weight in value.values()]
            value = {"labels": _encode_labels(labels), "weights": weights}
        elif name == "random_state" and not isinstance(value, int | np.integer):
            if value is not None:
                warn_caller(
                    "random_state is a generator, which a model file cannot hold: saved as None"
                )
            value = None
        saved[name] = _plain(value)
    return saved


def _plain(value: Any) -> Any:
    """Numbers, strings, arrays, lists and dicts as JSON has them; NaN and infinity as tagged
    strings."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if type(value) not in (bool, int) and isinstance(value, numbers.Real):
        value = float(value)  # a Fraction, say
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _unplain(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"float"}:
            return float(value["float"])
        return {key: _unplain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_unplain(entry) for entry in value]
    return value


def _encode_labels(labels: np.ndarray) -> dict[str, Any]:
    kind = labels.dtype.kind
    if kind not in "biufUOmM":
        raise ValueError(
            f"labels of dtype {labels.dtype} cannot be saved: train on numbers or strings"
        )
    values = labels.astype(np.int64).tolist() if kind in "mM" else labels.tolist()
    if kind == "O" and not all(isinstance(v, str | int | float) for v in values):
        raise ValueError(
            "labels that are neither strings nor numbers cannot be saved: train on y.astype(str)"
        )
    text = "O" if kind == "O" else labels.dtype.str
    return {"dtype": text, "values": [_plain(v) for v in values]}


def _decode_labels(labels: dict[str, Any]) -> np.ndarray:
    dtype, values = np.dtype(labels["dtype"]), _unplain(labels["values"])
    if dtype.kind in "mM":  # dates, as whole numbers of their unit
        return np.asarray(values, dtype=np.int64).astype(dtype)
    if dtype.kind not in "biufUO" or dtype.itemsize * len(values) > _MOST_LABEL_BYTES:
        raise ValueError(f"{len(values)} labels of dtype {dtype}")
    return np.asarray(values, dtype=dtype)


def _rebuild(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> BaseClassifier:
    if "tasks" not in description:
        return _rebuild_fitted(description, arrays)
    models = []
    for number, task in enumerate(description["tasks"]):
        own = {
            k.partition(":")[2]: v for k, v in arrays.items() if k.partition(":")[0] == str(number)
        }
        one = {"trained_on": None, "unit_rows": _takes_unit_rows(description)}
        models.append(_rebuild_fitted(description | task | one, own))
    features = {(model.n_features_in_, fitted_shape(model)[1]) for model in models}
    indicators = bool(description["indicators"])
    binary = all(np.array_equal(model.classes_, (0, 1)) for model in models)
    if len(models) < 2 or len(features) != 1 or (indicators and not binary):
        raise ModelFileError(
            "the tasks of a model must have the same features, and be two at least"
        )
    model = copy.copy(models[0])
    join_tasks(model, models, indicators)
    if description.get("trained_on") is not None:
        model._trained_on = TrainedOn.read(description["trained_on"])
    return model


def _rebuild_fitted(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> BaseClassifier:
    from xclf import estimators

    name = description["class"]
    if name not in ("SoftmaxClassifier", "SVMClassifier", "TwoLayerClassifier"):
        raise ModelFileError(f"unknown model class {name!r}")
    parameters = _unplain(description["parameters"])
    weight = parameters.get("class_weight")
    if isinstance(weight, dict):
        labels = _decode_labels(weight["labels"])
        keys = list(labels) if labels.dtype.kind in "mM" else labels.tolist()
        parameters["class_weight"] = dict(zip(keys, weight["weights"], strict=True))
    model: BaseClassifier = getattr(estimators, name)(**parameters)
    parse_bytes(model.max_memory)  # the one parameter that predictions read: ValueError if no size
    model.classes_ = _decode_labels(description["classes"])
    results = description["results"]
    for name in (*_RESULTS, *(name for name in _MORE_RESULTS if name in results)):
        setattr(model, name, _unplain(results[name]))
    if description["feature_names"] is not None:
        model.feature_names_in_ = np.asarray(description["feature_names"], dtype=object)
    if description.get("class_names") is not None:
        model.class_names_ = check_class_names(description["class_names"], len(model.classes_))
    if description.get("trained_on") is not None:
        model._trained_on = TrainedOn.read(description["trained_on"])
    if _takes_unit_rows(description):
        model._unit_rows = True
    base = description.get("index_base")
    if base is not None:
        if type(base) is not int or base not in (0, 1):
            raise ModelFileError(f"the first index of svmlight files is 0 or 1, got {base!r}")
        model._index_base = base
    for name in model._array_names():
        keyed = {k.partition(".")[2]: v for k, v in arrays.items() if k.partition(".")[0] == name}
        setattr(model, name, keyed.get("", keyed))
    dtype, sizes = _check_shapes(model)
    if description.get("resume") is not None:
        model._resume = read_resume(description["resume"], arrays, sizes, dtype)
    return model


def _takes_unit_rows(description: dict[str, Any]) -> bool:
    """Whether the model divides rows by their norm, which an earlier version says of the data."""
    known = description.get("trained_on") or {}
    unit = description.get("unit_rows", known.get("normalize", False))
    if type(unit) is not bool:
        raise ModelFileError(f"unit_rows must be true or false, got {unit!r}")
    return unit


def _check_shapes(model: FittedModel) -> tuple[np.dtype, set[int]]:
    """The arrays must be those of the model that the metadata describes. Their dtype, and how many
    parameters such a model trains, without and with intercepts."""
    layers = model._layers()
    dtypes = {array.dtype for layer in layers for array in layer if array is not None}
    if len(dtypes) != 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
        raise ModelFileError(f"arrays must be all float32 or all float64, got {dtypes}")
    widths = (model.n_features_in_, *fitted_widths(layers)[1:-1], len(model.classes_))
    for layer, d, m in zip(layers, widths[:-1], widths[1:], strict=True):
        if layer.w.shape != (m, d) or layer.b is None or layer.b.shape != (m, 1):
            raise ModelFileError(
                f"arrays of shape {layer.w.shape} do not fit a model of widths {widths}"
            )
    weights = sum(layer.w.size for layer in layers)
    return dtypes.pop(), {weights, weights + sum(widths[1:])}
