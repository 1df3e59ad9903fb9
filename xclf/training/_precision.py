"""What a fit is worth in the end: parameters as a model stores them, and bounds of rounding."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from xclf._array_api import Array, accumulator, device, namespace
from xclf.objectives import Layer
from xclf.training.problem import Problem

#: A class without weight is in no row: its bias is best at minus infinity. So much is as good:
#: exp(-800) is 0.
ABSENT = 800.0


def widest(problem: Problem) -> Problem:
    """The same problem with products in the widest dtype of the device."""
    rows = problem.rows
    return replace(problem, rows=rows.widened(accumulator(namespace(rows.x), device(rows.x))))


def rounding_bounds(unit: float, features: int, rows: int) -> tuple[float, float]:
    """Relative rounding errors of a product over features, and of a sum over rows; `unit` is the
    unit roundoff.

    They grow with the square root of the length: 4 of its deviations, and 16 units for a few
    operations more. Source: Higham & Mary (2019).
    """
    inner, outer = (unit * (4 * math.sqrt(length) + 16) for length in (features, rows))
    return inner, outer


def at_stored(problem: Problem, theta: Array) -> tuple[Problem, Array]:
    """The problem in the widest dtype, and the parameters (..., P) that a model of theta's dtype
    keeps.

    Of scores s and small losses, rounding s is a relative error of s units of the loss. And folding
    the shift and scale of standardised rows into the first layer rounds it: of a column whose mean
    is m deviations, a bias loses log2(m) bits.
    """
    network, xp = problem.objective.network, namespace(theta)
    wide = accumulator(xp, device(theta))

    def widened(part: Array | None) -> Array | None:
        return None if part is None else xp.astype(part, wide)

    kept = [Layer(xp.astype(w, wide), widened(b)) for w, b in network.raw(network.layers(theta))]
    network = replace(network, shift=widened(network.shift), scale=widened(network.scale))
    objective = replace(problem.objective, network=network)
    fitting = [tuple(layer) for layer in network.fitting(kept)]
    return widest(replace(problem, objective=objective)), network.flatten(fitting)


def as_stored(problem: Problem, theta: Array, dtype: object, centred: bool = False) -> Array:
    """The nearest parameters to theta (K, P), of a linear model, that a model of `dtype` holds.

    In raw coordinates, where models keep theirs; of two classes they keep the difference. Weights
    and biases that all classes have in common change no difference of scores, and are taken off.

    centred : whether weights are without them already
    """
    network, xp = problem.objective.network, namespace(theta)
    w, b = network.layers(theta)[0]
    w = w if centred else w - xp.mean(w, axis=-2, keepdims=True)
    w, b = network.raw([Layer(w, b)])[0]
    b = b if b is None else b - xp.mean(b, axis=-2, keepdims=True)
    raw = [part if part is None else stored(xp, part, dtype) for part in (w, b)]
    return network.flatten([tuple(layer) for layer in network.fitting([Layer(*raw)])])


def stored(xp: Any, part: Array, dtype: object) -> Array:
    """Raw weights (..., C, D) or biases (..., C, 1) as a model of `dtype` stores them."""
    wide = part.dtype
    if part.shape[-2] == 2:
        half = 0.5 * xp.astype(xp.astype(part[..., 1:, :] - part[..., :1, :], dtype), wide)
        return xp.concat([-half, half], axis=-2)
    return xp.astype(xp.astype(part, dtype), wide)
