"""Gradients against central differences and torch's autograd, losses against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    KERNELS,
    assert_close_max_norm,
    assert_relative,
    loss_bound,
    numerical_gradient,
    parity_data,
)

from xclf.kernels import (
    affine,
    affine_grad,
    cross_entropy,
    hinge,
    l2,
    proximal_hinge,
    relu,
    relu_grad,
)

# Central differences with h = 1e-5 of functions of order 1 with third derivatives of order 1: h^2/6
# is 2e-11, and the rounding of the two values 1e-15 * (a few) / 1e-5, some 1e-10.
NUMERICAL = 1e-9
REDUCTIONS = ["mean", "sum"]
SCORES, LABELS = parity_data(6, 4, np.float64)
WEIGHTS = np.array([1.0, 0.5, 2.0, 0.0, 3.0, 1.5])


def _total(loss):
    return float(np.sum(loss))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("kernel", KERNELS)
def test_loss_gradients_numerically(kernel, weights, reduction):
    options = {"weights": weights, "reduction": reduction}
    _, gradient = kernel(SCORES, LABELS, **options)
    numeric = numerical_gradient(lambda s: float(kernel(s, LABELS, **options)[0]), SCORES)
    assert_close_max_norm(gradient, numeric, NUMERICAL)


@pytest.mark.parametrize("kernel", KERNELS)
def test_loss_gradients_of_heads_numerically(kernel):
    """With "none", dscores is each row's own gradient: that of the sum, since rows are separate."""
    rng = np.random.default_rng(2)
    scores, labels = rng.normal(size=(4, 2, 5)), rng.integers(4, size=(2, 5))
    options = {"weights": rng.uniform(0.5, 2.0, size=(2, 5)), "reduction": "none", "axis": 0}
    _, gradient = kernel(scores, labels, **options)
    numeric = numerical_gradient(lambda s: _total(kernel(s, labels, **options)[0]), scores)
    assert_close_max_norm(gradient, numeric, NUMERICAL)


@pytest.mark.parametrize("smoothing", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_proximal_gradients_numerically(smoothing, weights):
    anchor = np.random.default_rng(3).uniform(size=SCORES.shape)

    def run(scores):
        return proximal_hinge(scores, LABELS, anchor, smoothing, weights=weights)

    numeric = numerical_gradient(lambda s: _total(run(s)[0]), SCORES)
    # The second derivative jumps where a multiplier reaches a bound: nowhere within h of these.
    assert_close_max_norm(run(SCORES)[1], numeric, NUMERICAL)


@pytest.mark.parametrize("axis", [-1, -2])
def test_affine_gradients_numerically(axis):
    rng = np.random.default_rng(4)
    x, w, b, dout = (rng.normal(size=s) for s in ((5, 3), (3, 2), (1, 2), (5, 2)))
    if axis == -2:
        x, w, b, dout = (np.ascontiguousarray(a.T) for a in (x, w, b, dout))

    def value(x, w, b):
        return _total(affine(x, w, b, axis=axis) * dout)

    dx, dw, db = affine_grad(dout, x, w, axis=axis)
    assert_close_max_norm(dx, numerical_gradient(lambda a: value(a, w, b), x), NUMERICAL)
    assert_close_max_norm(dw, numerical_gradient(lambda a: value(x, a, b), w), NUMERICAL)
    numeric = numerical_gradient(lambda a: value(x, w, a), b).ravel()
    assert_close_max_norm(db, numeric, NUMERICAL)


def test_relu_and_l2_gradients_numerically():
    rng = np.random.default_rng(5)
    x, dout = rng.normal(size=(2, 4, 3))
    assert np.min(np.abs(x)) > 1e-3  # away from the kink
    numeric = numerical_gradient(lambda a: _total(relu(a) * dout), x)
    assert_close_max_norm(relu_grad(dout, x), numeric, NUMERICAL)
    numeric = numerical_gradient(lambda a: float(l2(a, 0.7)[0]), x)
    assert_close_max_norm(l2(x, 0.7)[1], numeric, NUMERICAL)
    strength = np.array([0.1, 1.0, 3.0, 0.0])
    numeric = numerical_gradient(lambda a: _total(l2(a, strength)[0]), x)
    assert_close_max_norm(l2(x, strength)[1], numeric, NUMERICAL)


def _tensor(values):
    torch = pytest.importorskip("torch")
    return torch.tensor(values, requires_grad=np.asarray(values).dtype.kind == "f")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("margin", [1.0, 0.5])
def test_hinge_is_torchs_multi_margin_loss_times_c(reduction, margin):
    torch = pytest.importorskip("torch")
    scores, labels = parity_data(9, 7, np.float64, margin)
    tensor, y = _tensor(scores), _tensor(labels)
    want = torch.nn.MultiMarginLoss(margin=margin, reduction=reduction)(tensor, y) * 7
    want.sum().backward()
    loss, gradient = hinge(scores, labels, margin=margin, reduction=reduction)
    assert_relative(loss, want.detach().numpy(), loss_bound(np.float64, 7, 300, 9))
    assert_close_max_norm(gradient, tensor.grad.numpy(), 1e-13)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("n_classes", [2, 10, 1000])
def test_cross_entropy_is_torchs(reduction, n_classes):
    torch = pytest.importorskip("torch")
    scores, labels = parity_data(9, n_classes, np.float64)
    tensor, y = _tensor(scores), _tensor(labels)
    want = torch.nn.functional.cross_entropy(tensor, y, reduction=reduction)
    want.sum().backward()
    loss, gradient = cross_entropy(scores, labels, reduction=reduction)
    # torch takes lse - s_y: absolute rounding of a few units of the scores, up to 12 here.
    np.testing.assert_allclose(loss, want.detach().numpy(), rtol=1e-14, atol=1e-13)
    assert_close_max_norm(gradient, tensor.grad.numpy(), 1e-13)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_autograd_through_the_kernel_finds_its_gradient(kernel, reduction):
    tensor = _tensor(SCORES)
    options = {"weights": _tensor(WEIGHTS).detach(), "reduction": reduction}
    loss, gradient = kernel(tensor, _tensor(LABELS), **options)
    loss.backward()
    assert_close_max_norm(gradient.detach().numpy(), tensor.grad.numpy(), 1e-14)


def test_autograd_through_the_layers_finds_their_gradients():
    rng = np.random.default_rng(6)
    x, w, b, dout = (_tensor(rng.normal(size=s)) for s in ((5, 3), (3, 2), (2,), (5, 2)))
    out = affine(x, w, b)
    loss, dw_penalty = l2(w, 0.3)
    ((relu(out) * dout).sum() + loss).backward()
    dx, dw, db = affine_grad(relu_grad(dout, out), x, w)
    assert_close_max_norm(dx.detach().numpy(), x.grad.numpy(), 1e-14)
    assert_close_max_norm((dw + dw_penalty).detach().numpy(), w.grad.numpy(), 1e-14)
    assert_close_max_norm(db.detach().numpy(), b.grad.numpy(), 1e-14)
