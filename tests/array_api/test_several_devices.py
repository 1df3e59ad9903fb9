"""Rows shared out among several devices: what each does, and that the sums are those of one."""

from __future__ import annotations

import functools
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from device_cases import gpus  # noqa: F401
from estimator_cases import CLASSES, blobs, quick, small
from pairwise import mostly_long

from xclf import SoftmaxClassifier, SVMClassifier, SweepCV, TwoLayerClassifier, _array_api
from xclf.estimators import _devices
from xclf.rows import PerRow, Rows, Sharded, Streamed, map_rows, shard_rows, sum_over_rows
from xclf.training import augmented_lagrangian
from xclf.training._smoothed_hinge import SmoothedHinge

X, Y = blobs(150, 6, 3)
BOTH = ("gpu", "gpu2")
HOST = np.arange(60.0).reshape(20, 3)

pytestmark = [
    pytest.mark.usefixtures("every_problem_is_large"),
    pytest.mark.usefixtures("gpus"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


@pytest.fixture
def streamed(monkeypatch):
    """Devices without memory for X."""
    monkeypatch.setattr(_array_api, "free_memory", lambda *_: 1)


WAYS = ["resident", "streamed"]


@pytest.fixture(params=WAYS)
def way(request):
    if request.param == "streamed":
        request.getfixturevalue("streamed")
    return request.param


@pytest.fixture
def widened(monkeypatch):
    """Where chunks were computed with, (device, rows) each; chunks are of 20 rows."""
    seen = []
    plain = Rows._picked

    def watched(self, x, where):
        seen.append((str(_array_api.device(x)), int(x.shape[0])))
        return plain(self, x, where)

    monkeypatch.setattr("xclf.rows._rows._chunk_rows", lambda *_: 20)
    monkeypatch.setattr(Rows, "_picked", watched)
    return seen


def _share(seen):
    """The second device's, of the rows that both have seen."""
    first, second = (sum(n for one, n in seen if f"device{k}" in one) for k in (1, 2))
    return second / (first + second)


MODELS = {
    "softmax": (SoftmaxClassifier, {}),
    "hinge": (SVMClassifier, {"reg": 1e-2}),
    "hinge without biases": (SVMClassifier, {"reg": 1e-2, "fit_intercept": False}),
    "net, softmax": (TwoLayerClassifier, {"solver": "lbfgs", "hidden": 6, "random_state": 1}),
    "net, hinge": (
        TwoLayerClassifier,
        {"solver": "lbfgs", "hidden": 6, "random_state": 1, "loss": "hinge"},
    ),
}
models = pytest.mark.parametrize("model", MODELS)
OPTIONS = [{}, {"class_weight": "balanced"}, {"standardize": True}]


def _fit(name, x=X, y=Y, **options):
    cls, own = MODELS[name]
    return cls(**own | {"max_iter": 5} | options).fit(x, y)


@mostly_long(model=list(MODELS), options=OPTIONS, way=WAYS)
def test_every_full_batch_fit_is_shared(model, options, way, request, widened):
    """Half of the rows each, weights and all; no operation meets arrays of two devices."""
    if way == "streamed":
        request.getfixturevalue("streamed")
    weights = np.random.default_rng(0).uniform(0.5, 2.0, size=len(Y))
    want = MODELS[model][0](**MODELS[model][1] | {"max_iter": 5} | options)
    want.fit(X, Y, sample_weight=weights)
    widened.clear()
    got = MODELS[model][0](**MODELS[model][1] | {"max_iter": 5, "device": BOTH} | options)
    got.fit(X, Y, sample_weight=weights)
    assert got.objective_ == pytest.approx(want.objective_, rel=1e-9)
    assert got.n_iter_ == want.n_iter_
    assert 0.4 <= _share(widened) <= 0.6
    for layer in got._layers():
        assert _array_api.device(layer.w) == _array_api.NAMED_DEVICES["gpu"][1]


@models
def test_it_repeats_bit_for_bit(model, way):
    first, second = (_fit(model, device=BOTH) for _ in range(2))
    assert first.objective_ == second.objective_
    assert first.history_["loss"] == second.history_["loss"]
    for one, other in zip(first._layers(), second._layers(), strict=True):
        np.testing.assert_array_equal(_array_api.to_host(one.w), _array_api.to_host(other.w))


def test_the_gap_of_the_hinge_is_certified_over_all_rows(widened):
    """To the optimum: multipliers have moved many times, on both devices."""
    x, y = X[:50], Y[:50]
    want = SVMClassifier(reg=1e-1).fit(x, y)
    widened.clear()
    got = SVMClassifier(reg=1e-1, device=BOTH).fit(x, y)
    assert want.converged_
    assert got.converged_
    assert 0.4 <= _share(widened) <= 0.6
    for model in (got, want):
        assert 0.0 <= model.dual_gap_ <= 1e-6 * model.objective_
    apart = abs(got.objective_ - want.objective_)
    assert apart <= got.dual_gap_ + want.dual_gap_ + 1e-13 * want.objective_


def test_what_float32_leaves_is_done_in_float64_on_both(monkeypatch):
    """Multipliers of float32 go on as they are, each on its device."""
    wide = []
    original = SmoothedHinge.widened

    def watched(*args):
        wide.append([str(_array_api.device(part)) for part in args[-1][0].parts])
        return original(*args)

    monkeypatch.setattr(SmoothedHinge, "widened", watched)
    for patience in ("_PATIENCE", "_HARD"):  # rounding is soon blamed
        monkeypatch.setattr(augmented_lagrangian, patience, 1)
    x = np.round(X[:30], 1).astype(np.float32)
    want = SVMClassifier(reg=1e-1, tol=1e-9, max_iter=200).fit(x, Y[:30])
    got = SVMClassifier(reg=1e-1, tol=1e-9, max_iter=200, device=BOTH).fit(x, Y[:30])
    assert len(wide[-1]) == 2
    assert all(f"device{k + 1}" in one for k, one in enumerate(wide[-1]))
    assert got.objective_ == pytest.approx(want.objective_, rel=1e-4)
    assert got.dual_gap_ <= 1e-4 * got.objective_


@pytest.mark.parametrize(
    "cls, way", [(SoftmaxClassifier, "resident"), (SVMClassifier, "streamed")], indirect=["way"]
)
def test_the_heads_of_a_sweep_are_shared(cls, way, widened):
    """Fold weights (G, N) and their heads too; heads that are done leave on both devices."""
    grid, x, y = {"reg": [1.0, 2e-1]}, X[:50], Y[:50]
    want = SweepCV(small(cls), grid, cv=2).fit(x, y)
    widened.clear()
    got = SweepCV(small(cls, device=BOTH), grid, cv=2).fit(x, y)
    assert 0.4 <= _share(widened) <= 0.6
    for key in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(got.cv_results_[key], want.cv_results_[key], rtol=1e-12)
    assert got.best_estimator_.objective_ == pytest.approx(want.best_estimator_.objective_, 1e-6)


def test_a_search_over_solvers_shares_what_can_be_shared(widened):
    grid = {"solver": ["lbfgs", "sgd"]}
    search = SweepCV(SoftmaxClassifier(device=BOTH, max_iter=3, random_state=0), grid, cv=2)
    with pytest.warns(UserWarning, match="minibatches are computed on one device"):
        search.fit(X, Y)
    assert 0.1 <= _share(widened) <= 0.5


@pytest.mark.parametrize("cls", CLASSES)
def test_predictions_of_many_rows_are_shared(cls, widened, monkeypatch):
    want = quick(cls).fit(X, Y)
    model = quick(cls).fit(X, Y).to_namespace(*_array_api.NAMED_DEVICES["gpu"])
    model.device = BOTH
    monkeypatch.setattr(_devices, "_SHARE", X.nbytes // 2)
    for method in ("predict", "decision_function", "predict_proba"):
        if not hasattr(want, method):
            continue
        widened.clear()
        got = getattr(model, method)(X)
        assert type(got) is np.ndarray
        np.testing.assert_allclose(got, getattr(want, method)(X), rtol=1e-12)
        assert _share(widened) == 0.5
    widened.clear()
    model.predict(X[:70])
    assert _share(widened) == 0.0  # too few rows
    model.device = ("gpu2",)
    assert model.predict(X).shape == Y.shape  # a model that is elsewhere than its parameter says


def test_fewer_rows_than_devices():
    x, y = X[:2], np.asarray([0, 1])
    xp = _array_api.NAMED_DEVICES["gpu"][0]
    _array_api.NAMED_DEVICES["gpu3"] = (xp, xp.Device("CPU_DEVICE"))
    for cls in (SoftmaxClassifier, SVMClassifier):
        model = cls(device=(*BOTH, "gpu3"), max_iter=3).fit(x, y)
        assert model.predict(x).tolist() == [0, 1]


def test_a_device_without_memory_for_its_chunks(monkeypatch):
    """Only the second is short of it: both go on with what fits there, after one warning."""
    plain = Rows._picked

    def limited(self, part, where):
        if "device2" in str(_array_api.device(part)) and part.shape[0] > 30:
            raise MemoryError
        return plain(self, part, where)

    want = _fit("hinge")
    monkeypatch.setattr(Rows, "_picked", limited)
    with pytest.warns(RuntimeWarning, match="out of memory") as caught:
        got = _fit("hinge", device=BOTH)
    assert sum("out of memory" in str(w.message) for w in caught) == 1
    assert got.objective_ == pytest.approx(want.objective_, rel=1e-10)


def test_memory_taken_in_the_meantime_is_no_error(monkeypatch):
    """Free memory may be gone, or in pieces, by the time X is moved: it is then streamed."""

    def full(self):
        raise MemoryError("out of memory")

    want = _fit("softmax")
    monkeypatch.setattr(Streamed, "resident", full)
    for device in ("gpu", BOTH):
        assert _fit("softmax", device=device).objective_ == pytest.approx(want.objective_, 1e-10)
    monkeypatch.setattr(Streamed, "resident", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _fit("softmax", device="gpu")


# --- the rows themselves ---------------------------------------------------------------------


def _sharded(resident=False):
    xp, first = _array_api.NAMED_DEVICES["gpu"]
    shards = shard_rows(HOST, xp, [first, _array_api.NAMED_DEVICES["gpu2"][1]])
    if resident:
        shards = [(where, x.resident()) for where, x in shards]
    return Sharded(HOST, xp, first, shards)


def _rows(x):
    beside = [_array_api.from_host(a, x) for a in (np.arange(20), np.arange(20.0))]
    return Rows(x, *beside, x.dtype)


def _columns(chunk):
    """Sums over the chunk, and the labels and weights that are beside it."""
    xp = _array_api.namespace(chunk.x)
    first = xp.astype(chunk.labels, chunk.x.dtype)
    return xp.sum(chunk.x, axis=0), xp.sum(first * chunk.weights)


COLUMNS = functools.partial(_columns)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize(
    "index", [np.arange(0, 20, 3), np.arange(4), np.arange(10, 20), [3, 3, 12, 12, 19], [12, 3]]
)
def test_some_of_the_rows_stay_where_they_are(resident, index):
    rows, index = _rows(_sharded(resident)), np.asarray(index)
    some = rows.only(index)
    total, beside = (_array_api.to_host(part) for part in sum_over_rows(COLUMNS, some))
    np.testing.assert_array_equal(total, HOST[index].sum(axis=0))
    assert beside == np.sum(index * index)
    if np.any(np.diff(index) < 0):
        assert type(some.x) is Streamed
        return
    for shard in some.shards:
        assert isinstance(shard.x, Streamed) is not resident
    assert sum(len(shard) for shard in some.shards) == len(index)
    again = some.only(np.arange(len(index))[::2])
    (total, _) = sum_over_rows(COLUMNS, again)
    np.testing.assert_array_equal(_array_api.to_host(total), HOST[index[::2]].sum(axis=0))


def test_sums_and_maps_come_back_in_order():
    x = _sharded()
    got = map_rows(functools.partial(_double), x, x.dtype, 1)
    np.testing.assert_array_equal(got, 2.0 * HOST)
    got = map_rows(lambda part: part * 2.0, x, x.dtype, 1)  # a closure: the first device does it
    np.testing.assert_array_equal(got, 2.0 * HOST)
    (total,) = sum_over_rows(lambda chunk: (chunk.x[0, :] * 1.0,), _rows(x), size=20)
    np.testing.assert_array_equal(_array_api.to_host(total), HOST[0])


def _double(part):
    return part * 2.0


def test_zeros_lie_on_the_devices_of_their_rows():
    rows = _rows(_sharded())
    made = rows.zeros((2,), rows.dtype)
    assert [str(_array_api.device(part)) for part in made.parts] == [
        str(_array_api.NAMED_DEVICES[name][1]) for name in BOTH
    ]
    assert [part.shape for part in made.parts] == [(2, 10), (2, 10)]
    with pytest.raises(ValueError, match="too many values"):
        made[:, slice(0, 3)]
    sum_over_rows(_Write(made), rows, size=4)
    both = np.concatenate([_array_api.to_host(part) for part in made.parts], axis=1)
    np.testing.assert_array_equal(both, np.stack([np.arange(20.0)] * 2))
    here = Rows(HOST, np.arange(20), None, HOST.dtype).zeros((3,), HOST.dtype)
    here[1, 2:4] = 7.0
    assert here[...].sum() == 14.0


@dataclass(frozen=True)
class _Write:
    beside: Any

    def __call__(self, chunk):
        xp = _array_api.namespace(chunk.x)
        self.beside[..., chunk.where] = xp.zeros_like(self.beside[..., chunk.where]) + (
            chunk.weights
        )
        return (xp.sum(chunk.x),)


def test_an_error_ends_all_before_it_is_raised():
    """Whichever device meets it: nothing may go on writing to what belongs to the caller."""
    begun, failed, done = threading.Event(), threading.Event(), []

    def step(chunk):
        if "device1" in str(_array_api.device(chunk.x)):
            begun.wait(10)
            failed.set()
            raise KeyError("a chunk")
        begun.set()
        failed.wait(10)
        time.sleep(0.05)  # were it not waited for, the caller would be faster
        done.append(int(chunk.x.shape[0]))
        return (chunk.x,)

    with pytest.raises(KeyError, match="a chunk"):
        sum_over_rows(functools.partial(step), _rows(_sharded()))
    assert done == [10]


def test_what_does_not_change_does_not_travel_again(monkeypatch):
    """Labels of the second device are copied there once, whatever heads leave."""
    x = _sharded()
    weights = _array_api.from_host(np.ones((3, 20)), x)
    rows = Rows(x, _array_api.from_host(np.arange(20), x), weights, x.dtype)
    labels = [shard.labels for shard in rows.shards]
    fewer = rows.take_heads(np.array([0, 2])).widened(_array_api.namespace(x).float32)
    assert [shard.labels for shard in fewer.shards] == labels
    assert [shard.weights.shape for shard in fewer.shards] == [(2, 10)] * 2
    assert all(shard.weights.dtype == _array_api.namespace(x).float32 for shard in fewer.shards)
    assert all(
        a is b for a, b in zip([shard.labels for shard in fewer.shards], labels, strict=True)
    )


def test_a_per_row_array_maps_part_by_part():
    some = PerRow([np.ones(2), np.zeros(3)])
    total = some.map(lambda a, b: a + b, PerRow([np.ones(2), np.ones(3)]))
    assert [part.tolist() for part in total.parts] == [[2.0, 2.0], [1.0, 1.0, 1.0]]


@dataclass(frozen=True)
class _Holder:
    """Arrays in everything that is searched for them."""

    host: np.ndarray
    named: dict[str, Any]
    several: Any

    def __call__(self, chunk):
        xp, x = _array_api.namespace(chunk.x), chunk.x
        assert _array_api.is_host(self.host)
        assert self.several[0][0] is self.host
        arrays = [self.named["there"], self.several[1]]
        assert all(_array_api.same_device(array, x) for array in arrays)
        return (xp.sum(x) + 0.0 * (arrays[0] + arrays[1]),)


def test_arrays_that_a_function_holds_are_where_its_rows_are():
    """In dataclasses, dicts, tuples and lists; those on the host are shared."""
    rows, host = _rows(_sharded()), np.arange(3.0)
    there = _array_api.from_host(np.asarray(1.0), rows.x)
    holder = _Holder(host, {"there": there}, ([host], there))
    (total,) = sum_over_rows(holder, rows)
    assert float(_array_api.to_host(total)) == HOST.sum()
