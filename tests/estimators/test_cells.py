"""Rows that are no numbers: errors name the column, the value and what to do."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

import xclf

pd = pytest.importorskip("pandas")

Y = np.arange(6) % 2
A = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def frame(*values) -> object:
    return pd.DataFrame({"a": A, "c d": list(values)})


REFUSED = {
    "text": (
        frame(1, 2, "x", 4, 5, 6),
        "X must be numeric: column 'c d' holds 'x' in row 2; leave",
    ),
    "categories": (
        pd.DataFrame({"a": A, "c": pd.Categorical(list("ababab"))}),
        "numeric: column 'c' holds 'a' in row 0; .*OneHotEncoder",
    ),
    "dates": (
        frame(*[datetime.date(2020, 1, 1)] * 6),
        "column 'c d' holds '2020-01-01' in row 0; leave dates",
    ),
    "stamps": (
        pd.DataFrame({"t": pd.to_datetime(["2020-01-01"] * 6)}),
        "column 't' holds .* numbers, such as days",
    ),
    "complex": (
        frame(*[1 + 2j] * 6),
        "not supported: column 'c d' holds .* row 0",
    ),
    "missing": (frame(1, None, 3, 4, 5, 6), r"NaN at row 1, column 1 \('c d'\): every value"),
    "lists": ([[1, "x"]] * 6, "column 1 holds 'x' in row 0"),
    "objects": (np.array([[1, "x" * 50]] * 6, object), r"column 1 holds 'x{37}\.\.\.' in row 0"),
    "written": (np.array([["1", "2"]] * 6), "column 0 holds '1' in row 0; .*astype"),
    "ragged": ([[1, 2], [3]] * 3, "rows of different lengths: row 0 has 2 values, row 1 has 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_cell_is_named(case):
    X, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        xclf.SoftmaxClassifier().fit(X, Y)
    assert "\n" not in str(caught.value)
    if not hasattr(X, "columns"):  # of a frame scikit-learn speaks of its names first
        with pytest.raises(ValueError, match=message):
            xclf.SoftmaxClassifier().fit(np.ones((6, 2)), Y).predict(X)


def test_polars():
    polars = pytest.importorskip("polars")
    with pytest.raises(ValueError, match="column 'c' holds 'x' in row 1"):
        xclf.SoftmaxClassifier().fit(polars.DataFrame({"a": A, "c": ["1", *"xabcd"]}), Y)


def test_sparse_columns():
    values = [0, 0, 1.0, 0, 0, 2.0]
    with pytest.raises(TypeError, match=r"sparse columns, the first 's': pass X.sparse.to_dense"):
        xclf.SoftmaxClassifier().fit(pd.DataFrame({"s": pd.arrays.SparseArray(values)}), Y)
    sparse = pd.arrays.SparseArray(values, fill_value=0)
    every, some = pd.DataFrame({"s": sparse}), pd.DataFrame({"a": A, "s": sparse})
    with pytest.raises(TypeError, match=r"the first 's': pass X.sparse.to_coo\(\), as sparse rows"):
        xclf.SoftmaxClassifier().fit(every, Y)
    with pytest.raises(TypeError, match=r"the first 's': make them dense with X.astype\(float\)"):
        xclf.SoftmaxClassifier().fit(some, Y)
    model = xclf.SoftmaxClassifier().fit(every.sparse.to_coo(), Y)  # what the messages say
    np.testing.assert_allclose(model.coef_, model.fit(every.sparse.to_dense(), Y).coef_, rtol=1e-5)
    xclf.SoftmaxClassifier().fit(some.astype(float), Y)
