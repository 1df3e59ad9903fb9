"""MemoryBudget: sizes in words, shares, and chunks that find no memory."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend
from device_cases import gpus  # noqa: F401
from estimator_cases import blobs, small

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, _array_api
from xclf.rows import MemoryBudget, Rows, blas_width, in_words, map_rows, parse_bytes, sum_over_rows

X = np.arange(60.0).reshape(20, 3)


@pytest.mark.parametrize(
    ("size", "found"),
    [
        (None, None),
        (1, 1),
        (np.int32(7), 7),
        ("1000000", 10**6),
        ("2GB", 2 << 30),
        ("2 gib", 2 << 30),
        ("500M", 500 << 20),
        ("1.5 KB", 1536),
        (" 3TB ", 3 << 40),
        ("12B", 12),
    ],
)
def test_sizes(size, found):
    assert parse_bytes(size) == found


@pytest.mark.parametrize(
    "size", [0, -5, 1.5, True, "", "B", "GB", "2 XB", "1e9", "-1MB", b"1GB", "0.1"]
)
def test_what_is_no_size(size):
    with pytest.raises(ValueError, match="not a size in bytes"):
        parse_bytes(size)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KB"), (1.01 * (1 << 20), "1.1 MB"),
        (5 << 30, "5.0 GB"), (3 << 40, "3.0 TB"), (5000 << 40, "5000.0 TB"),
    ],
)  # fmt: skip
def test_sizes_in_words_are_rounded_up(size, words):
    assert in_words(size) == words


def test_shares_of_the_budget():
    assert (MemoryBudget().for_pairs(99), MemoryBudget().for_basis()) == (99, float("inf"))
    budget = MemoryBudget(1000)
    assert (budget.for_chunks(1), budget.for_chunks(5), budget.for_pairs(99)) == (250, 50, 99)
    assert (budget.for_pairs(999), budget.for_basis()) == (250, 800)


def test_chunks_keep_to_the_budget():
    """At least 64 rows, which every fit needs; fewer only once they did not fit."""
    rows = Rows(np.zeros((4000, 100)), np.zeros(4000, np.int64), None, np.dtype("float64"))
    each = 8 * (100 + 6)
    plain = rows.chunk_rows(1)
    for size, want in ((None, plain), (1 << 40, plain), (1000 * each, None), (0, 64)):
        rows.budget.size = size
        share = (size or 0) // (4 * blas_width()) // each
        assert rows.chunk_rows(1) == (max(64, share) if want is None else want)
    rows.budget.chunk = 10 * each
    assert rows.chunk_rows(1) == 10
    rows.budget.chunk = 1
    assert rows.chunk_rows(1) == 1


# --- a device without memory for a chunk -----------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """torch's is no MemoryError."""


class CUBLASError(RuntimeError):
    pass


ERRORS = [MemoryError("Out of memory"), OutOfMemoryError("tried to"), CUBLASError("ALLOC_FAILED")]


def _rows(backend):
    labels = backend.asarray(np.zeros(20, np.int64))
    return Rows(backend.asarray(X), labels, None, backend.dtype("float64"))


def _limited(backend, most, error, seen):
    """Sums of columns, where there is memory for `most` rows only."""

    def f(chunk):
        seen.append(int(chunk.x.shape[0]))
        if chunk.x.shape[0] > most:
            raise error
        return (backend.xp.sum(chunk.x, axis=0),)

    return f


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_chunk_that_does_not_fit_is_halved_and_the_pass_goes_on(error):
    backend, seen = Backend.STRICT, []
    rows = _rows(backend)
    f = _limited(backend, 6, error, seen)
    with pytest.warns(RuntimeWarning, match="out of memory in a chunk of 20 rows: going on") as w:
        (total,) = sum_over_rows(f, rows)
    assert len(w) == 1
    np.testing.assert_array_equal(backend.to_host(total), X.sum(axis=0))
    assert seen == [20, 10, 5, 5, 5, 5]
    seen.clear()
    sum_over_rows(f, rows.only(np.arange(20)))  # the fit remembers, and has warned
    assert seen == [5, 5, 5, 5]


def test_rows_already_summed_are_not_summed_again():
    """Memory that runs out in the middle of a pass."""
    backend, seen = Backend.STRICT, []

    def f(chunk):
        seen.append((chunk.where.start, chunk.where.stop))
        if chunk.where.start >= 8 and chunk.x.shape[0] > 2:
            raise MemoryError
        return (backend.xp.sum(chunk.x, axis=0),)

    with pytest.warns(RuntimeWarning, match="chunk of 8 rows: going on with 4 rows"):
        (total,) = sum_over_rows(f, _rows(backend), size=8)
    np.testing.assert_array_equal(backend.to_host(total), X.sum(axis=0))
    assert seen[:4] == [(0, 8), (8, 16), (8, 12), (8, 10)]


def test_a_row_that_does_not_fit_is_one_clear_error():
    f = _limited(Backend.STRICT, 0, MemoryError("allocating 4 bytes"), [])
    told = r"a single row does not fit into memory: it takes about 72 bytes .*allocating 4 bytes"
    with (
        pytest.warns(RuntimeWarning, match="chunk of 20 rows"),
        pytest.raises(MemoryError, match=told),
    ):
        sum_over_rows(f, _rows(Backend.STRICT))


def test_other_errors_are_not_taken_for_it(backend):
    f = _limited(backend, 6, ValueError("shape"), [])
    with pytest.raises(ValueError, match="shape"):
        sum_over_rows(f, _rows(backend))
    assert not _array_api.out_of_memory(CUBLASError("NOT_INITIALIZED"))


def test_predictions_too():
    backend = Backend.STRICT
    x = backend.asarray(X)

    def f(part):
        if part.shape[0] > 3:
            raise MemoryError
        return part * 2.0

    with pytest.warns(RuntimeWarning, match="chunk of 20 rows"):
        got = map_rows(f, x, x.dtype, 1)
    np.testing.assert_array_equal(backend.to_host(got), 2 * X)


@pytest.mark.usefixtures("gpus", "every_problem_is_large")
@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier, TwoLayerClassifier])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_fit_without_memory_for_its_chunks(cls, streamed, monkeypatch):
    """It ends where a fit with memory ends, and warns once."""
    x, y = blobs(150, 6, 3)
    options = {"device": "gpu", "max_iter": 10, "solver": "lbfgs"}
    if streamed:
        monkeypatch.setattr(_array_api, "free_memory", lambda *_: 1)
    with pytest.warns(UserWarning, match="did not converge"):
        want = small(cls, **options).fit(x, y)
    plain = Rows._picked

    def limited(self, part, where):
        if part.shape[0] > 40:
            raise MemoryError
        return plain(self, part, where)

    monkeypatch.setattr(Rows, "_picked", limited)
    with pytest.warns() as caught:
        got = small(cls, **options).fit(x, y)
    assert sum("out of memory" in str(w.message) for w in caught) == 1
    assert got.objective_ == pytest.approx(want.objective_, rel=1e-10)
