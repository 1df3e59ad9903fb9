"""What fits of rows in blocks take beyond the rows: `max_memory` bounds it, in each process."""

from __future__ import annotations

import gc
import re
import tracemalloc

import dask_cases
import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone

from xclf import SoftmaxClassifier, SVMClassifier
from xclf.estimators import check_memory
from xclf.rows import parse_bytes

dask_cases.need("dask.array", "distributed")
import dask  # noqa: E402
import dask.array as da  # noqa: E402

# Tasks, graphs and messages of Dask itself.
DASK = 2 << 20
KINDS = {"dense": (500, 256, 200), "sparse": (500, 20_000, 5)}  # the latter has D > N
CASES = [
    (SoftmaxClassifier(reg=1e-2), "dense"),
    (SoftmaxClassifier(reg=1e-2), "sparse"),
    (SVMClassifier(reg=1e-2), "dense"),
]


@pytest.fixture(autouse=True)
def in_blocks(monkeypatch, every_problem_is_large):
    dask_cases.small_groups(monkeypatch, 1 << 17)


@pytest.fixture(scope="module")
def cluster():
    with dask_cases.cluster() as client:
        yield client


def dense_block(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def sparse_block(seed, shape):
    columns = np.random.default_rng(seed).integers(0, shape[1], 40 * shape[0])
    places = np.repeat(np.arange(shape[0]), 40), columns
    ones = np.ones(len(columns), np.float32)
    return scipy.sparse.csr_array(scipy.sparse.coo_array((ones, places), shape=shape))


def rows_of(kind):
    """X in 5 blocks, made where they are needed, and y."""
    n, features, classes = KINDS[kind]
    shape, make = (n // 5, features), sparse_block if kind == "sparse" else dense_block
    meta = make(0, (0, features))
    blocks = [
        da.from_delayed(dask.delayed(make)(k, shape), shape, np.float32, meta=meta)
        for k in range(5)
    ]
    return da.concatenate(blocks), da.arange(n, chunks=n // 5) % classes


def least(model, x, y):
    """The least `max_memory` that a fit takes, which its error names."""
    size = 1024
    while True:
        try:
            clone(model).set_params(max_memory=size).fit(x, y)
            return size
        except ValueError as error:
            found = re.findall(r"at least ([\d.]+ \w+) beyond X", str(error))
            size = parse_bytes(found[0]) if found else 2 * size


def begin():
    gc.collect()
    tracemalloc.start()


def peak():
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*max_iter", "ignore:.*tolerance")
@pytest.mark.parametrize(("model", "kind"), CASES)
def test_of_a_worker(cluster, model, kind):
    """Rows are there before: what is new beside them, at the peak, is the fit's."""
    x, y = rows_of(kind)
    model = clone(model).set_params(max_iter=1, tol=1.0)
    most = least(model, x, y)
    model.set_params(max_memory=most)
    held = x.persist()
    model.fit(held, y)  # modules are loaded
    peaks = []
    for _ in range(2):
        cluster.run(begin)
        model.fit(held, y)
        peaks.append(max(cluster.run(peak).values()))
    assert min(peaks) < most + DASK


@pytest.mark.parametrize("in_blocks", [True, False])
def test_what_is_too_little_is_known_before_the_fit(cluster, in_blocks):
    """By the error of the fit itself."""
    x, y = rows_of("dense")
    model = SoftmaxClassifier(reg=1e-2, class_weight="balanced", max_memory=1000)
    x, y = (x, y) if in_blocks else (x.compute(), y.compute())
    said = []
    for work in (lambda: model.fit(x, y), lambda: check_memory(model, x, KINDS["dense"][2])):
        with pytest.raises(ValueError, match="max_memory=1000 cannot be kept") as caught:
            work()
        said.append(str(caught.value))
    assert said[0] == said[1]
    check_memory(model.set_params(max_memory=None), x, 200)


@pytest.mark.filterwarnings("ignore:.*max_iter", "ignore:.*tolerance")
def test_of_this_process_without_a_cluster(monkeypatch):
    """The groups that are loaded at a time count."""
    monkeypatch.setattr("xclf.estimators._collections.client", lambda: None)
    x, y = rows_of("dense")
    model = SoftmaxClassifier(reg=1e-2, max_iter=1, tol=1.0)
    model.set_params(max_memory=least(model, x, y))
    peaks = []
    for _ in range(2):  # of other threads, and of imports, is what only some of the fits see
        with dask.config.set(scheduler="synchronous"):
            begin()
            model.fit(x, y)
        peaks.append(peak())
    assert min(peaks) < model.max_memory + DASK
