"""The fused losses where the objectives call them, and where they fail."""

# ruff: noqa: F401, F811 (fixtures that are imported)
from __future__ import annotations

import itertools
import sys
import warnings
from functools import partial

import cuda_on_cpu
import numpy as np
import pytest
from backends import Backend
from fused_cases import _inputs, _labels, alone, labels_, losses_, place
from helpers import (
    assert_close_max_norm,
    assert_relative,
    gamma,
)

from xclf import _array_api
from xclf.kernels import cross_entropy, hinge
from xclf.objectives import Network, Objective, _fused, data_loss
from xclf.objectives._sums import RowSums
from xclf.rows import Rows

# --- what calls it ---------------------------------------------------------------------------


@losses_
@labels_
@pytest.mark.parametrize("widths", [(4, 3), (4, 5, 3)], ids=["linear", "net"])
@pytest.mark.parametrize("heads", [(), (1,), (3,)], ids=["no-heads", "one", "three"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_objectives_are_the_same_with_it_and_without(
    place, monkeypatch, name, masked, widths, heads, bias
):
    rng = np.random.default_rng(5)
    network = Network(widths, bias=bias)
    theta = place.asarray(rng.normal(size=(*heads, network.size)))
    labels = place.asarray(_labels(rng.integers(3, size=60), 3, masked))
    weights = place.asarray(rng.uniform(0.5, 2.0, size=(*heads, 60)))
    loss = data_loss(name, place.asarray(rng.uniform(0.5, 2.0, size=heads)) if heads else 1.5)
    objective = Objective(network, loss, 0.1)
    x = place.asarray(rng.normal(size=(60, 4)))

    def everything():
        for w in (None, weights):
            rows = Rows(x, labels, w, x.dtype).chunk(slice(3, 57))
            sums = RowSums(network, loss, network.prepared(theta, x.dtype))
            yield from sums(rows)
            yield objective.batch_gradient(theta, rows)
            yield objective.loss_sum(theta, rows)
            yield objective.curvature_sum(theta, rows)

    before = len(place.launches)
    got = [place.to_host(a) for a in everything()]
    assert len(place.launches) - before >= 8
    assert not _fused._trust.lost
    monkeypatch.setattr(_fused._trust, "lost", True)
    want = [place.to_host(a) for a in everything()]
    for found, expected in zip(got, want, strict=True):
        # Sums of 54 rows of a few dozen roundings each.
        assert_close_max_norm(found, expected, 1e-13)


def test_elsewhere_the_formula_is_used(backend, monkeypatch):
    """On every namespace but CuPy's nothing is launched; there, the kernel is."""
    used = []
    fused = _fused.fused
    monkeypatch.setattr(_fused, "library", _array_api.library)
    monkeypatch.setattr(_fused, "fused", lambda *a, **k: used.append(a) or fused(*a, **k))
    rng = np.random.default_rng(6)
    x, theta = (backend.asarray(rng.normal(size=shape)) for shape in ((8, 4), 15))
    rows = Rows(x, backend.asarray(rng.integers(3, size=8)), None, x.dtype)
    Objective(Network((4, 3)), cross_entropy, 0.1).batch_gradient(theta, rows.chunk(slice(0, 8)))
    assert len(used) == (backend is Backend.CUPY)


def test_a_loss_of_ones_own_is_called_as_it_is(place):
    def loss(scores, labels, **options):
        return cross_entropy(scores, labels, **options)

    network, rng = Network((4, 3)), np.random.default_rng(7)
    x, theta = (place.asarray(rng.normal(size=shape)) for shape in ((8, 4), 15))
    rows = Rows(x, place.asarray(rng.integers(3, size=8)), None, x.dtype).chunk(slice(0, 8))
    before = len(place.launches)
    for unknown in (loss, partial(cross_entropy, need_loss=True), partial(hinge)):
        RowSums(network, unknown, network.prepared(theta, x.dtype))(rows)
    assert len(place.launches) == before


# --- when it fails ---------------------------------------------------------------------------

CALL = (np.array([[0.0, 1.0], [2.0, 0.5]]), np.array([0, 1]))


def _same_as_formula(place):
    scores, labels = CALL
    want = cross_entropy(scores, labels, axis=-2)
    got = _fused.fused(cross_entropy, place.asarray(scores), place.asarray(labels))
    for found, expected in zip(got, want, strict=True):
        assert_relative(place.to_host(found), expected, gamma(40, np.float64), "value")


def _kernel_that(change):
    """What a RawKernel is made with goes through `change` first; it may raise."""

    class Changed(cuda_on_cpu.RawKernel):
        def __init__(self, code, name, options=()):
            super().__init__(change(code), name, options)

    return Changed


def _no_compiler(code):
    raise RuntimeError("no compiler here")


def _without_the_barrier_before_the_sums(code):
    behind = "    if (group == 0 && inside) {"
    return code.replace(f"    __syncthreads();\n{behind}", behind)


FAILURES = {
    "no compiler": (_no_compiler, "no compiler here"),
    "a slip": (lambda code: code.replace("Real kept[SLOTS];", ""), "kept"),
    "wrong gradients": (
        lambda code: code.replace("v * scale", "-v * scale"),
        "gradients of .* are off",
    ),
    "wrong losses": (lambda code: code.replace("= loss * f", "= loss"), "losses of .* are off"),
    "a missing barrier": (_without_the_barrier_before_the_sums, "are off"),
}


@pytest.mark.parametrize("change, reason", FAILURES.values(), ids=FAILURES)
def test_a_kernel_that_fails_warns_once_and_the_formula_goes_on(alone, monkeypatch, change, reason):
    if alone.on_gpu:
        pytest.skip("a kernel is only changed where that can do no harm")
    monkeypatch.setattr(sys.modules["cupy"], "RawKernel", _kernel_that(change))
    # Many classes, so that several groups share a row, and need their barriers.
    scores, _, labels = _inputs(40, 5, (), np.float64)
    with pytest.warns(RuntimeWarning, match=reason):
        _fused.fused(cross_entropy, alone.asarray(scores), alone.asarray(labels))
    assert _fused._trust.lost
    before = len(alone.launches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _same_as_formula(alone)
    assert len(alone.launches) == before


def test_no_memory_is_no_reason_to_distrust_it(alone, monkeypatch):
    errors = itertools.chain([MemoryError("none left"), RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")])

    def full(variant):
        raise next(errors)

    with monkeypatch.context() as patch:
        patch.setattr(_fused, "kernel_of", full)
        for _ in range(2):
            with pytest.raises(MemoryError):
                _same_as_formula(alone)
    before = len(alone.launches)
    _same_as_formula(alone)
    assert len(alone.launches) > before
