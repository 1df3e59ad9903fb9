"""Course layers: shapes, formulas and gradients, on every backend."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xclf import _array_api
from xclf.cs231n import layer_utils, layers
from xclf.cs231n.gradient_check import eval_numerical_gradient_array

RNG = np.random.default_rng(0)
# Central differences with h = 1e-5 of functions of order 1: truncation h^2 / 6, rounding eps / h.
GRADIENT = 1e-8


def relative_error(a, b):
    return np.max(np.abs(a - b)) / np.max(np.abs(a))


def test_affine_takes_images_and_gives_their_gradient_in_their_shape(backend):
    x, w, b = RNG.standard_normal((3, 2, 4)), RNG.standard_normal((8, 5)), RNG.standard_normal(5)
    dout = RNG.standard_normal((3, 5))
    out, cache = layers.affine_forward(*map(backend.asarray, (x, w, b)))
    np.testing.assert_allclose(backend.to_host(out), x.reshape(3, 8) @ w + b, rtol=1e-13)
    dx, dw, db = layers.affine_backward(backend.asarray(dout), cache)
    assert tuple(dx.shape) == x.shape
    np.testing.assert_allclose(backend.to_host(dx).reshape(3, 8), dout @ w.T, rtol=1e-13)
    np.testing.assert_allclose(backend.to_host(dw), x.reshape(3, 8).T @ dout, rtol=1e-12)
    np.testing.assert_allclose(backend.to_host(db), dout.sum(axis=0), rtol=1e-13)
    assert _array_api.same_device(dw, out)


def test_relu_passes_what_is_positive(backend):
    x, dout = np.array([[-1.0, 0.0, 2.0]]), np.array([[5.0, 6.0, 7.0]])
    out, cache = layers.relu_forward(backend.asarray(x))
    np.testing.assert_array_equal(backend.to_host(out), [[0, 0, 2]])
    dx = layers.relu_backward(backend.asarray(dout), cache)
    np.testing.assert_array_equal(backend.to_host(dx), [[0, 0, 7]])


def test_affine_relu_is_both(backend):
    # Fixed numbers, none of them within h of the corner.
    x, w, b = (RNG.standard_normal(shape) for shape in ((4, 3), (3, 6), (6,)))
    dout = RNG.standard_normal((4, 6))
    out, cache = layer_utils.affine_relu_forward(*map(backend.asarray, (x, w, b)))
    np.testing.assert_allclose(backend.to_host(out), np.maximum(0, x @ w + b), rtol=1e-13)
    gradients = layer_utils.affine_relu_backward(backend.asarray(dout), cache)
    masked = dout * (x @ w + b > 0)
    for got, expected in zip(gradients, (masked @ w.T, x.T @ masked, masked.sum(0)), strict=True):
        np.testing.assert_allclose(backend.to_host(got), expected, rtol=1e-12, atol=1e-15)


def test_loss_layers_are_means_over_the_batch(backend):
    scores, y = np.array([[1.0, 3.0, 2.5], [0.0, 0.0, 5.0]]), np.array([1, 2])
    loss, dx = layers.svm_loss(backend.asarray(scores), y)
    assert float(loss) == (0 + (2.5 - 3 + 1)) / 2
    np.testing.assert_array_equal(backend.to_host(dx), [[0, -0.5, 0.5], [0, 0, 0]])

    loss, dx = layers.softmax_loss(backend.asarray(scores), backend.asarray(y))
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = -(math.log(p[0, 1]) + math.log(p[1, 2])) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(backend.to_host(dx), (p - np.eye(3)[y]) / 2, rtol=1e-12)


def test_float64_stays_and_float32_stays(backend, dtype):
    x = backend.asarray(np.ones((2, 3)), dtype)
    w, b = backend.asarray(np.ones((3, 4)), dtype), backend.asarray(np.zeros(4), dtype)
    gamma, beta = backend.asarray(np.ones(3), dtype), backend.asarray(np.zeros(3), dtype)
    out, cache = layers.affine_forward(x, w, b)
    found = [out, *layers.affine_backward(out, cache), layers.relu_forward(x)[0]]
    found += layers.softmax_loss(out, np.array([0, 1]))
    found += layers.svm_loss(out, np.array([0, 1]))
    found.append(layers.dropout_forward(x, {"mode": "train", "p": 0.5})[0])
    for mode in ("train", "test"):
        normalised, cache = layers.batchnorm_forward(x, gamma, beta, {"mode": mode})
        found += [normalised, *layers.batchnorm_backward(normalised, cache)]
    found.append(layers.layernorm_forward(x, gamma, beta, {})[0])
    assert all(array.dtype == backend.dtype(dtype) for array in found)


# --- dropout -----------------------------------------------------------------------------------


def test_dropout_keeps_a_share_p_and_scales_it_up(backend):
    x = backend.asarray(np.ones((200, 50)))
    np.random.seed(0)
    out, cache = layers.dropout_forward(x, {"mode": "train", "p": 0.7})
    values = backend.to_host(out)
    assert set(np.unique(values)) == {0.0, 1 / 0.7}
    # A share of 10,000 draws: four standard deviations are 4 sqrt(0.21 / 1e4).
    assert abs(np.mean(values > 0) - 0.7) <= 4 * math.sqrt(0.21 / 1e4)
    np.testing.assert_array_equal(backend.to_host(layers.dropout_backward(x, cache)), values)


def test_dropout_is_off_at_test_time(backend):
    x = backend.asarray(RNG.standard_normal((3, 4)))
    out, cache = layers.dropout_forward(x, {"mode": "test", "p": 0.3, "seed": 1})
    np.testing.assert_array_equal(backend.to_host(out), backend.to_host(x))
    back = layers.dropout_backward(x, cache)
    np.testing.assert_array_equal(backend.to_host(back), backend.to_host(x))


def test_a_seed_fixes_the_mask_to_that_of_the_global_stream():
    x = np.ones((4, 5))
    np.random.seed(9)
    expected = (np.random.rand(4, 5) < 0.4) / 0.4
    for _ in range(2):
        out, _ = layers.dropout_forward(x, {"mode": "train", "p": 0.4, "seed": 9})
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    "param, message",
    [
        ({"mode": "train", "p": 0}, r"\(0, 1\]"),
        ({"mode": "train", "p": 1.5}, r"\(0, 1\]"),
        ({"mode": "validate", "p": 0.5}, "mode"),
    ],
)
def test_dropout_refuses(param, message):
    with pytest.raises(ValueError, match=message):
        layers.dropout_forward(np.ones((2, 2)), param)


# --- normalisation -----------------------------------------------------------------------------

NORMS = {
    "batchnorm": (layers.batchnorm_forward, layers.batchnorm_backward, 0),
    "layernorm": (layers.layernorm_forward, layers.layernorm_backward, 1),
}


@pytest.mark.parametrize("name", list(NORMS))
def test_normalised_values_have_mean_0_and_variance_1(backend, name):
    forward, _, axis = NORMS[name]
    x = 5 + 3 * RNG.standard_normal((40, 30))
    ones, zeros = backend.asarray(np.ones(30)), backend.asarray(np.zeros(30))
    out, _ = forward(backend.asarray(x), ones, zeros, {"mode": "train"})
    values = backend.to_host(out)
    np.testing.assert_allclose(values.mean(axis=axis), 0, atol=1e-12)
    variance = x.var(axis=axis)
    np.testing.assert_allclose(values.var(axis=axis), variance / (variance + 1e-5), rtol=1e-12)


@pytest.mark.parametrize("name", list(NORMS))
def test_normalisation_passes_a_gradient_check(name):
    forward, backward, _ = NORMS[name]
    x, gamma, beta = (RNG.standard_normal(shape) for shape in ((6, 5), (5,), (5,)))
    dout = RNG.standard_normal((6, 5))
    _, cache = forward(x, gamma, beta, {"mode": "train"})
    functions = {
        0: (x, lambda v: forward(v, gamma, beta, {"mode": "train"})[0]),
        1: (gamma, lambda v: forward(x, v, beta, {"mode": "train"})[0]),
        2: (beta, lambda v: forward(x, gamma, v, {"mode": "train"})[0]),
    }
    gradients = backward(dout, cache)
    for k, (value, function) in functions.items():
        assert (
            relative_error(eval_numerical_gradient_array(function, value, dout), gradients[k])
            < GRADIENT
        )


def test_batchnorm_writes_running_statistics_and_uses_them_at_test_time():
    x = RNG.standard_normal((8, 3))
    param = {"mode": "train", "momentum": 0.75}
    layers.batchnorm_forward(x, np.ones(3), np.zeros(3), param)
    np.testing.assert_allclose(param["running_mean"], 0.25 * x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(param["running_var"], 0.25 * x.var(axis=0), rtol=1e-13)
    param["mode"] = "test"
    out, cache = layers.batchnorm_forward(x, 2 * np.ones(3), np.ones(3), param)
    scale = 1 / np.sqrt(param["running_var"] + 1e-5)
    np.testing.assert_allclose(out, 2 * (x - param["running_mean"]) * scale + 1, rtol=1e-12)
    dx, dgamma, dbeta = layers.batchnorm_backward(np.ones((8, 3)), cache)
    np.testing.assert_allclose(dx, np.ones((8, 3)) * 2 * scale, rtol=1e-13)
    np.testing.assert_allclose(dgamma, ((out - 1) / 2).sum(axis=0), rtol=1e-10)
    np.testing.assert_array_equal(dbeta, [8, 8, 8])


def test_batchnorm_refuses_an_unknown_mode():
    with pytest.raises(ValueError, match="'train' or 'test'"):
        layers.batchnorm_forward(np.ones((2, 2)), np.ones(2), np.zeros(2), {"mode": "eval"})


def test_exports_are_exact():
    for module in (layers, layer_utils):
        own = {
            name
            for name, value in vars(module).items()
            if callable(value)
            and not name.startswith("_")
            and getattr(value, "__module__", "") == module.__name__
        }
        assert own - {"flat"} <= set(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("loss", [layers.svm_loss, layers.softmax_loss])
@pytest.mark.parametrize("label", [-1, 3])
def test_a_loss_names_a_label_that_is_no_class(backend, loss, label):
    scores, y = backend.asarray(RNG.standard_normal((4, 3))), np.array([0, 1, label, 2])
    with pytest.raises(ValueError, match=f"from 0 to 2; got {label} in row 2"):
        loss(scores, y)
