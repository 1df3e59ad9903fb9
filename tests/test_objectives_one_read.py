"""The CUDA kernel that reads rows once, against the formulas: on a GPU, or on a pretended CuPy.

Rows and weights are multiples of 1/8, few and small: scores are exact in float32, whatever the
order of summation. Hinge slopes are whole numbers then, and so are sums of them times rows.
"""

from __future__ import annotations

import shutil
import subprocess
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from conftest import Backend
from estimator_cases import blobs
from helpers import assert_within, dyadic, gamma

from xclf import SoftmaxClassifier
from xclf.kernels import cross_entropy, hinge
from xclf.objectives import Layer, RowSums, Stack, _one_read, data_loss
from xclf.objectives._one_read import Gpu, Trust, Variant, one_read
from xclf.rows import MASK_CLASSES, Chunk

H200 = Gpu(0, 132, 232_448, 233_472)
A100 = Gpu(0, 108, 166_912, 167_936)
TURING = Gpu(0, 68, 65_536, 65_536)

gpu = pytest.mark.parametrize("backend", [Backend.CUPY], indirect=True, ids=str)
losses_ = pytest.mark.parametrize("name", ["softmax", "hinge"])

# classes, features, rows: four features at a time and one; every number of runs; one warp, and
# several; a last tile with fewer rows.
SHAPES = [(2, 256, 300), (4, 300, 401), (3, 257, 302), (10, 520, 501), (12, 260, 401)]


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    """What goes wrong in one test is not held against the kernel in the next. A single
    multiprocessor has few blocks, and they have several tiles of few rows."""
    made, compiled, facts = (
        Trust("the kernel", "products go on"),
        _one_read.kernel_of,
        _one_read._gpu,
    )
    monkeypatch.setattr(_one_read, "_trust", made)
    monkeypatch.setattr(_one_read, "_gpu", lambda number: facts(number)._replace(multiprocessors=1))
    yield made
    compiled.cache_clear()


class Case:
    """Rows and a linear model, on the host and on the backend."""

    def __init__(
        self, backend, classes, features, rows, *, masked=True, weighted=True, shifted=True
    ):
        rng = np.random.default_rng([classes, features, rows])
        self.x = dyadic(rng, (rows, features), np.float32)
        self.w = (rng.integers(-2, 3, size=(classes, features)) / 8).astype(np.float32)
        # A sixteenth more than any score: no margin is met exactly.
        self.b = ((2 * rng.integers(-8, 8, size=(classes, 1)) + 1) / 16).astype(np.float32)
        self.b[0] += np.float32(1 / 32)
        self.weights = (rng.integers(1, 5, size=rows) / 2).astype(np.float32) if weighted else None
        self.shift = (rng.integers(-2, 3, size=features) / 8).astype(np.float32)
        self.labels = rng.integers(classes, size=rows)
        if masked:
            self.labels = self.labels == np.arange(classes)[:, None]
        self.backend, self.shifted = backend, shifted

    def chunk(self, x=None):
        given = self.backend.asarray
        weights = None if self.weights is None else given(self.weights)
        x = given(self.x) if x is None else x
        where = slice(0, len(self.x))
        return Chunk(x, given(self.labels), weights, where, self.backend.xp.float32)

    def layer(self, bias=True):
        given = self.backend.asarray
        return Layer(given(self.w), given(self.b) if bias else None)

    def stack(self):
        widths = self.w.shape[1], self.w.shape[0]
        if not self.shifted:
            return Stack(widths)
        shift = self.backend.asarray(self.shift.astype(np.float64))
        return Stack(widths, shift=shift, scale=self.backend.asarray(np.ones(widths[0])))

    def want(self, loss, bias=True):
        """(loss, dw, db) and, for each, the sum of the absolute values of its terms."""
        x = self.x.astype(np.float64) - (self.shift if self.shifted else 0.0)
        scores = self.w.astype(np.float64) @ x.T + (self.b if bias else 0.0)
        weights = None if self.weights is None else self.weights.astype(np.float64)
        value, slope = loss(scores, self.labels, weights=weights, reduction="sum", axis=-2)
        size = np.abs(slope)
        return (value, slope @ x, slope.sum(axis=1)), (value, size @ np.abs(x), size.sum(axis=1))


def _check(case, name, got, bias=True):
    loss = data_loss(name, 0.75)
    want, size = case.want(loss, bias)
    assert got is not None, "the kernel was not used"
    classes, rows = case.w.shape[0], len(case.x)
    # Of every row: exp and its kin, the sums over classes; and sums of a block's rows in float32.
    relative = gamma(40 + classes + min(rows, 1024), np.float32)
    for found, expected, terms, what in zip(got, want, size, ("loss", "dw", "db"), strict=True):
        found = case.backend.to_host(found)
        assert found.dtype == np.float64
        assert found.shape == np.shape(expected)
        assert_within(found, expected, relative * terms if name == "softmax" else 0.0, what)


@gpu
@losses_
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_same_as_the_formula(backend, name, shape):
    case = Case(backend, *shape)
    _check(case, name, one_read(case.stack(), [case.layer()], data_loss(name, 0.75), case.chunk()))


@gpu
@losses_
def test_labels_as_integers_no_weights_no_shift_no_bias(backend, name):
    case = Case(backend, 3, 256, 400, masked=False, weighted=False, shifted=False)
    layer = case.layer(bias=False)
    _check(case, name, one_read(case.stack(), [layer], data_loss(name, 0.75), case.chunk()), False)


@gpu
@pytest.mark.parametrize("offset", [0, 1, 4])
def test_rows_apart_from_each_other(backend, offset):
    """Rows of a wider array, aligned or not: nothing beside them is read as theirs."""
    case = Case(backend, 3, 256, 400)
    wide = np.full((400, 272), np.nan, dtype=np.float32)
    wide[:, offset : offset + 256] = case.x
    x = backend.asarray(wide)[:, offset : offset + 256]
    got = one_read(case.stack(), [case.layer()], data_loss("hinge", 0.75), case.chunk(x))
    _check(case, "hinge", got)


@gpu
@pytest.mark.parametrize("features", [256, 257])
@pytest.mark.parametrize("kept", ["uint8", "float16"])
def test_rows_that_are_kept_small_are_widened_in_registers(backend, features, kept):
    case = Case(backend, 3, features, 400)
    case.x = (np.abs(case.x) * (2 if kept == "uint8" else 0.5)).astype(kept)
    chunk = case.chunk()
    got = one_read(case.stack(), [case.layer()], data_loss("hinge", 0.75), chunk)
    _check(case, "hinge", got)
    assert str(chunk.raw.dtype) == kept, "the chunk was widened"


@gpu
def test_one_head_in_an_axis_of_its_own(backend):
    case = Case(backend, 3, 256, 400)
    layer = Layer(*(backend.xp.expand_dims(part, axis=0) for part in case.layer()))
    weights = backend.asarray(case.weights[None])
    chunk = replace(case.chunk(), weights=weights)
    got = one_read(case.stack(), [layer], data_loss("hinge", 0.75), chunk)
    assert [part.shape for part in got] == [(1,), (1, 3, 256), (1, 3)]
    _check(case, "hinge", [part[0] for part in got])


@gpu
def test_rows_that_are_not_numbers(backend):
    """NaN and infinity in a row reach the loss and the slopes, as the formula has them."""
    case = Case(backend, 3, 256, 400, shifted=False)
    case.x[17, 5] = np.nan
    got = one_read(case.stack(), [case.layer()], data_loss("softmax"), case.chunk())
    assert all(np.isnan(backend.to_host(part)).any() for part in got)
    case.x[17, 5] = np.inf
    got = one_read(case.stack(), [case.layer()], data_loss("softmax"), case.chunk())
    with np.errstate(invalid="ignore"):
        want, _ = case.want(cross_entropy)
    for found, expected in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.isnan(backend.to_host(found)), np.isnan(expected))


@gpu
def test_results_repeat_bit_for_bit(backend, monkeypatch):
    rng = np.random.default_rng(0)
    case = Case(backend, 3, 256, 400)
    case.x = rng.normal(size=case.x.shape).astype(np.float32)
    case.w = rng.normal(size=case.w.shape).astype(np.float32)
    found = []
    for seed in (0, 1):
        monkeypatch.setattr(cuda_on_cpu.RawKernel, "seed", seed)  # the order of threads, off a GPU
        got = one_read(case.stack(), [case.layer()], cross_entropy, case.chunk())
        found.append([backend.to_host(part) for part in got])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def _few_rows(case, chunk):
    return case.stack(), case.layer(), cross_entropy, replace(
        chunk, raw=chunk.raw[:99, :], labels=chunk.labels[:, :99], weights=chunk.weights[:99]
    )  # fmt: skip


def _wide(case, chunk):
    layer = Layer(*(case.backend.asarray(a.astype(np.float64)) for a in (case.w, case.b)))
    x = case.backend.asarray(case.x.astype(np.float64))
    weights = case.backend.asarray(case.weights.astype(np.float64))
    return case.stack(), layer, cross_entropy, replace(chunk, raw=x, weights=weights, dtype=x.dtype)


def _columns_first(case, chunk):
    x = case.backend.xp.matrix_transpose(case.backend.asarray(np.ascontiguousarray(case.x.T)))
    return case.stack(), case.layer(), cross_entropy, replace(chunk, raw=x)


def _two_heads(case, chunk):
    layer = Layer(*(case.backend.xp.stack([part, part]) for part in case.layer()))
    return case.stack(), layer, cross_entropy, chunk


def _a_margin_for_each_head(case, chunk):
    layer = Layer(*(case.backend.xp.expand_dims(part, axis=0) for part in case.layer()))
    margin = case.backend.asarray(np.ones(1, dtype=np.float32))
    return case.stack(), layer, partial(hinge, margin=margin), chunk


LEFT = {"few rows": _few_rows, "float64": _wide, "columns first": _columns_first}
LEFT |= {"two heads": _two_heads, "a margin for each head": _a_margin_for_each_head}


@gpu
@pytest.mark.parametrize("change", LEFT.values(), ids=LEFT)
def test_what_it_does_not_compute_is_left_to_products(backend, change):
    case = Case(backend, 3, 256, 400)
    stack, layer, loss, chunk = change(case, case.chunk())
    assert one_read(stack, [layer], loss, chunk) is None
    sums = RowSums(stack, loss, [layer])(chunk)
    assert all(np.isfinite(backend.to_host(part)).all() for part in sums)


@gpu
def test_a_sum_over_rows_uses_it(backend, monkeypatch):
    case, used = Case(backend, 3, 256, 400), []
    sums = _one_read.Call.sums
    monkeypatch.setattr(_one_read.Call, "sums", lambda *a: used.append(a) or sums(*a))
    _check(
        case, "hinge", RowSums(case.stack(), data_loss("hinge", 0.75), [case.layer()])(case.chunk())
    )
    assert len(used) == 2, "tried out once, used once"


def _changed(kernel, old, new):
    """A RawKernel whose source has `new` where `old` was."""

    class Changed(kernel):
        def __init__(self, code, name, options=()):
            assert name != "xclf_one_read" or old in code
            super().__init__(code.replace(old, new), name, options)

    return Changed


BARRIER = "        __syncthreads();\n\n        // "
FAILURES = {
    "a slip": (("float of_bias = 0.0f;", ""), "of_bias"),
    "wrong slopes": (("some.at[j] * row_of_x", "-some.at[j] * row_of_x"), "^.*: slope of .* off"),
    "wrong losses": (("- lead) * f", "- lead)"), "loss of .* off"),
    "wrong bias slopes": (("of_bias += found", "of_bias = found"), "bias slope of .* off"),
    "no barrier before the scores are read": ((BARRIER + "3", "// 3"), "off by"),
    "no barrier before the slopes are read": ((BARRIER + "4", "// 4"), "off by"),
}


@gpu
@pytest.mark.parametrize("change, reason", FAILURES.values(), ids=FAILURES)
def test_a_kernel_that_fails_warns_once_and_products_go_on(
    backend, trusted, monkeypatch, change, reason
):
    import cupy

    if not issubclass(cupy.RawKernel, cuda_on_cpu.RawKernel):
        pytest.skip("a kernel is only changed where that can do no harm")
    monkeypatch.setattr(cupy, "RawKernel", _changed(cupy.RawKernel, *change))
    case = Case(backend, 10, 600, 500)
    with pytest.warns(RuntimeWarning, match=reason):
        assert one_read(case.stack(), [case.layer()], cross_entropy, case.chunk()) is None
    assert trusted.lost
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sums = RowSums(case.stack(), data_loss("hinge", 0.75), [case.layer()])(case.chunk())
    for found, expected in zip(sums, case.want(data_loss("hinge", 0.75))[0], strict=True):
        np.testing.assert_array_equal(backend.to_host(found), expected)


@gpu
def test_no_memory_is_no_reason_to_distrust_it(backend, trusted, monkeypatch):
    def full(variant, gpu):
        raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")

    case = Case(backend, 3, 256, 400)
    monkeypatch.setattr(_one_read, "kernel_of", full)
    with pytest.raises(MemoryError):
        one_read(case.stack(), [case.layer()], cross_entropy, case.chunk())
    assert not trusted.lost


@gpu
def test_a_fit_is_that_of_products(backend, monkeypatch):
    """With a standardised X, which the kernel shifts itself."""
    x, y = blobs(400, 256, 3)
    x = (x + 3.0).astype(np.float32)
    used, sums = [], _one_read.Call.sums
    monkeypatch.setattr(_one_read.Call, "sums", lambda *a: used.append(a) or sums(*a))
    found = []
    for place in (backend, Backend.NUMPY):
        model = SoftmaxClassifier(solver="lbfgs", reg=1e-2, standardize=True, tol=1e-5)
        found.append(model.fit(place.asarray(x), y).objective_)
    assert len(used) > 5
    assert abs(found[0] - found[1]) <= 1e-5 * found[1]


@pytest.mark.parametrize(
    "device, classes, features, tile",
    [(H200, 10, 3072, 4), (A100, 10, 3072, None), (A100, 10, 1024, 4), (TURING, 10, 512, 4)],
)
def test_it_takes_what_a_multiprocessor_has(device, classes, features, tile):
    made = Variant.of("float32", False, True, (classes, features), 4, device)
    assert (None if made is None else made.tile) == tile
    if made is not None:
        assert made.shared + made.fixed <= device.block_bytes
        assert made.threads * made.runs * made.width >= features


def test_where_it_is_left():
    for shape in [(1, 1024), (21, 1024), (10, 255), (10, 3076), (20, 1540), (5, 4100)]:
        assert Variant.of("float32", False, True, shape, 4, H200) is None
    assert MASK_CLASSES >= 20, "labels of few classes are masks"


def test_blocks_fill_the_device_and_none_sums_many_rows():
    made = Variant.of("float32", False, True, (10, 3072), 4, H200)
    assert made is not None
    assert made.grid(50_000, H200) == 132
    assert made.grid(10**6, H200) * 1024 >= 10**6
    assert made.grid(10**6, H200) % 132 == 0


VARIANTS = [
    (Variant.of(data, is_hinge, is_mask, shape, width, H200), arch)
    for data, is_hinge, is_mask, shape, width, arch in [
        ("float32", False, True, (10, 3072), 4, "sm_90"),
        ("float32", True, False, (10, 785), 1, "sm_80"),
        ("float32", False, True, (20, 1536), 4, "sm_80"),
        ("float32", False, True, (2, 4096), 4, "sm_75"),
        ("float16", False, True, (10, 1024), 4, "sm_90"),
        ("uint8", False, True, (10, 3072), 4, "sm_90"),
        ("uint8", False, True, (10, 257), 1, "sm_80"),
    ]
]


@pytest.mark.parametrize("variant, arch", VARIANTS)
def test_it_compiles_for_a_gpu_without_a_warning_or_a_spill(variant: Any, arch, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc")
    # -ftz=true is what CuPy adds to the options it is given.
    flags = ["-Werror=all-warnings", f"-arch={arch}", "-cubin", "-ftz=true", "-Xptxas", "-v"]
    source = Path(_one_read.__file__).with_name("_one_read.cu")
    command = [nvcc, *flags, *variant.options, "-o", tmp_path / "one_read.cubin", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert " 0 bytes spill stores" in done.stderr
