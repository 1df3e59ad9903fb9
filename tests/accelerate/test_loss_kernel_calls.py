"""The kernel of the losses where objectives call it, and where it fails."""

from __future__ import annotations

import itertools
import warnings

import cuda_on_cpu
import numpy as np
import pretend_cupy
import pytest
from device_accelerators import host
from helpers import assert_close_max_norm, assert_relative, gamma
from pairwise import pairwise

from xclf import accelerators
from xclf.accelerate import Request, select
from xclf.accelerate.cuda import LOSS_KERNEL, loss_kernel
from xclf.accelerate.cuda.loss_kernel import loss_in_place
from xclf.objectives import FORMULAS, LOSSES, Network, Objective, Softmax, loss_named
from xclf.rows import Rows


@pytest.fixture
def switched_on():
    accelerators("cuda_loss_kernel")


def chosen_score(x, loss, classes=3, dtype=None):
    """`Operations.score` of a fit."""
    request = Request(x, dtype or x.dtype, Network((4, classes)), loss, len(x))
    return select(request).operations.score


@pairwise(
    name=[*LOSSES],
    masked=[False, True],
    widths=[(4, 3), (4, 5, 3)],
    heads=[(), (1,), (3,)],
    bias=[True, False],
)
def test_objectives_are_the_same_with_it_and_without(
    cupy, monkeypatch, switched_on, name, masked, widths, heads, bias
):
    rng = np.random.default_rng(5)
    labels = rng.integers(3, size=60)
    labels = cupy.asarray(labels == np.arange(3)[:, None] if masked else labels)
    weights = cupy.asarray(rng.uniform(0.5, 2.0, size=(*heads, 60)))
    margin = cupy.asarray(rng.uniform(0.5, 2.0, size=heads)) if heads else 1.5
    loss = loss_named(name, margin=margin)
    x = cupy.asarray(rng.normal(size=(60, 4)))
    network = Network(widths, bias=bias)
    theta = cupy.asarray(rng.normal(size=(*heads, network.size)))
    launches, launch = [], loss_kernel.Call.launch
    monkeypatch.setattr(
        loss_kernel.Call, "launch", lambda *given: launches.append(given) or launch(*given)
    )

    def everything():
        operations = select(Request(x, x.dtype, network, loss, 60)).operations
        model = Network(widths, bias=bias, operations=operations)
        objective = Objective(model, loss, 0.1)
        for w in (None, weights):
            rows = Rows(x, labels, w, x.dtype).chunk(slice(3, 57))
            yield from objective.sums_at(theta, x.dtype)(rows)
            yield objective.batch_gradient(theta, rows)
            yield objective.loss_sum(theta, rows)

    got = [host(a) for a in everything()]
    assert len(launches) >= 6
    accelerators("off")
    launches.clear()
    want = [host(a) for a in everything()]
    assert not launches
    for found, expected in zip(got, want, strict=True):
        # Sums of 54 rows of a few dozen roundings each.
        assert_close_max_norm(found, expected, 1e-13)


def test_which_fits_it_takes_part_in(cupy, switched_on):
    x = np.ones((5, 4), np.float32)

    class Own(Softmax):
        """What a subclass computes is its own."""

        name = "own"

    assert chosen_score(cupy.asarray(x), Softmax()) is loss_kernel.score
    assert chosen_score(cupy.asarray(x), Own()) is FORMULAS.score
    assert chosen_score(cupy.asarray(x), Softmax(), classes=1025) is FORMULAS.score
    assert chosen_score(cupy.asarray(x), Softmax(), dtype=np.float16) is FORMULAS.score
    assert chosen_score(x, Softmax()) is FORMULAS.score
    accelerators("default")
    assert chosen_score(cupy.asarray(x), Softmax()) is FORMULAS.score


# --- when it fails ---------------------------------------------------------------------------

CALL = (np.array([[0.0, 1.0], [2.0, 0.5]]), np.array([0, 1]))


def same_as_formula(cupy):
    scores, labels = CALL
    want = Softmax()(scores, labels, axis=-2)
    got = loss_in_place(Softmax(), cupy.asarray(scores), cupy.asarray(labels))
    for found, expected in zip(got, want, strict=True):
        assert_relative(host(found), expected, gamma(40, np.float64), "value")


@pytest.fixture
def change(pretended, monkeypatch):
    """A function: the kernel's source goes through what it takes, and is compiled anew."""
    loss_kernel.kernel_of.cache_clear()

    def by(edit):
        class Changed(pretend_cupy.RawKernel):
            def __init__(self, code, name, options=()):
                super().__init__(edit(code), name, options)

        monkeypatch.setattr(pretended, "RawKernel", Changed)

    yield by
    loss_kernel.kernel_of.cache_clear()


def no_compiler(code):
    raise RuntimeError("no compiler here\nin many lines")


def without_the_barrier_before_the_sums(code):
    behind = "    if (group == 0 && inside) {"
    assert f"    __syncthreads();\n{behind}" in code
    return code.replace(f"    __syncthreads();\n{behind}", behind)


FAILURES = {
    "no compiler": (no_compiler, r"RuntimeError: no compiler here\)"),
    "a slip": (lambda code: code.replace("Real kept[KEEP];", ""), "RuntimeError"),
    "wrong gradients": (
        lambda code: code.replace(": pushed_by(v)) * scale", ": pushed_by(v)) * -scale"),
        "gradients of .* are off",
    ),
    "wrong losses": (lambda code: code.replace("= loss * f", "= loss"), "losses of .* are off"),
    "a missing barrier": (without_the_barrier_before_the_sums, "are off"),
}


@pytest.mark.parametrize("edit, reason", FAILURES.values(), ids=FAILURES)
def test_a_kernel_that_fails_is_switched_off(pretended, change, edit, reason):
    change(edit)
    # Many classes, so that several groups share a row, and need their barriers.
    scores, labels = np.random.default_rng(0).normal(size=(40, 5)), np.arange(5)
    with pytest.warns(RuntimeWarning, match=f"cuda_loss_kernel is off .*{reason}"):
        loss_in_place(Softmax(), pretended.asarray(scores), pretended.asarray(labels))
    state = next(one for one in accelerators() if one.name == "cuda_loss_kernel")
    assert (state.state, state.why) == ("off", LOSS_KERNEL.failure)
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        same_as_formula(pretended)


def test_a_lost_context_is_an_error_that_says_what_to_do(pretended, change, monkeypatch):
    """After an illegal address nothing can be computed on the device: no formula goes on."""
    change(no_compiler)

    def lost(device):
        raise RuntimeError("cudaErrorIllegalAddress")

    monkeypatch.setattr(pretended.cuda.Device, "synchronize", lost)
    with pytest.raises(RuntimeError, match=r"restart Python, and set XCLF_ACCELERATE=off"):
        same_as_formula(pretended)
    assert LOSS_KERNEL.failure is None


def test_no_memory_is_no_reason_to_distrust_it(cupy, monkeypatch):
    errors = itertools.chain([MemoryError("none left"), RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")])

    def full(variant):
        raise next(errors)

    with monkeypatch.context() as patch:
        patch.setattr(loss_kernel, "kernel_of", full)
        for _ in range(2):
            with pytest.raises(MemoryError):
                same_as_formula(cupy)
    assert LOSS_KERNEL.failure is None
    same_as_formula(cupy)


def test_the_emulator_sees_a_barrier_that_some_threads_skip(pretended):
    """What the tests above rely on."""
    code = """extern "C" __global__ void f(int n) {
        __shared__ int count;
        if (threadIdx.x) __syncthreads();
        count = n;
    }"""
    kernel = cuda_on_cpu.RawKernel(code, "f")
    with pytest.raises(AssertionError, match="different barriers"):
        kernel((1, 1), (2, 1), (np.int32(1),))
