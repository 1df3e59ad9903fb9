"""Sparse X: every format, and the same fits as from dense rows."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from pairwise import mostly_long
from sklearn.exceptions import ConvergenceWarning

import xclf
from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier

RNG = np.random.default_rng(0)
N, D, C = 120, 30, 3
CSR = sp.random_array((N, D), density=0.15, rng=RNG, format="csr")
X = CSR.toarray()
Y = (X @ RNG.normal(size=(D, C)) + 0.3 * RNG.normal(size=(N, C))).argmax(axis=1)
WEIGHTS = RNG.uniform(0.0, 2.0, N)

#: What a converged fit is from its optimum at most, relative: two of them are no further apart.
PROMISE = 1e-6


def unsorted(duplicates=False):
    """CSR whose rows have their columns in descending order, and each entry in two halves."""
    parts = [np.flatnonzero(row)[::-1] for row in X]
    columns = np.concatenate([np.tile(part, 1 + duplicates) for part in parts])
    values = np.concatenate(
        [np.tile(row[part], 1 + duplicates) for row, part in zip(X, parts, strict=True)]
    )
    starts = np.cumsum([0, *((1 + duplicates) * len(part) for part in parts)])
    return sp.csr_matrix((values / (1 + duplicates), columns, starts), shape=X.shape)


def with_zeros():
    """CSR with zeros written down, one row and one column of nothing else."""
    x = CSR.copy()
    x.data[::7] = 0.0
    x.data[x.indptr[5] : x.indptr[6]] = 0.0
    x.data[x.indices == 3] = 0.0
    return x


def wide_indices(x):
    return sp.csr_array((x.data, x.indices.astype(np.int64), x.indptr.astype(np.int64)), x.shape)


FORMS = {
    "csr_array": lambda: CSR,
    "csr_matrix": lambda: sp.csr_matrix(CSR),
    "csc": lambda: CSR.tocsc(),
    "csc_matrix": lambda: sp.csc_matrix(CSR),
    "coo": lambda: CSR.tocoo(),
    "coo_matrix": lambda: sp.coo_matrix(CSR),
    "lil": lambda: CSR.tolil(),
    "dok": lambda: CSR.todok(),
    "bsr": lambda: CSR.tobsr((2, 2)),
    "int64 indices": lambda: wide_indices(CSR),
    "unsorted": unsorted,
    "duplicates": partial(unsorted, duplicates=True),
    "explicit zeros": with_zeros,
    "float32": lambda: CSR.astype(np.float32),
    "int16": lambda: (10 * CSR).astype(np.int16),
    "bool": lambda: CSR.astype(bool),
    "big-endian": lambda: sp.csr_array((CSR.data.astype(">f8"), CSR.indices, CSR.indptr), X.shape),
    "spare entries": lambda: padded(CSR),
    "slice of rows": lambda: sp.vstack([CSR, CSR], format="csr")[:N],
}


def padded(x):
    """CSR whose arrays go on after the last row, with rubbish."""
    x = x.copy()
    x.data, x.indices = np.r_[x.data, np.nan], np.r_[x.indices, 10**6].astype(np.int32)
    return x


@pytest.mark.parametrize("form", FORMS)
def test_every_format_is_the_same_fit(form):
    x = FORMS[form]()
    before = [np.array(part) for part in parts_of(x)]
    dense = sp.csr_array(CSR if form == "spare entries" else x).toarray()
    model = SoftmaxClassifier(reg=1e-2).fit(x, Y)
    same = SoftmaxClassifier(reg=1e-2).fit(dense, Y)
    assert model.converged_
    assert model.objective_ == pytest.approx(same.objective_, rel=2 * PROMISE)
    assert model.coef_.dtype == same.coef_.dtype
    # Products of rows with the same weights: D roundings each.
    bound = 2 * D * np.finfo(model.coef_.dtype).eps * np.abs(model.coef_).sum()
    bound *= max(1.0, float(np.abs(dense).max()))
    same.coef_, same.intercept_ = model.coef_, model.intercept_
    assert np.abs(model.decision_function(x) - same.decision_function(dense)).max() <= bound
    assert model.predict_proba(x).shape == (N, C)
    assert model.score(x, Y) == same.score(dense, Y)
    assert all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(before, parts_of(x), strict=True)
    )


def parts_of(x):
    """The arrays that hold x, which no fit may write to."""
    names = ("data", "indices", "indptr") if x.format in ("csr", "csc") else ()
    return [getattr(x, name) for name in names]


MODELS = {
    "softmax": (SoftmaxClassifier, {"reg": 1e-2}),
    "softmax without biases": (SoftmaxClassifier, {"reg": 1e-2, "fit_intercept": False}),
    "hinge": (SVMClassifier, {"reg": 1e-2}),
    "hinge without biases": (SVMClassifier, {"reg": 1e-2, "fit_intercept": False}),
    "squared hinge": (SVMClassifier, {"reg": 1e-2, "loss": "squared_hinge"}),
}


def _use_methods(name, monkeypatch):
    """The methods for small problems, or those for many rows."""
    if name == "many rows":
        monkeypatch.setattr("xclf.training.hinge.MOST_ROWS", 0)
        monkeypatch.setattr("xclf.training._newton.MOST_PARAMETERS", 0)


# Weights and a type are set up before any method runs.
@mostly_long(
    methods=["small", "many rows"],
    name=[*MODELS],
    weight=[None, WEIGHTS],
    class_weight=[None, "balanced"],
    dtype=[np.float64, np.float32],
)
def test_full_batch_fits_are_those_of_dense_rows(
    methods, name, weight, class_weight, dtype, monkeypatch
):
    _use_methods(methods, monkeypatch)
    kind, given = MODELS[name]
    options = {"class_weight": class_weight}
    model, dense = (
        kind(**given, **options).fit(x.astype(dtype), Y, sample_weight=weight) for x in (CSR, X)
    )
    assert model.converged_ == dense.converged_ == True  # noqa: E712
    # The hinge's tolerance in float32 is larger: what its own bound says.
    apart = max(2 * PROMISE, (model.dual_gap_ + dense.dual_gap_) / dense.objective_)
    assert model.objective_ == pytest.approx(dense.objective_, rel=apart)


@pytest.mark.parametrize("solver", ["sgd", "momentum", "nesterov", "adam", "rmsprop"])
@pytest.mark.parametrize("kind", [SoftmaxClassifier, SVMClassifier, TwoLayerClassifier])
def test_minibatch_fits_are_those_of_dense_rows(kind, solver):
    options = {"solver": solver, "max_iter": 3, "batch_size": 32, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model, dense = (kind(**options).fit(x, Y, sample_weight=WEIGHTS) for x in (CSR, X))
    # A dozen steps on the same batches, apart by rounding of products alone.
    assert np.abs(model.decision_function(CSR) - dense.decision_function(X)).max() <= 1e-10


@pytest.mark.parametrize("early", [False, True])
def test_a_net(early):
    options = {"hidden": 8, "random_state": 0, "max_iter": 4, "early_stopping": early}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model, dense = (TwoLayerClassifier(**options).fit(x, Y) for x in (CSR, X))
    assert np.abs(model.decision_function(CSR) - dense.decision_function(X)).max() <= 1e-10


def test_learning_in_parts():
    model, dense = (SoftmaxClassifier(random_state=0, batch_size=16) for _ in range(2))
    for start in range(0, N, 40):
        part = slice(start, start + 40)
        model.partial_fit(CSR[part], Y[part], classes=np.arange(C))
        dense.partial_fit(X[part], Y[part], classes=np.arange(C))
    assert np.abs(model.coef_ - dense.coef_).max() <= 1e-12


def test_standardize_scales_and_does_not_centre():
    """The penalty is on weights in units of each feature's deviation, about its mean."""
    scale = X.std(axis=0)
    model = SoftmaxClassifier(reg=1e-2, standardize=True).fit(CSR, Y)
    by_hand = SoftmaxClassifier(reg=1e-2).fit(X / scale, Y)
    assert model.objective_ == pytest.approx(by_hand.objective_, rel=2 * PROMISE)
    centred = SoftmaxClassifier(reg=1e-2, standardize=True).fit(X, Y)
    # With biases a shift changes no optimum.
    assert model.objective_ == pytest.approx(centred.objective_, rel=2 * PROMISE)


def test_columns_of_labels():
    both = np.stack([Y, Y % 2], axis=1)
    model, dense = (SoftmaxClassifier(reg=1e-2).fit(x, both) for x in (CSR, X))
    assert np.array_equal(model.predict(CSR), dense.predict(X))
    assert np.allclose(model.objective_, dense.objective_, rtol=2 * PROMISE)


@pytest.mark.parametrize("methods", ["small", "many rows"])
@pytest.mark.parametrize("kind", [SoftmaxClassifier, SVMClassifier])
def test_sweeps_over_folds(methods, kind, monkeypatch):
    _use_methods(methods, monkeypatch)
    grid = {"reg": [1e-3, 1e-2, 1e-1] if kind is SoftmaxClassifier else [1e-2, 1e-1]}
    found, dense = (xclf.SweepCV(kind(), grid, cv=3).fit(x, Y) for x in (CSR.tocoo(), X))
    assert found.best_params_ == dense.best_params_
    assert np.allclose(
        found.cv_results_["mean_test_score"], dense.cv_results_["mean_test_score"], atol=1e-12
    )
    assert found.best_estimator_.objective_ == pytest.approx(
        dense.best_estimator_.objective_, rel=1e-5
    )


def test_warm_starts_and_files(tmp_path):
    model = SoftmaxClassifier(reg=1e-2, warm_start=True).fit(CSR, Y)
    again = model.fit(CSR, Y)
    assert again.n_iter_ <= 2
    model.save(tmp_path / "m.safetensors")
    loaded = xclf.load(tmp_path / "m.safetensors")
    assert np.array_equal(loaded.predict(CSR), model.predict(CSR))
    assert np.array_equal(loaded.predict(X), model.predict(CSR))
    assert np.array_equal(model.to_sklearn().predict(CSR), model.predict(CSR))


def test_rows_that_would_take_a_terabyte_when_dense():
    """400,000 rows of as many columns, 1.3 TB in float64, of which 60 entries say something."""
    many, entries = 400_000, 60
    rows, columns = RNG.integers(many, size=(2, entries))
    labels = np.zeros(many, dtype=int)
    labels[rows] = np.arange(entries) % 2
    x = sp.coo_array((np.where(labels[rows], 1.0, -1.0), (rows, columns)), shape=(many, many))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = SoftmaxClassifier(reg=1e-9, max_iter=2).fit(x, labels)
        batch = SoftmaxClassifier(solver="sgd", max_iter=1, batch_size=200_000).fit(x, labels)
    assert model.coef_.shape == batch.coef_.shape == (1, many)
    assert np.count_nonzero(model.coef_) <= entries
    assert model.predict(x).shape == (many,)


def broken(change, form="csr"):
    x = getattr(CSR, f"to{form}")(copy=True)
    change(x)
    return x


def set_entry(x, name, place, value):
    getattr(x, name)[place] = value


HOSTILE = {
    "index too large": (
        broken(lambda x: set_entry(x, "indices", 4, D)), "CSR.*column 30, of 30 columns"
    ),
    "index below 0": (broken(lambda x: set_entry(x, "indices", 4, -1)), "CSR.*column -1"),
    "row too large": (
        broken(lambda x: set_entry(x, "indices", 4, 10**6), "csc"), "CSC.*row 1000000, of 120 rows"
    ),
    "coo": (broken(lambda x: x.coords[1].__setitem__(3, D), "coo"), "COO.*column 30, of 30"),
    "falling": (broken(lambda x: set_entry(x, "indptr", 3, 0)), "indptr must not fall"),
    "beginning": (broken(lambda x: set_entry(x, "indptr", 0, 1)), "begin with 0, got 1"),
    "end": (broken(lambda x: set_entry(x, "indptr", -1, 10**6)), "beyond the 540 entries"),
    "missing": (broken(lambda x: setattr(x, "indptr", x.indptr[:-1])), "must have 121 entries"),
    "NaN": (broken(lambda x: set_entry(x, "data", x.indptr[7], np.nan)), "NaN at row 7, column"),
    "infinity": (broken(lambda x: set_entry(x, "data", -1, -np.inf)), "infinity .inf. at row 119"),
    "complex": (CSR.astype(complex), "Complex data not supported"),
    "no rows": (CSR[:0], "0 sample"),
    "no columns": (CSR[:, :0], "0 feature"),
    "one dimension": (sp.coo_array(np.ones(4)), "Expected 2D array, got 1D"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_broken_matrix_is_one_clear_error(case):
    x, message = HOSTILE[case]
    fitted = SoftmaxClassifier(reg=1e-2).fit(CSR, Y)
    for call in (lambda: SoftmaxClassifier().fit(x, Y), lambda: fitted.predict(x)):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_broken_promise_of_order_is_not_believed():
    """A matrix may say of itself that it is in order."""
    x = unsorted(duplicates=True)
    x.has_canonical_format = x.has_sorted_indices = True
    model = SoftmaxClassifier(reg=1e-2).fit(x, Y)
    assert model.objective_ == pytest.approx(
        SoftmaxClassifier(reg=1e-2).fit(X, Y).objective_, rel=2 * PROMISE
    )


def test_infinities_of_both_signs_that_add_up():
    x = sp.coo_array(([np.inf, -np.inf, 1.0], ([0, 0, 1], [2, 2, 0])), shape=(2, 3))
    with pytest.raises(ValueError, match="NaN at row 0, column 2"):
        SoftmaxClassifier().fit(x, [0, 1])


def test_other_numbers_of_features_and_rows():
    model = SoftmaxClassifier(reg=1e-2).fit(CSR, Y)
    with pytest.raises(
        ValueError, match="X has 29 features, but SoftmaxClassifier is expecting 30"
    ):
        model.predict(CSR[:, 1:])
    with pytest.raises(ValueError, match="X has 120 rows but y has 119 labels"):
        SoftmaxClassifier().fit(CSR, Y[1:])


@pytest.mark.parametrize("options", [{}, {"solver": "adam", "max_iter": 2, "batch_size": 10}])
def test_memory_is_bounded(options):
    model = SoftmaxClassifier(reg=1e-2, max_memory="1GB", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(CSR, Y)
    with pytest.raises(ValueError, match="cannot be kept: this fit takes at least"):
        SoftmaxClassifier(max_memory="10KB", **options).fit(CSR, Y)


def test_little_memory_is_a_slower_way_to_the_same_model():
    big = sp.random_array((4000, 300), density=0.05, rng=RNG, format="csr")
    labels = RNG.integers(C, size=4000)
    least = SoftmaxClassifier(reg=1e-2, max_memory="3MB").fit(big, labels)
    free = SoftmaxClassifier(reg=1e-2).fit(big, labels)
    assert least.objective_ == pytest.approx(free.objective_, rel=2 * PROMISE)


def test_sparse_labels_and_weights_are_refused():
    x, y = np.eye(4), np.array([0, 1, 0, 1])
    labels, weights = sp.csr_array(y[:, None]), sp.csr_array(np.ones((1, 4)))
    for more in ((labels,), (y, weights)):
        with pytest.raises(ValueError, match="must be dense, got a sparse csr_array"):
            SoftmaxClassifier().fit(x, *more)
