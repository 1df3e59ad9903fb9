"""`max_memory`: what a fit takes beyond X stays within it, or one error says what is needed."""

from __future__ import annotations

import itertools
import re
import tracemalloc

import numpy as np
import pytest
from backends import Backend
from estimator_cases import CLASSES, blobs, quick
from pairwise import mostly_long

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier
from xclf.objectives import Network
from xclf.rows import Streamed, parse_bytes
from xclf.training import FitShape, Problem, augmented_lagrangian, memory_budget, preconditioner
from xclf.training.lbfgs_fit import pairs_for
from xclf.training.memory import count_weight_vectors

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def wide_rows(n, d, c, dtype=np.float32):
    """Rows with a spectrum that falls, and labels that a linear model can learn."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), dtype=dtype) * (np.arange(1, d + 1) ** -0.5).astype(dtype)
    return x, np.argmax(x @ rng.standard_normal((d, c), dtype=dtype), axis=1)


def taken(fit):
    """The most bytes that were in use at once during fit(), beyond those at its start."""
    tracemalloc.start()
    try:
        fit()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _least(model, x, y, weights=None):
    """What the error says that the fit needs, in bytes."""
    with pytest.raises(ValueError, match=r"max_memory=1 cannot be kept") as caught:
        model.set_params(max_memory=1).fit(x, y, weights)
    words = re.search(r"at least (.*) beyond X", str(caught.value))[1]
    return parse_bytes(words.replace(" bytes", ""))


@mostly_long(
    shape=[(3000, 300, 10), (300, 5000, 4), (10_000, 40, 3)],
    cls=[SoftmaxClassifier, SVMClassifier],
    times=[1.0, 1.5, 4.0],
)
def test_a_fit_stays_within_it(cls, shape, times):
    """From the least that is possible: fewer pairs, fewer directions or none, smaller chunks."""
    x, y = wide_rows(*shape)
    model = cls(max_iter=6, reg=1e-3)
    model.fit(x[:200, :30].copy(), y[:200])  # what is made once in a process
    most = int(times * _least(model, x, y))
    used = taken(lambda: model.set_params(max_memory=most).fit(x, y))
    # A megabyte for Python's own objects, and for what other libraries hold.
    assert used <= most + (1 << 20)


@mostly_long(
    shape=[(2000, 100, 10), (4000, 20, 3)],
    cls=[SoftmaxClassifier, SVMClassifier, TwoLayerClassifier],
    times=[1.0, 3.0],
)
def test_the_labels_of_several_tasks_count(cls, shape, times):
    """With memory for one head at a time, for a few, and for all of them."""
    x, y = wide_rows(*shape)
    labels = np.stack([(y + k * (y > 0)) % shape[2] for k in range(5)], axis=1)
    model = cls(max_iter=2, random_state=0)
    model.fit(x[:200, :30].copy(), labels[:200])
    least = _least(model, x, labels)
    # Both in words, of which one is rounded up by a tenth of a MB at most.
    assert least >= _least(model, x, y) + labels.nbytes - (1 << 20) // 10
    most = int(times * least)
    used = taken(lambda: model.set_params(max_memory=most).fit(x, labels))
    assert used <= most + (1 << 20)


MINIBATCH = {
    "shape": [(4000, 300, 10), (2000, 3000, 4)],
    "cls": [SoftmaxClassifier, TwoLayerClassifier],
    "batch_size": [10, 1000],
    "held_out": [False, True],
    "rows": [("float32", False), ("float16", True), ("uint8", False)],
}


@mostly_long(**MINIBATCH)
def test_a_minibatch_fit_stays_within_it(cls, shape, batch_size, held_out, rows):
    _check_minibatch(cls, shape, batch_size, held_out, rows)


@pytest.mark.long
@pytest.mark.parametrize(tuple(MINIBATCH), [*itertools.product(*MINIBATCH.values())])
def test_every_minibatch_fit_stays_within_it(cls, shape, batch_size, held_out, rows):
    _check_minibatch(cls, shape, batch_size, held_out, rows)


def _check_minibatch(cls, shape, batch_size, held_out, rows):
    """From the least that is possible: large batches, and rows that are copied, are most of it."""
    (dtype, standardize), (x, y) = rows, wide_rows(*shape)
    x = (30 * np.abs(x)).astype(dtype) if dtype != "float32" else x
    model = cls(solver="adam", max_iter=2, batch_size=batch_size, random_state=0)
    model.set_params(standardize=standardize)
    model.set_params(early_stopping=held_out, validation_fraction=0.3 if held_out else None)
    model.fit(x[:200, :30].copy(), y[:200])
    most = _least(model, x, y)
    used = taken(lambda: model.set_params(max_memory=most).fit(x, y))
    assert used <= most + (1 << 20)


def test_the_moments_of_narrow_features_stay_within_it():
    """They are float64, and a first pass takes more for them than a model of few classes does."""
    x, y = wide_rows(2000, 3000, 4)
    x = (30 * np.abs(x)).astype(np.uint8)
    model = SoftmaxClassifier(max_iter=2, standardize=True)
    model.fit(x[:200, :30].copy(), y[:200])
    most = _least(model, x, y)
    used = taken(lambda: model.set_params(max_memory=most).fit(x, y))
    assert used <= most + (1 << 20)


@pytest.mark.parametrize(
    "shape, weighted",
    [pytest.param((8000, 10, 8), False, marks=pytest.mark.long), ((5000, 40, 3), True)],
)
def test_what_goes_on_in_float64_stays_within_it(shape, weighted, monkeypatch):
    """The hinge's multipliers widen, weights with them, and nothing else of that size is left."""
    wide, calls = [], []
    original = augmented_lagrangian._AugmentedLagrangianFit.widen

    def reasons(fit, at, *_):
        """Rounding is blamed at the tenth evaluation, and in float64 again at the tenth."""
        calls.append(1)
        return np.full(len(at.value), augmented_lagrangian.ROUNDING if len(calls) % 10 == 0 else "")

    monkeypatch.setattr(augmented_lagrangian._AugmentedLagrangianFit, "_reasons", reasons)
    monkeypatch.setattr(
        augmented_lagrangian._AugmentedLagrangianFit,
        "widen",
        lambda fit: wide.append(1) or original(fit),
    )
    x, y = wide_rows(*shape)
    weights = np.linspace(0.5, 1.5, len(y)) if weighted else None
    model = SVMClassifier(reg=1e-2)
    model.fit(x[:200].copy(), y[:200], None if weights is None else weights[:200])
    most = _least(model, x, y, weights)
    wide.clear()
    used = taken(lambda: model.set_params(max_memory=most).fit(x, y, weights))
    assert wide == [1]
    assert used <= most + (1 << 18)


@pytest.mark.parametrize("shape", [(30_000, 100, 10), (2000, 2000, 10), (400, 20_000, 3)], ids=str)
def test_without_it_a_tenth_of_x_and_a_constant(shape, monkeypatch):
    """The rule itself, at a scale at which a test can run: 200 MB is 12 MB here."""
    monkeypatch.setattr("xclf.training.memory.FREE", 12_000_000)
    monkeypatch.setattr("xclf.training.memory._LEAST", 0)
    x, y = wide_rows(*shape)
    model = SoftmaxClassifier(max_iter=6, reg=1e-4)
    model.fit(x[:200, :30].copy(), y[:200])
    assert taken(lambda: model.fit(x, y)) <= 12_000_000 + 0.1 * x.nbytes + (1 << 20)


def test_less_room_is_a_longer_way_to_the_same_optimum():
    x, y = wide_rows(2000, 300, 5, np.float64)
    want = SoftmaxClassifier(reg=1e-3).fit(x, y)
    model = SoftmaxClassifier(reg=1e-3)
    got = model.set_params(max_memory=int(1.05 * _least(model, x, y))).fit(x, y)
    assert got.converged_
    assert got.n_iter_ > want.n_iter_
    assert got.objective_ == pytest.approx(want.objective_, rel=1e-7)


@pytest.mark.parametrize("cls", CLASSES)
def test_what_cannot_be_kept_is_one_error_before_the_work(cls):
    x, y = blobs(60, 5, 3)
    model = quick(cls, max_memory="1 KB")
    told = r"^max_memory='1 KB' cannot be kept: this fit takes at least [\d.]+ KB beyond X$"
    with pytest.raises(ValueError, match=told):
        model.fit(x, y)
    assert not hasattr(model, "classes_")
    with pytest.raises(ValueError, match=told):
        model.partial_fit(x, y, classes=[0, 1, 2]) if cls is not SVMClassifier else model.fit(x, y)
    model.set_params(max_memory="100MB").fit(x, y)


def test_what_is_needed_grows_with_what_needs_it():
    def needed(n=1000, d=50, c=5, heads=1, taken=0, **options):
        shape = FitShape(Network((d, c)), np.zeros((n, d)), np.float64, **options)
        with pytest.raises(ValueError) as caught:
            memory_budget(shape, 1, heads=heads, taken=taken)
        return parse_bytes(re.search(r"least (.*) bey", str(caught.value))[1].replace(" bytes", ""))

    base = needed()
    for more in (
        {"n": 2000}, {"d": 100}, {"c": 10}, {"heads": 3}, {"multipliers": True}, {"widens": True},
        {"taken": 10**6},
        {"weight_vectors": count_weight_vectors(np.ones(1000))},
    ):  # fmt: skip
        assert needed(**more) > base
    small = needed(batch=100)
    assert needed(batch=1) < small < needed(batch=1000) == needed(batch=5000)


def test_streamed_batches_count_as_often_as_they_are_there():
    """Three of them pinned and two on the device, beside what is made of one."""
    xp = Backend.STRICT.xp
    x = Streamed(np.zeros((1000, 50), np.uint8), xp, xp.Device("device1"))
    small, large = (FitShape(Network((50, 5)), x, xp.float32, batch=batch) for batch in (400, 500))
    assert large.needed(1) - small.needed(1) == 100 * (5 * 50 + 4 * (50 + 6 * 5))


def test_pairs_and_directions_get_their_share(specs):
    x, y = wide_rows(2000, 400, 5)
    for most, full in (("1GB", True), ("3MB", False)):
        SoftmaxClassifier(max_memory=most, max_iter=2).fit(x, y)
        network, rows = specs[-1].network, specs[-1].rows
        memory = pairs_for(Problem(None, rows), np.zeros((1, network.size)))
        cost = preconditioner.passes_for_a_full_basis(rows, network, 1)
        assert np.isfinite(cost) == full
        assert memory.size == 50 if full else 5 <= memory.size < 50
        rank = preconditioner._rank(rows, 400)
        assert rank == preconditioner.RANK if full else rank < preconditioner.RANK
