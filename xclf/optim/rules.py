"""Minibatch update rules: pure functions of flat parameters, their slope and their state.

Every rule is `init(theta) -> state` and `step(theta, slope, state, rate) -> (theta, state)`.
`theta` and `slope` are whole flat vectors (P,), or (K, P) for K heads, so a step is a handful of
array operations however many tensors the model has. `rate` is a float, or (K, 1), one per head.
Arrays are returned new; a state is a tuple of arrays and Python numbers. Nothing is read on the
host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from xclf._xp import Array, namespace

State: TypeAlias = tuple[Any, ...]


class Rule(Protocol):
    """What a minibatch fit needs of an update rule."""

    def init(self, theta: Array) -> State: ...

    def step(self, theta: Array, slope: Array, state: State, rate: Any) -> tuple[Array, State]: ...


@dataclass(frozen=True)
class SGD:
    """theta <- theta - rate * slope."""

    def init(self, theta: Array) -> State:
        return ()

    def step(self, theta: Array, slope: Array, state: State, rate: Any) -> tuple[Array, State]:
        return theta - rate * slope, ()


@dataclass(frozen=True)
class Momentum:
    """v <- momentum * v - rate * slope; theta <- theta + v. Source: Polyak (1964)."""

    momentum: Any = 0.9

    def init(self, theta: Array) -> State:
        return (namespace(theta).zeros_like(theta),)

    def step(self, theta: Array, slope: Array, state: State, rate: Any) -> tuple[Array, State]:
        velocity = self.momentum * state[0] - rate * slope
        return theta + velocity, (velocity,)


@dataclass(frozen=True)
class RMSProp:
    """c <- decay c + (1 - decay) slope^2; theta <- theta - rate * slope / (sqrt(c) + epsilon).

    Source: Tieleman & Hinton (2012), lecture 6.5.
    """

    decay: float = 0.99
    epsilon: float = 1e-8

    def init(self, theta: Array) -> State:
        return (namespace(theta).zeros_like(theta),)

    def step(self, theta: Array, slope: Array, state: State, rate: Any) -> tuple[Array, State]:
        xp = namespace(theta)
        square = self.decay * state[0] + (1.0 - self.decay) * (slope * slope)
        return theta - rate * slope / (xp.sqrt(square) + self.epsilon), (square,)


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction; t is advanced before use, so the first step has t = 1.

        m <- beta1 m + (1 - beta1) slope,   v <- beta2 v + (1 - beta2) slope^2
        theta <- theta - rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

    Source: Kingma & Ba (2015), algorithm 1.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def init(self, theta: Array) -> State:
        zeros = namespace(theta).zeros_like(theta)
        return zeros, zeros, 0

    def step(self, theta: Array, slope: Array, state: State, rate: Any) -> tuple[Array, State]:
        xp = namespace(theta)
        m, v, t = state[0], state[1], state[2] + 1
        m = self.beta1 * m + (1.0 - self.beta1) * slope
        v = self.beta2 * v + (1.0 - self.beta2) * (slope * slope)
        # The two corrections are Python numbers: they cost no array operation.
        first, second = 1.0 - self.beta1**t, 1.0 - self.beta2**t
        size = xp.sqrt(v) * (second**-0.5) + self.epsilon
        return theta - (rate * (1.0 / first)) * m / size, (m, v, t)
