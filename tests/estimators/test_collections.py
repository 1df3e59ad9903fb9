"""Fits and predictions of Dask's collections, loaded by this process: those of arrays in memory."""

from __future__ import annotations

import dask_cases
import numpy as np
import pytest
import scipy.sparse
from dask_cases import within_gaps
from estimator_cases import blobs
from kill_cases import Heard, RaiseAt
from pairwise import mostly_long
from sklearn.base import clone

from xclf import Checkpoint, CheckpointError, SoftmaxClassifier, SVMClassifier, TwoLayerClassifier
from xclf.estimators._values import block_loaders, delayed_blocks

dask_cases.need("dask.array")
import dask  # noqa: E402
import dask.array as da  # noqa: E402

N, D, C = 400, 6, 3
X, Y = blobs(N, D, C)
WEIGHTS = np.random.default_rng(1).uniform(0.0, 2.0, N)
SOFTMAX = SoftmaxClassifier(reg=1e-1)
CONVEX = (
    SOFTMAX,
    SVMClassifier(reg=2e-1, tol=1e-3),
    SVMClassifier(reg=2e-1, loss="squared_hinge"),
)
CHUNKS = ((N, D), (97, D), (50, 4), ((1, 150, 149, 100), (1, 5)))


@pytest.fixture(autouse=True)
def in_blocks(monkeypatch, every_problem_is_large):
    dask_cases.small_groups(monkeypatch)


@pytest.fixture
def alone():
    """Blocks are loaded in this thread: for results that no scheduler changes."""
    with dask.config.set(scheduler="synchronous"):
        yield


def name_of(model):
    return f"{type(model).__name__}-{getattr(model, 'loss', 'softmax')}"


@pytest.mark.usefixtures("alone")
@mostly_long(
    model=CONVEX,
    chunks=CHUNKS,
    dtype=["float64", "float32", "float16", "uint8"],
    weights=[None, WEIGHTS],
    options=[{}, {"class_weight": "balanced"}, {"standardize": True}, {"fit_intercept": False}],
)
def test_a_fit_is_that_of_rows_in_memory(model, chunks, dtype, weights, options):
    x = (X - X.min() if dtype == "uint8" else X).astype(dtype)
    model = clone(model).set_params(**options)
    lazy = clone(model).fit(da.from_array(x, chunks=chunks), da.from_array(Y, chunks=90), weights)
    within_gaps(lazy, model.fit(x, Y, weights))
    assert lazy.coef_.dtype == model.coef_.dtype
    assert lazy.n_features_in_ == D


def test_a_net_takes_the_same_steps():
    """Ten iterations from the same start: sums of 400 rows in another order differ by 1e-14, and a
    step multiplies that by the condition of a few curvature pairs."""
    net = TwoLayerClassifier(hidden=5, solver="lbfgs", max_iter=10, random_state=0, tol=0.0)
    with pytest.warns(Warning, match="max_iter"):
        lazy = clone(net).fit(da.from_array(X, chunks=(97, D)), Y)
    with pytest.warns(Warning, match="max_iter"):
        net.fit(X, Y)
    assert lazy.objective_ == pytest.approx(net.objective_, rel=1e-9)


def test_the_same_blocks_give_the_same_bits():
    fits = [clone(SOFTMAX).fit(da.from_array(X, chunks=(97, D)), Y) for _ in range(2)]
    np.testing.assert_array_equal(fits[0].coef_, fits[1].coef_)


def test_chunks_of_unknown_size():
    array = da.from_array(X, chunks=(97, D))
    unknown = array[da.from_array(np.ones(N, bool), chunks=97)]
    assert np.isnan(unknown.shape[0])
    lazy = clone(SOFTMAX).fit(unknown, Y)
    known = clone(SOFTMAX).fit(array, Y)
    np.testing.assert_array_equal(lazy.coef_, known.coef_)
    guess = lazy.predict(unknown)
    assert np.isnan(guess.shape[0])
    np.testing.assert_array_equal(guess.compute(), known.predict(X))


def test_empty_blocks():
    parts = [X[:100], X[:0], X[100:]]
    array = da.concatenate([da.from_array(part, chunks=(100, D)) for part in parts])
    lazy = clone(SOFTMAX).fit(array, Y)
    np.testing.assert_array_equal(lazy.predict(array).compute(), lazy.predict(X))


def test_several_columns_of_labels():
    y = np.stack([Y, Y % 2, np.where(X[:, 0] > 0, 5, 7)], axis=1)
    lazy = clone(SOFTMAX).fit(da.from_array(X, chunks=(97, D)), da.from_array(y, chunks=(80, 2)))
    memory = clone(SOFTMAX).fit(X, y)
    for one, other in zip(lazy.estimators_, memory.estimators_, strict=True):
        within_gaps(one, other)
    array = da.from_array(X, chunks=(97, D))
    np.testing.assert_array_equal(lazy.predict(array).compute(), lazy.predict(X))
    for one, other in zip(lazy.predict_proba(array), lazy.predict_proba(X), strict=True):
        np.testing.assert_array_equal(one.compute(), other)
    assert lazy.score(array, y) == lazy.score(X, y)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("labels", [np.arange(3), np.array(["a", "bb", "c"])], ids=["int", "str"])
def test_predictions_are_lazy_arrays_in_the_chunks_of_x(classes, labels):
    y = labels[Y % classes]
    array = da.from_array(X.astype(np.float32), chunks=((150, 250), 4))
    model = clone(SOFTMAX).fit(array, y)
    x = X.astype(np.float32)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        lazy, want = getattr(model, method)(array), getattr(model, method)(x)
        assert dask.is_dask_collection(lazy)
        assert (lazy.shape, lazy.dtype) == (want.shape, want.dtype), method
        assert lazy.chunks[0] == (150, 250)
        assert (type(lazy._meta), lazy._meta.dtype) == (np.ndarray, want.dtype)
        np.testing.assert_array_equal(lazy.compute(), want)
    assert model.score(array, da.from_array(y, chunks=30)) == model.score(x, y)


def test_data_frames(monkeypatch):
    dask_cases.need("dask.dataframe", "pandas")
    import dask.dataframe as dd
    import pandas as pd

    frame = pd.DataFrame(X, columns=[f"f{k}" for k in range(D)])
    frame["f0"] = frame["f0"].round().astype("int32")
    labels = pd.Series(np.array(["lo", "mid", "hi"])[Y]).astype("category")
    lazy_frame, lazy_labels = (dd.from_pandas(part, npartitions=4) for part in (frame, labels))
    lazy = clone(SOFTMAX).fit(lazy_frame, lazy_labels)
    memory = clone(SOFTMAX).fit(frame, labels)
    within_gaps(lazy, memory)
    assert lazy.feature_names_in_.tolist() == list(frame.columns)
    assert lazy.classes_.tolist() == ["hi", "lo", "mid"]
    guess = lazy.predict(lazy_frame)
    assert guess.npartitions == 4
    np.testing.assert_array_equal(guess.compute(), lazy.predict(frame))
    assert lazy.score(lazy_frame, lazy_labels) == lazy.score(frame, labels)
    with pytest.raises(ValueError, match="feature names"):
        lazy.predict(lazy_frame.rename(columns={"f1": "other"}))
    with pytest.raises(ValueError, match="X must be numeric, got column 'f1' of dtype"):
        clone(SOFTMAX).fit(lazy_frame.assign(f1="text"), lazy_labels)


def test_few_rows_come_to_this_process(monkeypatch):
    monkeypatch.setattr("xclf.estimators._collections.FEW", N * D)
    lazy = clone(SOFTMAX).fit(da.from_array(X, chunks=(97, 4)), Y)
    np.testing.assert_array_equal(lazy.coef_, clone(SOFTMAX).fit(X, Y).coef_)


BAD = [
    (lambda x: x.astype(complex), "Complex data not supported"),
    (lambda x: x.astype(str), "X must be numeric, got dtype"),
    (lambda x: x[:, 0], "Expected 2D array, got 1D"),
    (lambda x: da.where(np.arange(D) == 4, np.nan, x), "X contains NaN at row 0, column 4"),
    (lambda x: da.concatenate([x, x / 0.0]), r"X contains .* at row 400, column 0"),
    (lambda x: x[:5], "X has 5 rows but y has 400 labels"),
    (lambda x: x.map_blocks(lambda b: b.astype("float32"), dtype=float), "blocks of X have dtype"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:20] for _, message in BAD])
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_bad_collections(change, message):
    array = change(da.from_array(X, chunks=(97, D)))
    with pytest.raises(ValueError, match=message):
        clone(SOFTMAX).fit(array, Y)


def test_other_collections_are_refused():
    import dask.bag as db

    with pytest.raises(TypeError, match="X must be an array or a data frame of Dask, got its Bag"):
        clone(SOFTMAX).fit(db.from_sequence([1, 2]), Y)


def test_one_column_of_a_data_frame_and_a_delayed_are_refused():
    pd, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    frame = dd.from_pandas(pd.DataFrame(X), npartitions=2)
    for other in (frame[0], dask.delayed(X)):
        with pytest.raises(TypeError, match="X must be an array or a data frame of Dask"):
            SOFTMAX.fit(other, Y)


def test_blocks_of_unknown_size_that_are_all_empty():
    nothing = da.from_array(X[:0], chunks=(1, D)).map_blocks(np.copy, chunks=((np.nan,), (D,)))
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        SOFTMAX.fit(nothing, Y[:0])


def sparse(x=X, chunks=(97, D), kind=scipy.sparse.csr_array):
    """X with half of its entries, in sparse blocks, and the same in memory."""
    x = np.where(np.random.default_rng(2).random(x.shape) < 0.5, x, 0.0).astype(x.dtype)
    return da.from_array(x, chunks=chunks).map_blocks(kind), scipy.sparse.csr_array(x)


@pytest.mark.usefixtures("alone")
@mostly_long(
    model=CONVEX,
    chunks=CHUNKS[:3],
    dtype=["float64", "float32", "uint8"],
    weights=[None, WEIGHTS],
    kind=[scipy.sparse.csr_array, scipy.sparse.csc_matrix],
    options=[{}, {"class_weight": "balanced"}, {"standardize": True}, {"fit_intercept": False}],
)
def test_sparse_blocks(model, chunks, dtype, weights, kind, options):
    x = (X - X.min() if dtype == "uint8" else X).astype(dtype)
    lazy, memory = sparse(x, (chunks[0], D), kind)
    model = clone(model).set_params(**options)
    there = clone(model).fit(lazy, da.from_array(Y, chunks=90), weights)
    within_gaps(there, model.fit(memory, Y, weights))
    np.testing.assert_array_equal(there.predict(lazy).compute(), there.predict(memory))
    assert there.score(lazy, Y) == there.score(memory, Y)


def test_sparse_minibatches_and_bad_sparse_blocks():
    lazy, memory = sparse()
    model = SoftmaxClassifier(solver="adam", max_iter=5, batch_size=32, random_state=0)
    there, here = clone(model).fit(lazy, Y), clone(model).fit(memory, Y)
    assert there.objective_ == pytest.approx(here.objective_, rel=0.05)
    bad = memory.toarray()
    bad[333, 2] = np.inf
    with pytest.raises(ValueError, match=r"X contains infinity \(inf\) at row 333, column 2"):
        clone(SOFTMAX).fit(da.from_array(bad, chunks=50).map_blocks(scipy.sparse.csr_array), Y)
    dense = da.from_array(X, chunks=(50, D)).map_blocks(
        scipy.sparse.csr_array, meta=np.empty((0, 0))
    )
    with pytest.raises(
        ValueError, match="blocks of X are sparse at row 0, and its meta says dense"
    ):
        clone(SOFTMAX).fit(dense, Y)


@pytest.mark.parametrize("library", ["h5py", "zarr"])
def test_arrays_of_files(library, tmp_path):
    """Chunks of HDF5 and zarr, read when they are needed, by this process or a scheduler's."""
    module = pytest.importorskip(library)
    x, path = X.astype(np.float16), str(tmp_path / "x")
    if library == "h5py":
        with module.File(path, "w") as file:
            file.create_dataset("x", data=x, chunks=(97, 4))
        file = module.File(path)
        array = da.from_array(file["x"], chunks=(97, 4))
    else:
        stored = module.create_array(path, shape=x.shape, chunks=(97, 4), dtype=x.dtype)
        stored[:] = x
        array = da.from_zarr(path)
    assert array.chunks[0][0] == 97
    lazy, memory = clone(SOFTMAX).fit(array, Y), clone(SOFTMAX).fit(x, Y)
    within_gaps(lazy, memory)
    np.testing.assert_array_equal(lazy.predict(array).compute(), lazy.predict(x))
    if library == "h5py":
        file.close()


def test_few_sparse_rows_come_to_this_process(monkeypatch):
    monkeypatch.setattr("xclf.estimators._collections.FEW", N * D)
    lazy, memory = sparse()
    np.testing.assert_array_equal(
        clone(SOFTMAX).fit(lazy, Y).coef_, clone(SOFTMAX).fit(memory, Y).coef_
    )


def test_what_is_not_finite_is_named_by_row_in_the_whole_of_x():
    x = X.copy()
    x[333, 2] = np.inf
    with pytest.raises(ValueError, match=r"X contains infinity \(inf\) at row 333, column 2"):
        clone(SOFTMAX).fit(da.from_array(x, chunks=(50, 4)), Y)


def test_a_block_that_fails_is_named_and_the_model_stays_as_it_was():
    def load(block, block_info=None):
        if block_info and block_info[0]["chunk-location"][0] == 2:
            raise OSError("disk on fire")
        return block

    array = da.from_array(X, chunks=(100, D)).map_blocks(load, dtype=float)
    model = clone(SOFTMAX).fit(X, Y)
    before = model.coef_
    with pytest.raises(
        RuntimeError, match=r"rows 2\d\d to \d+ of X cannot be loaded: disk on fire"
    ):
        model.fit(array, Y)
    assert model.coef_ is before


def test_a_group_is_loaded_by_the_tasks_of_its_own_blocks():
    """And not searched for among those of all."""
    blocks = delayed_blocks((da.from_array(X, chunks=(50, D)) + 1.0).rechunk((100, D)))
    first, second = block_loaders(blocks, [slice(0, 1), slice(1, 4)])
    np.testing.assert_array_equal(first()[0], X[:100] + 1.0)
    np.testing.assert_array_equal(np.concatenate(second()), X[100:] + 1.0)
    assert 2 * len(first.args[0]) < len(second.args[0])


def test_max_memory_bounds_what_is_loaded():
    array = da.from_array(X, chunks=(N, D))
    with pytest.raises(ValueError, match=r"cannot be kept: blocks of X take up to .* X.rechunk"):
        clone(SOFTMAX).set_params(max_memory=X.nbytes).fit(array, Y)
    within_gaps(
        clone(SOFTMAX).set_params(max_memory="2MB").fit(array.rechunk((50, D)), Y),
        clone(SOFTMAX).fit(X, Y),
    )


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["none", "weights"])
def test_minibatches_are_drawn_group_by_group(solver, weights):
    """They train as those of rows in memory do, by other batches; the same seed gives the same
    bits. 0.02 is eight of 400 rows; 5 epochs end within 5 % of each other."""
    model = SoftmaxClassifier(solver=solver, max_iter=5, batch_size=32, random_state=0)
    array = da.from_array(X, chunks=(50, D))
    first, again = (clone(model).fit(array, Y, weights) for _ in range(2))
    np.testing.assert_array_equal(first.coef_, again.coef_)
    memory = clone(model).fit(X, Y, weights)
    assert first.score(X, Y) >= memory.score(X, Y) - 0.02
    assert first.objective_ == pytest.approx(memory.objective_, rel=0.05)


def test_early_stopping_and_learning_in_parts():
    array = da.from_array(X, chunks=(50, D))
    model = SoftmaxClassifier(solver="adam", max_iter=4, early_stopping=True, random_state=0)
    assert len(model.fit(array, Y).history_["val_accuracy"]) == 4
    parts = SoftmaxClassifier(random_state=0)
    for rows in (slice(0, 200), slice(200, N)):
        parts.partial_fit(array[rows], da.from_array(Y[rows], chunks=70), classes=np.arange(C))
    assert parts.score(X, Y) > 0.8


@pytest.mark.parametrize("model", CONVEX, ids=name_of)
def test_a_fit_goes_on_from_its_checkpoint(model, tmp_path):
    array, kept = da.from_array(X, chunks=(97, D)), Checkpoint(tmp_path / "run", every=0)
    want = clone(model).fit(array, Y)
    broken = clone(model).set_params(callbacks=[RaiseAt(4, ZeroDivisionError), kept])
    with pytest.raises(ZeroDivisionError):
        broken.fit(array, Y)
    heard = Heard()
    again = clone(model).set_params(callbacks=[heard, kept]).fit(array, Y)
    np.testing.assert_array_equal(again.coef_, want.coef_)
    assert heard.steps[0] > 3, "it has not started anew"
    with pytest.raises(CheckpointError, match="X"):
        clone(model).set_params(callbacks=[kept]).fit(array + 1.0, Y)
