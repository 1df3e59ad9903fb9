"""Rows in host memory for a device: what arrives there. How: test_transfer.py."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend

from xclf.rows import Rows, Streamed, _stream, _transfer, map_rows, sum_over_rows

HOST = np.arange(60.0).reshape(20, 3)


@pytest.fixture(params=["array-api-strict", "torch"])
def streamed(request):
    backend = Backend(request.param)
    if backend is Backend.TORCH:
        pytest.importorskip("torch")
    return backend, Streamed(HOST, backend.xp, backend.device)


def test_it_looks_like_the_array_it_stands_for(streamed):
    from xclf import _array_api

    backend, x = streamed
    like = backend.asarray(HOST)
    assert (x.shape, x.ndim, x.dtype) == (like.shape, 2, like.dtype)
    assert _array_api.namespace(x, like) is backend.xp
    assert _array_api.same_device(x, like)
    assert not _array_api.is_host(x)
    assert _array_api.device(_array_api.from_host(np.ones(2), x)) == backend.device


def test_what_arrives(streamed):
    backend, x = streamed
    np.testing.assert_array_equal(backend.to_host(x[3:7, :]), HOST[3:7])
    np.testing.assert_array_equal(backend.to_host(x[:, :]), HOST)
    np.testing.assert_array_equal(backend.to_host(x.take(np.array([5, 0, 5]))), HOST[[5, 0, 5]])
    some = x.at(np.array([9, 4, 2, 7]))
    assert some.shape == (4, 3)
    np.testing.assert_array_equal(backend.to_host(some[1:3, :]), HOST[[4, 2]])
    np.testing.assert_array_equal(backend.to_host(some.take(np.array([3, 0]))), HOST[[7, 9]])
    np.testing.assert_array_equal(backend.to_host(some.at(np.array([2]))[:, :]), HOST[[2]])
    parts = [backend.to_host(part) for part in x.parts([slice(0, 8), slice(8, 20)])]
    np.testing.assert_array_equal(np.concatenate(parts), HOST)
    np.testing.assert_array_equal(backend.to_host(x.resident()), HOST)


@pytest.mark.parametrize("key", [np.s_[::2, :], np.s_[:, :2]])
def test_only_consecutive_whole_rows_are_sent(streamed, key):
    with pytest.raises(IndexError, match="consecutive rows"):
        streamed[1][key]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("which", ["slice", "index"])
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_many_threads_copy_what_one_would(order, which, dtype, monkeypatch):
    monkeypatch.setattr(_transfer, "_BLOCK", 64)
    rng = np.random.default_rng(0)
    host = np.asarray(rng.integers(0, 99, (301, 7)), dtype, order=order)
    rows = slice(11, 290) if which == "slice" else rng.integers(301, size=500)
    out = np.empty(host[rows].shape, "float64" if dtype == "float64" else "float32")
    writing = _transfer.begin_copy(host, rows, out)
    assert len(writing) == _transfer._COPIERS
    _transfer.finish_copy(writing)
    np.testing.assert_array_equal(out, host[rows])
    assert _transfer.begin_copy(host, slice(5, 5), out[:0]) == []


def test_little_is_copied_at_once():
    out = np.empty((4, 3))
    assert _transfer.begin_copy(HOST, np.array([3, 1, 4, 1]), out) == []
    np.testing.assert_array_equal(out, HOST[[3, 1, 4, 1]])


def test_rows_are_taken_where_they_are_gathered(streamed):
    backend, x = streamed
    weights = np.arange(20.0)
    rows = Rows(x, backend.asarray(np.arange(20)), backend.asarray(weights), x.dtype)
    index = np.array([4, 19, 0])
    batch = rows.take(rows.numbers(index))
    given = batch.x, batch.labels, batch.weights
    for got, want in zip(given, (HOST[index], index, weights[index]), strict=True):
        np.testing.assert_array_equal(backend.to_host(got), want)
    for some, want in ((rows.only(index), index), (rows.every(7), np.array([0, 7, 14]))):
        assert isinstance(some.x, Streamed)
        np.testing.assert_array_equal(backend.to_host(some.x[:, :]), HOST[want])
        np.testing.assert_array_equal(backend.to_host(some.labels), want)
        np.testing.assert_array_equal(backend.to_host(some.weights), weights[want])


def test_sums_and_maps_over_streamed_rows(streamed, monkeypatch):
    backend, x = streamed
    monkeypatch.setattr(_transfer, "CHUNK", 1)
    monkeypatch.setattr("xclf.rows._rows._MIN_ROWS", 3)
    rows = Rows(x, backend.asarray(np.zeros(20, np.int64)), None, x.dtype)
    assert rows.chunk_rows(1) == 3
    (total,) = sum_over_rows(lambda chunk: (backend.xp.sum(chunk.x, axis=0),), rows)
    np.testing.assert_array_equal(backend.to_host(total), HOST.sum(axis=0))
    got = map_rows(lambda part: part[:, :1] * 2.0, x, x.dtype, 1)
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, 2 * HOST[:, :1])


def test_rows_that_were_moved_have_arrived(streamed, monkeypatch):
    """Where they are moved chunk by chunk, by two streams, before the channel is let go."""
    backend, x = streamed
    monkeypatch.setattr(_stream, "library", lambda xp: "cupy")
    monkeypatch.setattr(_transfer, "CHUNK", 4 * x.bytes_per_row)
    arrived = []
    monkeypatch.setattr(_stream, "finish", lambda array: arrived.append(backend.to_host(array)))
    x.resident()
    np.testing.assert_array_equal(arrived[0], HOST)


def test_no_step_over_streamed_rows_reads_the_device():
    """Neither a minibatch nor a full pass: rows go there, and nothing comes back."""
    from counting import NAMESPACE, counted, counting

    from xclf.objectives import Network, Objective, loss_named
    from xclf.optim import SGD
    from xclf.training import Problem, plain_steps

    x = Streamed(HOST, NAMESPACE, "cpu")
    rows = Rows(x, counted(np.arange(20) % 4), None, x.dtype)
    objective = Objective(Network((3, 4)), loss_named("softmax"), 1e-3)
    theta = counted(np.zeros(16))
    with counting() as tally:
        plain_steps(objective, SGD(), rows, theta, (), [(rows.numbers(np.array([1, 5])), 0.1)])
        Problem(objective, rows).value_and_grad(theta)
    assert tally.reads == 0, tally
    assert tally.operations > 0
