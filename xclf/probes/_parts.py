"""The rows of a probe: arrays or files in, checked parts for training, validation and test out."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xclf import _array_api
from xclf.data import Dataset, check_there, load
from xclf.estimators import (
    SoftmaxClassifier,
    block_targets,
    check_same_device,
    check_x,
    check_y,
    computed,
    encode,
    label_columns,
    optimized_together,
    put_beside,
    unit_rows,
)
from xclf.probes._block_part import BlockPart
from xclf.probes._part import Part, task_numbers
from xclf.rows import Blocks

#: What holds rows and labels: arrays (X, y), a `Dataset`, or what `xclf.data.load` reads.
Source = Any


@dataclass(frozen=True)
class Sources:
    """One feature set: what is to be read.

    val, tests : None, a share of the training rows, or sources
    single : whether it is the only one
    """

    name: str
    train: Source
    val: Source | float | None
    tests: Mapping[str, Source] | float | None
    single: bool = False


@dataclass(frozen=True)
class Parts:
    """One feature set, read and checked; shares are not yet drawn."""

    train: Part
    val: Part | float | None
    tests: list[Part] | float | None


def feature_sets(train: Source, val: Any, test: Any) -> list[Sources]:
    """The feature sets of `probe`'s arguments: one, or one for each layer.

    Raises ValueError where validation or test rows are not given for each layer, TypeError for
    rows without their labels.
    """
    if hasattr(train, "shape"):
        raise TypeError(
            f"train must be (X, y), a path or a data set, got only an array of type "
            f"{type(train).__name__}: labels go with their rows, train=(X, y)"
        )
    layers = _layers(train)
    if layers is None:
        return [Sources("features", train, _given_or_share(val, "val"), _tests(test), True)]
    for source in layers.values():  # before hours of work on those that are there
        if isinstance(source, str | os.PathLike):
            check_there(os.fspath(source))
    vals = _for_each(layers, val, "val")
    tests = _for_each(layers, test, "test")
    return [
        Sources(
            name, source, vals[name], {"test": part} if _is_source(part := tests[name]) else part
        )
        for name, source in layers.items()
    ]


def read(sources: Sources, *, normalize: bool, reading: Mapping[str, Any]) -> Parts:
    """The rows of one feature set, checked.

    normalize : whether rows are divided by their Euclidean norm;  reading : options of `load`
    Raises ValueError for rows that do not fit each other, and for labels that training lacks.
    """
    train, data = _part("train", "train", sources.train, reading)
    for number in task_numbers(train):
        encode(train.task(number).labels, "y" if number is None else f"column {number} of y")
    own = {"n_features": int(train.X.shape[1]), "index_base": getattr(data, "index_base", None)}
    own = {**reading, **own}
    val = sources.val
    if _is_source(val):
        val, _ = _part("validation", "validation", val, own)
        _check_beside(train, val)
    tests: list[Part] | float | None
    if isinstance(sources.tests, Mapping):
        tests = [_part("test", n, one, own)[0] for n, one in sources.tests.items()]
    elif sources.tests is None and data is not None and data.test is not None:
        tests = [_part("test", "test", data.test, own)[0]]
    else:
        tests = sources.tests
    for part in tests if isinstance(tests, list) else []:
        _check_beside(train, part)
    parts = Parts(train, val, tests)
    return _normalized(parts) if normalize else parts


def _normalized(parts: Parts) -> Parts:
    def scaled(part: Any) -> Any:
        if isinstance(part, list):
            return [scaled(one) for one in part]
        return replace(part, X=unit_rows(part.X)) if isinstance(part, Part) else part

    return Parts(scaled(parts.train), scaled(parts.val), scaled(parts.tests))


# Of a data set.
_KEPT = ("class_names", "image_shape", "pixel_layout", "feature_names", "index_base")


def _part(
    role: str, name: str, source: Source, reading: Mapping[str, Any]
) -> tuple[Part, Dataset | None]:
    """A part, and the data set that it was read from, if it was."""
    data: Dataset | None = None
    if isinstance(source, tuple):
        if len(source) != 2:
            raise ValueError(f"{role}: expected (X, y), got a tuple of {len(source)}")
        X, y = source
    else:
        data = source if isinstance(source, Dataset) else load(source, several=True, **reading)
        X, y = data.x, data.y
    checked = SoftmaxClassifier()
    try:
        X, y = optimized_together(X, y)
        X = check_x(checked, X, reset=True)
        targets = block_targets(X, y, least=1)
        if targets is None:
            y = computed(y)
            check_same_device(X, y, "y")
            y, tasks = _labels(checked, X, y)
        else:
            tasks = None if targets.names is None else _names(y, len(targets.names))
    except (ValueError, TypeError) as error:
        where = name if data is None else data.source
        raise type(error)(f"{where}: {error}") from None
    known = {} if data is None else {key: getattr(data, key) for key in _KEPT}
    if (names := getattr(checked, "feature_names_in_", None)) is not None:  # of a data frame
        known["feature_names"] = tuple(names.tolist())
    where = "arrays" if data is None else data.source
    if tasks is not None and data is not None:
        tasks = data.task_names or tasks
    if not isinstance(X, Blocks):
        return Part(role, name, X, y, where, tasks=tasks, **known), data
    if targets is None:
        columns = [y] if tasks is None else list(y.T)
        indices = [np.unique(own, return_inverse=True) for own in columns]
        targets = put_beside(X, indices, None if tasks is None else list(tasks))
    return BlockPart(role, name, X, targets, where, tasks=tasks, **known), data


def _labels(model: Any, X: Any, y: Any) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """(host labels, names of their columns, None for one)."""
    columns = None if y is None else label_columns(y)
    if columns is None:
        return check_y(model, X, y), None
    checked = [check_y(model, X, labels) for _, labels in columns]
    if len({labels.dtype.kind in "biuf" for labels in checked}) > 1:
        raise ValueError("columns of y must be all numbers or all strings")
    return np.stack(checked, axis=1), _names(y, len(columns))


def _names(y: Any, tasks: int) -> tuple[str, ...]:
    names = getattr(y, "columns", None)
    names = [f"task {number}" for number in range(tasks)] if names is None else names
    return tuple(map(str, names))


def _check_beside(train: Part, part: Part) -> None:
    """ValueError for rows of another width or place, or with labels that training lacks."""
    if int(part.X.shape[1]) != int(train.X.shape[1]):
        raise ValueError(
            f"{part.name} has {int(part.X.shape[1])} features a row, train {int(train.X.shape[1])}"
        )
    names = zip(part.feature_names or (), train.feature_names or (), strict=False)
    for column, (name, expected) in enumerate(names, start=1):
        if name != expected:
            raise ValueError(
                f"{part.name}: feature column {column} is {name!r}, train has {expected!r} there: "
                "put the columns in that order"
            )
    if not _array_api.same_device(train.X, part.X):
        raise ValueError(
            f"train is {_array_api.describe_device(train.X)} but {part.name} is "
            f"{_array_api.describe_device(part.X)}: move one of them"
        )
    if task_numbers(part) != task_numbers(train):
        raise ValueError(
            f"{part.name} has labels of {len(task_numbers(part))} columns, train of "
            f"{len(task_numbers(train))}"
        )
    for number in task_numbers(train):
        _check_known(train.task(number).labels, part.task(number))


def _check_known(classes: np.ndarray, part: Part) -> None:
    # Numbers and strings must not meet: NumPy would compare them as strings.
    own = part.labels
    comparable = (own.dtype.kind in "biuf") == (classes.dtype.kind in "biuf")
    unseen = np.setdiff1d(own, classes) if comparable else own
    if unseen.size:
        raise ValueError(
            f"{part.name} holds labels that train lacks: {unseen[:5].tolist()}; train has "
            f"{classes[:20].tolist()}"
        )


def _is_source(value: Any) -> bool:
    return value is not None and not _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _given_or_share(value: Any, name: str) -> Any:
    if _is_number(value) and not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be rows, or a share in [0, 1) of train, got {value!r}")
    return value


def _tests(test: Any) -> Mapping[str, Source] | float | None:
    if test is None or _is_number(test):
        return _given_or_share(test, "test")  # type: ignore[no-any-return]
    if isinstance(test, Mapping):
        return {str(name): source for name, source in test.items()}
    if isinstance(test, list):
        names = [_name_of(source, f"test {k}") for k, source in enumerate(test)]
        return {_unique(names, k): source for k, source in enumerate(test)}
    return {"test": test}


def _layers(train: Source) -> dict[str, Source] | None:
    """Feature sets by name, or None for one."""
    if isinstance(train, Mapping):
        sets = {str(name): source for name, source in train.items()}
    elif isinstance(train, list):
        names = [_name_of(source, f"layer {k}") for k, source in enumerate(train)]
        sets = {_unique(names, k): source for k, source in enumerate(train)}
    elif (files := _pattern(train)) is not None:
        sets = {_name_of(file, ""): file for file in files}
    else:
        return None
    if not sets:
        raise ValueError("train holds no feature set")
    return sets


def _for_each(layers: Mapping[str, Source], given: Any, name: str) -> dict[str, Any]:
    """Validation or test rows of each layer; a share, or None, is every layer's."""
    if given is None or _is_number(given):
        return dict.fromkeys(layers, _given_or_share(given, name))
    files = _pattern(given)
    listed = files if files is not None else given
    if isinstance(listed, Mapping) and set(listed) == set(layers):
        return dict(listed)
    if isinstance(listed, list) and len(listed) == len(layers):
        return dict(zip(layers, listed, strict=True))
    got = f"{len(listed)}" if isinstance(listed, list | Mapping) else "one"
    raise ValueError(
        f"train holds {len(layers)} feature sets, the first {next(iter(layers))!r}: {name} needs "
        f"as many, in the same order or under the same names, or a share; got {got}"
    )


def _pattern(source: Source) -> list[str] | None:
    """Files of 'layers/*.npy,labels.npy', rows of each with the same labels; None for others."""
    if not isinstance(source, str | os.PathLike):
        return None
    pair = re.fullmatch(r"(.*\.(?:npy|pt|safetensors|h5)),([^*?\[]*)", os.fspath(source))
    if pair is None or not glob.has_magic(pair[1]):
        return None
    found = sorted(glob.glob(pair[1]))  # noqa: PTH207
    if not found:
        raise ValueError(f"{pair[1]}: no file is named so")
    return [f"{file},{pair[2]}" for file in found]


def _name_of(source: Source, default: str) -> str:
    if isinstance(source, str | os.PathLike):
        return Path(os.fspath(source).partition(",")[0]).stem
    return default


def _unique(names: list[str], k: int) -> str:
    return names[k] if names.count(names[k]) == 1 else f"{names[k]} {k}"
