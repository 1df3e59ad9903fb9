"""DATA in the shell: reading and checking rows to train on, to test on, or to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xclf._sparse import is_sparse
from xclf._sparse_input import canonical, check_sparse_finite
from xclf.cli._console import UserError
from xclf.cli._given import refuse, was_typed
from xclf.data import Dataset, Split, load
from xclf.estimators import TrainedOn, hashes_of, unit_rows
from xclf.report.number_text import plain
from xclf.report.run import fingerprint
from xclf.rows import RowSketch

# Rows checked at once: the data may be a memory map that is larger than memory.
_CHECKED_ROWS = 1 << 14


#: What commands say of rows for a model that takes such.
UNIT_ROWS = "rows are divided by their Euclidean norm, as those of the training were"

#: Share of the rows that is held out where nothing else is said.
TEST_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class TrainAndTest:
    """Rows to train on and rows to test on, None for none; where the latter come from, in words."""

    train: Dataset
    test: Dataset | None
    origin: str


def read_split(
    source: str,
    *,
    test: str | None,
    test_size: float | None,
    seed: int,
    like: Any = None,
    **options: Any,
) -> tuple[TrainAndTest, TrainedOn]:
    """Read `source`; the test rows are those of `test`, or those it ships, or held-out ones.

    test_size : share to hold out, 0 for none, None for `TEST_SHARE`
    like : a fitted model, whose columns the rows must have;  options : of `load`
    Returns the rows, and what the model is to keep of them.
    """
    data = load(source, **options, **columns_of(like))
    held_out = data.test if test is None else _read_test(test, data, source, options)
    assert data.y is not None
    classes = np.unique(data.y)
    if len(classes) < 2:
        raise UserError(
            f"{data.source} holds one class only, {classes.tolist()[0]!r}: a classifier needs two"
        )
    check_finite(data.x, data.source, names=data.feature_names)
    if held_out is not None:
        check_labels(held_out, classes, held_out.source)
        check_finite(held_out.x, held_out.source, names=held_out.feature_names)
        return TrainAndTest(data, held_out, held_out.source), _trained_on(data, options)
    test_size = TEST_SHARE if test_size is None else test_size
    if test_size == 0.0:
        return TrainAndTest(data, None, "nothing is held out"), _trained_on(data, options)
    try:
        split = Split.hold_out(data, test_size, seed)
    except ValueError as error:
        why = str(error).partition(" Classes with too few members")[0]  # may name every row
        raise UserError(
            f"cannot hold out {plain(test_size)} of {len(data.y)} rows of {source}, stratified; "
            f"--test gives others to test on: {why}"
        ) from None
    known = replace(_trained_on(data, options), test_size=test_size, seed=seed)
    return TrainAndTest(split.train, split.test, split.origin), known


def check_test_size(given: dict[str, Any]) -> None:
    """`UserError` for a --test-size out of its range."""
    share = given["test_size"]
    if share is not None and not 0.0 <= share < 1.0:
        raise UserError(f"--test-size must be between 0 and 1 (0: no test rows), got {share:g}")


def _read_test(test: str, data: Dataset, source: str, options: dict[str, Any]) -> Dataset:
    """The rows of --test, its test part if it ships one, which must have the columns of `data`."""
    columns = {"n_features": data.x.shape[1], "index_base": data.index_base}
    # Names of columns and arrays are those of `data`, which may be of another kind.
    found = load(test, **{**options, **columns, "blocks": False, "missing_ok": True})
    found = found.test or found
    if found.x.shape[1] != data.x.shape[1]:
        raise UserError(
            f"--test {test} has {found.x.shape[1]} features a row, {source} {data.x.shape[1]}"
        )
    if data.feature_names is not None:
        check_columns(found.feature_names, data.feature_names, test)
    return found


def _trained_on(data: Dataset, options: dict[str, Any]) -> TrainedOn:
    table = {} if data.feature_names is None and not data.label_names else options
    return TrainedOn(
        data.source,
        data.x.shape[0],
        fingerprint(data.x, data.y),
        label=table.get("label"),
        id=table.get("id"),
        drop=tuple(table.get("drop") or ()),
        image_shape=data.image_shape,
        pixel_layout=data.pixel_layout,
    )


def reading_options(given: dict[str, Any]) -> dict[str, Any]:
    """The options of `load` among a command's arguments."""
    names = ("x_name", "y_name", "id")
    named = {name: given[name] for name in names if given.get(name) is not None}
    if given.get("drop"):
        named["drop"] = [name for part in given["drop"] for name in part.split(",")]
    label = given["label"]
    if isinstance(label, list):  # several of a model of several tasks
        label = label[0] if len(label) == 1 else tuple(label) or None
    named |= {"label": label, "max_memory": given["max_memory"]}
    # A name from a file or the environment is every command's, also for data without such names.
    naming = ("label", "drop", "id", "x_name", "y_name")
    typed = any(given.get(name) and was_typed(name) for name in naming)
    return {**named, "blocks": given.get("blocks", False), "missing_ok": not typed}


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
    need_labels: bool = True,
    **options: Any,
) -> Dataset:
    """Rows for a fitted model, with the columns it was trained on: the test part, if there is one.

    options : of `load`; columns of a table are by default those of the training
    The model's `feature_names_in_` is removed: scikit-learn would expect data frames.
    """
    several = getattr(model, "estimators_", None) is not None
    options = _as_in_training(model, options) | {"need_labels": need_labels, "several": several}
    data = load(source, **options, **columns_of(model))
    _check_array_names(data, options)
    if data.test is not None and not train_part:
        data = data.test
    if train_part and data.test is None and not need_labels:
        raise UserError(_NO_PARTS.format(source))
    if data.x.shape[1] != model.n_features_in_:
        raise UserError(
            f"{source} has {data.x.shape[1]} features a row, the model was trained on "
            f"{model.n_features_in_}{_other_columns(model, data)}"
        )
    check_model_columns(model, data.feature_names, source)
    return data


def _check_array_names(data: Dataset, options: dict[str, Any]) -> None:
    """`UserError` for names of arrays that were typed, for data that have none."""
    if data.array_names is None:
        why = f"{data.source} holds no arrays with names"
        refuse(("x_name", "y_name"), options, why)


_NO_PARTS = "--train-part: {} ships no training and test part"


def _as_in_training(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options, with the columns that were no features in training where none are given."""
    known: TrainedOn | None = model._trained_on
    if known is None or any(options.get(name) for name in ("label", "id", "drop")):
        return options
    same = {"id": known.id, "drop": known.drop, "missing_ok": True}
    return {**options, **same, "label": known.label}


def _other_columns(model: Any, data: Dataset) -> str:
    """Which columns of a table the model does not know, and how to leave them out."""
    if data.feature_names is None:
        return ""
    trained = getattr(model, "feature_names_in_", None)
    known = list(data.feature_names) if trained is None else trained.tolist()
    extra = sorted(set(data.feature_names) - set(known))
    absent = [name for name in known if name not in set(data.feature_names)]
    lacking = f": also on {_some(absent)}" if absent else ""
    if not extra:
        return lacking or "; --label NAME sets a label column apart"
    also = f"{lacking}, not on" if absent else ": not on"
    return f"{also} {_some(extra)}; --label NAME sets a label column apart, --drop NAME others"


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (" ..." if len(names) > 5 else "")


def rows_to_measure(
    model: Any, data: Dataset, *, train_part: bool, every: bool
) -> tuple[Dataset, str | None]:
    """The rows to measure a model on, and a remark or warning about them, if there is one.

    Of the data set of its training these are the rows that were held out then: `train_part` takes
    the others and `every` all, with a warning.
    """
    known: TrainedOn | None = model._trained_on
    same = known is not None and known.rows == data.x.shape[0]
    trained = unit_rows(data.x) if known is not None and known.normalize else data.x
    if known is None or not same or known.fingerprint != fingerprint(trained, data.y):
        if train_part and data.test is None:
            raise UserError(_NO_PARTS.format(data.source))
        return data, None if known is None or known.seen is None else _seen(known.seen, trained)
    seen = f"warning: the model was trained on {{}} of these rows: {_WORSE}"
    if known.test_size is None or known.seed is None or every:
        return data, seen.format("most" if known.test_size else "all")
    split = Split.hold_out(data, known.test_size, known.seed)
    if train_part:
        return split.train, seen.format("all")
    return split.test, f"the rows that the training held out: {split.origin}; --all-rows takes all"


# Rows of a sample by which a share is not worth naming.
_FEW = 30
_WORSE = "on new rows it will do worse"


def _seen(sketch: RowSketch, x: Any) -> str | None:
    """A warning if rows of other data equal rows that the model was trained on."""
    number, looked_at = sketch.known(hashes_of(x))
    if not number:
        return None
    rows = x.shape[0]
    if looked_at < _FEW:
        share = "some"
    elif number == looked_at:
        share = "all" if looked_at == rows else "all, or nearly all,"
    else:
        share = f"{number}" if looked_at == rows else f"about {max(number / looked_at, 0.01):.0%}"
    return f"warning: {share} of these {rows} rows equal rows of the training: {_WORSE}"


def check_model_columns(model: Any, names: Sequence[str] | None, source: str) -> None:
    """`check_columns` against those of a fitted model, whose names are then removed."""
    for task in getattr(model, "estimators_", None) or ():
        task.__dict__.pop("feature_names_in_", None)
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


def check_finite(
    x: np.ndarray, source: str, first: int = 0, names: Sequence[str] | None = None
) -> None:
    """`UserError` naming the first NaN or infinity in rows x, which begin at row `first`.

    names : of the columns, if they have some

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
            where = f"row {first + start + row}, column {column}"
            called = "" if names is None else f", {names[column]!r}"
            raise UserError(
                f"{source} holds {part[row, column]} in {where} (counted from 0){called}: every "
                "value must be finite"
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
