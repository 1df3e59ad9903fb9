"""The course's numeric gradients: in place, restored, on every backend."""

from __future__ import annotations

import random

import numpy as np
import pytest

from xclf import _array_api
from xclf.cs231n.gradient_check import (
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    grad_check_sparse,
)

X = np.array([[0.5, -1.5, 2.0], [1.0, 3.0, -0.25]])
# Truncation h^2 / 6 * f''' = 1e-10, rounding eps f / h = 1e-9.
GRADIENT = 1e-8


@pytest.fixture
def writeable(backend):
    if str(backend) == "numpy-readonly":
        pytest.skip("x is changed in place: a read-only array is refused")
    return backend


def test_the_gradient_of_a_number(writeable):
    xp, x = writeable.xp, writeable.asarray(X)
    gradient = eval_numerical_gradient(lambda v: xp.sum(v**3), x, verbose=False)
    np.testing.assert_allclose(writeable.to_host(gradient), 3 * X**2, rtol=GRADIENT, atol=GRADIENT)
    assert _array_api.same_device(gradient, x)
    assert gradient.dtype == x.dtype
    np.testing.assert_array_equal(writeable.to_host(x), X)


def test_the_gradient_through_an_array(writeable):
    w = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]])
    df = np.array([[1.0, -2.0], [0.5, 3.0]])
    there, x = writeable.asarray(w), writeable.asarray(X)
    gradient = eval_numerical_gradient_array(lambda v: v @ there, x, writeable.asarray(df))
    np.testing.assert_allclose(writeable.to_host(gradient), df @ w.T, rtol=GRADIENT)
    np.testing.assert_array_equal(writeable.to_host(x), X)
    assert _array_api.same_device(gradient, x)


def test_a_function_that_returns_x_itself(writeable):
    x = writeable.asarray(X)
    df = writeable.asarray(np.arange(6.0).reshape(2, 3))
    gradient = eval_numerical_gradient_array(lambda v: v, x, df)
    np.testing.assert_allclose(writeable.to_host(gradient), writeable.to_host(df), atol=GRADIENT)


def test_x_is_changed_in_place_so_that_f_may_read_it_elsewhere(writeable):
    xp, x = writeable.xp, writeable.asarray(X)
    held = {"w": x}
    gradient = eval_numerical_gradient(lambda _: float(xp.sum(held["w"] ** 2)), x, verbose=False)
    np.testing.assert_allclose(writeable.to_host(gradient), 2 * X, rtol=GRADIENT)


def test_views_are_changed_in_place_too():
    base = np.arange(12.0).reshape(3, 4)
    view = base.T[1:3]
    gradient = eval_numerical_gradient(lambda _: np.sum(base**2), view, verbose=False)
    np.testing.assert_allclose(gradient, 2 * view, rtol=1e-7, atol=1e-7)


def test_x_is_restored_when_f_raises():
    x = X.copy()

    def f(v):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        eval_numerical_gradient(f, x)
    np.testing.assert_array_equal(x, X)


def test_every_gradient_is_printed_unless_told_not_to(capsys):
    x = np.array([[1.0, 2.0]])
    eval_numerical_gradient(lambda v: 2 * v[0, 0], x)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in lines] == ["(0, 0)", "(0, 1)"]
    assert float(lines[0][7:]) == pytest.approx(2)
    eval_numerical_gradient(lambda v: v[0, 0], x, verbose=False)
    assert capsys.readouterr().out == ""


def test_sparse_checks_print_both_gradients_and_their_error(writeable, capsys):
    xp, x = writeable.xp, writeable.asarray(X)
    analytic = 2 * X
    analytic[:, 1] *= 3
    random.seed(0)
    found = grad_check_sparse(lambda v: xp.sum(v**2), x, writeable.asarray(analytic), num_checks=30)
    assert found is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 30
    for line in lines:
        head, error = line.split(", relative error: ")
        numeric, claimed = (float(text) for text in head[len("numerical: ") :].split(" analytic: "))
        total = abs(numeric) + abs(claimed)
        assert float(error) == pytest.approx(abs(numeric - claimed) / total, abs=1e-5)
    # |n - 3n| / |n + 3n| = 0.5 for the wrong column, 0 elsewhere.
    errors = {round(float(line.rpartition(" ")[2]), 4) for line in lines}
    assert errors == {0.0, 0.5}
    np.testing.assert_array_equal(writeable.to_host(x), X)


def test_a_gradient_of_zero_has_no_error(capsys):
    grad_check_sparse(lambda v: 0.0, X.copy(), np.zeros_like(X), num_checks=1)
    assert capsys.readouterr().out.endswith("relative error: 0.000000e+00\n")


def test_what_cannot_work_is_refused():
    with pytest.raises(TypeError, match="floating"):
        eval_numerical_gradient(np.sum, np.arange(3))
    with pytest.raises(ValueError, match=r"df has shape \(3,\), but f\(x\) has \(2, 3\)"):
        eval_numerical_gradient_array(lambda v: v, X.copy(), np.ones(3))
    frozen = X.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        eval_numerical_gradient(np.sum, frozen)


def test_empty_and_scalar_arrays():
    assert eval_numerical_gradient_array(lambda v: v, np.ones((0, 2)), np.ones((0, 2))).shape == (
        0,
        2,
    )
    gradient = eval_numerical_gradient_array(lambda v: v * 3, np.array(2.0), np.array(1.0))
    assert gradient.shape == ()
    assert gradient == pytest.approx(3)
