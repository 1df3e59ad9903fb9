"""What comes in: frames with names, labels of all kinds, arrays of all layouts and dtypes."""

from __future__ import annotations

import numpy as np
import pytest
from estimator_cases import CLASSES, blobs, small

from xclf import SoftmaxClassifier, SVMClassifier

X, Y = blobs(60, 5, 3)
COLUMNS = ["height", "girth", "age", "bark", "leaves"]
classes_ = pytest.mark.parametrize("cls", CLASSES)


def _frame(kind, x=X, columns=COLUMNS):
    library = pytest.importorskip(kind)
    return library.DataFrame(dict(zip(columns, x.T.copy(), strict=True)))


frames_ = pytest.mark.parametrize("kind", ["pandas", "polars"])


@classes_
@frames_
def test_frames_are_their_values(cls, kind):
    frame = _frame(kind)
    model = small(cls).fit(frame, Y)
    assert model.feature_names_in_.tolist() == COLUMNS
    plain = small(cls).fit(X, Y)
    assert not hasattr(plain, "feature_names_in_")
    # A frame's values may come in Fortran order, summed in another one: see LAYOUTS below.
    got, want = model.decision_function(frame), plain.decision_function(X)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
    assert isinstance(model.predict(frame), np.ndarray)
    assert model.score(frame, Y) == plain.score(X, Y)


@classes_
@frames_
def test_frames_with_other_names_are_refused(cls, kind):
    model = small(cls).fit(_frame(kind), Y)
    with pytest.raises(ValueError, match="must be in the same order"):
        model.predict(_frame(kind, X[:, ::-1], COLUMNS[::-1]))
    with pytest.raises(ValueError, match="unseen at fit time:\n- width"):
        model.predict(_frame(kind, X, [*COLUMNS[:4], "width"]))
    with pytest.raises(ValueError, match="seen at fit time, yet now missing:\n- leaves"):
        model.predict(_frame(kind, X[:, :4], COLUMNS[:4]))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X)


@frames_
def test_labels_may_be_a_column(kind):
    library = pytest.importorskip(kind)
    y = library.Series(np.array(["ash", "birch", "cedar"])[Y])
    weights = library.Series(np.arange(60.0))
    model = SoftmaxClassifier().fit(_frame(kind), y, sample_weight=weights)
    want = SoftmaxClassifier().fit(X, np.asarray(y), sample_weight=np.arange(60.0))
    np.testing.assert_allclose(model.coef_, want.coef_, rtol=1e-3, atol=1e-3)
    assert model.classes_.tolist() == ["ash", "birch", "cedar"]
    assert model.score(_frame(kind), y) == want.score(X, np.asarray(y))


def test_pandas_strings_and_categories():
    pandas = pytest.importorskip("pandas")
    names = np.array(["ash", "birch", "cedar"])[Y]
    for dtype in ("str", "category", object):
        y = pandas.Series(names).astype(dtype)
        assert SoftmaxClassifier().fit(X, y).predict(X[:3]).tolist() == names[:3].tolist()


LABELS = {
    "strings": np.array(["ash", "birch", "cedar"]),
    "objects": np.array(["ash", "birch", "cedar"], dtype=object),
    "negative": np.array([-7, 0, 5]),
    "floats": np.array([0.0, 1.0, 3.0]),
    "uint8": np.array([3, 7, 250], dtype=np.uint8),
    "int16": np.array([-300, 0, 300], dtype=np.int16),
}


@classes_
@pytest.mark.parametrize("name", LABELS)
def test_labels_of_every_kind_come_back(cls, name):
    values = LABELS[name]
    model = small(cls).fit(X, values[Y])
    np.testing.assert_array_equal(model.classes_, values)
    assert model.classes_.dtype == values.dtype
    guess = model.predict(X)
    assert guess.dtype == values.dtype
    assert np.mean(guess == values[Y]) > 0.8
    plain = small(cls).fit(X, Y)
    np.testing.assert_array_equal(model.decision_function(X), plain.decision_function(X))
    np.testing.assert_array_equal(guess, values[plain.predict(X)])


@classes_
@pytest.mark.parametrize("values", [[False, True], ["no", "yes"], [0.0, 1.0], [-1, 1]], ids=str)
def test_two_classes_of_every_kind(cls, values):
    values, y = np.array(values), Y % 2
    model = small(cls).fit(X, values[y])
    guess = model.predict(X)
    assert guess.dtype == values.dtype
    np.testing.assert_array_equal(guess == values[1], model.decision_function(X) > 0)


@classes_
def test_a_column_of_labels_warns(cls):
    from sklearn.exceptions import DataConversionWarning

    with pytest.warns(DataConversionWarning, match="column-vector"):
        small(cls).fit(X, Y[:, None])


@classes_
def test_lists(cls):
    model = small(cls).fit(X.tolist(), Y.tolist(), sample_weight=[1.0] * 60)
    want = small(cls).fit(X, Y)
    np.testing.assert_array_equal(model.decision_function(X.tolist()), want.decision_function(X))


def _readonly(x):
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "big endian": lambda x: x.astype(">f8"),
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": _readonly,
    "long double": lambda x: x.astype(np.longdouble),
    "object": lambda x: x.astype(object),
    "subclass": lambda x: x.view(np.ma.MaskedArray),
}


@classes_
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_do_not_matter_and_nothing_is_written(cls, name):
    x = LAYOUTS[name](X)
    copy = x.copy()
    model = small(cls).fit(x, Y)
    want = small(cls).fit(X, Y)
    # Another layout is another order of summation: the fit is the same to its tolerance.
    np.testing.assert_allclose(
        model.decision_function(x), want.decision_function(X), rtol=1e-3, atol=1e-3
    )
    np.testing.assert_array_equal(x, copy)
    assert model.decision_function(x).dtype == np.float64


@classes_
def test_no_input_is_written(cls):
    x, y, w = _readonly(X), _readonly(Y), _readonly(np.linspace(0.5, 1.5, 60))
    model = small(cls, standardize=True).fit(x, y, sample_weight=w)
    if cls is not SoftmaxClassifier:
        model = small(cls, solver="adam", max_iter=2).fit(x, y, sample_weight=w)
    model.set_params(standardize=False).set_params(solver="adam").partial_fit(x, y, sample_weight=w)
    assert model.score(x, y, sample_weight=w) > 0.3


WIDTHS = {
    "float64": "float64",
    "float32": "float32",
    "float16": "float32",
    "int64": "float32",
    "uint8": "float32",
    "bool": "float32",
    ">f4": "float32",
    ">i2": "float32",
}


@classes_
@pytest.mark.parametrize("name", WIDTHS)
def test_dtypes(cls, name):
    """float64 stays, float32 stays, everything narrower or whole becomes float32."""
    x = (10 * (X + 5)).clip(0, 200).astype(name) if name != "bool" else X > 0
    model = small(cls, standardize=True).fit(x, Y)
    want = np.dtype(WIDTHS[name])
    assert model.decision_function(x).dtype == want
    arrays = model.weights_.values() if hasattr(model, "weights_") else [model.coef_]
    assert {a.dtype for a in arrays} == {want}
    if hasattr(model, "predict_proba"):
        assert model.predict_proba(x).dtype == want
    assert isinstance(model.objective_, float)
    wide = small(cls, standardize=True).fit(x.astype(float), Y)
    # The hinge's own tolerance for float32 is 1e-4; a net's path amplifies rounding a little.
    assert model.objective_ == pytest.approx(wide.objective_, rel=2e-3)


def test_large_integers_keep_their_value_in_the_moments():
    """uint8 rows are widened a chunk at a time, and standardised without a copy in float64."""
    x = np.random.default_rng(0).integers(0, 256, size=(300, 4), dtype=np.uint8)
    y = (x[:, 0] > 127).astype(int)
    model = SoftmaxClassifier(standardize=True).fit(x, y)
    want = SoftmaxClassifier(standardize=True).fit(x.astype(float), y)
    np.testing.assert_allclose(model.coef_, want.coef_, rtol=1e-2)
    assert model.score(x, y) == want.score(x, y)


@classes_
@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_few_rows_are_predicted_alone(cls, n):
    model = small(cls).fit(X, Y)
    # One row is a matrix-vector product, which may sum in another order.
    np.testing.assert_allclose(
        model.decision_function(X[:n]), model.decision_function(X)[:n], rtol=1e-12, atol=1e-12
    )
    assert model.predict(X[:n]).shape == (n,)


@classes_
@pytest.mark.parametrize("solver", ["sgd", "momentum", "rmsprop", "adam"])
def test_batches_of_one_row_and_larger_than_the_data(cls, solver):
    for batch_size in (1, 59, 1000):
        model = small(cls, solver=solver, batch_size=batch_size, max_iter=3, random_state=0)
        assert np.isfinite(model.fit(X, Y).objective_)
    whole = small(cls, solver=solver, batch_size=60, max_iter=3, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(whole.decision_function(X), model.decision_function(X))


@classes_
def test_more_features_than_rows_and_one_feature(cls):
    rng = np.random.default_rng(0)
    for shape in ((6, 40), (30, 1), (2, 1)):
        x, y = rng.normal(size=shape), np.arange(shape[0]) % 2
        model = small(cls, reg=1e-2).fit(x, y)
        assert model.decision_function(x).shape == (shape[0],)


def test_constant_and_empty_features():
    """Columns without any spread, and columns of zeros, get weight 0 under a penalty."""
    x = np.concatenate([X, np.full((60, 1), 0.1), np.zeros((60, 1))], axis=1)
    assert x[:, 5].var() > 0  # rounding of the mean: it must not be taken for spread
    for cls in (SoftmaxClassifier, SVMClassifier):
        for standardize in (False, True):
            model = cls(reg=1e-2, standardize=standardize).fit(x, Y)
            want = cls(reg=1e-2, standardize=standardize).fit(X, Y)
            assert model.objective_ == pytest.approx(want.objective_, rel=1e-5)
            np.testing.assert_allclose(model.coef_[:, -1], 0.0, atol=1e-10)
            assert np.abs(model.coef_[:, -2]).max() < 1.0


def test_many_classes_keep_integers_for_masks():
    x, y = blobs(300, 6, 70)
    for cls in CLASSES:
        model = small(cls, solver="adam", max_iter=2, random_state=0).fit(x, y)
        assert model.decision_function(x).shape == (300, 70)
    assert SoftmaxClassifier(reg=1e-2).fit(x, y).score(x, y) > 0.5
