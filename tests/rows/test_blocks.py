"""Rows in blocks: sums along a fixed tree, samples, and numbers beside the rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from xclf._array_api import namespace
from xclf.kernels import one_hot
from xclf.rows import (
    BlockRows,
    Blocks,
    LocalEngine,
    PerRow,
    Rows,
    Source,
    fingerprint,
    group_blocks,
    join_blocks,
    sum_over_rows,
)
from xclf.rows._sum_tree import merged, sum_of

N, D, C = 90, 4, 3
RNG = np.random.default_rng(0)
X = RNG.integers(-8, 9, size=(N, D)).astype(np.float64)  # whole numbers: sums are exact
Y = RNG.integers(0, C, N)
WEIGHTS = RNG.integers(0, 3, size=(2, N)).astype(np.float64)
CUTS = (10, 11, 40, 75, 90)


def blocks(x=X, ahead=True):
    starts = (0, *CUTS[:-1])
    parts = [x[a:b] for a, b in zip(starts, CUTS, strict=True)]
    sources = [Source(partial(join_blocks, None, part), "rows of X") for part in parts]
    kind = np.empty((0, D), x.dtype)
    return Blocks(LocalEngine(ahead), sources, [len(part) for part in parts], D, x.dtype, kind)


def in_blocks(weights=None, x=X, **more):
    return BlockRows.of(blocks(x), Y, weights, np.float64, C, **more)


def in_memory(weights=None, **more):
    return Rows(X, one_hot(np, Y, C), weights, np.float64, **more)


@dataclass(frozen=True)
class Moments:
    """Sums that see rows, labels, weights and numbers beside the rows."""

    numbers: PerRow | None = None

    def __call__(self, chunk):
        w = 1.0 if chunk.weights is None else chunk.weights[..., None, :]
        sums = [np.sum((chunk.labels * w) @ chunk.x, axis=0), np.sum(chunk.labels * w)]
        if self.numbers is not None:
            sums.append(np.sum(self.numbers[..., chunk.where] * chunk.x[:, 0], axis=-1))
        return tuple(sums)


def _assert_same(got, want):
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [None, 7])
@pytest.mark.parametrize("weights", [None, WEIGHTS[0], WEIGHTS], ids=["none", "one", "two"])
def test_sums_are_those_of_rows_in_memory(weights, size):
    more = {"heads": np.array([0, 1, 1])} if weights is WEIGHTS else {}
    f = Moments()
    got = sum_over_rows(f, in_blocks(weights, **more), size=size)
    _assert_same(got, sum_over_rows(f, in_memory(weights, **more), size=size))


@pytest.mark.parametrize("dtype", ["float16", "uint8", "float32"])
def test_narrow_blocks_widen_where_they_are(dtype):
    x = np.abs(X).astype(dtype)
    rows = Rows(x, one_hot(np, Y, C), None, np.float64)
    _assert_same(sum_over_rows(Moments(), in_blocks(x=x)), sum_over_rows(Moments(), rows))


def test_numbers_beside_the_rows_are_read_and_written():
    rows = in_blocks()
    state = rows.zeros((2,), np.float64)

    @dataclass(frozen=True)
    class Step:
        numbers: PerRow

        def __call__(self, chunk):
            before = self.numbers[..., chunk.where].copy()
            self.numbers[..., chunk.where] = before + chunk.x[:, 1]
            return (np.sum(before, axis=-1),)

    before = state.to_host()
    (first,) = sum_over_rows(Step(state), rows, writes=state)
    assert not first.any()
    (second,) = sum_over_rows(Step(state), rows, writes=state)
    np.testing.assert_array_equal(second, [X[:, 1].sum()] * 2)
    assert not any(part.any() for part in before), "those before a step stay as they were"
    doubled = state.map(lambda part: 2.0 * part)
    np.testing.assert_array_equal(np.concatenate(doubled.to_host(), axis=-1)[0], 4 * X[:, 1])
    again = rows.per_row(doubled.to_host())
    (third,) = sum_over_rows(partial(_first_row, again), rows)
    assert third == 4 * X[:, 1].sum()


def _first_row(numbers, chunk):
    return (np.sum(numbers[0, chunk.where]),)


def test_a_closure_cannot_travel():
    with pytest.raises(TypeError, match="a dataclass or a partial"):
        sum_over_rows(lambda chunk: (chunk.x,), in_blocks())


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13])
def test_the_tree_is_fixed_by_the_order_of_the_groups(count):
    """Whatever parts the groups are summed in: the sum of the halves of the tree, by recursion."""
    rng = np.random.default_rng(count)
    parts = [(rng.normal(size=2),) for _ in range(count)]
    size = 1 << (count - 1).bit_length()

    def node(first, width):
        if width == 1:
            return parts[first][0]
        left = node(first, width // 2)
        middle = first + width // 2
        return left + node(middle, width // 2) if middle < count else left

    want = node(0, size)
    got = sum_of([(part[0].copy(),) for part in parts], count)
    np.testing.assert_array_equal(got[0], want)
    for _ in range(5):
        cuts = np.unique(rng.integers(0, count + 1, 3))
        ends = np.unique([0, *cuts, count])
        some = [
            merged(count, *({(0, g): parts[g]} for g in range(first, last)))
            for first, last in itertools.pairwise(ends)
        ]
        rng.shuffle(some)
        (got,) = merged(count, *some).values()
        np.testing.assert_array_equal(got[0], want)


@pytest.mark.parametrize("ahead", [True, False])
def test_one_group_after_the_other_is_loaded(ahead):
    """And the next one while one is worked on, where there is memory for it."""
    held, most = [], []

    def load(k):
        held.append(k)
        return [X[10 * k : 10 * k + 10]]

    def work(_, part, number):
        most.append(len(held) - number)
        return (np.asarray(part[0].sum()),)

    engine = LocalEngine(ahead)
    sources = [(Source(partial(load, k), f"part {k}"), k) for k in range(9)]
    assert engine.sums(work, None, sources) == (X.sum(),)
    assert max(most) <= 1 + ahead


def test_a_block_that_cannot_be_loaded_is_named():
    def broken():
        raise OSError("no such file: part-3.npy")

    source = Source(broken, "rows 20 to 29 of X")
    with pytest.raises(RuntimeError, match=r"rows 20 to 29 of X cannot be loaded: no such file"):
        LocalEngine().keep(len, None, [(source,)])


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["none", "two"])
def test_rows_by_number(weights):
    more = {} if weights is None else {"heads": np.array([0, 1])}
    index = np.array([88, 3, 41, 40, 3, 0])
    got, want = in_blocks(weights, **more).only(index), in_memory(weights, **more).only(index)
    np.testing.assert_array_equal(got.x, want.x)
    np.testing.assert_array_equal(one_hot(np, got.labels, C), want.labels)
    if weights is not None:
        np.testing.assert_array_equal(got.weights, want.weights)


def test_a_sample_is_of_rows_with_weight_and_spread_over_all():
    weights = np.where(np.arange(N) % 2, 0.0, 1.0)
    picked = in_blocks(weights)._spread(15)
    assert len(picked) == 15
    assert not np.any(picked % 2)
    assert np.all(np.diff(picked) > 0)
    assert np.all(np.diff(picked) <= 2 * 2 * 3)
    every = in_blocks()._spread(N)
    np.testing.assert_array_equal(every, np.arange(N))
    sampled = in_blocks(WEIGHTS, heads=np.array([0, 1, 1])).shared_weights().sample(20)
    assert len(sampled) == 20
    assert sampled.weights.ndim == 1
    assert sampled.heads is None


def test_groups_depend_on_the_sizes_of_blocks_alone():
    mega = 1 << 20
    assert group_blocks([8 * mega] * 100)[:2] == [slice(0, 4), slice(4, 8)]
    assert group_blocks([mega] * 16) == [slice(k, k + 1) for k in range(16)]
    assert len(group_blocks([mega << 10] * 2000)) == 2000
    assert 1024 <= len(group_blocks([16 * mega] * 20000)) < 1100
    assert group_blocks([3]) == [slice(0, 1)]


def test_small_blocks_are_joined():
    joined = join_blocks(None, X[:10], X[10:30], X[30:])
    assert len(joined) == 1
    np.testing.assert_array_equal(joined[0], X)


def test_fingerprints_of_blocks():
    assert fingerprint(blocks()) == fingerprint(blocks())
    assert fingerprint(blocks()) != fingerprint(blocks(X + 1.0))


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["none", "two"])
def test_minibatches_come_group_by_group(weights):
    """Every row once, in the order of the epoch, with its label and weights."""
    more = {} if weights is None else {"heads": np.array([1, 0])}
    rows, memory = in_blocks(weights, **more), in_memory(weights, **more)
    train = np.flatnonzero(np.arange(N) % 5)
    epoch = rows.order(train, np.random.default_rng(3))
    own = [rows.x.ends[g] + epoch.rows(g, rows.beside[g]) for g in epoch.groups]
    order = np.concatenate(own)
    assert sorted(order) == train.tolist()
    owner = np.searchsorted(CUTS, order, side="right")
    assert np.count_nonzero(np.diff(owner)) == len(np.unique(owner)) - 1
    assert not np.array_equal(order, train)
    got, want = (
        list(some.batches([index[start : start + 16] for start in range(0, len(order), 16)]))
        for some, index in ((rows, epoch), (memory, order))
    )
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.weights, other.weights)


@dataclass(frozen=True)
class Products:
    """A product with an array of the function's own, and numbers that it writes."""

    w: np.ndarray
    dtype: np.dtype
    numbers: PerRow

    def __call__(self, chunk):
        xp = namespace(chunk.x)
        assert namespace(self.w) is xp
        scores = xp.matmul(self.w, xp.matrix_transpose(chunk.x))
        hit = xp.sum(xp.where(chunk.labels, scores, xp.zeros_like(scores)), axis=-1)
        self.numbers[..., chunk.where] = self.numbers[..., chunk.where] + scores
        return (hit * xp.sum(chunk.weights), xp.astype(hit, self.dtype))


def test_blocks_of_any_library(backend):
    """Functions and what lies beside the rows go where the blocks are; sums come back to NumPy."""
    starts = (0, *CUTS[:-1])
    parts = [backend.asarray(X[a:b]) for a, b in zip(starts, CUTS, strict=True)]
    sources = [Source(partial(join_blocks, None, part), "rows of X") for part in parts]
    kind = np.empty((0, D))
    counts = np.diff((0, *CUTS))
    held = Blocks(LocalEngine(), sources, counts, D, X.dtype, kind)
    both = BlockRows.of(held, Y, WEIGHTS[0], np.float64, C), in_blocks(WEIGHTS[0])
    w = RNG.integers(-3, 4, size=(C, D)).astype(np.float64)
    sums, numbers = [], []
    for rows in both:
        state = rows.zeros((C,), np.float64)
        f = Products(w, np.dtype(np.float64), state)
        for _ in range(2):
            sums.append(sum_over_rows(f, rows, writes=state))
        numbers.append(np.concatenate(state.to_host(), axis=-1))
        picked = rows.only(np.array([3, 50, 89]))
        np.testing.assert_array_equal(picked.x, X[[3, 50, 89]])
    for got, want in zip(sums[:2], sums[2:], strict=True):
        assert all(isinstance(part, np.ndarray) for part in got)
        _assert_same(got, want)
    np.testing.assert_array_equal(numbers[0], numbers[1])
    np.testing.assert_array_equal(numbers[0], 2 * w @ X.T)
