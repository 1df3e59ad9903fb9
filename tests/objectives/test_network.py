"""Layers on one flat vector, forward and backward: against loops, exactly.

Inputs are multiples of 1/8, so every product and sum below fits into float32: whatever order a
library sums in, and however it blocks a product, the result is the oracle's to the last bit.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from helpers import affine_rows, assert_same_kind, dyadic, l2_value
from pairwise import pairwise

from xclf.objectives import Layer, Network

N, D, H, C = 7, 5, 4, 3
LINEAR, NET = (D, C), (D, H, C)

widths_ = pytest.mark.parametrize("widths", [LINEAR, NET], ids=["linear", "net"])
bias_ = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
HEADS = [(), (1,), (3,)]


def _case(network, heads=(), dtype=np.float64, seed=0):
    """(theta (*heads, P), x (N, D), dscores (*heads, C, N))."""
    rng = np.random.default_rng(seed)
    theta = dyadic(rng, (*heads, network.size), dtype)
    return theta, dyadic(rng, (N, D), dtype), dyadic(rng, (*heads, C, N), dtype)


def _loop_layers(theta, widths, bias):
    """(w (M, D), b (M,)) per layer, entry by entry from a flat list."""
    values, layers = iter(theta.tolist()), []
    for d, m in itertools.pairwise(widths):
        w = np.array([[next(values) for _ in range(d)] for _ in range(m)])
        layers.append((w, np.array([next(values) for _ in range(m)]) if bias else np.zeros(m)))
    assert next(values, None) is None
    return layers


def _loop_forward(layers, x):
    """[x, hidden units, ..., scores], rows first."""
    outs = [np.asarray(x, dtype=np.float64)]
    for place, (w, b) in enumerate(layers):
        outs.append(affine_rows(outs[-1] if place == 0 else np.maximum(outs[-1], 0), w.T, b))
    return outs


def _loop_backward(layers, x, dscores, bias):
    """Flat gradient: dw[m, d] = sum_i dout[i, m] in[i, d], db = sum_i dout, dx = dout w if on."""
    outs = _loop_forward(layers, x)
    dout, parts = np.asarray(dscores, dtype=np.float64), []
    for place in range(len(layers) - 1, -1, -1):
        w, _ = layers[place]
        into = outs[place] if place == 0 else np.maximum(outs[place], 0)
        dw = np.zeros(w.shape)
        for i in range(len(into)):
            for m in range(len(w)):
                dw[m] += dout[i, m] * into[i]
        parts = [dw.ravel(), *([dout.sum(axis=0)] if bias else []), *parts]
        dout = (dout @ w) * (outs[place] > 0)
    return np.concatenate(parts)


@widths_
@bias_
def test_the_flat_layout_is_weights_by_rows_then_biases(widths, bias):
    network = Network(widths, bias=bias)
    assert network.size == sum(m * d + m * bias for d, m in itertools.pairwise(widths))
    theta = np.arange(float(network.size))
    for got, want in zip(network.layers(theta), _loop_layers(theta, widths, bias), strict=True):
        np.testing.assert_array_equal(got.w, want[0])
        if bias:
            np.testing.assert_array_equal(got.b, want[1][:, None])
        else:
            assert got.b is None


@pairwise(widths=[LINEAR, NET], bias=[True, False], heads=HEADS)
def test_flatten_undoes_layers(backend, widths, bias, heads, dtype):
    network = Network(widths, bias=bias)
    theta, _, _ = _case(network, heads, dtype)
    array = backend.asarray(theta)
    layers = network.layers(array)
    for columns in (False, True):  # biases as (M, 1), and as (M,)
        parts = [(w, b[..., 0] if bias and columns else b) for w, b in layers]
        flat = network.flatten(parts)
        assert_same_kind(flat, array)
        np.testing.assert_array_equal(backend.to_host(flat), theta)


@pairwise(widths=[LINEAR, NET], bias=[True, False], heads=HEADS)
def test_forward_and_backward_are_the_loops(backend, widths, bias, heads, dtype):
    network = Network(widths, bias=bias)
    theta, x, dscores = _case(network, heads, dtype)
    scores, tape = network.forward(backend.asarray(theta), backend.asarray(x))
    gradient = network.flatten(network.backward(backend.asarray(dscores), tape))
    assert_same_kind(scores, backend.asarray(x))
    assert_same_kind(gradient, backend.asarray(x))
    assert scores.shape == (*heads, C, N)
    assert gradient.shape == theta.shape
    for head in np.ndindex(heads):
        layers = _loop_layers(theta[head], widths, bias)
        want = _loop_forward(layers, x)[-1].T
        np.testing.assert_array_equal(backend.to_host(scores)[head], want)
        want = _loop_backward(layers, x, dscores[head].T, bias)
        np.testing.assert_array_equal(backend.to_host(gradient)[head], want)


@pairwise(widths=[LINEAR, NET], bias=[True, False], heads=[(), (3,)])
def test_shift_and_scale_are_standardised_rows(backend, widths, bias, heads, dtype):
    """Scales are powers of two and shifts dyadic: the folding is exact too."""
    shift, scale = np.array([1.0, -2, 0, 0.5, 3]), np.array([1.0, 2, 0.5, 4, 1])
    if not bias:
        shift = None
    theta, x, dscores = _case(Network(widths, bias=bias), heads, dtype)
    z = ((x if shift is None else x - shift) / scale).astype(dtype)
    place = [None if a is None else backend.asarray(a, dtype) for a in (shift, scale)]
    network = Network(widths, bias=bias, shift=place[0], scale=place[1])
    scores, tape = network.forward(backend.asarray(theta), backend.asarray(x))
    gradient = network.flatten(network.backward(backend.asarray(dscores), tape))
    for head in np.ndindex(heads):
        layers = _loop_layers(theta[head], widths, bias)
        want = _loop_forward(layers, z)[-1].T
        np.testing.assert_array_equal(backend.to_host(scores)[head], want)
        want = _loop_backward(layers, z, dscores[head].T, bias)
        np.testing.assert_array_equal(backend.to_host(gradient)[head], want)


@bias_
def test_without_biases_only_the_scale_applies(bias):
    network = Network(LINEAR, bias=bias, shift=np.ones(D), scale=np.full(D, 2.0))
    theta, x, dscores = _case(network)
    z = (x - 1) / 2 if bias else x / 2
    scores, tape = network.forward(theta, x)
    want, plain = Network(LINEAR, bias=bias).forward(theta, z)
    np.testing.assert_array_equal(scores, want)
    for got, other in zip(
        network.backward(dscores, tape)[0], Network(LINEAR, bias=bias).backward(dscores, plain)[0],
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(got, other)


@widths_
@bias_
def test_raw_and_fitting_coordinates(backend, widths, bias):
    shift, scale = np.array([1.0, -2, 0, 0.5, 3]), np.array([1.0, 2, 0.5, 4, 1])
    network = Network(
        widths,
        bias=bias,
        shift=backend.asarray(shift) if bias else None,
        scale=backend.asarray(scale),
    )
    theta, x, _ = _case(network)
    fitting = network.layers(backend.asarray(theta))
    raw = network.raw(fitting)
    plain = Network(widths, bias=bias)
    scores, _ = plain.forward(plain.flatten([(w, b) for w, b in raw]), backend.asarray(x))
    want, _ = network.forward(backend.asarray(theta), backend.asarray(x))
    np.testing.assert_array_equal(backend.to_host(scores), backend.to_host(want))
    back = network.flatten([(w, b) for w, b in network.fitting(raw)])
    np.testing.assert_array_equal(backend.to_host(back), theta)
    assert plain.raw(fitting) is fitting
    assert plain.fitting(fitting) is fitting


@widths_
def test_products_run_in_the_dtype_of_the_rows(backend, widths):
    """Parameters in float64, rows in float32: the scores are the float32 parameters' own."""
    network = Network(widths)
    rng = np.random.default_rng(3)
    theta, x = rng.normal(size=network.size), rng.normal(size=(N, D)).astype(np.float32)
    scores, tape = network.forward(backend.asarray(theta), backend.asarray(x))
    same, _ = network.forward(backend.asarray(theta.astype(np.float32)), backend.asarray(x))
    assert scores.dtype == backend.dtype("float32")
    np.testing.assert_array_equal(backend.to_host(scores), backend.to_host(same))
    dscores = backend.asarray(np.ones((C, N), dtype=np.float32))
    assert network.flatten(network.backward(dscores, tape)).dtype == backend.dtype("float32")


@pairwise(widths=[LINEAR, NET], bias=[True, False], heads=HEADS, per_head=[False, True])
def test_the_penalty_leaves_biases_alone(backend, widths, bias, heads, per_head):
    network = Network(widths, bias=bias)
    theta, _, _ = _case(network, heads)
    regs = 0.25 * (1 + np.arange(math.prod(heads)).reshape(heads)) if per_head else 0.5
    reg = backend.asarray(regs) if per_head and heads else float(np.max(regs))
    value, gradient = network.penalty(backend.asarray(theta), reg)
    assert tuple(value.shape) == heads
    for head in np.ndindex(heads):
        strength = float(np.broadcast_to(regs, heads)[head])
        want = np.zeros(0)
        total = 0.0
        for w, b in _loop_layers(theta[head], widths, bias):
            total += l2_value(w, strength)
            want = np.concatenate([want, 2 * strength * w.ravel(), np.zeros(len(b) * bias)])
        assert float(backend.to_host(value)[head]) == total
        np.testing.assert_array_equal(backend.to_host(gradient)[head], want)


def test_a_layer_unpacks_to_weights_and_biases():
    w, b = Layer(np.ones((2, 3)), None)
    assert w.shape == (2, 3)
    assert b is None


def test_raw_coordinates_of_heads_are_those_of_each():
    rng = np.random.default_rng(0)
    network = Network((4, 3), shift=rng.normal(size=4), scale=rng.uniform(0.5, 2.0, size=4))
    theta = rng.normal(size=(2, network.size))
    together = network.raw(network.layers(theta))[0]
    back = network.flatten(network.fitting([together]))
    np.testing.assert_allclose(back, theta, rtol=1e-13, atol=1e-14)
    for k in range(2):
        alone = network.raw(network.layers(theta[k]))[0]
        np.testing.assert_array_equal(together.w[k], alone.w)
        np.testing.assert_allclose(together.b[k], alone.b, rtol=1e-14, atol=1e-14)
