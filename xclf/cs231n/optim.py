"""Update rules: `next_w, config = rule(w, dw, config)`.

`config` holds a rule's settings and its state. Whatever is missing gets its default, and both are
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
    config = _with_defaults(config, learning_rate=1e-2)
    next_w, _ = SGD().step(w, dw, (), *_numbers(config, "learning_rate"))
    return next_w, config


def sgd_momentum(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """v = momentum * v - learning_rate * dw;  w + v.

    Keys: learning_rate (1e-2), momentum (0.9); state: velocity (zeros in the shape of w).
    """
    config = _with_defaults(config, learning_rate=1e-2, momentum=0.9)
    _with_zeros(config, w, "velocity")
    rate, momentum = _numbers(config, "learning_rate", "momentum")
    next_w, (velocity,) = Momentum(momentum).step(w, dw, (config["velocity"],), rate)
    config["velocity"] = velocity
    return next_w, config


def rmsprop(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """c = decay_rate * c + (1 - decay_rate) * dw^2;  w - learning_rate * dw / (sqrt(c) + epsilon).

    Keys: learning_rate (1e-2), decay_rate (0.99), epsilon (1e-8); state: cache (zeros).
    """
    config = _with_defaults(config, learning_rate=1e-2, decay_rate=0.99, epsilon=1e-8)
    _with_zeros(config, w, "cache")
    rate, decay, epsilon = _numbers(config, "learning_rate", "decay_rate", "epsilon")
    next_w, (cache,) = RMSProp(decay, epsilon).step(w, dw, (config["cache"],), rate)
    config["cache"] = cache
    return next_w, config


def adam(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """t is advanced first; then, with m and v the running means of dw and dw^2,

        w - learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

    Keys: learning_rate (1e-3), beta1 (0.9), beta2 (0.999), epsilon (1e-8); state: m, v (zeros),
    t (0).
    """
    config = _with_defaults(config, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, t=0)
    _with_zeros(config, w, "m", "v")
    rate, *settings = _numbers(config, "learning_rate", "beta1", "beta2", "epsilon")
    state = (config["m"], config["v"], config["t"])
    next_w, state = Adam(*settings).step(w, dw, state, rate)
    config["m"], config["v"], config["t"] = state
    return next_w, config


def _with_defaults(config: Config | None, **defaults: float) -> Config:
    config = {} if config is None else config
    for key, value in defaults.items():
        config.setdefault(key, value)
    return config


def _numbers(config: Config, *keys: str) -> list[float]:
    """Settings as Python floats: a NumPy scalar would make float64 of float32 weights."""
    return [float(config[key]) for key in keys]


def _with_zeros(config: Config, w: Array, *keys: str) -> None:
    for key in keys:
        if config.get(key) is None:
            config[key] = namespace(w).zeros_like(w)
