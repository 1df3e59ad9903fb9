"""torch's steps in the GPU benchmarks: all the same step, and a CUDA graph of it on a tape.

Without a GPU a tape stands for `torch.cuda.CUDAGraph`: it writes down the operations that torch
dispatches while the graph is recorded, and replays them on the same tensors.
"""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from bench.common import torch_peers

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_flatten  # noqa: E402

ROWS, FEATURES, HIDDEN, CLASSES, BATCH = 60, 7, 5, 3, 8


class Tape(TorchDispatchMode):
    """A graph: `with tape:` records, `replay` does it again in the memory that it was done in."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, out in self.done:
                again = func(*args, **kwargs)
                for old, new in zip(tree_flatten(out)[0], tree_flatten(again)[0], strict=True):
                    if isinstance(old, torch.Tensor) and old is not new:
                        old.detach().copy_(new.detach())


class Stream:
    def wait_stream(self, other):
        assert isinstance(other, Stream)


@pytest.fixture
def cuda(monkeypatch):
    """torch with a tape in the place of CUDA graphs."""
    fake = SimpleNamespace(
        CUDAGraph=Tape,
        graph=lambda tape: tape,
        Stream=Stream,
        current_stream=Stream,
        stream=lambda stream: contextlib.nullcontext(),
    )

    class Torch:
        cuda = fake

        def __getattr__(self, name):
            return getattr(torch, name)

    return Torch()


def steps_of(module):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((ROWS, FEATURES)).astype(np.float32))
    y = torch.from_numpy(rng.integers(0, CLASSES, ROWS))
    w1 = rng.standard_normal((HIDDEN, FEATURES)).astype(np.float32)
    w2 = rng.standard_normal((CLASSES, HIDDEN)).astype(np.float32)
    return torch_peers.TorchSteps(module, x, y, w1, w2, 0.9)


def trained(step, count=6):
    """Parameters after some steps, each on rows of its own."""
    batches = torch.from_numpy(np.random.default_rng(1).integers(0, ROWS, (count, BATCH)))
    for index in batches:
        step.take(index)
    return [parameter.detach().clone() for parameter in step.params]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_the_compiled_step_is_the_eager_step():
    assert_same(trained(steps_of(torch).compiled("aot_eager")), trained(steps_of(torch).eager()))


@pytest.mark.parametrize("kind", ["eager", pytest.param("compiled", marks=pytest.mark.long)])
def test_reset_starts_again(kind):
    steps = steps_of(torch)
    step = steps.eager() if kind == "eager" else steps.compiled("aot_eager")
    first = trained(step)
    step.reset()
    assert_same(trained(step), first)


@pytest.mark.parametrize("fused", [None, True])
def test_a_recorded_step_is_the_eager_step(cuda, fused):
    steps = steps_of(cuda)
    recorded = steps.recorded(steps.eager(fused), torch.arange(BATCH))
    assert_same(trained(recorded), trained(steps_of(torch).eager()))


def test_recording_changes_nothing(cuda):
    steps = steps_of(cuda)
    step = steps.eager()
    before = [parameter.detach().clone() for parameter in step.params]
    recorded = steps.recorded(step, torch.arange(BATCH))
    assert all(map(torch.equal, recorded.params, before))


def test_precision_is_put_back():
    before = torch.get_float32_matmul_precision()
    with torch_peers.torch_precision(torch, "tf32"):
        assert torch.get_float32_matmul_precision() == "high"
        with torch_peers.torch_precision(torch, None):
            assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == before


def test_tensors_share_the_memory_of_arrays():
    array = np.zeros(3, np.float32)
    torch_peers.shared(torch, array)[1] = 5.0
    assert array[1] == 5.0
    tensor = torch.zeros(2)
    assert torch_peers.shared(torch, tensor) is tensor
