"""Update rules: `next_w, config = rule(w, dw, config)`.

`config` holds a rule's settings and its state. Missing ones get their defaults, and both are
written into the dict that was passed; w is not written to. The formulas are those of `xclf.optim`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from xclf._array_api import Array, namespace
from xclf.optim import SGD, Adam, Momentum, RMSProp

__all__ = ["adam", "rmsprop", "sgd", "sgd_momentum"]

Config: TypeAlias = dict[str, Any]


def sgd(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """w - learning_rate * dw. Keys: learning_rate (1e-2)."""
    return _step(SGD, w, dw, config, {"learning_rate": 1e-2})


def sgd_momentum(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """v = momentum * v - learning_rate * dw;  w + v.

    Keys: learning_rate (1e-2), momentum (0.9); state: velocity (zeros in the shape of w).
    """
    return _step(Momentum, w, dw, config, {"learning_rate": 1e-2, "momentum": 0.9}, ["velocity"])


def rmsprop(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """c = decay_rate * c + (1 - decay_rate) * dw^2;  w - learning_rate * dw / (sqrt(c) + epsilon).

    Keys: learning_rate (1e-2), decay_rate (0.99), epsilon (1e-8); state: cache (zeros).
    """
    settings = {"learning_rate": 1e-2, "decay_rate": 0.99, "epsilon": 1e-8}
    return _step(RMSProp, w, dw, config, settings, ["cache"])


def adam(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """t is advanced first; then, with m and v the running means of dw and dw^2,

        w - learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

    Keys: learning_rate (1e-3), beta1 (0.9), beta2 (0.999), epsilon (1e-8); state: m, v (zeros),
    t (0).
    """
    config = {} if config is None else config
    config.setdefault("t", 0)
    settings = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    return _step(Adam, w, dw, config, settings, ["m", "v", "t"])


def _step(
    rule: Any,
    w: Array,
    dw: Array,
    config: Config | None,
    settings: dict[str, float],
    state: list[str] | None = None,
) -> tuple[Array, Config]:
    """One step of a rule of `xclf.optim`, whose parameters are the settings after the rate."""
    config = {} if config is None else config
    for key, default in settings.items():
        config.setdefault(key, default)
    for key in state or ():
        if config.get(key) is None:
            config[key] = namespace(w).zeros_like(w)
    # Python floats: a NumPy scalar would make float64 of float32 weights.
    rate, *parameters = (float(config[key]) for key in settings)
    before = tuple(config[key] for key in state or ())
    next_w, after = rule(*parameters).step(w, dw, before, rate)
    config.update(zip(state or (), after, strict=True))
    return next_w, config
