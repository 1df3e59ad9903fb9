"""Few of all combinations of parameters, for code that treats each of them on its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest


def pairwise(**parameters: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrise a test so that any two values of two parameters meet in a case."""
    places = [range(len(values)) for values in parameters.values()]
    cases = [
        pytest.param(
            *(values[at] for values, at in zip(parameters.values(), chosen, strict=True)),
            id="-".join(
                _id(values[at], name, at)
                for (name, values), at in zip(parameters.items(), chosen, strict=True)
            ),
        )
        for chosen in covering_pairs(places)
    ]
    return pytest.mark.parametrize(list(parameters), cases)


def _id(value: Any, name: str, place: int) -> str:
    if isinstance(value, str | int | float | bool | None):
        return str(value)
    return getattr(value, "__name__", f"{name}{place}")


def covering_pairs(places: Sequence[range]) -> list[tuple[int, ...]]:
    """Greedily, the next of all combinations being the first that holds most new pairs."""
    every = list(itertools.product(*places))
    pairs = {case: set(itertools.combinations(enumerate(case), 2)) for case in every}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        best = max(every, key=lambda case: len(pairs[case] & missing))
        chosen.append(best)
        missing -= pairs[best]
    return chosen
