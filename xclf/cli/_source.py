"""DATA in the shell: reading and checking rows to train on, to test on, or to predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xclf._sparse import is_sparse
from xclf._sparse_input import canonical, check_sparse_finite
from xclf.cli._console import UserError
from xclf.data import Dataset, Split, load

# Rows checked at once: the data may be a memory map that is larger than memory.
_CHECKED_ROWS = 1 << 14


def read_split(
    source: str,
    *,
    test: str | None,
    test_size: float,
    seed: int,
    like: Any = None,
    **options: Any,
) -> Split:
    """Read `source`; the test rows are those of `test`, or those it ships, or held-out ones.

    like : a fitted model, whose columns the rows must have;  options : of `load`
    """

    def read(name: str, **columns: Any) -> Dataset:
        return load(name, **{**options, **columns})

    data = read(source, **columns_of(like))
    held_out = data.test
    if test is not None:
        columns = {"n_features": data.x.shape[1], "index_base": data.index_base}
        held_out = read(test, **columns, blocks=False)
        held_out = held_out.test or held_out
        if held_out.x.shape[1] != data.x.shape[1]:
            raise UserError(
                f"--test {test} has {held_out.x.shape[1]} features a row, "
                f"{source} {data.x.shape[1]}"
            )
        if data.feature_names is not None:
            check_columns(held_out.feature_names, data.feature_names, test)
    assert data.y is not None
    classes = np.unique(data.y)
    if len(classes) < 2:
        raise UserError(
            f"{data.source} holds one class only, {classes.tolist()[0]!r}: a classifier needs two"
        )
    check_finite(data.x, data.source)
    if held_out is not None:
        check_labels(held_out, classes, held_out.source)
        check_finite(held_out.x, held_out.source)
        return Split(data, held_out, held_out.source)
    if not 0.0 < test_size < 1.0:
        raise UserError(f"--test-size must be between 0 and 1, got {test_size:g}")
    try:
        return Split.hold_out(data, test_size, seed)
    except ValueError as error:
        raise UserError(
            f"cannot hold out {test_size:g} of {len(data.y)} rows of {source}, stratified; "
            f"--test gives others to test on: {error}"
        ) from None


def reading_options(given: dict[str, Any]) -> dict[str, Any]:
    """The options of `load` among a command's arguments."""
    named = {name: given[name] for name in ("x_name", "y_name") if given[name] is not None}
    blocks = given.get("blocks", False)
    return {"label": given["label"], "max_memory": given["max_memory"], "blocks": blocks, **named}


def columns_of(model: Any) -> dict[str, Any]:
    """The options of `load` that give an svmlight file the columns of a model, if it is fitted."""
    return {
        "n_features": getattr(model, "n_features_in_", None),
        "index_base": getattr(model, "_index_base", None),
    }


def read_for_model(
    model: Any,
    source: str,
    *,
    train_part: bool,
    **options: Any,
) -> Dataset:
    """Rows for a fitted model, with the columns it was trained on: the test part, if there is one.

    options : of `load`
    The model's `feature_names_in_` is removed: scikit-learn would expect data frames.
    """
    data = load(source, **options, **columns_of(model))
    if data.test is not None and not train_part:
        data = data.test
    if data.x.shape[1] != model.n_features_in_:
        hint = "" if data.feature_names is None else "; --label NAME sets a label column apart"
        raise UserError(
            f"{source} has {data.x.shape[1]} features a row, the model was trained on "
            f"{model.n_features_in_}{hint}"
        )
    check_model_columns(model, data.feature_names, source)
    return data


def check_model_columns(model: Any, names: Sequence[str] | None, source: str) -> None:
    """`check_columns` against those of a fitted model, whose names are then removed."""
    trained = model.__dict__.pop("feature_names_in_", None)
    if trained is not None:
        check_columns(names, trained.tolist(), source)


def check_columns(names: Sequence[str] | None, trained: Sequence[str], source: str) -> None:
    """`UserError` if a table's columns are not those trained on, in their order."""
    if names is None:
        return  # not a table: columns have no names
    for number, (name, expected) in enumerate(zip(names, trained, strict=True), start=1):
        if name != expected:
            raise UserError(
                f"{source}: feature column {number} is {name!r}, the model was trained with "
                f"{expected!r} there: put the columns in that order"
            )


def check_finite(x: np.ndarray, source: str, first: int = 0) -> None:
    """`UserError` naming the first NaN or infinity in rows x, which begin at row `first`.

    The estimators check too, but they see rows that were split and chunked, and number those.
    """
    if is_sparse(x):
        try:
            check_sparse_finite(canonical(x), first)
        except ValueError as error:
            raise UserError(f"{source}: {error}") from None
        return
    if x.dtype.kind != "f" or not isinstance(x, np.ndarray):  # blocks are checked by the fit
        return
    for start in range(0, len(x), _CHECKED_ROWS):
        part = np.asarray(x[start : start + _CHECKED_ROWS])
        finite = np.isfinite(part)
        if not finite.all():
            row, column = np.argwhere(~finite)[0].tolist()
            raise UserError(
                f"{source} holds {part[row, column]} in row {first + start + row}, column {column} "
                "(counted from 0): every value must be finite"
            )


def check_labels(data: Dataset, classes: np.ndarray, source: str) -> None:
    """`UserError` if the labels of `data` are not all among `classes`."""
    y = data.y
    assert y is not None
    # Numbers and strings must not meet: NumPy would compare them as strings.
    comparable = (y.dtype.kind in "biuf") == (classes.dtype.kind in "biuf")
    unseen = np.setdiff1d(y, classes) if comparable else np.unique(y)
    if unseen.size:
        raise UserError(
            f"{source} holds labels that the model does not know: {unseen[:5].tolist()}; "
            f"it knows {classes[:20].tolist()}"
        )
