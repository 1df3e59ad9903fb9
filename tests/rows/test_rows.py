"""Rows, their chunks, and sums over them: nothing depends on where the chunks end."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers import assert_close_max_norm, assert_same_kind

from xclf.objectives import Network, Objective, loss_named
from xclf.rows import MASK_CLASSES, Chunk, Rows, map_rows, sum_over_rows
from xclf.training import Problem

rows_module = sys.modules["xclf.rows._rows"]
N, D, C = 23, 4, 3


def _rows(backend, dtype="float64", x_dtype=None, weights=None, labels=None):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 200, size=(N, D)).astype(x_dtype or dtype)
    mask = np.arange(C)[:, None] == rng.integers(C, size=N)
    return Rows(
        backend.asarray(x),
        backend.asarray(mask if labels is None else labels),
        None if weights is None else backend.asarray(weights, dtype),
        backend.dtype(dtype),
    )


@pytest.fixture(params=[1, 5, 22, 23, 1000])
def chunk_size(request, monkeypatch):
    """Every caller of the one loop sees chunks of so many rows."""
    monkeypatch.setattr(rows_module, "_chunk_rows", lambda *_: request.param)
    return request.param


@pytest.mark.parametrize("size", [1, 5, 22, 23, 1000])
@pytest.mark.parametrize("weights", [None, "rows", "heads"])
def test_chunks_cover_every_row_once(backend, size, weights):
    values = {"rows": np.arange(N) + 1.0, "heads": np.arange(2.0 * N).reshape(2, N)}.get(weights)
    rows = _rows(backend, weights=values)
    x, mask = backend.to_host(rows.x), backend.to_host(rows.labels)
    end = 0
    for chunk in rows.chunks(size):
        assert isinstance(chunk, Chunk)
        assert chunk.where.start == end
        end = chunk.where.stop
        assert end == min(chunk.where.start + size, N)
        np.testing.assert_array_equal(backend.to_host(chunk.x), x[chunk.where])
        np.testing.assert_array_equal(backend.to_host(chunk.labels), mask[:, chunk.where])
        if weights is None:
            assert chunk.weights is None
        else:
            got = backend.to_host(chunk.weights)
            np.testing.assert_array_equal(got, values[..., chunk.where])
    assert end == N == len(rows)


@pytest.mark.parametrize("x_dtype", ["uint8", "int16", "float32", "float64"])
def test_chunks_and_batches_widen_a_few_rows_at_a_time(backend, x_dtype):
    rows = _rows(backend, dtype="float64", x_dtype=x_dtype)
    assert rows.x.dtype == backend.dtype(x_dtype)
    host = backend.to_host(rows.x)
    for chunk in rows.chunks(10):
        assert chunk.x.dtype == backend.dtype("float64")
        np.testing.assert_array_equal(backend.to_host(chunk.x), host[chunk.where])
    batch = rows.take(backend.asarray(np.array([7, 0, 7])))
    assert batch.x.dtype == backend.dtype("float64")
    np.testing.assert_array_equal(backend.to_host(batch.x), host[[7, 0, 7]])


@pytest.mark.parametrize("integers", [False, True])
def test_take_gathers_all_parts(backend, integers):
    labels = np.arange(N) % C if integers else None
    weights = np.arange(2.0 * N).reshape(2, N)
    rows = _rows(backend, weights=weights, labels=labels)
    index = [22, 3, 3, 0]
    batch = rows.take(backend.asarray(np.array(index)))
    np.testing.assert_array_equal(backend.to_host(batch.x), backend.to_host(rows.x)[index])
    want = backend.to_host(rows.labels)[..., index]
    np.testing.assert_array_equal(backend.to_host(batch.labels), want)
    np.testing.assert_array_equal(backend.to_host(batch.weights), weights[:, index])
    assert rows.take(backend.asarray(np.array([1]))).x.shape == (1, D)


def test_sums_do_not_depend_on_the_chunks(backend, chunk_size, dtype):
    """Small integers: exact in any order."""
    rows = _rows(backend, dtype=dtype)
    seen = []

    def f(chunk):
        seen.append(int(chunk.x.shape[0]))
        return backend.xp.sum(chunk.x, axis=0), backend.xp.sum(chunk.x)

    totals = sum_over_rows(f, rows)
    assert seen == [min(chunk_size, N - k) for k in range(0, N, chunk_size)]
    host = backend.to_host(rows.x)
    for got, want in zip(totals, (host.sum(axis=0), host.sum()), strict=True):
        assert got.dtype == backend.dtype("float64")
        np.testing.assert_array_equal(backend.to_host(got), want)


def test_sums_across_chunks_run_in_float64(backend, monkeypatch):
    """2^24 + 1 + ... + 1 in float32 stays at 2^24 for ever."""
    monkeypatch.setattr(rows_module, "_chunk_rows", lambda *_: 1)
    x = np.concatenate([[2.0**24], np.ones(99)])[:, None].astype("float32")
    labels = backend.asarray(np.zeros(100, int))
    rows = Rows(backend.asarray(x), labels, None, backend.dtype("float32"))
    (total,) = sum_over_rows(lambda chunk: (backend.xp.sum(chunk.x),), rows)
    assert float(backend.to_host(total)) == 2.0**24 + 99


def test_a_sum_over_no_rows_is_an_error():
    rows = Rows(np.zeros((0, 2)), np.zeros((2, 0), bool), None, np.dtype("float64"))
    with pytest.raises(ValueError, match="no rows"):
        sum_over_rows(lambda chunk: (chunk.x.sum(),), rows)


@pytest.mark.parametrize("loss", ["softmax", "hinge"])
@pytest.mark.parametrize("k", [None, 2])
def test_objective_and_gradient_do_not_depend_on_the_chunks(backend, chunk_size, loss, k):
    rng = np.random.default_rng(1)
    network = Network((D, 6, C))
    theta = rng.normal(size=(() if k is None else (k,)) + (network.size,))
    weights = rng.uniform(size=N)
    rows = _rows(backend, weights=weights)
    problem = Problem(Objective(network, loss_named(loss), 0.01), rows)
    whole = Rows(*(backend.to_host(a) for a in (rows.x, rows.labels, rows.weights)), np.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_chunk_rows", lambda *_: N)
        want = Problem(problem.objective, whole).value_and_grad(theta)
    got = problem.value_and_grad(backend.asarray(theta))
    # N = 23 roundings of a sum, and a product blocked in another way.
    for a, b in zip(got, want, strict=True):
        assert_close_max_norm(np.atleast_1d(backend.to_host(a)), np.atleast_1d(b), 1e-13)


def test_map_rows_puts_the_chunks_together(backend, chunk_size):
    rows = _rows(backend, x_dtype="uint8")
    host = backend.to_host(rows.x).astype("float64")
    seen = []

    def f(part):
        seen.append(int(part.shape[0]))
        return part[:, :2] * 2.0

    got = map_rows(f, rows.x, backend.dtype("float64"), 3)
    assert_same_kind(got, backend.asarray(np.zeros(1)))
    np.testing.assert_array_equal(backend.to_host(got), host[:, :2] * 2)
    assert sum(seen) == N
    assert max(seen) <= chunk_size


def test_map_rows_of_one_row(backend):
    x = backend.asarray(np.ones((1, 3)))
    got = map_rows(lambda part: part + 1.0, x, backend.dtype("float64"), 1)
    np.testing.assert_array_equal(backend.to_host(got), np.full((1, 3), 2.0))


@pytest.mark.parametrize("width", [1, 10, 1000, 100_000])
@pytest.mark.parametrize("features", [1, 64, 4096])
def test_chunks_bound_memory(width, features, dtype):
    """Features and half a dozen temporaries of the widest layer fit into 4 MiB on a CPU; into 8 MiB
    where that leaves fewer than 1024 rows."""
    rows = Rows(np.zeros((1, features), dtype), np.zeros(1, int), None, dtype)
    size = rows.chunk_rows(width)
    bytes_of_a_row = dtype.itemsize * (features + 6 * width)
    if size >= 1024:
        assert size * bytes_of_a_row <= (4 << 20 if size > 1024 else 8 << 20)
        assert (size + 1) * bytes_of_a_row > 4 << 20
    elif size > 64:
        assert size * bytes_of_a_row <= 8 << 20
        assert (size + 1) * bytes_of_a_row > 8 << 20
    else:
        assert 65 * bytes_of_a_row > 8 << 20


def test_a_device_takes_larger_chunks(backend):
    """Bounded too, at 1 GiB; a CPU device of torch is the host."""
    rows = _rows(backend)
    local = "cpu" in str(backend.device).lower()
    assert rows.chunk_rows(100) == (1024 if local else (1 << 30) // (8 * (D + 600)))


def test_heads_shrink_the_chunks():
    network = Network((D, 6, C))
    rows = Rows(np.zeros((1, D)), np.zeros(1, int), None, np.dtype("float64"))
    problem = Problem(Objective(network, loss_named("softmax"), 0.0), rows)
    assert problem.width(np.zeros(network.size)) == 6
    assert problem.width(np.zeros((20, network.size))) == 120


def test_masks_are_for_few_classes():
    assert MASK_CLASSES == 64
