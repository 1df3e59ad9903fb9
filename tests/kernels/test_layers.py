"""affine, relu, l2 and their gradients, and one_hot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import (
    affine_rows,
    assert_relative,
    assert_same_kind,
    assert_within,
    dyadic,
    gamma,
    l2_value,
    product_bound,
    sum_bound,
    unit,
)

from xclf.kernels import affine, affine_grad, l2, one_hot, relu, relu_grad

# (rows, features, outputs)
SHAPES = [(1, 1, 1), (5, 3, 1), (1, 7, 2), (6, 20, 10), (3, 4, 1000), (2, 2, 100_000)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
axes = pytest.mark.parametrize("axis", [-1, -2])


def _draw(shape, dtype):
    rng = np.random.default_rng(shape)
    n, d, m = shape
    draws = rng.normal(size=(n, d)), rng.normal(size=(d, m)), rng.normal(size=m)
    return [a.astype(dtype) for a in (*draws, rng.normal(size=(n, m)))]


def _turned(axis, *matrices):
    """Features first for axis -2, where every matrix is the transpose."""
    return [np.ascontiguousarray(a.T) if axis == -2 else a for a in matrices]


@shapes
@axes
def test_affine(backend, shape, axis, dtype):
    x, w, b, _ = _draw(shape, dtype)
    bound = product_bound(x, w, dtype, extra=1) + 2 * gamma(1, dtype) * np.abs(b.astype(float))
    arrays = [backend.asarray(a) for a in _turned(axis, x, w, b[None, :])]
    if axis == -1:
        arrays[2] = backend.asarray(b)
    for bias, host_bias in ((arrays[2], b), (None, None)):
        out = affine(*arrays[:2], bias, axis=axis)
        assert_same_kind(out, arrays[0])
        got = backend.to_host(out)
        assert_within(got.T if axis == -2 else got, affine_rows(x, w, host_bias), bound)
    for array, value in zip(arrays[:2], _turned(axis, x, w), strict=True):
        np.testing.assert_array_equal(backend.to_host(array), value)


@shapes
@axes
def test_affine_grad(backend, shape, axis, dtype):
    x, w, _, dout = _draw(shape, dtype)
    arrays = [backend.asarray(a) for a in _turned(axis, dout, x, w)]
    gradients = affine_grad(*arrays, axis=axis)
    for gradient in gradients:
        assert_same_kind(gradient, arrays[0])
    dx, dw, db = (backend.to_host(gradient) for gradient in gradients)
    if axis == -2:
        dx, dw = dx.T, dw.T
    exact = [a.astype(np.float64) for a in (dout, x, w)]
    assert_within(dx, exact[0] @ exact[2].T, product_bound(dout, w.T, dtype), "dx")
    assert_within(dw, exact[1].T @ exact[0], product_bound(x.T, dout, dtype), "dw")
    assert_within(db, exact[0].sum(axis=0), sum_bound(dout, dtype, 0, extra=1), "db")


@axes
def test_affine_grad_without_dx(backend, axis, dtype):
    x, w, _, dout = _draw((6, 20, 10), dtype)
    arrays = [backend.asarray(a) for a in _turned(axis, dout, x, w)]
    dx, dw, db = affine_grad(*arrays, need_dx=False, axis=axis)
    _, want_dw, want_db = affine_grad(*arrays, axis=axis)
    assert dx is None
    np.testing.assert_array_equal(backend.to_host(dw), backend.to_host(want_dw))
    np.testing.assert_array_equal(backend.to_host(db), backend.to_host(want_db))


@axes
def test_affine_and_its_gradients_of_many_heads(backend, axis, dtype):
    """K heads share x; multiples of 1/8 make every sum exact, so heads equal single fits."""
    rng = np.random.default_rng(5)
    x, w = dyadic(rng, (6, 4), dtype), dyadic(rng, (3, 4, 2), dtype)
    b, dout = dyadic(rng, (3, 1, 2), dtype), dyadic(rng, (3, 6, 2), dtype)
    turn = (lambda a: np.swapaxes(a, -1, -2).copy()) if axis == -2 else (lambda a: a)
    ax, aw, ab, adout = (backend.asarray(turn(a)) for a in (x, w, b, dout))
    out = turn(backend.to_host(affine(ax, aw, ab, axis=axis)))
    dx, dw, db = (backend.to_host(a) for a in affine_grad(adout, ax, aw, axis=axis))
    for k in range(3):
        np.testing.assert_array_equal(out[k], x @ w[k] + b[k])
        np.testing.assert_array_equal(turn(dx)[k], dout[k] @ w[k].T)
        np.testing.assert_array_equal(turn(dw)[k], x.T @ dout[k])
        np.testing.assert_array_equal(db[k], dout[k].sum(axis=0))


def test_bias_gradient_of_many_rows_is_summed_in_float64(backend):
    dout = backend.asarray(np.full((1_000_000, 2), 0.1, dtype=np.float32))
    empty = backend.asarray(np.zeros((1_000_000, 0), dtype=np.float32))
    w = backend.asarray(np.zeros((0, 2), dtype=np.float32))
    _, _, db = affine_grad(dout, empty, w, need_dx=False)
    want = np.full(2, 1_000_000 * float(np.float32(0.1)))
    assert_relative(backend.to_host(db), want, 1.01 * unit(np.float32))  # rounded once


@pytest.mark.parametrize("axis", [0, 1, 2, -3, None])
def test_affine_knows_two_layouts(axis):
    x = np.ones((2, 2))
    with pytest.raises(ValueError, match="axis must be -1"):
        affine(x, x, None, axis=axis)
    with pytest.raises(ValueError, match="axis must be -1"):
        affine_grad(x, x, x, axis=axis)


VALUES = [-np.inf, -1e30, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 1e30, np.inf]


def test_relu_and_its_gradient(backend, dtype):
    x = np.array(VALUES, dtype=dtype)
    dout = np.arange(1, 11).astype(dtype)
    ax, adout = backend.asarray(x), backend.asarray(dout)
    out, dx = relu(ax), relu_grad(adout, ax)
    assert_same_kind(out, ax)
    assert_same_kind(dx, ax)
    want = [0.0] * 6 + VALUES[6:]
    np.testing.assert_array_equal(backend.to_host(out), np.array(want, dtype=dtype))
    # The kink at 0 has gradient 0, and the largest negative numbers change nothing.
    np.testing.assert_array_equal(backend.to_host(dx), [0, 0, 0, 0, 0, 0, 7, 8, 9, 10])
    np.testing.assert_array_equal(backend.to_host(relu_grad(adout, out)), backend.to_host(dx))
    np.testing.assert_array_equal(backend.to_host(ax), x)
    np.testing.assert_array_equal(backend.to_host(adout), dout)


def test_relu_keeps_nan(backend):
    assert np.isnan(backend.to_host(relu(backend.asarray([np.nan])))).all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_relu_takes_any_shape(backend, shape, dtype):
    x = np.random.default_rng(1).normal(size=shape).astype(dtype)
    got = backend.to_host(relu(backend.asarray(x)))
    np.testing.assert_array_equal(got, np.where(x > 0, x, 0))


@pytest.mark.parametrize("shape", [(1,), (3, 4), (100, 1000), (2, 3, 4)])
def test_l2(backend, shape, dtype):
    w = np.random.default_rng(2).normal(size=shape).astype(dtype)
    array = backend.asarray(w)
    strength = float(np.float32(0.3))
    loss, dw = l2(array, strength)
    # A square, a few float64 additions, a factor and a cast; dw: one product with a rounded 2 s.
    wide_sum = gamma(w.size, np.float64)
    assert_relative(backend.to_host(loss), l2_value(w, strength), gamma(3, dtype) + wide_sum)
    assert_relative(backend.to_host(dw), 2 * strength * w.astype(float), gamma(2, dtype))
    assert loss.shape == ()
    for result in (loss, dw):
        assert_same_kind(result, array)
    np.testing.assert_array_equal(backend.to_host(array), w)
    nothing, gradient = l2(array, strength, need_loss=False)
    assert nothing is None
    np.testing.assert_array_equal(backend.to_host(gradient), backend.to_host(dw))


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3,)])
def test_l2_with_a_strength_per_head(backend, shape, dtype):
    w = dyadic(np.random.default_rng(4), shape, dtype)
    strength = np.array([0.5, 2.0, 0.0], dtype=dtype)
    loss, dw = l2(backend.asarray(w), backend.asarray(strength))
    assert loss.shape == (3,)
    for k in range(3):
        assert backend.to_host(loss)[k] == l2_value(w[k], strength[k])
        np.testing.assert_array_equal(backend.to_host(dw)[k], 2 * strength[k] * w[k])
    nothing, gradient = l2(backend.asarray(w), backend.asarray(strength), need_loss=False)
    assert nothing is None
    np.testing.assert_array_equal(backend.to_host(gradient), backend.to_host(dw))


def test_l2_heads_may_have_two_axes(backend, dtype):
    w = dyadic(np.random.default_rng(4), (2, 3, 4, 5), dtype)
    strength = dyadic(np.random.default_rng(5), (2, 3), dtype)
    loss, dw = l2(backend.asarray(w), backend.asarray(strength))
    want = [[l2_value(w[j, k], strength[j, k]) for k in range(3)] for j in range(2)]
    np.testing.assert_array_equal(backend.to_host(loss), np.array(want))
    want = 2 * strength[:, :, None, None] * w
    np.testing.assert_array_equal(backend.to_host(dw), want)


def test_l2_strength_may_be_an_array_without_axes(backend, dtype):
    w = dyadic(np.random.default_rng(4), (3, 4), dtype)
    loss, dw = l2(backend.asarray(w), backend.asarray(np.asarray(0.5, dtype=dtype)))
    assert float(backend.to_host(loss)) == l2_value(w, 0.5)
    np.testing.assert_array_equal(backend.to_host(dw), w)


def test_l2_is_summed_in_float64(backend):
    # The sum of squares, 1e39, is beyond float32; strength brings it back.
    w = backend.asarray(np.full(10, 1e19, dtype=np.float32))
    loss, _ = l2(w, 1e-3)
    assert math.isclose(float(backend.to_host(loss)), 1e36, rel_tol=1e-6)


@pytest.mark.parametrize("label_dtype", ["int32", "int64"])
@pytest.mark.parametrize("n_classes", [1, 2, 10, 1000])
def test_one_hot(backend, n_classes, label_dtype):
    labels = np.array([0, n_classes - 1, n_classes // 2], dtype=label_dtype)
    array = backend.asarray(labels)
    mask = one_hot(backend.xp, array, n_classes)
    assert mask.shape == (n_classes, 3)
    assert mask.dtype == backend.dtype("bool")
    host = backend.to_host(mask)
    assert [np.flatnonzero(host[:, i]).tolist() for i in range(3)] == [[y] for y in labels]
    np.testing.assert_array_equal(backend.to_host(array), labels)
