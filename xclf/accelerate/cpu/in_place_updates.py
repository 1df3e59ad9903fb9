"""Minibatch steps on NumPy arrays, written into the parameters and the update rule's state.

An update by array operations writes a dozen arrays of fresh memory. The formulas are those of
`xclf.optim`, operation by operation, and give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from xclf._array_api import Array
from xclf.accelerate._registry import Accelerated, Accelerator, Request
from xclf.objectives import Objective
from xclf.optim import SGD, Adam, Momentum, Nesterov, RMSProp, Rule, State


def in_place_steps(
    objective: Objective,
    rule: Rule,
    rows: Any,
    theta: np.ndarray,
    state: State,
    batches: Sequence[tuple[Array, Any]],
) -> tuple[np.ndarray, State]:
    """`xclf.training.plain_steps` for a rule in UPDATES, on copies of theta and the state."""
    theta, state = theta.copy(), tuple(part.copy() if _is_array(part) else part for part in state)
    arrays = [part for part in state if _is_array(part)]
    update = UPDATES[type(rule)]
    with closing(rows.batches([index for index, _ in batches])) as chunks:
        for _, rate in batches:
            gradient = objective.batch_gradient(theta, next(chunks), penalty=False)
            gradient = gradient.astype(theta.dtype, copy=False)
            for where in objective.network.weights:
                gradient[..., where] += objective.penalty_rate * theta[..., where]
            update(rule, theta, gradient, *arrays, *rule.numbers(state, rate))
            state = tuple(part if _is_array(part) else part + 1 for part in state)
    return theta, state


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape")


def _sgd(rule: SGD, theta: Array, gradient: Array, rate: Any) -> None:
    gradient *= rate
    theta -= gradient


def _momentum(rule: Momentum, theta: Array, gradient: Array, v: Array, rate: Any) -> None:
    v *= rule.momentum
    gradient *= rate
    v -= gradient
    theta += v


def _nesterov(rule: Nesterov, theta: Array, gradient: Array, v: Array, rate: Any) -> None:
    v *= rule.momentum
    gradient *= rate
    v -= gradient
    theta += rule.momentum * v
    theta -= gradient


def _rmsprop(rule: RMSProp, theta: Array, gradient: Array, c: Array, rate: Any) -> None:
    c *= rule.decay
    work = gradient * gradient
    work *= 1.0 - rule.decay
    c += work
    np.sqrt(c, out=work)
    work += rule.epsilon
    gradient *= rate
    gradient /= work
    theta -= gradient


def _adam(
    rule: Adam, theta: Array, gradient: Array, m: Array, v: Array, rate: Any, root: Any
) -> None:
    m *= rule.beta1
    work = gradient * (1.0 - rule.beta1)
    m += work
    gradient *= gradient
    gradient *= 1.0 - rule.beta2
    v *= rule.beta2
    v += gradient
    np.sqrt(v, out=gradient)
    gradient *= root
    gradient += rule.epsilon
    np.multiply(m, rate, out=work)
    work /= gradient
    theta -= work


#: (rule, theta, gradient, arrays of the state, numbers): theta and the state are updated, the
#: gradient is used up.
UPDATES: dict[type[Rule], Callable[..., None]] = {
    SGD: _sgd,
    Momentum: _momentum,
    Nesterov: _nesterov,
    RMSProp: _rmsprop,
    Adam: _adam,
}


def accelerate(chosen: Accelerated, request: Request) -> Accelerated:
    """In-place steps where the rows are NumPy's and the rule is known."""
    if not isinstance(request.x, np.ndarray) or type(request.rule) not in UPDATES:
        return chosen
    return chosen._replace(steps=in_place_steps)


IN_PLACE_UPDATES = Accelerator(
    "in_place_updates",
    "minibatch steps on NumPy arrays, without temporaries",
    default=True,
    missing=lambda: None,
    accelerate=accelerate,
)
