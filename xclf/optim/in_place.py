"""The update rules in place: on CuPy arrays as one kernel each, on NumPy's without temporaries.

An update of array operations reads and writes the parameters a dozen times: on a device by as many
launches, on a host into as many arrays of fresh memory. The formulas are those of `rules`, element
by element, and are tested against them; on NumPy they give the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xclf._array_api import Array, library, loaded, namespace
from xclf.optim.rules import SGD, Adam, Momentum, RMSProp, Rule, State


class _Formula(NamedTuple):
    """A rule in CUDA C, one statement each; x_out is the new value of x.

    constants : of the rule, by name; state : its arrays; numbers : as `Rule.numbers` gives them
    """

    constants: Callable[[Any], dict[str, Any]]
    state: tuple[str, ...]
    numbers: tuple[str, ...]
    statements: tuple[str, ...]


# The gradient of the penalty is added here: it is a multiple of theta.
_GRADIENT = "T g = gradient + penalty * theta"

_FORMULAS: dict[type[Rule], _Formula] = {
    SGD: _Formula(lambda rule: {}, (), ("rate",), ("theta_out = theta - rate * g",)),
    Momentum: _Formula(
        lambda rule: {"momentum": rule.momentum},
        ("v",),
        ("rate",),
        ("T step = momentum * v - rate * g", "v_out = step", "theta_out = theta + step"),
    ),
    RMSProp: _Formula(
        lambda rule: {"decay": rule.decay, "rest": 1.0 - rule.decay, "epsilon": rule.epsilon},
        ("c",),
        ("rate",),
        (
            "T square = decay * c + rest * (g * g)",
            "c_out = square",
            "theta_out = theta - rate * g / (sqrt(square) + epsilon)",
        ),
    ),
    Adam: _Formula(
        lambda rule: {
            "beta1": rule.beta1,
            "rest1": 1.0 - rule.beta1,
            "beta2": rule.beta2,
            "rest2": 1.0 - rule.beta2,
            "epsilon": rule.epsilon,
        },
        ("m", "v"),
        ("rate", "root"),
        (
            "T mean = beta1 * m + rest1 * g",
            "T square = beta2 * v + rest2 * (g * g)",
            "m_out = mean",
            "v_out = square",
            "theta_out = theta - rate * mean / (sqrt(square) * root + epsilon)",
        ),
    ),
}


def can_update_in_place(rule: Rule, theta: Array) -> bool:
    """Whether `update_in_place` takes this rule and arrays like theta: CuPy's."""
    return type(rule) in _FORMULAS and library(namespace(theta)) == "cupy"


def update_in_place(
    rule: Rule,
    theta: Array,
    gradient: Array,
    penalty: Array,
    state: State,
    numbers: Sequence[Array],
) -> None:
    """`rule.update(theta, gradient + penalty * theta, state, numbers)`, written into theta and the
    arrays of the state.

    penalty : twice the strength where theta holds weights, 0 where biases, in the shape of theta
    numbers : of `rule.numbers`, as arrays 0-d or (K, 1)
    """
    formula = _FORMULAS[type(rule)]
    arrays = [part for part in state if hasattr(part, "shape")]
    constants = formula.constants(rule).values()
    _kernel(type(rule))(theta, gradient, penalty, *arrays, *numbers, *constants, theta, *arrays)


@functools.cache
def _kernel(kind: type[Rule]) -> Any:
    """The rule as an elementwise kernel; anything that broadcasts with theta may stand in it."""
    cupy: Any = loaded("cupy")
    formula = _FORMULAS[kind]
    constants = formula.constants(kind())
    taken = ("theta", "gradient", "penalty", *formula.state, *formula.numbers, *constants)
    return cupy.ElementwiseKernel(
        ", ".join(f"T {name}" for name in taken),
        ", ".join(f"T {name}_out" for name in ("theta", *formula.state)),
        ";\n".join((_GRADIENT, *formula.statements)) + ";",
        f"xclf_{kind.__name__.lower()}",
    )


def can_update_on_host(rule: Rule) -> bool:
    """Whether `update_on_host` knows the rule."""
    return type(rule) in _ON_HOST


def update_on_host(
    rule: Rule, theta: np.ndarray, gradient: np.ndarray, state: State, numbers: tuple[Any, ...]
) -> State:
    """`rule.update` of NumPy arrays, written into theta and the arrays of the state; `gradient` is
    used up. Returns the state with its counts of steps."""
    arrays = [part for part in state if hasattr(part, "shape")]
    _ON_HOST[type(rule)](rule, theta, gradient, *arrays, *numbers)
    return tuple(part if hasattr(part, "shape") else part + 1 for part in state)


def _sgd(rule: SGD, theta: np.ndarray, gradient: np.ndarray, rate: Any) -> None:
    gradient *= rate
    theta -= gradient


def _momentum(
    rule: Momentum, theta: np.ndarray, gradient: np.ndarray, v: np.ndarray, rate: Any
) -> None:
    v *= rule.momentum
    gradient *= rate
    v -= gradient
    theta += v


def _rmsprop(
    rule: RMSProp, theta: np.ndarray, gradient: np.ndarray, c: np.ndarray, rate: Any
) -> None:
    c *= rule.decay
    some = gradient * gradient
    some *= 1.0 - rule.decay
    c += some
    np.sqrt(c, out=some)
    some += rule.epsilon
    gradient *= rate
    gradient /= some
    theta -= gradient


def _adam(
    rule: Adam,
    theta: np.ndarray,
    gradient: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    rate: Any,
    root: Any,
) -> None:
    m *= rule.beta1
    some = gradient * (1.0 - rule.beta1)
    m += some
    gradient *= gradient
    gradient *= 1.0 - rule.beta2
    v *= rule.beta2
    v += gradient
    np.sqrt(v, out=gradient)
    gradient *= root
    gradient += rule.epsilon
    np.multiply(m, rate, out=some)
    some /= gradient
    theta -= some


_ON_HOST: dict[type[Rule], Callable[..., None]] = {
    SGD: _sgd,
    Momentum: _momentum,
    RMSProp: _rmsprop,
    Adam: _adam,
}
