"""Learning in parts and early stopping on a cluster: labels stay beside their rows."""

from __future__ import annotations

import dask_cases
import numpy as np
import pytest
from estimator_cases import blobs
from sklearn.base import clone

from xclf import SoftmaxClassifier

dask_cases.need("dask.array", "distributed")
import dask.array as da  # noqa: E402

N, D, C = 240, 5, 3
X, Y = blobs(N, D, C)
WEIGHTS = np.where(np.arange(N) % 3 == 0, 0.0, np.random.default_rng(1).uniform(0.5, 2.0, N))
PARTS = SoftmaxClassifier(batch_size=32, random_state=0, class_weight={0: 2.0})
STOPPED = SoftmaxClassifier(
    solver="adam", max_iter=3, batch_size=32, random_state=0, early_stopping=True
)


pytestmark = pytest.mark.usefixtures("in_blocks")


def learn(y, weights):
    model, classes = clone(PARTS), np.arange(C)
    for _ in range(2):
        model.partial_fit(lazy(), y, classes=classes, sample_weight=weights)
    return model


def stop_early(y, weights):
    return clone(STOPPED).fit(lazy(), y, weights)


def lazy():
    return da.from_array(X, chunks=(80, 3))


@pytest.mark.parametrize("work", [learn, stop_early])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["none", "weights"])
def test_the_bits_are_those_of_one_process(shared, work, weights, monkeypatch):
    lazy_weights = None if weights is None else da.from_array(weights, chunks=100)
    with monkeypatch.context() as patch:
        patch.setattr("xclf.estimators._base.computed", lambda value: value and 1 / 0)
        there = work(da.from_array(Y, chunks=70), lazy_weights)
    monkeypatch.setattr("xclf.estimators._collections.client", lambda: None)
    here = work(Y, weights)
    np.testing.assert_array_equal(there.coef_, here.coef_)
    assert there.history_["val_accuracy"] == pytest.approx(
        here.history_["val_accuracy"], abs=0, nan_ok=True
    )
    assert there.score(X, Y) > 0.8


def test_rows_without_weight_take_places_in_the_batches_of_a_part(shared):
    """240 rows in batches of 32 are 8 steps, of rows with weight they were 5."""
    weights = da.from_array(WEIGHTS, chunks=100)
    model = clone(PARTS).partial_fit(
        lazy(), da.from_array(Y, chunks=70), classes=np.arange(C), sample_weight=weights
    )
    assert int(model._resume.state[-1]) == 8


def test_what_is_wrong_is_said_by_row(shared):
    classes = np.arange(C)
    bad = da.from_array(np.where(np.arange(N) == 200, 7, Y), chunks=70)
    with pytest.raises(ValueError, match=r"y holds labels that are not among the classes .* \[7\]"):
        clone(PARTS).partial_fit(lazy(), bad, classes=classes)
    two = da.from_array(np.stack([Y, Y], axis=1), chunks=(70, 1))
    with pytest.raises(ValueError, match="partial_fit takes labels of one column"):
        clone(PARTS).partial_fit(lazy(), two, classes=classes)
    lone = da.from_array(np.where(np.arange(N) == 5, 2, Y % 2), chunks=70)
    with pytest.raises(ValueError, match=r"fraction=0.1 of 240 rows: a class has a single row"):
        clone(STOPPED).fit(lazy(), lone)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*max_iter")
def test_the_memory_of_this_process_does_not_grow_with_the_rows(shared, monkeypatch):
    """A number of each would be 8 bytes a row. Some groups of 0.8 MB are here at a time, more or
    less of them by chance, which two runs in a row do not have: of a million rows two are 1.6 bytes
    a row."""
    monkeypatch.setattr("xclf.rows._block_rows.GATHERED", 1 << 15)
    monkeypatch.setattr("xclf.rows._blocks._GROUP", 50_000 * 16)
    parts = clone(PARTS).set_params(batch_size=1 << 14)
    stopped = clone(STOPPED).set_params(batch_size=1 << 14, max_iter=1)

    def work(x, y, weights):
        parts.partial_fit(x, y[:, 0], classes=[0, 1], sample_weight=weights)
        held = 1500 / x.shape[0]
        clone(stopped).set_params(validation_fraction=held).fit(x, y[:, 0], weights)

    sizes = (50_000, 300_000, 1_300_000)
    assert any(dask_cases.bytes_per_row(work, sizes, 50_000) < 4.0 for _ in range(2))
