"""Labels and row weights: from what users pass to indices and float64 weights on the host."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import _safe_indexing, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from xclf._array_api import Array
from xclf.estimators._border import check_passed, check_same_device
from xclf.estimators._values import host_values


class Targets(NamedTuple):
    """The labels of all rows, checked.

    tasks : (classes, index) of each column, see `encode`; an index may be a `BlockColumn`
    names : of the columns, as messages have them; None for labels of one column
    """

    tasks: list[tuple[np.ndarray, Any]]
    names: list[str] | None = None

    @property
    def indicators(self) -> bool:
        """Whether y is scikit-learn's multi-label indicator: several columns of 0 and 1."""
        numbers = all(classes.dtype.kind in "biuf" for classes, _ in self.tasks)
        return (
            self.names is not None
            and numbers
            and all(np.array_equal(classes, (0, 1)) for classes, _ in self.tasks)
        )

    @property
    def bytes_of_tasks(self) -> int:
        """Bytes of all tasks' indices, where there are several."""
        return 0 if self.names is None else sum(index.nbytes for _, index in self.tasks)


def check_targets(est: Any, X: Array, y: Any) -> Targets:
    """y (N,), or (N, T) with T tasks, for the rows of X."""
    check_passed(est, y=y)
    check_same_device(X, y, "y")
    columns = label_columns(y)
    if columns is None:
        return Targets([encode(check_y(est, X, y))])
    tasks = []
    for name, labels in columns:
        _check_labels(X, labels, name)
        tasks.append(encode(labels, name))
    return Targets(tasks, [name for name, _ in columns])


def check_y(est: Any, X: Array, y: Any) -> np.ndarray:
    """y as a host array of labels, one per row of X."""
    check_passed(est, y=y)
    check_same_device(X, y, "y")
    labels = host_labels(y)
    _check_labels(X, labels)
    return labels


def _check_labels(X: Array, labels: np.ndarray, name: str = "y") -> None:
    if labels.shape[0] != X.shape[0]:
        raise ValueError(f"X has {int(X.shape[0])} rows but {name} has {labels.shape[0]} labels")
    try:
        check_classification_targets(labels)
    except ValueError as error:
        raise ValueError(str(error) if name == "y" else f"{name}: {error}") from None


def label_columns(y: Any) -> list[tuple[str, np.ndarray]] | None:
    """(name, labels (N,)) of every column of y (N, T), T > 1, as `host_labels` has labels; None for
    y of one column. Lists are rows; columns of a data frame keep their dtypes."""
    if hasattr(y, "columns"):
        names = [f"column {str(name)!r} of y" for name in y.columns]
        columns = [_safe_indexing(y, t, axis=1) for t in range(len(names))]
    else:
        _check_rows_alike(y)
        host = host_values(y)
        if host.dtype.kind in "US" and not hasattr(y, "dtype"):
            host = np.asarray(y, dtype=object)  # else numbers beside strings become strings
        columns = list(host.T) if host.ndim == 2 else []
        names = [f"column {t} of y" for t in range(len(columns))]
    if len(columns) < 2:
        return None
    return [(name, host_labels(own, name)) for name, own in zip(names, columns, strict=True)]


def _check_rows_alike(y: Any) -> None:
    """ValueError for a list of rows with different numbers of labels."""
    if not isinstance(y, list | tuple) or not all(isinstance(row, list | tuple) for row in y):
        return
    for number, row in enumerate(y):
        if len(row) != len(y[0]):
            raise ValueError(
                f"y must have as many labels in every row: row 0 has {len(y[0])}, row {number} has "
                f"{len(row)}"
            )


def host_labels(y: Any, name: str = "y") -> np.ndarray:
    """Labels (N,) on the host: numbers, strings or dates; ValueError for one that is missing, and
    for strings beside numbers."""
    labels = host_values(y)
    if labels.dtype.kind in "US" and not hasattr(y, "dtype"):
        labels = np.asarray(y, dtype=object)  # else NaN and numbers beside strings become strings
    labels = np.asarray(column_or_1d(labels, warn=True))
    kind = labels.dtype.kind
    if kind in "cV":
        what = "Complex data not supported" if kind == "c" else "labels must be numbers or strings"
        raise ValueError(f"{what}: {name} has dtype {labels.dtype}")
    if kind == "f":
        missing = ~np.isfinite(labels)
    elif kind in "mM":
        missing = np.isnat(labels)
    elif kind in "OT":
        missing = np.asarray([_is_missing(label) for label in labels.tolist()], dtype=bool)
    else:
        return labels
    if missing.any():
        row = int(np.argmax(missing))
        raise ValueError(
            f"Input {name} contains NaN or no label (value {labels.tolist()[row]!r}) at row {row}"
        )
    return _of_one_kind(labels, name) if kind in "OT" else labels


def _is_missing(label: object) -> bool:
    """None, NaN (which differs from itself) and pandas' NA (which has no truth value)."""
    try:
        return label is None or bool(label != label)
    except TypeError:
        return True


def _of_one_kind(labels: np.ndarray, name: str) -> np.ndarray:
    """Objects that are all strings as they are, and all numbers in a numeric dtype."""
    values = labels.tolist()
    strings = {isinstance(value, str) for value in values}
    if strings == {True}:
        return labels.astype(object, copy=False)
    if all(isinstance(value, str | numbers.Real) for value in values):
        if strings == {False}:
            return np.asarray(values)
        kinds = sorted({type(value).__name__ for value in values})
        raise ValueError(
            f"{name} must hold labels of one kind (all strings or all numbers), got {kinds}"
        )
    kinds = sorted({type(v).__name__ for v in values if not isinstance(v, str | numbers.Real)})
    raise ValueError(f"{name} must hold strings or numbers: unknown label type {kinds}")


def encode(labels: np.ndarray, name: str = "y") -> tuple[np.ndarray, np.ndarray]:
    """(classes, index): the sorted distinct labels, and each label's index among them."""
    classes, index = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{name} must hold at least two classes, got one class only: {classes.tolist()[0]!r}"
        )
    return classes, index


def encode_known(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Each label's index among `classes`; ValueError naming labels that are not there."""
    unseen = np.setdiff1d(labels, classes)
    if unseen.size:
        raise ValueError(
            f"y holds labels that are not among the classes of this model: {unseen[:5].tolist()}; "
            f"classes: {classes[:20].tolist()}"
        )
    return np.asarray(np.searchsorted(classes, labels))


def check_classes(classes: Any, known: np.ndarray | None) -> np.ndarray:
    """The classes of a model that learns in parts: `known`, or those of its first call."""
    if classes is None:
        if known is None:
            raise ValueError("classes must be passed on the first call to partial_fit")
        return known
    listed = list(classes) if isinstance(classes, set | frozenset) else classes
    given, _ = encode(host_labels(listed, "classes"), "classes")
    if known is not None and not np.array_equal(given, known):
        raise ValueError(
            f"classes={given.tolist()} differs from the classes of the first call, {known.tolist()}"
        )
    return given


def check_sample_weight(X: Array, sample_weight: Any) -> np.ndarray | None:
    """Row weights as a host float64 array, or None where they are all equal to 1."""
    if sample_weight is None:
        return None
    check_same_device(X, sample_weight, "sample_weight")
    host = host_values(sample_weight)
    rows = int(X.shape[0])
    if host.ndim == 0:
        host = np.full(rows, host)
    if host.shape != (rows,):
        raise ValueError(
            f"sample_weight must have one weight per row, shape ({rows},); got shape {host.shape}"
        )
    if host.dtype.kind not in "biuf":
        raise ValueError(f"sample_weight must be real numbers, got dtype {host.dtype}")
    weights = host.astype(np.float64)
    bad = ~(np.isfinite(weights) & (weights >= 0.0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"sample_weight must be finite and >= 0, got {float(weights[row])!r} at row {row}"
        )
    if not weights.any():
        raise ValueError("sample_weight is zero for every row: nothing is left to fit")
    return None if (weights == 1.0).all() else weights


def row_weights(
    index: np.ndarray,
    classes: np.ndarray,
    class_weight: Any,
    sample_weight: np.ndarray | None,
) -> np.ndarray | None:
    """Product of sample and class weights, host float64 (N,), or None where all are 1."""
    if class_weight is None:
        return sample_weight

    def mass() -> np.ndarray:
        return np.bincount(index, weights=sample_weight, minlength=len(classes))

    per_class = weights_of_classes(classes, class_weight, mass)
    weights = per_class[index] if sample_weight is None else per_class[index] * sample_weight
    check_some_weight(bool(weights.any()))
    return np.asarray(weights, dtype=np.float64)


def weights_of_classes(
    classes: np.ndarray, class_weight: Any, mass: Callable[[], np.ndarray]
) -> np.ndarray:
    """The weight (C,) of each class.

    mass : returns the sums (C,) of the row weights of each class

    "balanced" weighs class c by sum(w) / (C * sum of w in c): inversely to its weighted frequency;
    a class without weight keeps none. A dict may name classes that are not among these rows, as
    folds lack rare ones, unless it leaves others out: then one of the names is a slip.
    """
    if isinstance(class_weight, Mapping):
        labels = classes.tolist()
        unknown = [key for key in class_weight if key not in labels]
        if unknown and any(label not in class_weight for label in labels):
            raise ValueError(
                f"class_weight names classes that are not in y: {unknown[:5]}; y has {labels[:20]}"
            )
        return np.asarray([float(class_weight.get(label, 1.0)) for label in labels])
    masses, per_class = mass(), np.zeros(len(classes))
    np.divide(masses.sum(), len(classes) * masses, out=per_class, where=masses > 0.0)
    return per_class


def check_some_weight(some: bool) -> None:
    """ValueError where no row has a weight above 0."""
    if not some:
        raise ValueError("class_weight and sample_weight leave every row with weight 0")


def mean_row_weights(
    index: np.ndarray,
    classes: np.ndarray,
    class_weight: Any,
    sample_weight: np.ndarray | None,
) -> np.ndarray | None:
    """`row_weights` divided by the mean of those above zero: rows without weight are not drawn."""
    weights = row_weights(index, classes, class_weight, sample_weight)
    if weights is None:
        return None
    weights = weights / weights.max()  # first: the sum of large weights overflows
    return np.asarray(weights / weights[weights > 0.0].mean())
