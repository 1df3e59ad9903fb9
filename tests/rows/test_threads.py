"""Threads over chunks of rows: the same bits for any number of them, and nothing left behind."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from xclf.objectives import Network, Objective, loss_named
from xclf.rows import Rows, sum_over_rows
from xclf.training import Problem

rows_module = sys.modules["xclf.rows._rows"]
threads_module = sys.modules["xclf.rows._threads"]
N, D, C = 4000, 30, 7


@pytest.fixture
def workers(monkeypatch):
    """Sets the number of threads, whatever the machine has; chunks of 100 rows."""
    monkeypatch.setattr(rows_module, "_chunk_rows", lambda *_: 100)

    def use(number):
        monkeypatch.setattr(threads_module, "blas_width", lambda: number)

    use(3)
    return use


def _rows(dtype="float64"):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)).astype(dtype)
    return Rows(x, rng.integers(C, size=N), rng.uniform(size=N).astype(dtype), np.dtype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["softmax", "hinge"])
def test_the_bits_do_not_depend_on_the_threads(workers, loss, dtype):
    network = Network((D, C))
    problem = Problem(Objective(network, loss_named(loss), 0.1), _rows(dtype))
    theta = np.random.default_rng(1).normal(size=(2, network.size))
    seen = []
    for number in (1, 2, 3, 8, 3):
        workers(number)
        seen.append(problem.value_and_grad(theta))
    for value, grad in seen[1:]:
        np.testing.assert_array_equal(value, seen[0][0])
        np.testing.assert_array_equal(grad, seen[0][1])


def test_several_threads_take_part_with_one_blas_thread_each(workers):
    together = threading.Barrier(3, timeout=30)
    seen, widths = set(), set()

    def f(chunk):
        if chunk.where.start % 300 == 0 and len(seen) < 3:
            seen.add(threading.get_ident())
            if len(seen) <= 3 and not together.broken:
                together.wait()
        widths.update(p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas")
        return (chunk.x.sum(),)

    before = [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]
    rows = _rows()
    try:
        (total,) = sum_over_rows(f, rows)
    finally:
        together.abort()
    assert total == pytest.approx(rows.x.sum(), rel=1e-12)
    assert len(seen) >= 3
    assert threading.get_ident() not in seen
    assert widths <= {1}
    assert [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"] == before


def test_a_limit_on_blas_is_one_on_these_threads(monkeypatch):
    monkeypatch.setattr(rows_module, "_chunk_rows", lambda *_: 100)
    seen = set()

    def f(chunk):
        seen.add(threading.get_ident())
        return (chunk.x.sum(),)

    with threadpool_limits(1):
        sum_over_rows(f, _rows())
    assert seen == {threading.get_ident()}


@pytest.mark.parametrize("error", [ValueError("chunk"), KeyboardInterrupt()])
def test_an_error_ends_all_threads_and_leaves_them_usable(workers, error):
    running, started = [], []

    def f(chunk):
        started.append(chunk.where.start)
        running.append(1)
        try:
            if chunk.where.start == 500:
                raise error
            return (chunk.x.sum(),)
        finally:
            running.pop()

    with pytest.raises(type(error)):
        sum_over_rows(f, _rows())
    assert not running  # nothing goes on behind the caller's back
    assert len(started) < N // 100
    (count,) = sum_over_rows(lambda chunk: (np.ones(2) * len(chunk.x),), _rows())
    np.testing.assert_array_equal(count, [N, N])


def test_sums_within_sums_stay_in_their_thread(workers):
    rows = _rows()

    def outer(chunk):
        here, seen = threading.get_ident(), set()

        def inner(part):
            seen.add(threading.get_ident())
            return (part.x.sum(),)

        (total,) = sum_over_rows(inner, rows)
        assert seen == {here}
        return (total * 0.0 + len(chunk.x),)

    (count,) = sum_over_rows(outer, rows, size=1000)
    assert count == N


def test_a_serial_sum_gives_blas_its_threads(workers):
    seen = set()

    def f(chunk):
        seen.add(threading.get_ident())
        return (chunk.x.sum(axis=0),)

    (got,) = sum_over_rows(f, _rows(), serial=True)
    assert seen == {threading.get_ident()}
    np.testing.assert_allclose(got, sum_over_rows(f, _rows())[0], rtol=1e-12)


def test_what_f_hands_out_is_not_written_to(workers):
    kept = np.ones(3)
    (total,) = sum_over_rows(lambda chunk: (kept,), _rows())
    np.testing.assert_array_equal(total, np.full(3, N / 100))
    np.testing.assert_array_equal(kept, np.ones(3))
