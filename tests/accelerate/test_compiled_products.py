"""The compiled products against the formula, and against all that BLAS does in their place."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers import assert_close_max_norm
from threadpoolctl import threadpool_limits

import xclf
from xclf.accelerate import Request, select
from xclf.accelerate.cpu import compiled_products
from xclf.accelerate.cpu.compiled_products import CompiledChoice, CompiledProducts, tile_columns
from xclf.accelerate.cpu.products import BLAS
from xclf.kernels import one_hot
from xclf.objectives import Network, Objective, ProximalSums, RowSums, loss_named
from xclf.rows import Rows
from xclf.training import Problem

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])

# More than one tile of columns, of features and of rows, and none of them a whole number.
COLUMNS, FEATURES, ROWS = 7, 150, 21


@pytest.fixture(scope="module")
def tiles():
    module = compiled_products._module()
    if module is None:
        pytest.skip("numba is not installed, is for another NumPy, or knows no AVX2 here")
    return module


@pytest.fixture
def always(tiles, monkeypatch, switched_on):
    """Small problems compile too; the products that did are counted."""
    monkeypatch.setattr(compiled_products, "_WORTH_COMPILING", 1)
    calls = []
    plain = CompiledProducts.gradient
    monkeypatch.setattr(CompiledProducts, "gradient", lambda *a: calls.append(1) or plain(*a))
    return calls


def _operands(columns, features, rows, dtype, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(columns, features), (rows, features), (columns, rows)]
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def _both(made, w, x, e):
    out = np.full((len(w), len(x)), np.nan, dtype=w.dtype)
    made.scores(w, x, out)
    return out, made.gradient(e, x)


def _assert_products(got, w, x, e):
    """Within the bound of any order of summation, entry by entry: n roundings for n terms."""
    u = np.finfo(w.dtype).eps / 2
    wide = [a.astype(np.float64) for a in (w, x, e)]
    for found, a, b in ((got[0], wide[0], wide[1].T), (got[1], wide[2], wide[1])):
        assert found.dtype == w.dtype
        bound = 1.01 * (a.shape[1] + 1) * u * (np.abs(a) @ np.abs(b))
        assert (np.abs(found - a @ b) <= bound).all()


@dtypes
@pytest.mark.parametrize("columns", [2, 3, 4, 5, 6, 7, 10, 13, 32])
@pytest.mark.parametrize("features, rows", [(64, 4), (67, 5), (131, 33), (784, 700)])
def test_products_by_every_tile(tiles, columns, features, rows, dtype):
    """Tiles at each edge: columns, features and rows that are no multiple of theirs."""
    operands = _operands(columns, features, rows, dtype)
    made = CompiledProducts(tiles, tile_columns(columns))
    _assert_products(_both(made, *operands), *operands)


@dtypes
def test_long_sums_are_summed_in_blocks(tiles, dtype):
    """A gradient over many rows: the error of one block and of the sum of blocks, not of all rows.

    All terms are 0.1: one running float32 sum of 100000 of them would be off by 1e-3.
    """
    rows = 100_000
    x = np.full((rows, 64), 0.1, dtype=dtype)
    e = np.ones((2, rows), dtype=dtype)
    got = CompiledProducts(tiles, 2).gradient(e, x)
    blocks = 256 + rows / 256
    want = rows * float(dtype(0.1))
    np.testing.assert_allclose(got, want, rtol=blocks * np.finfo(dtype).eps / 2)


def test_rows_that_tiles_do_not_take(tiles):
    """Other memory orders, and fewer rows than a tile has: BLAS, with the same result."""
    made = CompiledProducts(tiles, 5)
    w, x, e = _operands(COLUMNS, FEATURES, ROWS, np.float32)
    for rows in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1]):
        _assert_products(_both(made, w, rows, e), w, rows, e)
    few = [w, x[:1], e[:, :1].copy()]
    _assert_products(_both(made, *few), *few)


def test_operands_are_read_and_no_more(tiles):
    """Read-only operands, and w and e that are views, as slices of a parameter vector are."""
    made = CompiledProducts(tiles, 5)
    w, x, e = _operands(COLUMNS, FEATURES, ROWS, np.float64)
    views = [np.repeat(w, 2, axis=1)[:, ::2], x.copy(), np.repeat(e, 2, axis=1)[:, ::2]]
    for view in views:
        view.flags.writeable = False
    _assert_products(_both(made, *views), w, x, e)


@dtypes
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("feature", [0, 70, FEATURES - 1])
def test_what_is_not_finite_stays_where_it_belongs(tiles, value, feature, dtype):
    """In a row: its scores, and one feature of the gradient. Tails are masked, not times 0."""
    made = CompiledProducts(tiles, 5)
    w, x, e = _operands(COLUMNS, FEATURES, ROWS, dtype)
    x[ROWS - 1, feature] = value
    w, e = np.abs(w), np.abs(e)
    with np.errstate(invalid="ignore"):
        got, want = _both(made, w, x, e), _both(BLAS, w, x, e)
    for found, expected in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    assert not np.isfinite(got[0][:, -1]).any()
    assert np.isfinite(got[0][:, :-1]).all()
    assert not np.isfinite(got[1][:, feature]).any()
    assert np.isfinite(np.delete(got[1], feature, axis=1)).all()


@dtypes
@pytest.mark.parametrize("feature", [0, 140, FEATURES - 1])
def test_infinite_weights_give_infinite_scores(tiles, feature, dtype):
    """Also where a tail reads them a second time: 0 times them would be NaN."""
    w, x, _ = _operands(COLUMNS, FEATURES, ROWS, dtype)
    w[3, feature] = np.inf
    out = np.empty((COLUMNS, ROWS), dtype=dtype)
    CompiledProducts(tiles, 5).scores(w, np.abs(x), out)
    assert np.isposinf(out[3]).all()
    assert np.isfinite(np.delete(out, 3, axis=0)).all()


def _rows(dtype, *, classes=4, features=FEATURES, rows=50, weights=None, mask=True):
    rng = np.random.default_rng(3)
    labels = rng.integers(classes, size=rows)
    x = rng.normal(size=(rows, features)).astype(dtype)
    return Rows(x, one_hot(np, labels, classes) if mask else labels, weights, np.dtype(dtype))


def _accelerated(network, rows, loss="softmax"):
    """The network with what accelerators make of a full-batch fit to the rows."""
    request = Request(
        x=rows.x, dtype=rows.dtype, network=network, loss=loss_named(loss), n_rows=len(rows)
    )
    return replace(network, operations=select(request).operations)


@dtypes
@pytest.mark.parametrize("heads", [(), (1,), (3,)])
@pytest.mark.parametrize("place", ["raw", "standardised", "no biases"])
def test_the_sums_are_those_of_any_backend(always, heads, place, dtype):
    options = {"bias": place != "no biases"}
    if place == "standardised":
        options["scale"] = np.linspace(0.5, 2.0, FEATURES)
        options["shift"] = np.linspace(-1.0, 1.0, FEATURES)
    network = Network((FEATURES, 4), **options)
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(*heads, network.size))
    rows = _rows(dtype, weights=rng.uniform(size=(*heads, 50)).astype(dtype))
    fast = Objective(_accelerated(network, rows), loss_named("softmax"), 0.0).sums_at(
        theta, rows.dtype
    )
    plain = RowSums(network, fast.loss, fast.layers)
    chunk = rows.chunk(slice(0, 50))
    for got, want in zip(fast.finish(fast(chunk)), plain.finish(plain(chunk)), strict=True):
        assert got.shape == want.shape
        # Products of 150 features, whose error the gradient of the loss passes on, and of 50 rows.
        bound = (FEATURES + 50) * np.finfo(dtype).eps
        assert_close_max_norm(np.atleast_1d(got), np.atleast_1d(want), bound)
    assert always


@dtypes
def test_huge_scores_have_finite_losses(always, dtype):
    """Scores of 1e4 and more: the loss is what BLAS makes of them, finite and not NaN."""
    network = Network((FEATURES, 4))
    theta = 1e4 * np.random.default_rng(0).normal(size=network.size)
    rows = _rows(dtype)
    fast = _accelerated(network, rows)
    made = fast.operations.row_sums.products(theta.reshape(4, -1)[:, :-1])
    assert isinstance(made, CompiledProducts)
    sums = []
    for one in (fast, network):
        step = Objective(one, loss_named("softmax"), 0.0).sums_at(theta, rows.dtype)
        sums.append(step(rows.chunk(slice(0, 50))))
    for got, want in zip(*sums, strict=True):
        assert np.isfinite(got).all()
        assert_close_max_norm(np.atleast_1d(got), np.atleast_1d(want), 400 * np.finfo(dtype).eps)


@dtypes
def test_the_hinge_is_the_same(always, dtype):
    heads, rows = 3, _rows(dtype, mask=False)
    rng = np.random.default_rng(4)
    network = Network((FEATURES, 4))
    theta = rng.normal(size=(heads, network.size))
    margin = smoothing = np.ones(heads, dtype=dtype)
    sums = []
    for one in (network, _accelerated(network, rows, "hinge")):
        anchor = np.zeros((heads, 4, 50), dtype=dtype)
        step = ProximalSums(one, one.prepared(theta, rows.dtype), margin, smoothing, anchor)
        sums.append(step(rows.chunk(slice(0, 50)), slice(0, 50)))
    for got, want in zip(*sums, strict=True):
        assert_close_max_norm(got, want, (FEATURES + 50) * np.finfo(dtype).eps)
    assert always


@dtypes
def test_the_same_bits_whatever_the_threads(always, dtype):
    rows = _rows(dtype, rows=20_000)
    network = Network((FEATURES, 4))
    theta = np.random.default_rng(0).normal(size=network.size)
    problem = Problem(Objective(_accelerated(network, rows), loss_named("softmax"), 0.1), rows)
    found = []
    for threads in (1, 2, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append(problem.value_and_grad(theta))
    for value, gradient in found[1:]:
        assert value == found[0][0]
        np.testing.assert_array_equal(gradient, found[0][1])
    assert len(always) > 3


@pytest.mark.parametrize("model", [xclf.SoftmaxClassifier, xclf.SVMClassifier])
def test_a_fit_ends_where_it_does_without(always, model, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 70)), rng.integers(3, size=300)
    fast = model(reg=0.1, tol=1e-10).fit(x, y)
    assert always
    monkeypatch.setattr(compiled_products, "_WORTH_COMPILING", 10**9)
    plain = model(reg=0.1, tol=1e-10).fit(x, y)
    # Both are within tol of one optimum: a gradient of 1e-10 is 1e-19 in the objective, and the
    # hinge's certificate says how far it may be.
    gap = getattr(plain, "dual_gap_", 0.0) + getattr(fast, "dual_gap_", 0.0)
    assert abs(fast.objective_ - plain.objective_) <= 1e-10 * plain.objective_ + gap


# Which products, and when.


def test_small_passes_do_not_wait_for_a_compiler(monkeypatch):
    monkeypatch.setattr(compiled_products, "_module", lambda: pytest.fail("numba was asked for"))
    assert CompiledChoice(0)(np.zeros((10, 784))) is BLAS
    assert CompiledChoice(1437)(np.zeros((10, 64))) is BLAS
    assert CompiledChoice(12_000)(np.zeros((2, 5, 784))) is BLAS


def test_large_passes_are_compiled(tiles):
    for w, m in ((np.zeros((10, 784), "f4"), 5), (np.zeros((2, 3, 784)), 3)):
        made = CompiledChoice(60_000)(w)
        assert isinstance(made, CompiledProducts)
        assert made.columns == m


def test_blas_where_it_is_better(tiles, monkeypatch):
    """Many columns, and few features: a tile of gradients has more."""
    monkeypatch.setattr(compiled_products, "_most_columns", lambda vector: 45)
    assert CompiledChoice(10**6)(np.zeros((46, 784))) is BLAS
    assert CompiledChoice(10**6)(np.zeros((9, 5, 784))) is not BLAS
    width = tiles.SPAN * tiles.VECTOR // 8
    assert CompiledChoice(10**8)(np.zeros((5, width - 1))) is BLAS
    assert CompiledChoice(10**8)(np.zeros((5, width))) is not BLAS


@pytest.mark.parametrize(
    "architectures, vector, columns",
    [
        (["Haswell", "Zen"], 64, 1024),
        (["Haswell", "SkylakeX"], 64, 45),
        ([None], 64, 45),
        ([], 64, 45),
        (["Haswell"], 32, 15),
    ],
)
def test_columns_depend_on_the_blas(monkeypatch, architectures, vector, columns):
    found = [{"user_api": "blas", "architecture": name} for name in architectures]
    found.append({"user_api": "openmp"})
    monkeypatch.setattr(compiled_products, "threadpool_info", lambda: found)
    assert compiled_products._most_columns.__wrapped__(vector) == columns


def test_tiles_waste_little():
    assert [tile_columns(c) for c in (2, 3, 4, 5, 6, 7, 10, 16, 45)] == [2, 3, 4, 5, 3, 4, 5, 4, 5]


def test_without_numba(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert compiled_products._module.__wrapped__() is None
    monkeypatch.setattr(compiled_products, "_module", lambda: None)
    assert CompiledChoice(10**6)(np.zeros((10, 784))) is BLAS


def test_a_numba_that_does_not_load_is_as_good_as_none(tiles, monkeypatch):
    """It may be for another NumPy, and have come with something else: nothing is said."""
    monkeypatch.setitem(sys.modules, "xclf.accelerate.cpu._tiles", None)
    monkeypatch.delattr("xclf.accelerate.cpu._tiles", raising=False)
    assert compiled_products._module.__wrapped__() is None


def test_a_switched_off_numba_is_let_be(tiles, monkeypatch):
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    assert compiled_products._module.__wrapped__() is None


class _Broken:
    """Tiles that fail, or are wrong by one."""

    def __init__(self, tiles, error):
        self.SPAN, self.error, self.tiles = tiles.SPAN, error, tiles

    def scores(self, *args):
        if self.error is not None:
            raise self.error
        self.tiles.scores(*args)

    def gradient(self, e, x, dw, tile):
        self.tiles.gradient(e, x, dw, tile)
        dw[0, -1] += 1.0


@pytest.mark.parametrize("error, words", [(OSError("no disk"), "no disk"), (None, "wrong")])
def test_products_that_do_not_work_are_not_used(tiles, error, words):
    made = CompiledProducts(_Broken(tiles, error), 5)
    with pytest.warns(RuntimeWarning, match=words):
        assert not compiled_products._works.__wrapped__(made, np.dtype("float32"))


def test_code_is_kept_on_disk(tiles):
    """A second process reads what the first one compiled."""
    made = CompiledChoice(10**6)(np.zeros((5, 784)))
    assert made is not BLAS
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        "import numpy as np; from xclf.accelerate.cpu.compiled_products import CompiledChoice; "
        "made = CompiledChoice(10**6)(np.zeros((5, 784))); stats = made.tiles.scores.stats; "
        "print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]
