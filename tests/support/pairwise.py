"""Few of all combinations of parameters, for code that treats each of them on its own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest


def pairwise(**parameters: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrise a test so that any two values of two parameters meet in a case."""
    cases = [_case(parameters, chosen) for chosen in _chosen(parameters)]
    return pytest.mark.parametrize(list(parameters), cases)


def mostly_long(**parameters: Sequence[Any]) -> pytest.MarkDecorator:
    """The cases of `pairwise`, of which those are `long` that show no value for the first time."""
    seen: set[tuple[int, int]] = set()
    cases = []
    for chosen in _chosen(parameters):
        new = set(enumerate(chosen)) - seen
        cases.append(_case(parameters, chosen, *([] if new else [pytest.mark.long])))
        seen |= new
    return pytest.mark.parametrize(list(parameters), cases)


def named(names: Sequence[str], cases: Mapping[str, Sequence[Any]], *every: str) -> Any:
    """Parametrise a test by cases with names, of which those are `long` that are not in `every`."""
    marked = [
        pytest.param(*case, id=name, marks=[] if name in every else pytest.mark.long)
        for name, case in cases.items()
    ]
    return pytest.mark.parametrize(names, marked)


def _chosen(parameters: Mapping[str, Sequence[Any]]) -> list[tuple[int, ...]]:
    return covering_pairs([range(len(values)) for values in parameters.values()])


def _case(
    parameters: Mapping[str, Sequence[Any]], chosen: tuple[int, ...], *marks: pytest.MarkDecorator
) -> Any:
    picked = list(zip(parameters.items(), chosen, strict=True))
    name = "-".join(_id(values[at], name, at) for (name, values), at in picked)
    return pytest.param(*(values[at] for (_, values), at in picked), id=name, marks=marks)


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
