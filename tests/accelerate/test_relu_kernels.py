"""The kernels of a ReLU layer against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from device_accelerators import host

from xclf import accelerators
from xclf.accelerate import Request, select
from xclf.accelerate.cuda import RELU_KERNELS, relu_kernels
from xclf.kernels import relu, relu_grad
from xclf.objectives import FORMULAS, Network, Softmax

ODD = np.array([0.0, -0.0, np.inf, -np.inf, np.nan])


@pytest.fixture
def operations(cupy):
    """Of a fit that the kernels take part in."""
    accelerators("cuda_relu_kernels")
    x = cupy.asarray(np.ones((5, 4)))
    return select(Request(x, x.dtype, Network((4, 3, 2)), Softmax(), 5)).operations


@pytest.mark.parametrize("heads", [(), (3,)])
def test_same_as_the_formulas(cupy, operations, dtype, heads):
    assert operations.hidden is not FORMULAS.hidden
    rng = np.random.default_rng(0)
    out = rng.normal(size=(*heads, 4, 7)).astype(dtype)
    out[..., 0, :5], b = ODD, rng.normal(size=(*heads, 4, 1)).astype(dtype)
    b[..., 0, :] = 0.0
    got = operations.hidden(cupy.asarray(out), cupy.asarray(b))
    np.testing.assert_array_equal(host(got), relu(out + b))
    np.testing.assert_array_equal(host(operations.hidden(cupy.asarray(out), None)), relu(out))
    dout = rng.normal(size=out.shape).astype(dtype)
    got = operations.hidden_grad(cupy.asarray(dout), cupy.asarray(out))
    np.testing.assert_array_equal(host(got), relu_grad(dout, out))


def test_results_are_where_the_operands_were(cupy, operations):
    out, b = cupy.asarray(np.ones((2, 3))), cupy.asarray(np.ones((2, 1)))
    assert operations.hidden(out, b) is out
    assert operations.hidden_grad(out, out) is out


def test_which_fits_they_take_part_in(cupy, operations):
    def hidden(x, widths):
        return select(Request(x, x.dtype, Network(widths), Softmax(), 5)).operations.hidden

    x = np.ones((5, 4))
    assert hidden(x, (4, 3, 2)) is FORMULAS.hidden
    assert hidden(cupy.asarray(x), (4, 2)) is FORMULAS.hidden


def test_formulas_go_on_where_a_kernel_fails(pretended, operations, monkeypatch):
    def broken(*given):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(pretended, "ElementwiseKernel", broken)
    relu_kernels._kernel.cache_clear()
    out, b = pretended.asarray([[1.0, -3.0]]), pretended.asarray([[1.0]])
    with pytest.warns(RuntimeWarning, match="cuda_relu_kernels is off"):
        got = operations.hidden(out, b)
    assert host(got).tolist() == [[2.0, 0.0]]
    assert RELU_KERNELS.failure == "RuntimeError: no compiler here"
    assert host(operations.hidden_grad(got, got)).tolist() == [[2.0, 0.0]]
