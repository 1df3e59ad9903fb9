"""`check_gradient`: passes what is right, fails what is wrong, and says where."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import KERNELS

from xclf import check_gradient

X = np.array([[0.5, -1.5, 2.0], [1.0, 3.0, -0.25]])


def test_a_right_gradient_passes_in_every_form(backend, dtype):
    x = backend.asarray(X, dtype)
    xp = backend.xp
    forms = [
        check_gradient(lambda v: (xp.sum(v**3), 3 * v**2), x),
        check_gradient(lambda v: xp.sum(v**3), x, 3 * x**2),
        check_gradient(lambda v: xp.sum(v**3), x, lambda v: 3 * v**2),
        check_gradient(lambda v: float(xp.sum(v**3)), x, 3 * X**2),
    ]
    for report in forms:
        assert report, str(report)
        assert report.checked == report.size == 6
        assert report.kinks == 0
    np.testing.assert_array_equal(backend.to_host(x), X.astype(dtype))


def test_the_kernels_pass(backend):
    scores, y = backend.asarray(X), backend.asarray(np.array([2, 0]))
    for kernel in KERNELS:
        assert check_gradient(lambda s, kernel=kernel: kernel(s, y), scores)


@pytest.mark.parametrize("error", [1e-4, -0.5, np.nan, np.inf])
def test_one_wrong_entry_fails_and_is_named(error):
    gradient = 3 * X**2
    gradient[1, 2] += error
    report = check_gradient(lambda v: np.sum(v**3), X, gradient)
    assert not report.passed
    assert not report
    assert report.index == (1, 2)
    assert report.numeric == pytest.approx(3 * 0.25**2, rel=1e-6)
    text = str(report)
    assert "FAILED" in text
    assert "[1, 2]" in text


def test_a_gradient_with_a_wrong_factor_or_sign_fails():
    for factor in (2.0, 0.5, -1.0, 1.001, 0.0):
        assert not check_gradient(lambda v: np.sum(v**2), X, factor * 2 * X).passed


def test_a_kink_is_not_an_error():
    x = np.array([0.0, 1.0, -1.0])
    report = check_gradient(lambda v: np.sum(np.maximum(v, 0)), x, np.array([0.0, 1.0, 0.0]))
    assert report.passed
    assert report.kinks == 1
    assert "kink" in str(report)
    outside = check_gradient(lambda v: np.sum(np.maximum(v, 0)), x, np.array([1.5, 1.0, 0.0]))
    assert not outside.passed
    assert outside.index == (0,)


def test_large_arrays_are_sampled():
    x = np.linspace(-1, 1, 5000)
    report = check_gradient(lambda v: np.sum(v**2), x, 2 * x, max_entries=20)
    assert report.passed
    assert (report.checked, report.size) == (20, 5000)
    assert "20 of 5000 entries" in str(report)
    again = check_gradient(lambda v: np.sum(v**2), x, 2 * x, max_entries=20)
    assert again.index == report.index


def test_the_point_is_restored_when_f_raises_and_is_never_the_caller_s():
    seen = []

    def f(v):
        seen.append(v)
        if len(seen) == 3:
            raise RuntimeError("stop")
        return np.sum(v)

    x = X.copy()
    with pytest.raises(RuntimeError, match="stop"):
        check_gradient(f, x, np.ones_like(x))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(seen[0], X)
    assert seen[0] is not x


def test_lists_and_integers_are_made_floating():
    assert check_gradient(lambda v: float(np.sum(v**2)), [1, 2, 3], [2, 4, 6])
    assert check_gradient(lambda v: float(np.sum(v**2)), np.arange(3), 2 * np.arange(3))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1, 1, 1)])
def test_odd_shapes(shape):
    x = np.ones(shape)
    report = check_gradient(lambda v: float(np.sum(v**2)), x, 2 * x)
    assert report.passed
    assert report.size == x.size
    assert str(report)


@pytest.mark.parametrize(
    "f, df, message",
    [
        (lambda v: v**2, 2 * X, "one number"),
        (lambda v: np.sum(v), np.ones(3), "gradient has shape"),
        (lambda v: np.sum(v), None, "must return"),
    ],
)
def test_other_functions_are_refused(f, df, message):
    with pytest.raises(ValueError, match=message):
        check_gradient(f, X, df)


def test_the_step_and_tolerance_can_be_set():
    report = check_gradient(lambda v: np.sum(v**3), X, 3 * X**2 + 1e-3, rtol=1e-2, h=1e-4)
    assert report.passed
    assert report.h == 1e-4
    assert not check_gradient(lambda v: np.sum(v**3), X, 3 * X**2 + 1e-3, rtol=1e-5).passed
