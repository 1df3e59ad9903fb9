"""What the tests of the fused losses share: where the kernel runs, inputs and bounds."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from backends import Backend, required_backends, why_missing
from helpers import (
    GRADIENT_BOUND,
    assert_close_max_norm,
    assert_relative,
    hinge_bound,
    loss_bound,
)

from xclf.kernels import hinge
from xclf.objectives import _fused, data_loss

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
        patch.setattr(_fused, "_trust", _fused.Trust("the kernel", "formulas go on"))
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
    monkeypatch.setattr(_fused, "_trust", _fused.Trust("the kernel", "formulas go on"))
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
        losses, gradients = hinge(head, labels, margin=at, reduction="none", axis=-2)
        bound = max(bound, hinge_bound(losses, gradients.T, dtype, at))
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
    assert_close_max_norm(place.to_host(dscores), want[1], GRADIENT_BOUND[dtype.name])
    for key, array in arrays.items():
        if array is not None:
            np.testing.assert_array_equal(place.to_host(array), beside[key], f"{key} written to")
