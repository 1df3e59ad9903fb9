"""Heads on their way by Newton's method with conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from xclf._array_api import Array, from_host, namespace, to_host
from xclf.training._newton_terms import Terms


@dataclass
class Heads:
    """Heads that are computed together, and where they are; all but arrays (k, C, m) on the host.

    number : (k,) of each head in the fit
    at : (k, C, m) the last point that was accepted, whose objective is `value`
    step : (k, C, m) from there, of which the share `length` is tried next; `slope` is the
        objective's derivative along it
    start : the gradient's norm at zero weights, NaN as long as it is not known
    n_iter, products : steps, and passes over the rows, so far
    """

    number: np.ndarray
    at: Array
    step: Array
    value: np.ndarray
    slope: np.ndarray
    length: np.ndarray
    start: np.ndarray
    n_iter: np.ndarray
    products: np.ndarray

    @classmethod
    def begin(cls, number: np.ndarray, at: Array) -> Self:
        """Heads of which nothing is known but where they start."""
        zero = np.zeros(len(number))
        step, unknown = namespace(at).zeros_like(at), np.full(len(number), np.nan)
        above, none = np.full(len(number), np.inf), np.zeros(len(number), dtype=int)
        return cls(number, at, step, above, zero, zero, unknown, none, zero)

    def __len__(self) -> int:
        return len(self.number)


def joined(xp: Any, parts: list[Heads]) -> Heads:
    """Several groups as one."""
    some = [part for part in parts if len(part)]
    if len(some) < 2:
        return (some or parts)[0]
    values_of = {}
    for field in fields(Heads):
        values = [getattr(part, field.name) for part in some]
        join = xp.concat if field.name in ("at", "step") else np.concatenate
        values_of[field.name] = join(values)
    return Heads(**values_of)


def balanced(group: Heads, terms: Terms, downhill: Array) -> Heads:
    """Heads after a step of Newton's in the biases alone, where that lowers the objective: the
    certificate asks for class masses that balance, and a pass there takes longer.

    downhill : (k, C, m), the gradient times the inverse of the model, which in the biases is the
        Hessian
    """
    rank, xp = terms.rank, namespace(downhill)
    if int(downhill.shape[-1]) == rank:
        return group
    at = xp.concat([group.at[..., :rank], group.at[..., rank:] - downhill[..., rank:]], axis=-1)
    value = np.asarray(to_host(terms.value(at)[0]), dtype=np.float64)
    lower = value <= group.value
    at = xp.where(from_host(lower, at)[:, None, None], at, group.at)
    return replace(group, at=at, value=np.where(lower, value, group.value))
