"""What kernels promise about their arguments: any memory layout, nothing written, clear errors."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    GRADIENT_BOUND,
    KERNELS,
    assert_close_max_norm,
    assert_relative,
    assert_same_kind,
    loss_bound,
    parity_data,
)

import xclf.kernels
from xclf import _array_api
from xclf.kernels import (
    affine,
    affine_grad,
    cross_entropy,
    hinge,
    l2,
    proximal_hinge,
    relu,
    squared_hinge,
)

N, C = 6, 5
kernels = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__)


def _padded(backend, values):
    """A view of every second entry of a larger array, other values between."""
    values = np.asarray(values)
    wide = np.full([2 * n for n in values.shape], -99 if values.dtype != bool else 1)
    wide = wide.astype(values.dtype)
    wide[(slice(None, None, 2),) * values.ndim] = values
    return backend.asarray(wide)[(slice(None, None, 2),) * values.ndim]


def _transposed(backend, values):
    """The same values, axes stored in the reverse order."""
    axes = tuple(reversed(range(np.ndim(values))))
    stored = np.ascontiguousarray(np.transpose(values, axes))
    return backend.xp.permute_dims(backend.asarray(stored), axes)


views = pytest.mark.parametrize("view", [_padded, _transposed])


def _arguments(dtype):
    scores, labels = parity_data(N, C, dtype)
    weights = np.linspace(0.5, 2.0, N).astype(dtype)
    anchor = np.linspace(0.0, 1.0, N * C).reshape(N, C).astype(dtype)
    return scores, labels, weights, anchor


def _assert_same_results(backend, got, want, dtype):
    """The order of a sum may depend on the memory layout, so not bit for bit."""
    for a, b in zip(got, want, strict=True):
        bound = 2 * max(loss_bound(dtype, C, 30, N), GRADIENT_BOUND[dtype.name])
        assert_close_max_norm(backend.to_host(a), backend.to_host(b), bound)


@kernels
@views
def test_strided_arrays(backend, kernel, view, dtype):
    scores, labels, weights, _ = _arguments(dtype)
    mask = np.arange(C) == labels[:, None]
    for form in (labels, mask):
        plain = [backend.asarray(a) for a in (scores, form)]
        want = kernel(*plain, weights=backend.asarray(weights))
        strided = [view(backend, a) for a in (scores, form)]
        got = kernel(*strided, weights=view(backend, weights))
        _assert_same_results(backend, got, want, dtype)


@views
def test_strided_arrays_of_the_proximal_hinge(backend, view, dtype):
    scores, labels, _, anchor = _arguments(dtype)
    want = proximal_hinge(*(backend.asarray(a) for a in (scores, labels, anchor)), 0.5)
    got = proximal_hinge(*(view(backend, a) for a in (scores, labels, anchor)), 0.5)
    _assert_same_results(backend, got, want, dtype)


@views
def test_strided_arrays_of_the_layers(backend, view, dtype):
    rng = np.random.default_rng(1)
    x, w, dout = (rng.normal(size=s).astype(dtype) for s in ((N, 3), (3, C), (N, C)))
    plain, strided = ([f(backend, a) for a in (x, w, dout)] for f in (_plain, view))
    for f in (
        lambda x, w, dout: (affine(x, w, None),),
        lambda x, w, dout: affine_grad(dout, x, w),
        lambda x, w, dout: l2(w, 0.5),
        lambda x, w, dout: (relu(dout), xclf.kernels.relu_grad(dout, dout)),
    ):
        _assert_same_results(backend, f(*strided), f(*plain), dtype)


def _plain(backend, values):
    return backend.asarray(values)


@kernels
def test_broadcast_arrays(backend, kernel, dtype):
    """Zero strides: one row standing for all of them."""
    xp = backend.xp
    scores, labels, weights, _ = _arguments(dtype)
    parts = [backend.asarray(a) for a in (scores[:1], labels[:1], weights[:1])]
    shapes = [(N, C), (N,), (N,)]
    views = [xp.broadcast_to(a, shape) for a, shape in zip(parts, shapes, strict=True)]
    got = kernel(views[0], views[1], weights=views[2])
    whole = [np.broadcast_to(a[:1], s) for a, s in zip((scores, labels, weights), shapes)]  # noqa: B905
    copies = [backend.asarray(a) for a in whole]
    _assert_same_results(backend, got, kernel(*copies[:2], weights=copies[2]), dtype)


def test_broadcast_arrays_of_the_layers(backend, dtype):
    xp = backend.xp
    one = backend.asarray(np.full((1, 1), 0.5, dtype=dtype))
    x, w, dout = (xp.broadcast_to(one, shape) for shape in ((N, 3), (3, C), (N, C)))
    np.testing.assert_array_equal(backend.to_host(affine(x, w, one)), np.full((N, C), 1.25))
    dx, dw, db = (backend.to_host(a) for a in affine_grad(dout, x, w))
    np.testing.assert_array_equal(dx, np.full((N, 3), 0.25 * C))
    np.testing.assert_array_equal(dw, np.full((3, C), 0.25 * N))
    np.testing.assert_array_equal(db, np.full(C, 0.5 * N))
    loss, gradient = l2(w, 2.0)
    assert float(backend.to_host(loss)) == 2.0 * 0.25 * 3 * C
    np.testing.assert_array_equal(backend.to_host(gradient), np.full((3, C), 2.0))


def test_no_argument_is_written_to(backend, dtype):
    scores, labels, weights, anchor = _arguments(dtype)
    margin, smoothing = np.asarray(1.0, dtype=dtype), np.asarray(0.5, dtype=dtype)
    values = [scores, labels, anchor, smoothing, margin, weights]
    arrays = [backend.asarray(a) for a in values]
    options = {"margin": arrays[4], "weights": arrays[5]}
    hinge(*arrays[:2], **options)
    squared_hinge(*arrays[:2], **options)
    cross_entropy(*arrays[:2], weights=arrays[5])
    for result in proximal_hinge(*arrays[:4], **options):
        assert_same_kind(result, arrays[0])
    for array, value in zip(arrays, values, strict=True):
        np.testing.assert_array_equal(backend.to_host(array), value)


@kernels
def test_results_are_new_arrays(backend, kernel, dtype):
    """Writing to a gradient, as an in-place update does, must not reach the scores."""
    if backend.value in ("numpy-readonly", "array-api-strict"):
        pytest.skip("shares the memory of NumPy, which is tested")
    scores, labels, *_ = _arguments(dtype)
    array = backend.asarray(scores)
    _, dscores = kernel(array, backend.asarray(labels))
    dscores[...] = 7.0
    np.testing.assert_array_equal(backend.to_host(array), scores)


@kernels
@pytest.mark.parametrize("shape", [(), (N,)])
def test_scores_need_two_axes(backend, kernel, shape):
    with pytest.raises(ValueError, match="scores must have a row axis"):
        kernel(backend.asarray(np.zeros(shape)), backend.asarray(np.zeros(1, dtype=int)))


@kernels
@pytest.mark.parametrize("axis", [2, -3])
def test_the_class_axis_must_exist(backend, kernel, axis):
    scores, labels, *_ = _arguments(np.float64)
    with pytest.raises(ValueError, match=rf"class axis {axis}, got shape \(6, 5\)"):
        kernel(backend.asarray(scores), backend.asarray(labels), axis=axis)


@kernels
@pytest.mark.parametrize("shape", [(N + 1,), (1,), (N, 1), (N, C), (2, N)])
def test_labels_must_fit(backend, kernel, shape):
    scores, *_ = _arguments(np.float64)
    labels = backend.asarray(np.zeros(shape, dtype=np.int64))
    with pytest.raises(ValueError, match=r"labels must have shape \(6,\)"):
        kernel(backend.asarray(scores), labels)


@kernels
@pytest.mark.parametrize("shape", [(N,), (C,), (N, C + 1), (N, 1)])
def test_a_mask_must_fit(backend, kernel, shape):
    scores, *_ = _arguments(np.float64)
    mask = backend.asarray(np.ones(shape, dtype=bool))
    with pytest.raises(ValueError, match=r"boolean labels .* \(6, 5\); got"):
        kernel(backend.asarray(scores), mask)


@kernels
@pytest.mark.parametrize("kind", ["float32", "float64", "complex128"])
def test_labels_must_be_integers_or_a_mask(backend, kernel, kind):
    scores, labels, *_ = _arguments(np.float64)
    with pytest.raises(TypeError, match=f"labels must be integers or a boolean mask.*{kind}"):
        kernel(backend.asarray(scores), backend.asarray(labels.astype(kind)))


@kernels
@pytest.mark.parametrize("reduction", ["Mean", "average", "", None])
def test_an_unknown_reduction(backend, kernel, reduction):
    scores, labels, *_ = _arguments(np.float64)
    with pytest.raises(ValueError, match=r"reduction must be one of .*'mean'.*'sum'.*'none'"):
        kernel(backend.asarray(scores), backend.asarray(labels), reduction=reduction)


@kernels
@pytest.mark.parametrize("shape", [(N + 1,), (1,), (N, 1), ()])
def test_weights_must_fit(backend, kernel, shape):
    scores, labels, *_ = _arguments(np.float64)
    weights = backend.asarray(np.ones(shape))
    for reduction in ("sum", "none"):
        with pytest.raises(ValueError, match=r"weights must have shape \(6,\)"):
            kernel(
                backend.asarray(scores),
                backend.asarray(labels),
                weights=weights,
                reduction=reduction,
            )


@kernels
def test_a_device_without_float64(kernel):
    """Sums then run in float32; nothing asks for a dtype that is not there."""
    strict = pytest.importorskip("array_api_strict")
    device = strict.Device("no_float64")
    scores, labels = parity_data(4, 100, np.float32)
    arrays = [strict.asarray(a, device=device) for a in (scores, labels)]
    loss, dscores = kernel(*arrays)
    assert loss.dtype == dscores.dtype == strict.float32
    assert loss.device == dscores.device == device
    want, gradient = kernel(scores, labels)
    assert_relative(_array_api.to_host(loss), want, loss_bound(np.float32, 100, 30, 4))
    assert_close_max_norm(
        _array_api.to_host(dscores), gradient, 1e-5
    )  # 100 classes, 1.7e-7 a term at worst


@kernels
def test_rows_of_a_dask_array_with_a_mask(kernel):
    """The formula alone: no gather, so it runs on lazy row chunks as well."""
    da = pytest.importorskip("dask.array")
    scores, labels, weights, _ = _arguments(np.float64)
    mask = np.arange(C) == labels[:, None]
    lazy = [da.from_array(a, chunks=(2, *a.shape[1:])) for a in (scores, mask, weights)]
    got = kernel(*lazy[:2], weights=lazy[2])
    want = kernel(scores, mask, weights=weights)
    for a, b in zip(got, want, strict=True):
        assert isinstance(a, da.Array)
        assert_close_max_norm(a.compute(), b, 1e-13)


def test_all_is_exact():
    public = {name for name in vars(xclf.kernels) if not name.startswith("_")}
    assert public == set(xclf.kernels.__all__)
    assert len(xclf.kernels.__all__) == len(public)
