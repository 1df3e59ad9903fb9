"""Fits on a cluster of processes: the bits of blocks in one, and a right end of every trouble."""

from __future__ import annotations

import gc
import os
import signal
import time

import dask_cases
import numpy as np
import pytest
import scipy.sparse
from dask_cases import arrays
from estimator_cases import blobs
from sklearn.base import clone

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier
from xclf.rows import ClusterEngine, _block_tasks
from xclf.rows._blocks import plain
from xclf.rows._direct import Direct

dask_cases.need("dask.array", "distributed")
import dask.array as da  # noqa: E402

N, D, C = 240, 5, 3
X, Y = blobs(N, D, C)
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2.0, N)
SOFTMAX = SoftmaxClassifier(reg=1e-1, tol=1e-2)
HINGE = SVMClassifier(reg=1e-1, tol=1e-1)
CASES = [
    (SoftmaxClassifier(reg=1e-1, tol=1e-2, class_weight="balanced", standardize=True), "float32"),
    (HINGE, "float64"),
    (SoftmaxClassifier(reg=1e-1, tol=1e-2, standardize=True), "sparse"),
    (TwoLayerClassifier(hidden=4, solver="lbfgs", max_iter=3, random_state=0), "float16"),
]


pytestmark = pytest.mark.usefixtures("in_blocks")


def lazy(x=X, rows=80):
    return da.from_array(x, chunks=(rows, 3))


def sparse():
    x = np.where(np.random.default_rng(2).random(X.shape) < 0.5, X, 0.0)
    return da.from_array(x, chunks=(80, D)).map_blocks(scipy.sparse.csr_array)


@pytest.mark.filterwarnings("ignore:.*max_iter")
@pytest.mark.parametrize(("model", "dtype"), CASES, ids=[name for _, name in CASES])
def test_the_same_bits_as_in_one_process(shared, model, dtype, monkeypatch):
    array = sparse() if dtype == "sparse" else lazy(X.astype(dtype))
    there = clone(model).fit(array, da.from_array(Y, chunks=50), WEIGHTS)
    with monkeypatch.context() as patch:
        patch.setattr("xclf.estimators._collections.client", lambda: None)
        here = clone(model).fit(array, Y, WEIGHTS)
    for one, other in zip(arrays(there), arrays(here), strict=True):
        np.testing.assert_array_equal(one, other)
    guess = there.predict(array)
    np.testing.assert_array_equal(guess.compute(), here.predict(array).compute())


def total(scale, numbers):
    return (np.asarray(scale * numbers.sum()),)


def broken(*_):
    raise OSError("disk on fire")


def test_passes_without_and_with_a_graph(shared, monkeypatch):
    """The same bits: as messages, as graphs where these would be large or the scheduler has not had
    one for long, and where a worker does not hold what it should."""
    passes = []

    class Counted(Direct):
        def sums(self, *args):
            passes.append(super().sums(*args))
            return passes[-1]

    monkeypatch.setattr("xclf.rows._cluster.Direct", Counted)
    engine, rng = ClusterEngine(shared), np.random.default_rng(0)
    held = engine.keep(plain, None, [(rng.normal(size=3),) for _ in range(7)])
    work = (total, 0.1, [(group,) for group in held])
    want = engine.sums(*work)
    assert passes == [want]
    with monkeypatch.context() as patch:
        patch.setattr("xclf.rows._direct.MOST_BYTES", 0)
        assert engine.sums(*work) == want
        assert passes.pop() is None
        patch.setattr("xclf.rows._cluster._IDLE", 0.0)
        assert engine.sums(*work) == want
    shared.replicate(held, n=1)
    for worker in shared.nthreads():
        engine._holders |= dict.fromkeys(engine._holders, frozenset([worker]))
        assert engine.sums(*work) == want
    assert passes.count(None) >= 1
    with pytest.raises(RuntimeError, match=r"a pass over the blocks failed: OSError: disk on fire"):
        engine.sums(broken, *work[1:])


def slow_down(seconds, count):
    """In a worker's process: the next groups of passes take so long more."""
    fast, left = _block_tasks.sum_group, [seconds] * count

    def slow(*args):
        time.sleep(left.pop() if left else 0.0)
        return fast(*args)

    _block_tasks.sum_group = slow


@pytest.mark.filterwarnings("ignore:.*max_iter")
def test_a_slow_worker(shared, monkeypatch):
    """Passes wait for it, beyond the time after which they look whether it is still there."""
    monkeypatch.setattr("xclf.rows._direct._LOOK", 0.2)
    model = clone(SOFTMAX).set_params(max_iter=2)
    want = model.fit(lazy(), Y).coef_
    shared.run(slow_down, 0.4, 3, workers=[next(iter(shared.nthreads()))])
    np.testing.assert_array_equal(clone(model).fit(lazy(), Y).coef_, want)


def test_rows_that_are_on_the_workers_already(shared):
    array = lazy().rechunk((60, D))
    there = clone(SOFTMAX).fit(array.persist(), Y)
    np.testing.assert_array_equal(there.coef_, clone(SOFTMAX).fit(array, Y).coef_)


@pytest.mark.filterwarnings("ignore:.*max_iter")
@pytest.mark.parametrize(
    "labels",
    [pytest.param(np.arange(3), marks=pytest.mark.long), np.array(["a", "bb", "c"])],
    ids=["int", "str"],
)
def test_labels_in_blocks_stay_there(shared, labels, monkeypatch):
    """And weights: no process gets all of them; whatever is wrong with them is named as in
    memory. One fit is told the same by arrays in this process: it has the same bits."""
    y = labels[Y]
    columns = np.stack([y, y[::-1], np.roll(y, 1)], axis=1)
    model = clone(SOFTMAX).set_params(class_weight="balanced", max_iter=2)
    want = clone(SOFTMAX).fit(lazy(), y)
    with monkeypatch.context() as patch:
        patch.setattr("xclf.estimators._base.computed", lambda value: value and 1 / 0)
        got = clone(SOFTMAX).fit(lazy(), da.from_array(y, chunks=70))
    np.testing.assert_array_equal(got.coef_, want.coef_)
    assert got.classes_.tolist() == want.classes_.tolist()
    with monkeypatch.context() as patch:
        patch.setattr("xclf.estimators._base.computed", lambda value: value and 1 / 0)
        several, parts = da.from_array(columns, chunks=(70, 2)), da.from_array(WEIGHTS, chunks=100)
        got = clone(model).fit(lazy(), several, parts)
    np.testing.assert_array_equal(got.coef_, clone(model).fit(lazy(), columns, WEIGHTS).coef_)

    bad = np.where(np.arange(N) == 200, None, y.astype(object))
    with pytest.raises(ValueError, match=r"no label .* at row 200"):
        clone(SOFTMAX).fit(lazy(), da.from_array(bad, chunks=70))
    with pytest.raises(ValueError, match="one class only"):
        clone(SOFTMAX).fit(lazy(), da.from_array(y[:1].repeat(N), chunks=70))
    with pytest.raises(ValueError, match="X has 240 rows but y has 239 labels"):
        clone(SOFTMAX).fit(lazy(), da.from_array(y[1:], chunks=70))
    columns[:, 1] = y[0]
    with pytest.raises(ValueError, match=r"column 1 of y must hold at least two classes"):
        clone(SOFTMAX).fit(lazy(), da.from_array(columns, chunks=(70, 1)))
    bad = da.from_array(np.where(np.arange(N) == 200, -1.0, 1.0), chunks=70)
    with pytest.raises(ValueError, match=r"sample_weight must be finite and >= 0, got -1.0 at row"):
        clone(SOFTMAX).fit(lazy(), da.from_array(y, chunks=70), bad)


ADAM = SoftmaxClassifier(solver="adam", max_iter=2, batch_size=32, random_state=0)


@pytest.mark.parametrize("columns", [1, 2])
def test_minibatches_of_labels_in_blocks(shared, columns, monkeypatch):
    """Labels and weights stay beside their rows; rows without weight are not drawn; the bits are
    those of blocks in one process with all labels in it."""
    y = np.stack([Y, Y[::-1]], axis=1)[:, :columns].squeeze()
    weights = np.where(np.arange(N) % 3 == 0, 0.0, WEIGHTS)
    parts = da.from_array(y, chunks=(70, 1)[: y.ndim]), da.from_array(weights, chunks=100)
    with monkeypatch.context() as patch:
        patch.setattr("xclf.estimators._base.computed", lambda value: value and 1 / 0)
        there = clone(ADAM).fit(lazy(), *parts)
    with monkeypatch.context() as patch:
        patch.setattr("xclf.estimators._collections.client", lambda: None)
        here = clone(ADAM).fit(lazy(), y, weights)
    np.testing.assert_array_equal(there.coef_, here.coef_)
    drawn = weights > 0.0
    kept = clone(ADAM).fit(X[drawn], y[drawn], weights[drawn])
    # Two epochs of 160 rows in other batches: within a tenth of each other.
    np.testing.assert_allclose(there.objective_, kept.objective_, rtol=0.1)


def test_labels_of_a_data_frame_stay_there(shared, monkeypatch):
    """Chunk sizes of neither are known beforehand, and partitions need not be the same."""
    dask_cases.need("dask.dataframe", "pandas")
    import dask.dataframe as dd
    import pandas as pd

    frame = dd.from_pandas(pd.DataFrame(X, columns=list("abcde")), npartitions=4)
    names = np.array(["lo", "mid", "hi"])[Y]
    want = clone(SOFTMAX).fit(frame, names)
    score = float(np.mean(want.predict(frame).compute() == names))
    monkeypatch.setattr("xclf.estimators._base.computed", lambda value: value and 1 / 0)
    monkeypatch.setattr("xclf.estimators._fitted.computed", None)
    for labels in (pd.Series(names).astype("category"), pd.Series(names, dtype=object)):
        for partitions in (3, 4):
            column = dd.from_pandas(labels, npartitions=partitions)
            got = clone(SOFTMAX).fit(frame, column)
            np.testing.assert_array_equal(got.coef_, want.coef_)
        assert got.score(frame, column) == score


def test_labels_made_of_the_rows(shared, caplog):
    """A scheduler that is sent one key by two graphs warns of it."""
    array = lazy() * 2.0
    y = (array[:, 0] > 0.0).astype("int64")
    clone(SOFTMAX).fit(array, y, abs(array[:, 1]))
    assert "run_spec" not in caplog.text


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*max_iter")
def test_the_memory_of_this_process_does_not_grow_with_the_rows(shared, monkeypatch):
    """A number of each would be 8 bytes a row, and this is a third of it. The scheduler, in this
    process too, holds some 0.1 MB for each block."""
    monkeypatch.setattr("xclf.rows._block_rows.GATHERED", 1 << 14)
    model = clone(SOFTMAX).set_params(class_weight="balanced", max_iter=1, tol=1.0)

    def fit_and_score(x, y, weights):
        monkeypatch.setattr("xclf.rows._blocks._GROUP", x.nbytes // 4)
        model.fit(x, y, weights)
        model.score(x, y, weights)

    assert dask_cases.bytes_per_row(fit_and_score, (20_000, 50_000, 400_000)) < 2.5
    # Some groups of 16 bytes a row are here at a time.
    monkeypatch.setattr("xclf.rows._blocks._GROUP", 100_000 * 16)
    batches = clone(ADAM).set_params(batch_size=1 << 16, max_iter=1, tol=1.0)
    sizes = (100_000, 200_000, 1_000_000)
    assert (
        dask_cases.bytes_per_row(lambda x, y, w: batches.fit(x, y[:, 0], w), sizes, 100_000) < 2.5
    )


def test_nothing_is_left_on_the_workers(shared):
    clone(SOFTMAX).fit(lazy(), Y)
    for _ in range(300):  # a busy machine takes its time
        gc.collect()
        held = [key for keys in shared.has_what().values() for key in keys]
        if not held:
            return
        time.sleep(0.1)
    raise AssertionError(held)


def test_a_block_that_cannot_be_loaded_is_named(shared):
    def load(block, block_info=None):
        if block_info and block_info[0]["chunk-location"][0] == 1:
            raise OSError("disk on fire")
        return block

    array = lazy().map_blocks(load, dtype=float)
    with pytest.raises(RuntimeError, match=r"rows 80 to 159 of X cannot .* OSError: disk on fire"):
        clone(SOFTMAX).fit(array, Y)
    x = X.copy()
    x[200, 4] = np.nan
    with pytest.raises(ValueError, match="X contains NaN at row 200, column 4"):
        clone(SOFTMAX).fit(lazy(x), Y)


class After:
    """A callback that does something once, at the third iteration."""

    def __init__(self, act):
        self.act, self.seen = act, 0

    def __call__(self, event):
        self.seen += 1
        if self.seen == 3:
            self.act()


@pytest.mark.parametrize(
    "model", [pytest.param(SOFTMAX, marks=pytest.mark.long), HINGE], ids=["lbfgs", "hinge"]
)
def test_a_worker_is_killed_and_another_joins(shared, model):
    """What it held, multipliers too, is computed again: the bits are the same."""
    want = clone(model).fit(lazy(), Y)

    def kill():
        os.kill(next(iter(shared.run(os.getpid).values())), signal.SIGKILL)

    hit = After(kill)
    got = clone(model).set_params(callbacks=[hit]).fit(lazy(), Y)
    assert hit.seen >= 3
    np.testing.assert_array_equal(got.coef_, want.coef_)
    shared.wait_for_workers(2, timeout=30)  # its nanny has started another


def test_no_worker_is_left(monkeypatch):
    monkeypatch.setattr("xclf.rows._cluster.PATIENCE", 0.5)
    monkeypatch.setattr("xclf.rows._cluster._LOOK", 0.2)
    with dask_cases.cluster(1, processes=False) as client:
        hit = After(lambda: client.cluster.scale(0))
        with pytest.raises(RuntimeError, match="has had no worker for"):
            clone(SOFTMAX).set_params(callbacks=[hit]).fit(lazy(), Y)


def test_the_client_is_closed():
    with dask_cases.cluster(1, processes=False) as client:
        hit = After(client.close)
        with pytest.raises(RuntimeError, match="the Dask client was closed: the fit ends here"):
            clone(SOFTMAX).set_params(callbacks=[hit]).fit(lazy(), Y)


def test_the_scheduler_goes_away():
    with dask_cases.cluster(1, processes=False) as client:
        hit = After(lambda: client.cluster.close(timeout=5))
        with pytest.raises(RuntimeError, match="the fit ends here"):
            clone(SOFTMAX).set_params(callbacks=[hit]).fit(lazy(), Y)
