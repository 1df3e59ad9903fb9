"""The CUDA kernel of the losses against their formulas: on a GPU, and its source on a CPU."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from conftest import Backend, required_backends, why_missing
from helpers import (
    SLOPE_BOUND,
    assert_close_max_norm,
    assert_relative,
    gamma,
    hinge_bound,
    loss_bound,
)

from xclf import _xp
from xclf.kernels import cross_entropy, hinge
from xclf.objectives import Objective, Stack, _fused, data_loss
from xclf.objectives._sums import RowSums
from xclf.rows import Rows

# Every tile, its edges, and more classes than any holds.
CLASSES = [1, 2, 3, 10, 16, 17, 64, 65, 100, 257, 1000, 1030]
SPREAD = 40.0  # the largest difference of the scores below: a dozen standard deviations

losses_ = pytest.mark.parametrize("name", ["softmax", "hinge"])
labels_ = pytest.mark.parametrize("masked", [False, True], ids=["integers", "mask"])


@dataclass
class Place:
    """Where the kernel runs; `launches` are the variants that have been launched."""

    on_gpu: bool
    asarray: Any
    to_host: Any
    launches: list[_fused.Variant]


@pytest.fixture(params=["on-cpu", "cupy"], scope="module")
def place(request):
    if request.param == "on-cpu" and cuda_on_cpu.COMPILER is None:
        pytest.skip("there is no g++ to compile the kernel with")
    reason = why_missing(Backend.CUPY) if request.param == "cupy" else None
    if reason is not None:
        if "cupy" in required_backends():
            pytest.fail(f"XCLF_REQUIRE names cupy, which is missing: {reason}")
        pytest.skip(f"cupy: {reason}")
    launches: list[_fused.Variant] = []
    launch = _fused.Call.launch

    def counted(self, kernel, losses):
        launches.append(self.variant)
        launch(self, kernel, losses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fused.Call, "launch", counted)
        patch.setattr(_fused, "_trust", _fused.Trust())
        _fused.kernel_of.cache_clear()
        backend = Backend.CUPY if request.param == "cupy" else Backend.NUMPY
        if backend is Backend.NUMPY:
            patch.setitem(sys.modules, "cupy", cuda_on_cpu.cupy())
            patch.setattr(_fused, "library", lambda xp: "cupy")
        yield Place(backend is Backend.CUPY, backend.asarray, backend.to_host, launches)
        _fused.kernel_of.cache_clear()


@pytest.fixture
def alone(place, monkeypatch):
    """`place` where nothing has been compiled yet, and nothing that follows is harmed."""
    monkeypatch.setattr(_fused, "_trust", _fused.Trust())
    _fused.kernel_of.cache_clear()
    yield place
    _fused.kernel_of.cache_clear()


def _inputs(classes, rows, heads, dtype, margin=1.0):
    """(scores, bias, labels): scores with bias are 1e-2 or more away from every kink."""
    rng = np.random.default_rng([classes, rows, len(heads)])
    labels = rng.integers(classes, size=rows)
    total = 3.0 * rng.normal(size=(*heads, classes, rows))
    own = labels == np.arange(classes)[:, None]
    m = total - np.sum(np.where(own, total, 0.0), axis=-2, keepdims=True) + margin
    total += 0.05 * ((np.abs(m) < 1e-2) & ~own)
    bias = rng.normal(size=(*heads, classes, 1)).astype(dtype)
    return (total - bias).astype(dtype), bias, labels


def _labels(labels, classes, masked):
    return labels == np.arange(classes)[:, None] if masked else labels


def _weights(kind, heads, rows, dtype):
    shape = {"equal": None, "rows": (rows,), "heads": (*heads, rows)}[kind]
    if shape is None:
        return None
    return np.random.default_rng(rows).uniform(0.5, 2.0, size=shape).astype(dtype)


def _apart(place, a):
    """The same array, with something else between its rows, which are the last axis."""
    return place.asarray(np.repeat(a, 3, axis=-1))[..., ::3]


def _want(loss, scores, bias, labels, weights, reduction):
    """The formula in float64, on the host, of the very numbers that the kernel sees."""
    seen = scores if bias is None else scores + bias
    weights = None if weights is None else weights.astype(np.float64)
    return loss(seen.astype(np.float64), labels, weights=weights, reduction=reduction, axis=-2)


def _bound(name, scores, bias, labels, dtype, margin=1.0):
    """Relative, of each row's loss and of sums of them, since none is negative."""
    rows, classes = scores.shape[-1], scores.shape[-2]
    if name == "softmax":
        return 2 * loss_bound(dtype, classes, SPREAD, rows)
    seen = (scores if bias is None else scores + bias).reshape(-1, classes, rows)
    bound = 0.0
    for k, head in enumerate(seen.astype(np.float64)):
        at = margin if np.ndim(margin) == 0 else float(margin[k])
        losses, slopes = hinge(head, labels, margin=at, reduction="none", axis=-2)
        bound = max(bound, hinge_bound(losses, slopes.T, dtype, at))
    return 2 * bound


def _check(place, name, scores, bias, labels, weights=None, reduction="none", margin=1.0):
    """One launch against the formula: values, where they are, and what was not written to."""
    dtype = scores.dtype
    on_host = margin if np.ndim(margin) == 0 else np.asarray(margin, dtype=np.float64)
    want = _want(data_loss(name, on_host), scores, bias, labels, weights, reduction)
    given = place.asarray(scores)
    beside = {"bias": bias, "weights": weights, "labels": labels}
    arrays = {
        "bias": None if bias is None else place.asarray(bias),
        "weights": None if weights is None else _apart(place, weights),
        "labels": _apart(place, labels),
    }
    before = len(place.launches)
    loss = data_loss(name, margin if np.ndim(margin) == 0 else place.asarray(margin))
    losses, dscores = _fused.fused(
        loss, given, arrays["labels"], bias=arrays["bias"], weights=arrays["weights"],
        reduction=reduction,
    )  # fmt: skip
    assert len(place.launches) > before, "the formula was used"
    assert dscores is given
    assert losses.dtype == dscores.dtype == dtype
    bound = _bound(name, scores, bias, labels, dtype, margin)
    assert_relative(place.to_host(losses), want[0], bound, "loss", dtype)
    assert_close_max_norm(place.to_host(dscores), want[1], SLOPE_BOUND[dtype.name])
    for key, array in arrays.items():
        if array is not None:
            np.testing.assert_array_equal(place.to_host(array), beside[key], f"{key} written to")


@losses_
@labels_
@pytest.mark.parametrize("classes", CLASSES)
def test_same_as_the_formula(place, name, masked, classes, dtype):
    """Heads, rows, weights and biases in every arrangement, each of them somewhere."""
    most = 1000 if classes <= 100 or classes == 1000 else 129
    cases = [
        (1, (), "equal", True),
        (31, (3,), "heads", True),
        (32, (1,), "rows", False),
        (33, (), "rows", True),
        (33, (3,), "rows", True),
        (most, (), "equal", False),
    ]
    for rows, heads, weighted, biased in cases:
        scores, bias, labels = _inputs(classes, rows, heads, dtype)
        labels = _labels(labels, classes, masked)
        weights = _weights(weighted, heads, rows, dtype)
        _check(place, name, scores, bias if biased else None, labels, weights)
    assert {v.is_mask for v in place.launches[-len(cases) :]} == {masked}


@losses_
@pytest.mark.parametrize("classes", [3, 100])
def test_reductions(place, name, classes, dtype):
    scores, bias, labels = _inputs(classes, 70, (2,), dtype)
    _check(place, name, scores, bias, labels, reduction="mean")
    _check(place, name, scores, bias, labels, reduction="sum")
    weights = _weights("heads", (2,), 70, dtype)
    _check(place, name, scores, bias, labels, weights, reduction="sum")


def test_a_margin_for_each_head(place, dtype):
    scores, bias, labels = _inputs(10, 40, (3,), dtype, margin=0.5)
    _check(place, "hinge", scores, bias, labels, margin=0.5)
    _check(place, "hinge", scores, bias, labels, margin=np.array([0.5] * 3, dtype=dtype))
    scores[1] *= 4.0  # so a margin of 2 is as far from the kinks
    bias[1] *= 4.0
    _check(place, "hinge", scores, bias, labels, margin=np.array([0.5, 2.0, 0.5], dtype=dtype))


@losses_
@pytest.mark.parametrize("classes", [10, 100])
def test_the_slope_alone_is_the_same(place, name, classes, dtype):
    scores, _, labels = _inputs(classes, 40, (), dtype)
    given = [[place.asarray(a) for a in (scores, labels)] for _ in range(2)]
    losses, slope = _fused.fused(data_loss(name), *given[0], need_loss=False)
    assert losses is None
    _, other = _fused.fused(data_loss(name), *given[1])
    np.testing.assert_array_equal(place.to_host(slope), place.to_host(other))


def _rare_rows(classes, dtype):
    """(scores, labels): rows that textbook forms fail on, in the first three of so many classes."""
    inf, nan = np.inf, np.nan
    rows = [
        *([1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, 1e4 - 1], [-1e4, -1e4, -1e4 - 2]),
        *([40.0, 0.0, 0.0], [0.0, 40.0, 0.0], [0.0, 0.0, 0.0], [3.0, 3.0, 2.0], [1.0, 2.0, 3.0]),
        *([0.0, -inf, 1.0], [-inf, 0.0, 1.0], [-inf, -inf, -inf], [inf, 0.0, 1.0]),
        *([0.0, inf, 1.0], [inf, inf, 0.0], [nan, 0.0, 1.0], [0.0, nan, 1.0], [nan] * 3),
        [0.0, -nan, -inf],
    ]
    scores = np.full((classes, len(rows)), -2e4)
    scores[:3] = np.array(rows).T
    return scores.astype(dtype), np.zeros(len(rows), dtype=np.int64)


@losses_
@labels_
@pytest.mark.parametrize("classes", [3, 20, 100, 300, 1100])
def test_rare_scores(place, name, masked, classes, dtype):
    """Ties, huge scores, leads, infinities, NaN: every entry relative, and NaN where NaN was."""
    scores, labels = _rare_rows(classes, dtype)
    labels = _labels(labels, classes, masked)
    with np.errstate(invalid="ignore", over="ignore"):
        want = data_loss(name)(scores, labels, reduction="none", axis=-2)
    given = place.asarray(scores), place.asarray(labels)
    got = [place.to_host(a) for a in _fused.fused(data_loss(name), *given, reduction="none")]
    # Whole numbers: their differences are exact, and leave the 16 roundings of `loss_bound` to each
    # of the two, and what sums of all classes add.
    bound = 2 * gamma(16 + min(classes, 64), dtype)
    for found, expected in zip(got, want, strict=True):
        odd = ~np.isfinite(expected)
        np.testing.assert_array_equal(found[odd], expected[odd])
        assert_relative(found[~odd], expected[~odd], bound, "value", dtype)
    assert np.isnan(got[0]).any()
    if name == "softmax":  # a lead of 40
        assert_relative(got[0][4], 2 * np.exp(-40.0), bound, "loss", dtype)
        assert got[1][0, 4] < 0.0


@losses_
@pytest.mark.parametrize("classes", [64, 1000, 300_000])
def test_sums_of_many_classes_keep_their_digits(place, name, classes):
    """Equal terms are rounded to the same side: one float32 sum of them drifts away."""
    scores = np.full((classes, 2), np.log(0.1), dtype=np.float32)
    scores[0] = 0.0
    labels = np.zeros(2, dtype=np.int64)
    want = data_loss(name)(scores.astype(np.float64), labels, reduction="none", axis=-2)
    given = place.asarray(scores), place.asarray(labels)
    got = [place.to_host(a) for a in _fused.fused(data_loss(name), *given, reduction="none")]
    for found, expected in zip(got, want, strict=True):
        # Every term is 0.1 to a few roundings, 32 of which a float32 sum may hold; the rest is in
        # float64. In one float32 sum of a thread's thousands the terms are off by 1e-4.
        assert_relative(found, expected, gamma(32 + 16, np.float32), "value")


@losses_
@labels_
@pytest.mark.parametrize("classes", [10, 20, 300, 1030])
def test_labels_of_no_class_touch_nothing_else(place, name, masked, classes):
    """Labels are not checked: whatever comes of bad ones, it stays in their rows."""
    scores, _, labels = _inputs(classes, 40, (3,), np.float64)
    labels[::2] = [classes, -1, classes + 3, 2**40, -(2**40)] * 4
    given = place.asarray(scores)
    marks = place.asarray(_labels(labels, classes, masked))
    losses, slope = _fused.fused(data_loss(name), given[1, ...], marks, reduction="none")
    want = data_loss(name)(scores[1, :, 1::2], labels[1::2], reduction="none", axis=-2)
    assert np.all(np.isfinite(place.to_host(slope)))
    for found, expected in zip((losses, slope), want, strict=True):
        rows = place.to_host(found)[..., 1::2]
        assert_relative(rows, expected, gamma(40, np.float64), "value")
    np.testing.assert_array_equal(place.to_host(given)[::2], scores[::2])


@losses_
@pytest.mark.parametrize("classes", [10, 17, 300, 1030])
def test_it_repeats_bit_for_bit(place, name, classes, monkeypatch):
    """Also where the threads of a block run in another order."""
    scores, bias, labels = _inputs(classes, 50, (2,), np.float32)
    results = []
    for seed in range(3):
        monkeypatch.setattr(cuda_on_cpu.RawKernel, "seed", seed)
        given = [place.asarray(a) for a in (scores, labels)]
        losses, slope = _fused.fused(
            data_loss(name), *given, bias=place.asarray(bias), reduction="none"
        )
        results.append([place.to_host(losses), place.to_host(slope)])
    for other in results[1:]:
        np.testing.assert_array_equal(other[0], results[0][0])
        np.testing.assert_array_equal(other[1], results[0][1])


def _every_other(place, a, axis):
    """The same array, with something else between its entries along an axis."""
    wide = place.asarray(np.repeat(a, 2, axis=axis))
    return wide[..., ::2] if axis == -1 else wide[..., ::2, :]


ONES = np.ones((2, 6))
LEFT_TO_THE_FORMULA = {
    "other integers": lambda p, s, b, y: (p.asarray(s), y.astype(np.int32), {}),
    "labels per head": lambda p, s, b, y: (p.asarray(s), np.stack([y, y]), {}),
    "masks per head": lambda p, s, b, y: (p.asarray(s), np.stack([_labels(y, 5, True)] * 2), {}),
    "a weighted mean": lambda p, s, b, y: (
        p.asarray(s),
        y,
        {"weights": p.asarray(ONES), "reduction": "mean"},
    ),
    "scores apart": lambda p, s, b, y: (_every_other(p, s, -1), y, {}),
    "many heads": lambda p, s, b, y: (p.asarray(np.stack([s, s])), y, {}),
    "biases apart": lambda p, s, b, y: (p.asarray(s), y, {"bias": _every_other(p, b, -2)}),
}


@losses_
@pytest.mark.parametrize("case", LEFT_TO_THE_FORMULA.values(), ids=LEFT_TO_THE_FORMULA)
def test_what_the_kernel_does_not_compute_the_formula_does(place, name, case):
    given, labels, options = case(place, *_inputs(5, 6, (2,), np.dtype("float64")))
    before = place.to_host(given)
    options = {"reduction": "none", **options}
    on_host = {k: v if isinstance(v, str) else place.to_host(v) for k, v in options.items()}
    seen = before + on_host.pop("bias", 0.0)
    want = data_loss(name)(seen, labels, axis=-2, **on_host)
    launched = len(place.launches)
    got = _fused.fused(data_loss(name), given, place.asarray(labels), **options)
    assert len(place.launches) == launched
    for found, expected in zip(got, want, strict=True):
        assert_relative(place.to_host(found), expected, gamma(40, np.float64), "value")
    np.testing.assert_array_equal(place.to_host(given), before, "the scores were written to")


@pytest.mark.parametrize(
    "labels, weights, reduction, error",
    [
        (np.zeros(5, dtype=np.int64), None, "mean", ValueError),
        (np.zeros(6), None, "mean", TypeError),
        (np.zeros((6, 5), dtype=bool), None, "mean", ValueError),
        (np.zeros(6, dtype=np.int64), np.ones(5), "sum", ValueError),
        (np.zeros(6, dtype=np.int64), None, "total", ValueError),
    ],
)
def test_errors_are_those_of_the_formula(place, labels, weights, reduction, error):
    weights = None if weights is None else place.asarray(weights)
    scores = place.asarray(np.zeros((5, 6)))
    with pytest.raises(error):
        _fused.fused(
            cross_entropy, scores, place.asarray(labels), weights=weights, reduction=reduction
        )


VARIANTS = [
    _fused.Variant.of(dtype, is_hinge, is_mask, classes)
    for dtype in ("float32", "float64")
    for is_hinge in (False, True)
    for is_mask, classes in ((True, 10), (False, 1000), (False, 1030), (True, 65))
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.options[1:]))
def test_it_compiles_for_a_gpu_without_a_warning(variant, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc")
    # -ftz=true is what CuPy adds to the options it is given.
    flags = ["-Werror=all-warnings", "-arch=sm_80", "-cubin", "-ftz=true", *variant.options]
    source = Path(_fused.__file__).with_name("_loss.cu")
    command = [nvcc, *flags, "-o", tmp_path / "loss.cubin", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- what calls it ---------------------------------------------------------------------------


@losses_
@labels_
@pytest.mark.parametrize("widths", [(4, 3), (4, 5, 3)], ids=["linear", "net"])
@pytest.mark.parametrize("heads", [(), (1,), (3,)], ids=["no-heads", "one", "three"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_objectives_are_the_same_with_it_and_without(
    place, monkeypatch, name, masked, widths, heads, bias
):
    rng = np.random.default_rng(5)
    stack = Stack(widths, bias=bias)
    theta = place.asarray(rng.normal(size=(*heads, stack.size)))
    labels = place.asarray(_labels(rng.integers(3, size=60), 3, masked))
    weights = place.asarray(rng.uniform(0.5, 2.0, size=(*heads, 60)))
    loss = data_loss(name, place.asarray(rng.uniform(0.5, 2.0, size=heads)) if heads else 1.5)
    objective = Objective(stack, loss, 0.1)
    x = place.asarray(rng.normal(size=(60, 4)))

    def everything():
        for w in (None, weights):
            rows = Rows(x, labels, w, x.dtype).chunk(slice(3, 57))
            sums = RowSums(stack, loss, stack.prepared(theta, x.dtype))
            yield from sums(rows)
            yield objective.batch_slope(theta, rows)
            yield objective.loss_sum(theta, rows)
            yield objective.curvature_sum(theta, rows)

    before = len(place.launches)
    got = [place.to_host(a) for a in everything()]
    assert len(place.launches) - before >= 8
    assert not _fused._trust.lost
    monkeypatch.setattr(_fused._trust, "lost", True)
    want = [place.to_host(a) for a in everything()]
    for found, expected in zip(got, want, strict=True):
        # Sums of 54 rows of a few dozen roundings each.
        assert_close_max_norm(found, expected, 1e-13)


def test_elsewhere_the_formula_is_used(backend, monkeypatch):
    """On every namespace but CuPy's nothing is launched; there, the kernel is."""
    used = []
    fused = _fused.fused
    monkeypatch.setattr(_fused, "library", _xp.library)
    monkeypatch.setattr(_fused, "fused", lambda *a, **k: used.append(a) or fused(*a, **k))
    rng = np.random.default_rng(6)
    x, theta = (backend.asarray(rng.normal(size=shape)) for shape in ((8, 4), 15))
    rows = Rows(x, backend.asarray(rng.integers(3, size=8)), None, x.dtype)
    Objective(Stack((4, 3)), cross_entropy, 0.1).batch_slope(theta, rows.chunk(slice(0, 8)))
    assert len(used) == (backend is Backend.CUPY)


def test_a_loss_of_ones_own_is_called_as_it_is(place):
    def loss(scores, labels, **options):
        return cross_entropy(scores, labels, **options)

    stack, rng = Stack((4, 3)), np.random.default_rng(7)
    x, theta = (place.asarray(rng.normal(size=shape)) for shape in ((8, 4), 15))
    rows = Rows(x, place.asarray(rng.integers(3, size=8)), None, x.dtype).chunk(slice(0, 8))
    before = len(place.launches)
    for unknown in (loss, partial(cross_entropy, need_loss=True), partial(hinge)):
        RowSums(stack, unknown, stack.prepared(theta, x.dtype))(rows)
    assert len(place.launches) == before


# --- when it fails ---------------------------------------------------------------------------

CALL = (np.array([[0.0, 1.0], [2.0, 0.5]]), np.array([0, 1]))


def _same_as_formula(place):
    scores, labels = CALL
    want = cross_entropy(scores, labels, axis=-2)
    got = _fused.fused(cross_entropy, place.asarray(scores), place.asarray(labels))
    for found, expected in zip(got, want, strict=True):
        assert_relative(place.to_host(found), expected, gamma(40, np.float64), "value")


def _kernel_that(change):
    """What a RawKernel is made with goes through `change` first; it may raise."""

    class Changed(cuda_on_cpu.RawKernel):
        def __init__(self, code, name, options=()):
            super().__init__(change(code), name, options)

    return Changed


def _no_compiler(code):
    raise RuntimeError("no compiler here")


def _without_the_barrier_before_the_sums(code):
    behind = "    if (group == 0 && inside) {"
    return code.replace(f"    __syncthreads();\n{behind}", behind)


FAILURES = {
    "no compiler": (_no_compiler, "no compiler here"),
    "a slip": (lambda code: code.replace("Real kept[SLOTS];", ""), "kept"),
    "wrong slopes": (lambda code: code.replace("v * scale", "-v * scale"), "slopes of .* are off"),
    "wrong losses": (lambda code: code.replace("= loss * f", "= loss"), "losses of .* are off"),
    "a missing barrier": (_without_the_barrier_before_the_sums, "are off"),
}


@pytest.mark.parametrize("change, reason", FAILURES.values(), ids=FAILURES)
def test_a_kernel_that_fails_warns_once_and_the_formula_goes_on(alone, monkeypatch, change, reason):
    if alone.on_gpu:
        pytest.skip("a kernel is only changed where that can do no harm")
    monkeypatch.setattr(sys.modules["cupy"], "RawKernel", _kernel_that(change))
    # Many classes, so that several groups share a row, and need their barriers.
    scores, _, labels = _inputs(40, 5, (), np.float64)
    with pytest.warns(RuntimeWarning, match=reason):
        _fused.fused(cross_entropy, alone.asarray(scores), alone.asarray(labels))
    assert _fused._trust.lost
    before = len(alone.launches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _same_as_formula(alone)
    assert len(alone.launches) == before


def test_no_memory_is_no_reason_to_distrust_it(alone, monkeypatch):
    errors = itertools.chain([MemoryError("none left"), RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")])

    def full(variant):
        raise next(errors)

    with monkeypatch.context() as patch:
        patch.setattr(_fused, "kernel_of", full)
        for _ in range(2):
            with pytest.raises(MemoryError):
                _same_as_formula(alone)
    before = len(alone.launches)
    _same_as_formula(alone)
    assert len(alone.launches) > before
