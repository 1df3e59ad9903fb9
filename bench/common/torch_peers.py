"""torch on the same arrays and the same device: the peers of the benchmarks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.common.device import Device
from bench.common.internals import RATE, REG
from bench.common.measuring import Contender, optional

_WARM = 3  # steps before a capture, as torch's manual has it


def torch_device(device: Device) -> tuple[Any, str, str | None]:
    """(torch, device name, why not)."""
    torch = optional("torch")
    if torch is None:
        return None, "", "not installed"
    if device.name != "cupy":
        return torch, "cpu", None
    if not torch.cuda.is_available():
        return torch, "", "this torch has no CUDA"
    return torch, "cuda", None


@contextlib.contextmanager
def torch_precision(torch: Any, precision: str | None) -> Iterator[None]:
    """float32 products of torch in `precision`, None for float32's own, as long as it lasts."""
    if torch is None:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision is None else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def shared(torch: Any, array: Any) -> Any:
    """The same memory as a torch tensor."""
    return array if isinstance(array, torch.Tensor) else torch.from_dlpack(array)


def loss_and_grad(device: Device, x: Any, y: Any, w: np.ndarray, reg: float) -> Contender:
    """(loss, gradients) by autograd."""
    torch, where, why = torch_device(device)
    if why is not None:
        return why
    rows, labels = shared(torch, x), shared(torch, y)
    weight = torch.from_numpy(w).to(where, rows.dtype).requires_grad_()
    bias = torch.zeros(len(w), device=where, dtype=rows.dtype, requires_grad=True)

    def call() -> Any:
        scores = torch.nn.functional.linear(rows, weight, bias)
        loss = torch.nn.functional.cross_entropy(scores, labels) + reg * weight.square().sum()
        return loss.detach(), *torch.autograd.grad(loss, (weight, bias))

    return call


def torch_net(torch: Any, w1: np.ndarray, w2: np.ndarray, device: str = "cpu") -> Any:
    """The same net as a torch module, biases zero."""
    net = torch.nn.Sequential(
        torch.nn.Linear(w1.shape[1], len(w1)),
        torch.nn.ReLU(),
        torch.nn.Linear(len(w1), len(w2)),
    ).to(device)
    with torch.no_grad():
        for layer, w in ((net[0], w1), (net[2], w2)):
            layer.weight.copy_(torch.from_numpy(w))
            layer.bias.zero_()
    return net


def torch_sgd(torch: Any, net: Any, momentum: float, fused: bool | None = None) -> Any:
    """torch's SGD with the penalty on weights only, as here."""
    groups = [
        {"params": [net[0].weight, net[2].weight], "weight_decay": 2.0 * REG},
        {"params": [net[0].bias, net[2].bias], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=RATE, momentum=momentum, fused=fused)


@dataclass(frozen=True)
class Step:
    """A training step of torch.

    take : the rows that an index (n,) names
    params : weights and biases, layer by layer, which it changes in place
    reset : put them, and the velocities, back to where they started
    """

    take: Callable[[Any], None]
    params: list[Any]
    reset: Callable[[], None]


class TorchSteps:
    """The two-layer net's step on a minibatch: gather, forward, backward, SGD with momentum.

    x (N, D) and labels (N,) are tensors on one device; w1 (H, D) and w2 (C, H) where to start.
    """

    def __init__(
        self, torch: Any, x: Any, labels: Any, w1: np.ndarray, w2: np.ndarray, momentum: float
    ) -> None:
        self.torch, self.x, self.labels, self.momentum = torch, x, labels, momentum
        self.start = (w1, w2)
        self.where = str(x.device)

    def eager(self, fused: bool | None = None) -> Step:
        """As people write it; `fused` is that of torch.optim.SGD."""
        torch = self.torch
        net = torch_net(torch, *self.start, self.where)
        params = list(net.parameters())
        first = [parameter.detach().clone() for parameter in params]
        optimizer = torch_sgd(torch, net, self.momentum, fused)
        loss_of = torch.nn.CrossEntropyLoss()

        def step(index: Any) -> None:
            optimizer.zero_grad(set_to_none=True)
            loss_of(net(self.x[index]), self.labels[index]).backward()
            optimizer.step()

        def reset() -> None:
            with torch.no_grad():
                for parameter, old in zip(params, first, strict=True):
                    parameter.copy_(old)
                    if "momentum_buffer" in optimizer.state[parameter]:
                        optimizer.state[parameter]["momentum_buffer"].zero_()

        return Step(step, params, reset)

    def compiled(self, backend: str = "inductor") -> Step:
        """The whole step as one graph of torch.compile: gather, forward, backward and update."""
        torch, linear = self.torch, self.torch.nn.functional.linear
        first = [one.detach() for one in torch_net(torch, *self.start, self.where).parameters()]
        params = [one.clone() for one in first]
        velocities = [torch.zeros_like(one) for one in first]

        def loss_of(params: list[Any], index: Any) -> Any:
            w1, b1, w2, b2 = params
            scores = linear(linear(self.x[index], w1, b1).relu(), w2, b2)
            return torch.nn.functional.cross_entropy(scores, self.labels[index])

        def step(index: Any) -> None:
            gradients = torch.func.grad(loss_of)(params, index)
            for k, (parameter, velocity) in enumerate(zip(params, velocities, strict=True)):
                gradient = gradients[k] if k % 2 else gradients[k] + 2.0 * REG * parameter
                velocity.mul_(self.momentum).add_(gradient)
                parameter.sub_(RATE * velocity)

        def reset() -> None:
            for parameter, velocity, old in zip(params, velocities, first, strict=True):
                parameter.copy_(old)
                velocity.zero_()

        return Step(torch.compile(step, fullgraph=True, backend=backend), params, reset)

    def recorded(self, step: Step, index: Any) -> Step:
        """A step as a CUDA graph of the whole of it, with the index as its input."""
        torch = self.torch
        static = index.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                step.take(static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step.take(static)
        step.reset()

        def replay(index: Any) -> None:
            static.copy_(index)
            graph.replay()

        return Step(replay, step.params, step.reset)
