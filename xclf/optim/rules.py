"""Minibatch update rules: pure functions of flat parameters, their gradient and their state.

Every rule is `init(theta) -> state` and `step(theta, gradient, state, rate) -> (theta, state)`.
`theta` and `gradient` are whole flat vectors (P,), or (K, P) for K heads, so a step is a handful of
array operations however many tensors the model has. `rate` is a float, or (K, 1), one per head.
Arrays are returned new; a state is a tuple of arrays, and of integers that count the steps. Nothing
is read on the host.

A step has two halves: `numbers(state, rate)`, the numbers that change from step to step, and
`update(theta, gradient, state, numbers)`, which takes 0-d arrays for them too: a recorded step is
one `update`, replayed with other numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeAlias

from xclf._array_api import Array, namespace

State: TypeAlias = tuple[Any, ...]
Numbers: TypeAlias = tuple[Any, ...]
Step: TypeAlias = tuple[Array, State]


class Rule(ABC):
    """An update rule of minibatch fits."""

    @abstractmethod
    def init(self, theta: Array) -> State:
        """The state before the first step."""

    def numbers(self, state: State, rate: Any) -> Numbers:
        """Numbers of the step after `state`: floats, or (K, 1) where the rate is."""
        return (rate,)

    @abstractmethod
    def update(self, theta: Array, gradient: Array, state: State, numbers: Numbers) -> Step:
        """One step with its `numbers`."""

    def step(self, theta: Array, gradient: Array, state: State, rate: Any) -> Step:
        """One step."""
        return self.update(theta, gradient, state, self.numbers(state, rate))


@dataclass(frozen=True)
class SGD(Rule):
    """theta <- theta - rate * gradient."""

    def init(self, theta: Array) -> State:
        return ()

    def update(self, theta: Array, gradient: Array, state: State, numbers: Numbers) -> Step:
        return theta - numbers[0] * gradient, ()


@dataclass(frozen=True)
class Momentum(Rule):
    """v <- momentum * v - rate * gradient; theta <- theta + v. Source: Polyak (1964)."""

    momentum: Any = 0.9

    def init(self, theta: Array) -> State:
        return (namespace(theta).zeros_like(theta),)

    def update(self, theta: Array, gradient: Array, state: State, numbers: Numbers) -> Step:
        velocity = self.momentum * state[0] - numbers[0] * gradient
        return theta + velocity, (velocity,)


@dataclass(frozen=True)
class Nesterov(Momentum):
    """v <- momentum * v - rate * gradient; theta <- theta + momentum * v - rate * gradient.

    Nesterov's accelerated gradient in the form of Sutskever, Martens, Dahl & Hinton (2013); theta
    here is their point ahead, theta + momentum * v, at which the gradient is taken.
    """

    def update(self, theta: Array, gradient: Array, state: State, numbers: Numbers) -> Step:
        step = numbers[0] * gradient
        velocity = self.momentum * state[0] - step
        return theta + self.momentum * velocity - step, (velocity,)


@dataclass(frozen=True)
class RMSProp(Rule):
    """c <- decay c + (1 - decay) gradient^2; theta <- theta - rate * gradient / (sqrt(c) +
    epsilon).

    Source: Tieleman & Hinton (2012), lecture 6.5.
    """

    decay: float = 0.99
    epsilon: float = 1e-8

    def init(self, theta: Array) -> State:
        return (namespace(theta).zeros_like(theta),)

    def update(self, theta: Array, gradient: Array, state: State, numbers: Numbers) -> Step:
        xp = namespace(theta)
        square = self.decay * state[0] + (1.0 - self.decay) * (gradient * gradient)
        return theta - numbers[0] * gradient / (xp.sqrt(square) + self.epsilon), (square,)


@dataclass(frozen=True)
class Adam(Rule):
    """Adam with bias correction; t is advanced before use, so the first step has t = 1.

        m <- beta1 m + (1 - beta1) gradient,   v <- beta2 v + (1 - beta2) gradient^2
        theta <- theta - rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

    Source: Kingma & Ba (2015), algorithm 1.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def init(self, theta: Array) -> State:
        xp = namespace(theta)
        return xp.zeros_like(theta), xp.zeros_like(theta), 0

    def numbers(self, state: State, rate: Any) -> Numbers:
        # The two corrections are Python numbers: they cost no array operation.
        t = state[2] + 1
        return rate * (1.0 / (1.0 - self.beta1**t)), (1.0 - self.beta2**t) ** -0.5

    def update(self, theta: Array, gradient: Array, state: State, numbers: Numbers) -> Step:
        xp = namespace(theta)
        m = self.beta1 * state[0] + (1.0 - self.beta1) * gradient
        v = self.beta2 * state[1] + (1.0 - self.beta2) * (gradient * gradient)
        size = xp.sqrt(v) * numbers[1] + self.epsilon
        return theta - numbers[0] * m / size, (m, v, state[2] + 1)
