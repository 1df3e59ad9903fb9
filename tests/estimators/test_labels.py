"""Labels of every kind, and what is wrong with those that are none: in fits, parts and sweeps."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from estimator_cases import CLASSES, blobs, quick
from sklearn.decomposition import TruncatedSVD
from sklearn.pipeline import make_pipeline

import xclf
from xclf import SoftmaxClassifier, SweepCV, load
from xclf.estimators import check_x

X, Y = blobs(40, 4, 3)
NAMES = np.array(["ash", "birch", "cedar"])[Y]
NAN = float("nan")
pandas = pytest.importorskip("pandas")
scipy_sparse = pytest.importorskip("scipy.sparse")


def _search():
    return SweepCV(SoftmaxClassifier(solver="adam", max_iter=1), {"reg": [0.1, 1.0]}, cv=2)


def _with(value, labels=NAMES):
    """The labels as objects, the last of them replaced."""
    return [*labels[:-1].tolist(), value]


def _strings(na, *values):
    return np.array(
        [*NAMES[: 40 - len(values)], *values], dtype=np.dtypes.StringDType(na_object=na)
    )


MISSING, MIXED = "contains NaN or no label", "must hold labels of one kind"
WRONG = {
    "NaN in a list of strings": (_with(NAN), MISSING),
    "None in a list of strings": (_with(None), MISSING),
    "NaN among objects": (np.array(_with(NAN), dtype=object), MISSING),
    "NA of strings": (pandas.Series(_with(pandas.NA), dtype="string"), MISSING),
    "NA of integers": (pandas.array(_with(pandas.NA, Y), dtype="Int64"), MISSING),
    "NaN of a StringDType": (_strings(NAN, NAN), MISSING),
    "NaT": (np.array(_with("NaT", np.full(40, "2020-01-01")), dtype="M8[D]"), MISSING),
    "numbers in a list of strings": (_with(1), MIXED),
    "numbers among objects": (np.array(_with(1), dtype=object), MIXED),
    "sets": (_with(frozenset()), "must hold strings or numbers: unknown label type"),
    "records": (np.zeros(40, dtype=[("a", float)]), "labels must be numbers or strings"),
    "None": (None, "requires y to be passed, but the target y is None"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("make", [*(lambda c=c: quick(c) for c in CLASSES), _search])
def test_wrong_labels_are_one_clear_error(make, name):
    y, message = WRONG[name]
    model = make().fit(X, NAMES)
    for call in (lambda: make().fit(X, y), lambda: model.score(X, y)):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


RIGHT = {
    "objects of integers": Y.astype(object),
    "objects of booleans": (Y > 0).astype(object),
    "objects of floats": Y.astype(float).astype(object),
    "StringDType": _strings(NAN),
    "categories": pandas.Categorical(NAMES),
    "nullable integers": pandas.array(Y, dtype="Int64"),
    "dates": np.array(["2020-01-01", "2021-01-01", "2022-01-01"], dtype="M8[D]")[Y],
    "moments": pandas.Series(np.array([0, 1, 2], dtype="M8[ns]")[Y]),
    "durations": np.array([0, 1, 2], dtype="m8[s]")[Y],
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("make", [lambda: quick(SoftmaxClassifier), _search], ids=["fit", "sweep"])
def test_labels_of_every_kind(make, name, tmp_path):
    y = RIGHT[name]
    model = make().fit(X, y)
    distinct = sorted(set(np.asarray(y).tolist()))
    assert model.classes_.tolist() == distinct
    plain = make().fit(X, np.searchsorted(distinct, np.asarray(y).tolist()))
    best = getattr(model, "best_estimator_", model)
    np.testing.assert_array_equal(
        model.predict(X), model.classes_[np.asarray(plain.predict(X), dtype=int)]
    )
    assert model.score(X, y) == plain.score(X, Y if len(distinct) == 3 else Y > 0)
    best.save(tmp_path / "model")
    other = load(tmp_path / "model")
    assert other.classes_.dtype == best.classes_.dtype
    np.testing.assert_array_equal(other.predict(X), best.predict(X))


@pytest.mark.parametrize("classes", [{0, 1, 2}, frozenset([2, 1, 0]), (0, 1, 2), [2, 2, 1, 0]])
def test_classes_of_parts_in_any_collection(classes):
    model = quick(SoftmaxClassifier).partial_fit(X, Y, classes=classes)
    assert model.classes_.tolist() == [0, 1, 2]


@pytest.mark.parametrize("classes, message", [
    ("ab", "1d array"), ([0, 1, NAN], MISSING), (["a", 1], MIXED), ({0}, "got one class only"),
])  # fmt: skip
def test_classes_of_parts_that_are_none(classes, message):
    with pytest.raises(ValueError, match=message):
        quick(SoftmaxClassifier).partial_fit(X, Y, classes=classes)


# --- rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [
    lambda model: model.fit(None, Y), lambda model: model.score(None, Y),
    lambda model: model.predict(None),
])  # fmt: skip
@pytest.mark.parametrize("make", [lambda: quick(SoftmaxClassifier), _search], ids=["fit", "sweep"])
def test_no_rows_at_all(make, use):
    with pytest.raises(ValueError, match="requires X to be passed, but X is None"):
        use(make().fit(X, Y))


def test_sparse_rows_of_a_sweep():
    """As they are, and with a step before the classifier that makes them dense."""
    x = scipy_sparse.csr_matrix(X)
    assert _search().fit(x, Y).score(x, Y) == _search().fit(X, Y).score(X, Y)
    model = make_pipeline(TruncatedSVD(2, random_state=0), SoftmaxClassifier())
    search = SweepCV(model, {"softmaxclassifier__reg": [0.1, 1.0]}, cv=2).fit(x, Y)
    assert search.score(x, Y) > 0.5


def test_dtypes_that_packages_add_to_numpy():
    """bfloat16 of ml_dtypes is a void of two bytes to NumPy."""
    x = np.zeros((40, 4), dtype="V2")
    with pytest.raises(ValueError, match=r"X must be numeric, got dtype \|V2.*X.astype"):
        SoftmaxClassifier().fit(x, Y)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_unknown_parameter_names_the_class(cls):
    with pytest.raises(TypeError, match=f"{cls.__name__}: there is no parameter C: "):
        cls(C=1)


def test_finiteness_is_checked_in_large_pieces_on_a_device(monkeypatch):
    """Every piece ends in a copy to the host."""
    strict = pytest.importorskip("array_api_strict")
    monkeypatch.setattr("xclf.estimators._values._FINITE_HOST", 8)
    pieces = []
    original = strict.isfinite
    monkeypatch.setattr(strict, "isfinite", lambda x: pieces.append(x.shape) or original(x))
    check_x(SoftmaxClassifier(), strict.asarray(X), reset=True)
    assert pieces == [(40, 4)]


# --- documentation ---------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [*CLASSES, SweepCV])
def test_docstrings_are_numpydoc(cls):
    """scikit-learn's display of an estimator reads them, and warns of what it cannot read."""
    docscrape = pytest.importorskip("sklearn.externals._numpydoc.docscrape")
    model = _search() if cls is SweepCV else quick(cls)
    for one in (model, model.fit(X, Y)):
        assert cls.__name__ in one._repr_html_()
    doc = docscrape.ClassDoc(cls)
    assert {p.name for p in doc["Parameters"]} == set(inspect.signature(cls).parameters)
    documented = {name for p in doc["Attributes"] for name in p.name.split(", ")}
    extra = {"feature_names_in_", "n_features_in_", "classes_", "dual_gap_", "loss_curve_"}
    extra |= {"estimators_", "class_names_"}  # of labels of several columns, of data with names
    fitted = {name for name in vars(model) if name.endswith("_") and name[0] != "_"}
    assert documented - extra == fitted - extra
    assert all(doc[section] for section in ("Summary", "Extended Summary", "Notes", "Examples"))
    assert not re.search(r"\{[A-Z]+\}", cls.__doc__)  # a text that was not filled in


@pytest.mark.parametrize("name", ["fit", "partial_fit", "predict", "score", "save", "to_namespace"])
def test_methods_are_numpydoc(name):
    docscrape = pytest.importorskip("sklearn.externals._numpydoc.docscrape")
    for cls in CLASSES:
        function = inspect.unwrap(inspect.getattr_static(cls, name))
        doc = docscrape.FunctionDoc(getattr(function, "fn", function))
        parameters = set(inspect.signature(getattr(cls, name)).parameters) - {"self"}
        assert {one for p in doc["Parameters"] for one in p.name.split(", ")} == parameters
    assert xclf.__doc__
