"""Minibatch updates on CuPy arrays as one CUDA kernel each, in place.

An update by array operations reads and writes the parameters a dozen times, a launch each. The
kernels compute the formulas of `xclf.optim`, element by element, and are tested against them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

from xclf._array_api import Array, loaded, namespace
from xclf.accelerate._registry import Accelerated, Accelerator, Request
from xclf.accelerate.cuda._support import attempt, missing, on_cupy
from xclf.objectives import Objective, RowChunk
from xclf.optim import SGD, Adam, Momentum, Nesterov, RMSProp, Rule, State


class _Formula(NamedTuple):
    """A rule in CUDA C: names of the state's arrays, names of `Rule.numbers`, and statements, in
    which x_out is the new value of x."""

    state: tuple[str, ...]
    numbers: tuple[str, ...]
    statements: str


_FORMULAS: dict[type[Rule], _Formula] = {
    SGD: _Formula((), ("rate",), "theta_out = theta - rate * g;"),
    Momentum: _Formula(
        ("v",),
        ("rate",),
        "T next = momentum * v - rate * g; v_out = next; theta_out = theta + next;",
    ),
    Nesterov: _Formula(
        ("v",),
        ("rate",),
        "T next = momentum * v - rate * g; v_out = next;"
        "theta_out = theta + momentum * next - rate * g;",
    ),
    RMSProp: _Formula(
        ("c",),
        ("rate",),
        "T square = decay * c + rest_decay * (g * g); c_out = square;"
        "theta_out = theta - rate * g / (sqrt(square) + epsilon);",
    ),
    Adam: _Formula(
        ("m", "v"),
        ("rate", "root"),
        "T mean = beta1 * m + rest_beta1 * g; m_out = mean;"
        "T square = beta2 * v + rest_beta2 * (g * g); v_out = square;"
        "theta_out = theta - rate * mean / (sqrt(square) * root + epsilon);",
    ),
}


def _constants(rule: Rule) -> dict[str, Any]:
    """The rule's parameters; of those that weigh an average, the rest of 1 too, which in float32
    has its digits only if they are taken here."""
    own = vars(rule)
    rest = {f"rest_{name}": 1.0 - own[name] for name in ("decay", "beta1", "beta2") if name in own}
    return own | rest


@functools.cache
def _kernel(kind: type[Rule]) -> Any:
    """The rule as an elementwise kernel; whatever broadcasts with theta may be an argument."""
    cupy: Any = loaded("cupy")
    state, numbers, statements = _FORMULAS[kind]
    inputs = ("theta", "gradient", "mask", "penalty", *state, *numbers, *_constants(kind()))
    return cupy.ElementwiseKernel(
        ", ".join(f"T {name}" for name in inputs),
        ", ".join(f"T {name}_out" for name in ("theta", *state)),
        # The gradient of the penalty is a multiple of the weights, which `mask` marks.
        f"T g = gradient + penalty * mask * theta; {statements}",
        f"xclf_{kind.__name__.lower()}",
    )


class FormulaUpdate:
    """A minibatch step by the formulas, written into theta and the arrays of the state."""

    def __init__(self, objective: Objective, rule: Rule, theta: Array) -> None:
        self.objective, self.rule = objective, rule

    def __call__(
        self, theta: Array, state: State, chunk: RowChunk, numbers: tuple[Any, ...]
    ) -> None:
        """numbers : of `Rule.numbers`, or 0-d arrays in their places"""
        gradient = self.objective.batch_gradient(theta, chunk)
        theta[...], after = self.rule.update(theta, gradient, state, numbers)
        for own, part in zip(arrays_of(state), arrays_of(after), strict=True):
            own[...] = part


class KernelUpdate(FormulaUpdate):
    """`FormulaUpdate` with the update in one kernel, for a rule in `_FORMULAS`."""

    def __init__(self, objective: Objective, rule: Rule, theta: Array) -> None:
        super().__init__(objective, rule, theta)
        self.mask = objective.penalty_mask(theta if theta.ndim == 1 else theta[0, :])
        self.constants = _constants(rule).values()

    def __call__(
        self, theta: Array, state: State, chunk: RowChunk, numbers: tuple[Any, ...]
    ) -> None:
        gradient = self.objective.batch_gradient(theta, chunk, penalty=False)
        gradient = namespace(theta).astype(gradient, theta.dtype, copy=False)
        arrays, penalty = arrays_of(state), self.objective.penalty_rate
        inputs = (theta, gradient, self.mask, penalty, *arrays, *numbers, *self.constants)
        if not attempt(UPDATE_KERNELS, lambda: _kernel(type(self.rule))(*inputs, theta, *arrays)):
            super().__call__(theta, state, chunk, numbers)


def arrays_of(state: State) -> list[Array]:
    """The arrays of a rule's state, without its counts of steps."""
    return [part for part in state if hasattr(part, "shape")]


def advanced(state: State) -> State:
    """The same arrays, with the counts of one step more."""
    return tuple(part if hasattr(part, "shape") else part + 1 for part in state)


def copied(value: Any) -> Any:
    """A copy of an array; a number as it is."""
    return namespace(value).asarray(value, copy=True) if hasattr(value, "shape") else value


def steps_by(
    kind: type[FormulaUpdate],
    objective: Objective,
    rule: Rule,
    rows: Any,
    theta: Array,
    state: State,
    batches: Sequence[tuple[Array, Any]],
) -> tuple[Array, State]:
    """`xclf.training.plain_steps` with updates of that kind, on copies of theta and the state."""
    theta, state = copied(theta), tuple(map(copied, state))
    update = kind(objective, rule, theta)
    with closing(rows.batches([index for index, _ in batches])) as chunks:
        for _, rate in batches:
            update(theta, state, next(chunks), rule.numbers(state, rate))
            state = advanced(state)
    return theta, state


kernel_steps = functools.partial(steps_by, KernelUpdate)


def accelerate(chosen: Accelerated, request: Request) -> Accelerated:
    """Steps with the kernel of a known rule, where theta is CuPy's."""
    if not on_cupy(request) or type(request.rule) not in _FORMULAS:
        return chosen
    return chosen._replace(steps=kernel_steps)


UPDATE_KERNELS = Accelerator(
    "cuda_update_kernels",
    "minibatch updates on CuPy arrays, one kernel each; no result of a device yet",
    default=False,
    missing=missing,
    accelerate=accelerate,
)
