"""The CUDA kernel of the losses against their formulas: on a GPU, and its source on a CPU."""

# ruff: noqa: F401, F811 (fixtures that are imported)
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import cuda_on_cpu
import numpy as np
import pytest
from fused_cases import CLASSES, _check, _inputs, _labels, _weights, alone, labels_, losses_, place
from helpers import (
    assert_relative,
    gamma,
)

from xclf.kernels import cross_entropy
from xclf.objectives import _fused, data_loss


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
def test_the_gradient_alone_is_the_same(place, name, classes, dtype):
    scores, _, labels = _inputs(classes, 40, (), dtype)
    given = [[place.asarray(a) for a in (scores, labels)] for _ in range(2)]
    losses, gradient = _fused.fused(data_loss(name), *given[0], need_loss=False)
    assert losses is None
    _, other = _fused.fused(data_loss(name), *given[1])
    np.testing.assert_array_equal(place.to_host(gradient), place.to_host(other))


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
    losses, gradient = _fused.fused(data_loss(name), given[1, ...], marks, reduction="none")
    want = data_loss(name)(scores[1, :, 1::2], labels[1::2], reduction="none", axis=-2)
    assert np.all(np.isfinite(place.to_host(gradient)))
    for found, expected in zip((losses, gradient), want, strict=True):
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
        losses, gradient = _fused.fused(
            data_loss(name), *given, bias=place.asarray(bias), reduction="none"
        )
        results.append([place.to_host(losses), place.to_host(gradient)])
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
