"""Bad input: each kind is one clear error at the border, and leaves nothing half-done behind."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend, why_missing
from estimator_cases import CLASSES, blobs, quick

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier

X, Y = blobs(40, 4, 3)
classes_ = pytest.mark.parametrize("cls", CLASSES)


def _fails(error, call, *parts):
    """`call` raises `error` with one line that holds every part."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert type(caught.value) is error


def _untouched(model):
    assert not [name for name in vars(model) if name.endswith("_")], vars(model)


# --- X ---------------------------------------------------------------------------------------

SHAPES = {
    "no dimensions": (np.float64(3.0), ()),
    "one dimension": (X[0], ("2D array", "Reshape your data")),
    "three dimensions": (X[None], ("3",)),
    "no rows": (np.zeros((0, 4)), ("0 sample(s)", "minimum of 1")),
    "no features": (np.zeros((40, 0)), ("0 feature(s)", "minimum of 1")),
}


@classes_
@pytest.mark.parametrize("name", SHAPES)
def test_wrong_dimensions(backend, cls, name):
    x, parts = SHAPES[name]
    y = Y[: len(x)] if name == "no rows" else Y
    model = quick(cls)
    _fails(ValueError, lambda: model.fit(backend.asarray(x), y), *parts)
    _untouched(model)
    model.fit(backend.asarray(X), Y)
    _fails(ValueError, lambda: model.predict(backend.asarray(x)), *parts)


@classes_
@pytest.mark.parametrize("value, word", [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "inf")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_that_are_not_finite(backend, cls, value, word, dtype):
    x = X.astype(dtype)
    x[[7, 30], [2, 0]] = value
    model = quick(cls)
    there = backend.asarray(x)
    _fails(ValueError, lambda: model.fit(there, Y), f"X contains {word}", "row 7, column 2")
    _untouched(model)
    model.fit(backend.asarray(X), Y)
    _fails(ValueError, lambda: model.predict(there), word, "row 7, column 2")
    partial = quick(cls)
    _fails(ValueError, lambda: partial.partial_fit(there, Y, classes=[0, 1, 2]), "row 7, column 2")
    _untouched(partial)


def test_the_place_of_a_nan_far_down():
    x = np.zeros((40_000, 2), dtype=np.float32)
    x[39_999, 1] = np.nan
    y = np.arange(40_000) % 2
    _fails(ValueError, lambda: SoftmaxClassifier().fit(x, y), "row 39999, column 1")


@classes_
def test_complex_numbers(backend, cls):
    _fails(ValueError, lambda: quick(cls).fit(backend.asarray(X + 1j), Y), "Complex data not")


@classes_
@pytest.mark.parametrize(
    "x", [np.full((40, 4), "a"), np.full((40, 4), "2020", "M8[Y]"), np.full((40, 4), None)]
)
def test_what_is_not_a_number(cls, x):
    model = quick(cls)
    with pytest.raises((ValueError, TypeError), match=r"numeric|NoneType|NaN"):
        model.fit(x, Y)
    assert not hasattr(model, "classes_")


def test_dtypes_that_only_devices_have(monkeypatch):
    """Such as a quantised or a bit type: neither boolean, nor whole, nor real."""
    strict = pytest.importorskip("array_api_strict")
    from xclf.estimators import _border

    x = strict.asarray(X)
    namespace = type("Odd", (), {"isdtype": staticmethod(lambda dtype, kind: False)})
    monkeypatch.setattr(_border._array_api, "namespace", lambda *a: namespace)
    _fails(ValueError, lambda: SoftmaxClassifier().fit(x, Y), "X must be numeric, got dtype")


@classes_
@pytest.mark.parametrize("features", [3, 5])
def test_another_number_of_features(backend, cls, features):
    model = quick(cls).fit(backend.asarray(X), Y)
    x = backend.asarray(np.zeros((40, features)))
    told = f"X has {features} features, but {cls.__name__} is expecting 4 features"
    _fails(ValueError, lambda: model.predict(x), told)
    _fails(ValueError, lambda: model.decision_function(x), told)
    _fails(ValueError, lambda: model.score(x, Y), told)
    _fails(ValueError, lambda: model.partial_fit(x, Y), told)


# --- y ---------------------------------------------------------------------------------------


@classes_
@pytest.mark.parametrize("n", [39, 41, 1])
def test_another_number_of_labels(backend, cls, n):
    y = np.resize(Y, n)
    model = quick(cls)
    for labels in (y, backend.asarray(y)):
        x = backend.asarray(X)
        _fails(ValueError, lambda x=x, y=labels: model.fit(x, y), f"X has 40 rows but y has {n}")
    _untouched(model)


LABELS = {
    "none": (None, "y cannot be None|requires y to be passed"),
    "continuous": (np.linspace(0.1, 0.9, 40), "Unknown label type: continuous"),
    "NaN": (np.where(Y == 1, np.nan, Y), r"y contains NaN or no label \(value nan\) at row"),
    "infinite": (np.where(Y == 1, np.inf, Y), "y contains NaN or no label"),
    "missing": (np.where(Y == 1, None, "ash"), "no label"),
    "one class": (np.zeros(40), "got one class only: 0.0$"),
    "one name": (np.full(40, "ash"), "got one class only: 'ash'$"),
    "complex": (Y + 1j, "Complex data not supported"),
    "three axes": (np.stack([Y, Y], axis=1)[:, :, None], "dim 3|1d array"),
    "no dimensions": (np.int64(3), r"1d array"),
    "mixed kinds": (np.where(Y == 1, "ash", Y.astype(object)), "one kind|Unknown label type"),
    "ragged": ([[1], [1, 2]] * 20, "as many labels in every row: row 0 has 1, row 1 has 2"),
    "a bad column": (np.stack([Y, np.where(Y == 1, np.nan, Y)], axis=1), "column 1 of y contains"),
    "a column of one class": (np.stack([Y, 0 * Y], axis=1), "column 1 of y must .* class only: 0$"),
    "a continuous column": (np.stack([Y, Y / 3], axis=1), "column 1 of y: Unknown label type"),
    "columns too short": (np.stack([Y, Y], axis=1)[:30], "40 rows but column 0 of y has 30 labels"),
}


@classes_
@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("where", ["numpy", "array-api-strict"])
def test_labels_that_are_none(cls, name, where):
    """On the host and for a device's rows, the error is the same."""
    backend = Backend(where)
    if why_missing(backend):
        pytest.skip(why_missing(backend))
    y, match = LABELS[name]
    model = quick(cls)
    with pytest.raises(ValueError, match=match):
        model.fit(backend.asarray(X), y)
    _untouched(model)


@classes_
def test_labels_on_a_device_that_are_none(backend, cls):
    for name in ("continuous", "NaN", "one class", "a column of one class"):
        y, match = LABELS[name]
        with pytest.raises(ValueError, match=match):
            quick(cls).fit(backend.asarray(X), backend.asarray(y))


@classes_
def test_labels_that_partial_fit_was_not_told_of(backend, cls):
    x = backend.asarray(X)
    model = quick(cls)
    _fails(
        ValueError, lambda: model.partial_fit(x, Y, classes=[0, 1]), "not among the classes", "[2]"
    )
    _untouched(model)
    model.partial_fit(x, Y, classes=[0, 1, 2])
    names = np.array(["ash", "birch", "cedar"])[Y]
    with pytest.raises(ValueError, match="not among the classes"):
        model.partial_fit(x, names)


@classes_
def test_classes_of_mixed_kinds(cls):
    mixed = np.array([1, "ash", 2], dtype=object)
    _fails(ValueError, lambda: quick(cls).partial_fit(X, Y, mixed), "labels of one kind")


@classes_
def test_class_weights_of_classes_that_are_not_there(cls):
    model = quick(cls, class_weight={0: 1.0, 9: 2.0})
    _fails(ValueError, lambda: model.fit(X, Y), "class_weight", "[9]", "[0, 1, 2]")
    zero = quick(cls, class_weight={0: 0.0, 1: 0.0, 2: 0.0})
    _fails(ValueError, lambda: zero.fit(X, Y), "every row with weight 0")


# --- sample_weight ---------------------------------------------------------------------------

WEIGHTS = {
    "short": (np.ones(39), ("one weight per row, shape (40,)", "(39,)")),
    "long": (np.ones(41), ("(40,)", "(41,)")),
    "a column": (np.ones((40, 1)), ("(40,)", "(40, 1)")),
    "negative": (np.where(np.arange(40) == 6, -0.5, 1.0), (">= 0", "got -0.5 at row 6")),
    "NaN": (np.where(np.arange(40) == 6, np.nan, 1.0), ("finite", "row 6")),
    "infinite": (np.where(np.arange(40) == 6, np.inf, 1.0), ("finite", "row 6")),
    "all zero": (np.zeros(40), ("zero for every row",)),
    "complex": (np.ones(40) + 1j, ("real numbers",)),
}


@classes_
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_none(backend, cls, name):
    weights, parts = WEIGHTS[name]
    x, model = backend.asarray(X), quick(cls)
    for there in (weights, backend.asarray(weights)):
        call = lambda w=there: model.fit(x, Y, sample_weight=w)  # noqa: E731
        _fails(ValueError, call, "sample_weight", *parts)
        call = lambda w=there: model.partial_fit(x, Y, [0, 1, 2], w)  # noqa: E731
        _fails(ValueError, call, "sample_weight", *parts)
    _untouched(model)


@classes_
def test_weights_of_text(cls):
    _fails(ValueError, lambda: quick(cls).fit(X, Y, ["heavy"] * 40), "sample_weight must be real")
    with pytest.raises(ValueError, match="must be 1-D"):
        quick(cls).fit(X, Y, [[1.0], [1.0, 2.0]] * 20)


@classes_
def test_one_weight_for_all_rows_is_no_weight(cls):
    one, none = quick(cls).fit(X, Y, sample_weight=2.5), quick(cls).fit(X, Y)
    np.testing.assert_array_equal(one.decision_function(X), none.decision_function(X))


# --- hyperparameters -------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
RANGES = {
    "reg": (-1e-9, NAN, INF, "1", None, True, [1.0]),
    "fit_intercept": (1, "yes", None),
    "standardize": (1, "yes", None),
    "solver": ("newton", "LBFGS", None, 3),
    "max_iter": (0, -1, 2.5, "9", True),
    "tol": (-1e-9, NAN, INF, "1", True),
    "batch_size": (0, -1, 2.5, "9", True),
    "learning_rate": (0.0, -0.1, NAN, INF, "fast", True),
    "momentum": (-0.1, 1.0, 1.5, NAN, "0.9"),
    "lr_schedule": ("linear", "COSINE", 1),
    "class_weight": ("heavy", {0: -1.0}, {0: NAN}, {0: "a"}, [1.0, 2.0, 3.0]),
    "early_stopping": (1, "yes", None),
    "validation_fraction": (0.0, 1.0, -0.1, NAN, "0.1", True),
    "n_iter_no_change": (0, -1, 2.5, "9", True),
    "warm_start": (1, "yes", None),
    "random_state": (-1, 1.5, "seed", NAN),
    "callbacks": (print, [1], "print", {"a": print}),
    "verbose": (-1, 1.5, "yes", None),
    "device": ("gpu", "cuda:", "cuda:-1", "cuda:x", 0, (), ("cpu", "cuda:0"), ("cuda:0", "cuda:0")),
    "precision": ("bf16", "TF32", 16, True),
    "max_memory": (0, -1, 1.5, "lots", "2 XB", "0", True),
}
OWN = {
    SVMClassifier: {
        "margin": (0.0, -1.0, NAN, INF, None, "1"),
        "loss": ("softmax", "squared", None, 3),
    },
    TwoLayerClassifier: {
        "hidden": (0, -1, 2.5, None, "9", True),
        "loss": ("squared", None, "Softmax", 3),
    },
    SoftmaxClassifier: {},
}
CASES = [(cls, name) for cls in CLASSES for name in RANGES | OWN[cls]]


@pytest.mark.parametrize("cls, name", CASES)
def test_a_hyperparameter_out_of_its_range(cls, name):
    for value in (RANGES | OWN[cls])[name]:
        model = cls(**{name: value})  # scikit-learn: nothing is checked before fit
        told = (f"{cls.__name__}: {name} must be ", f"got {value!r}")
        _fails(ValueError, lambda model=model: model.fit(X, Y), *told)
        if hasattr(model, "partial_fit"):
            part = lambda model=model: model.partial_fit(X, Y, classes=[0, 1, 2])  # noqa: E731
            _fails(ValueError, part, *told)
        _untouched(model)


def test_every_parameter_has_its_range():
    for cls in CLASSES:
        assert set(cls().get_params()) == set(RANGES) | set(OWN[cls])


def test_a_range_is_checked_before_the_data():
    with pytest.raises(ValueError, match="reg must be"):
        SoftmaxClassifier(reg=-1).fit("not data", None)


@pytest.mark.parametrize(
    "name, value",
    [
        ("reg", 0), ("reg", np.float32(0.5)), ("max_iter", np.int64(50)), ("tol", 0.5),
        ("verbose", np.int64(0)), ("random_state", np.uint8(3)), ("fit_intercept", np.True_),
        ("callbacks", ()), ("class_weight", {0: 0, 1: 1, 2: 2}), ("verbose", False),
    ],
)  # fmt: skip
@classes_
def test_what_is_in_range(cls, name, value):
    assert quick(cls, **{name: value}).fit(X, Y)


# --- order of features -----------------------------------------------------------------------


@classes_
def test_a_failed_refit_leaves_the_fitted_model(backend, cls):
    x = backend.asarray(X)
    model = quick(cls).fit(x, Y)
    before = dict(vars(model))
    bad = X.copy()
    bad[0, 0] = np.nan
    for call in (
        lambda: model.fit(backend.asarray(bad), Y),
        lambda: model.fit(x, np.zeros(40)),
        lambda: model.fit(backend.asarray(X[:, :2]), Y[:3]),
        lambda: model.fit(x, Y, sample_weight=-np.ones(40)),
    ):
        with pytest.raises(ValueError):
            call()
        assert vars(model) == before
