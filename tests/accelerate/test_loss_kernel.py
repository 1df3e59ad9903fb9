"""The CUDA kernel of the losses against their formulas: on a GPU, or its source on a CPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import cuda_on_cpu
import numpy as np
import pytest
from device_accelerators import host
from helpers import (
    GRADIENT_BOUND,
    assert_close_max_norm,
    assert_relative,
    gamma,
    hinge_bound,
    loss_bound,
)
from pairwise import mostly_long, pairwise

from xclf.accelerate.cuda import loss_kernel
from xclf.accelerate.cuda.loss_kernel import Variant, loss_in_place
from xclf.objectives import LOSSES, Hinge, Softmax, SquaredHinge, loss_named

CLASSES = [1, 2, 3, 10, 16, 17, 64, 65, 100, 257, 1000]  # every tile, and its edges
SPREAD = 40.0  # the largest difference of the scores below: a dozen standard deviations

losses_ = pytest.mark.parametrize("name", LOSSES)


def classes_and_labels(*classes):
    """Classes, with labels that are integers, and masks where there are masks of so many."""
    cases = [(count, masked) for count in classes for masked in (False, True)]
    return pytest.mark.parametrize(
        ("classes", "masked"), [case for case in cases if case[0] <= 64 or not case[1]]
    )


@pytest.fixture
def launches(cupy, monkeypatch):
    """The variants that have been launched."""
    seen = []
    launch = loss_kernel.Call.launch

    def counted(self, kernel, losses):
        seen.append(self.variant)
        launch(self, kernel, losses)

    monkeypatch.setattr(loss_kernel.Call, "launch", counted)
    return seen


def inputs(classes, rows, heads, dtype, margin=1.0):
    """(scores, bias, labels): scores with bias are 1e-2 or more away from every kink."""
    rng = np.random.default_rng([classes, rows, len(heads)])
    labels = rng.integers(classes, size=rows)
    total = 3.0 * rng.normal(size=(*heads, classes, rows))
    own = labels == np.arange(classes)[:, None]
    m = total - np.sum(np.where(own, total, 0.0), axis=-2, keepdims=True) + margin
    total += 0.05 * ((np.abs(m) < 1e-2) & ~own)
    bias = rng.normal(size=(*heads, classes, 1)).astype(dtype)
    return (total - bias).astype(dtype), bias, labels


def mark(labels, classes, masked):
    return labels == np.arange(classes)[:, None] if masked else labels


def weights_of(kind, heads, rows, dtype):
    shape = {"equal": None, "rows": (rows,), "heads": (*heads, rows)}[kind]
    if shape is None:
        return None
    return np.random.default_rng(rows).uniform(0.5, 2.0, size=shape).astype(dtype)


def bound_of(name, scores, labels, dtype, margin):
    """Relative, of each row's loss and of sums of them, since none is negative."""
    rows, classes = scores.shape[-1], scores.shape[-2]
    if name == "softmax":
        return 2 * loss_bound(dtype, classes, SPREAD, rows)
    bound = 0.0
    for k, head in enumerate(scores.astype(np.float64).reshape(-1, classes, rows)):
        at = float(np.ravel(margin)[k]) if np.ndim(margin) else margin
        loss = loss_named(name, margin=at)
        losses, gradients = loss(head, labels, reduction="none", axis=-2)
        # Of squares too: an error of m counts 2 m times, and gradients are 2 m.
        bound = max(bound, hinge_bound(losses, gradients.T, dtype, at))
    return 2 * bound


def check(cupy, name, scores, bias, labels, weights=None, reduction="none", margin=1.0):
    """One launch against the formula in float64: values, and what was not written to."""
    dtype = scores.dtype
    seen = scores if bias is None else scores + bias
    want = loss_named(name, margin=np.asarray(margin, np.float64) if np.ndim(margin) else margin)(
        seen.astype(np.float64),
        labels,
        weights=None if weights is None else weights.astype(np.float64),
        reduction=reduction,
        axis=-2,
    )
    beside = {"bias": bias, "weights": weights, "labels": labels}
    arrays = {
        "bias": None if bias is None else cupy.asarray(bias),
        # With something else between their rows, which are the last axis.
        "weights": None if weights is None else cupy.asarray(weights.repeat(3, -1))[..., ::3],
        "labels": cupy.asarray(labels.repeat(3, -1))[..., ::3],
    }
    given = cupy.asarray(scores)
    loss = loss_named(name, margin=cupy.asarray(margin) if np.ndim(margin) else margin)
    losses, dscores = loss_in_place(
        loss, given, arrays["labels"], bias=arrays["bias"], weights=arrays["weights"],
        reduction=reduction,
    )  # fmt: skip
    assert dscores is given
    assert losses.dtype == dscores.dtype == dtype
    bound = bound_of(name, seen, labels, dtype, margin)
    assert_relative(host(losses), want[0], bound, "loss", dtype)
    assert_close_max_norm(host(dscores), want[1], GRADIENT_BOUND[dtype.name])
    for key, array in arrays.items():
        if array is not None:
            np.testing.assert_array_equal(host(array), beside[key], f"{key} written to")


@mostly_long(classes=CLASSES, masked=[False, True], name=[*LOSSES], dtype=["float32", "float64"])
def test_same_as_the_formula(cupy, launches, name, masked, classes, dtype):
    """Heads, rows, weights and biases in every arrangement, each of them somewhere."""
    masked, dtype = masked and classes <= 64, np.dtype(dtype)  # no masks of more
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
        scores, bias, labels = inputs(classes, rows, heads, dtype)
        labels = mark(labels, classes, masked)
        weights = weights_of(weighted, heads, rows, dtype)
        launches.clear()
        check(cupy, name, scores, bias if biased else None, labels, weights)
        assert {v.is_mask for v in launches} == {masked}


@pairwise(name=[*LOSSES], classes=[3, 100], dtype=["float32", "float64"])
def test_reductions(cupy, name, classes, dtype):
    dtype = np.dtype(dtype)
    scores, bias, labels = inputs(classes, 70, (2,), dtype)
    check(cupy, name, scores, bias, labels, reduction="mean")
    check(cupy, name, scores, bias, labels, reduction="sum")
    weights = weights_of("heads", (2,), 70, dtype)
    check(cupy, name, scores, bias, labels, weights, reduction="sum")


@pytest.mark.parametrize("name", ["hinge", "squared_hinge"])
def test_a_margin_for_each_head(cupy, name, dtype):
    scores, bias, labels = inputs(10, 40, (3,), dtype, margin=0.5)
    check(cupy, name, scores, bias, labels, margin=0.5)
    check(cupy, name, scores, bias, labels, margin=np.array([0.5] * 3, dtype=dtype))
    scores[1] *= 4.0  # so a margin of 2 is as far from the kinks
    bias[1] *= 4.0
    check(cupy, name, scores, bias, labels, margin=np.array([0.5, 2.0, 0.5], dtype=dtype))


@losses_
@pytest.mark.parametrize("classes", [10, 100])
def test_the_gradient_alone_is_the_same(cupy, name, classes, dtype):
    scores, _, labels = inputs(classes, 40, (), dtype)
    given = [[cupy.asarray(a) for a in (scores, labels)] for _ in range(2)]
    losses, gradient = loss_in_place(loss_named(name), *given[0], need_loss=False)
    assert losses is None
    _, other = loss_in_place(loss_named(name), *given[1])
    np.testing.assert_array_equal(host(gradient), host(other))


def rare_rows(classes, dtype):
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


@mostly_long(
    case=[(3, False), (3, True), (100, False), (300, False)],
    name=[*LOSSES],
    dtype=["float32", "float64"],
)
def test_rare_scores(cupy, name, case, dtype):
    """Ties, huge scores, leads, infinities, NaN: every entry relative, and NaN where NaN was."""
    (classes, masked), dtype = case, np.dtype(dtype)
    scores, labels = rare_rows(classes, dtype)
    labels = mark(labels, classes, masked)
    with np.errstate(invalid="ignore", over="ignore"):
        want = loss_named(name)(scores, labels, reduction="none", axis=-2)
        given = cupy.asarray(scores), cupy.asarray(labels)
        got = [host(a) for a in loss_in_place(loss_named(name), *given, reduction="none")]
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
@pytest.mark.parametrize("classes", [64, 1000])
def test_sums_of_many_classes_keep_their_digits(cupy, name, classes):
    """Equal terms are rounded to the same side: one float32 sum of them drifts away."""
    scores = np.full((classes, 2), np.log(0.1), dtype=np.float32)
    scores[0] = 0.0
    labels = np.zeros(2, dtype=np.int64)
    want = loss_named(name, margin=3.0)(
        scores.astype(np.float64), labels, reduction="none", axis=-2
    )
    given = cupy.asarray(scores), cupy.asarray(labels)
    got = loss_in_place(loss_named(name, margin=3.0), *given, reduction="none")
    for found, expected in zip(got, want, strict=True):
        # Every term is a few roundings of 3, which the margin of 0.7 left over makes four times as
        # many; a float32 sum holds 32 of them, and the rest is in float64.
        assert_relative(host(found), expected, gamma(32 + 32, np.float32), "value")


@losses_
@classes_and_labels(10, 20, 300)
def test_labels_of_no_class_touch_nothing_else(cupy, name, masked, classes):
    """Labels are not checked: whatever comes of bad ones, it stays in their rows."""
    scores, _, labels = inputs(classes, 40, (3,), np.float64)
    labels[::2] = [classes, -1, classes + 3, 2**40, -(2**40)] * 4
    given = cupy.asarray(scores)
    marks = cupy.asarray(mark(labels, classes, masked))
    losses, gradient = loss_in_place(loss_named(name), given[1, ...], marks, reduction="none")
    want = loss_named(name)(scores[1, :, 1::2], labels[1::2], reduction="none", axis=-2)
    for found, expected in zip((losses, gradient), want, strict=True):
        rows = host(found)[..., 1::2]
        # Violations are 1e-2 or more of scores of a dozen: 1000 units of their rounding.
        bound = gamma(40, np.float64) if name != "squared_hinge" else gamma(3000, np.float64)
        assert_relative(rows, expected, bound, "value")
    np.testing.assert_array_equal(host(given)[::2], scores[::2])


@losses_
@pytest.mark.parametrize("classes", [10, 17, 300])
def test_it_repeats_bit_for_bit(cupy, name, classes, monkeypatch):
    """Also where the threads of a block run in another order."""
    scores, bias, labels = inputs(classes, 50, (2,), np.float32)
    results = []
    for seed in range(3):
        monkeypatch.setattr(cuda_on_cpu.RawKernel, "seed", seed)
        given = [cupy.asarray(a) for a in (scores, labels)]
        losses, gradient = loss_in_place(
            loss_named(name), *given, bias=cupy.asarray(bias), reduction="none"
        )
        results.append([host(losses), host(gradient)])
    for other in results[1:]:
        np.testing.assert_array_equal(other[0], results[0][0])
        np.testing.assert_array_equal(other[1], results[0][1])


def every_other(cupy, a, axis):
    """The same array, with something else between its entries along an axis."""
    wide = cupy.asarray(np.repeat(a, 2, axis=axis))
    return wide[..., ::2] if axis == -1 else wide[..., ::2, :]


def many_classes(rows, masked):
    """Scores and labels of more classes than the kernel takes."""
    scores, _, labels = inputs(65 if masked else 1025, rows, (), np.dtype("float64"))
    return scores, mark(labels, len(scores), masked)


ONES = np.ones((2, 6))
LEFT_TO_THE_FORMULA = {
    "other integers": lambda p, s, b, y: (p.asarray(s), y.astype(np.int32), {}),
    "labels per head": lambda p, s, b, y: (p.asarray(s), np.stack([y, y]), {}),
    "masks per head": lambda p, s, b, y: (p.asarray(s), np.stack([mark(y, 5, True)] * 2), {}),
    "a weighted mean": lambda p, s, b, y: (
        p.asarray(s),
        y,
        {"weights": p.asarray(ONES), "reduction": "mean"},
    ),
    "scores apart": lambda p, s, b, y: (every_other(p, s, -1), y, {}),
    "two axes of heads": lambda p, s, b, y: (p.asarray(np.stack([s, s])), y, {}),
    "biases apart": lambda p, s, b, y: (p.asarray(s), y, {"bias": every_other(p, b, -2)}),
    "1025 classes": lambda p, s, b, y: (*map(p.asarray, many_classes(6, False)), {}),
    "a mask of 65 classes": lambda p, s, b, y: (*map(p.asarray, many_classes(6, True)), {}),
}


@losses_
@pytest.mark.parametrize("case", LEFT_TO_THE_FORMULA.values(), ids=LEFT_TO_THE_FORMULA)
def test_what_the_kernel_does_not_compute_the_formula_does(cupy, launches, name, case):
    given, labels, options = case(cupy, *inputs(5, 6, (2,), np.dtype("float64")))
    labels = labels if hasattr(labels, "get") else cupy.asarray(labels)
    before = host(given)
    options = {"reduction": "none", **options}
    on_host = {k: v if isinstance(v, str) else host(v) for k, v in options.items()}
    seen = before + on_host.pop("bias", 0.0)
    want = loss_named(name)(seen, host(labels), axis=-2, **on_host)
    got = loss_in_place(loss_named(name), given, labels, **options)
    assert not launches
    for found, expected in zip(got, want, strict=True):
        assert_relative(host(found), expected, gamma(40, np.float64), "value")
    np.testing.assert_array_equal(host(given), before, "the scores were written to")


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
def test_errors_are_those_of_the_formula(cupy, labels, weights, reduction, error):
    weights = None if weights is None else cupy.asarray(weights)
    scores, labels = cupy.asarray(np.zeros((5, 6))), cupy.asarray(labels)
    with pytest.raises(error):
        loss_in_place(Softmax(), scores, labels, weights=weights, reduction=reduction)


@mostly_long(
    dtype=["float32", "float64"], loss=[Softmax, Hinge, SquaredHinge], is_mask=[True, False]
)
def test_it_compiles_for_a_gpu_without_a_warning(dtype, loss, is_mask, tmp_path):
    variant = Variant.of(dtype, loss, is_mask, 10 if is_mask else 1000)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc")
    # -ftz=true is what CuPy adds to the options it is given.
    flags = ["-Werror=all-warnings", "-arch=sm_80", "-cubin", "-ftz=true", *variant.options]
    source = Path(loss_kernel.__file__).with_name("loss.cu")
    command = [nvcc, *flags, "-o", tmp_path / "loss.cubin", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
