"""Where `partial_fit` goes on: the random generator and the state of the update rule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xclf._array_api import Array, is_array
from xclf.optim import SOLVERS

#: NumPy's own bit generators: a file may name these and no other class.
_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")

PREFIX = "resume."


@dataclass(frozen=True)
class Resume:
    """rng : of the minibatches to come;  solver : of the last call;  state : of its update rule"""

    rng: np.random.Generator
    solver: str
    state: tuple[Any, ...]

    def state_for(self, solver: str) -> tuple[Any, ...] | None:
        """The state that `solver` goes on from; None where it starts anew."""
        return self.state if solver == self.solver else None

    def moved(self, move: Callable[[Array], Array]) -> Resume:
        """A copy with its arrays moved."""
        state = tuple(move(part) if is_array(part) else part for part in self.state)
        return replace(self, rng=copy.deepcopy(self.rng), state=state)

    def arrays(self) -> dict[str, Array]:
        """The arrays of the state, by their names in a model file."""
        return {f"{PREFIX}{i}": part for i, part in enumerate(self.state) if is_array(part)}

    def describe(self) -> dict[str, Any] | None:
        """The rest, numbers and lists; None for a generator that a file cannot name."""
        name = type(self.rng.bit_generator).__name__
        if name not in _BIT_GENERATORS:
            return None
        counts = [None if is_array(part) else int(part) for part in self.state]
        return {"solver": self.solver, "counts": counts, "rng": self.rng.bit_generator.state}


def read_resume(
    description: dict[str, Any], arrays: dict[str, np.ndarray], sizes: set[int], dtype: np.dtype
) -> Resume:
    """What `Resume.describe` and `arrays` wrote, for parameters of one of `sizes`; ValueError for
    what is no state of the solver."""
    solver, counts, rng = (description[key] for key in ("solver", "counts", "rng"))
    state = tuple(
        arrays[f"{PREFIX}{i}"] if count is None else count for i, count in enumerate(counts)
    )
    if SOLVERS[solver].full_batch:
        raise ValueError(f"the solver {solver} has no state")
    wanted = SOLVERS[solver].make_rule().init(np.zeros(1, dtype=dtype))
    for part, like in zip(state, wanted, strict=True):
        if is_array(like):
            fits = is_array(part) and part.dtype == dtype and part.ndim == 1 and part.size in sizes
        else:
            fits = type(part) is int and part >= 0
        if not fits:
            raise ValueError(f"not a state of the solver {solver}")
    if rng["bit_generator"] not in _BIT_GENERATORS:
        raise ValueError(f"unknown random generator {rng['bit_generator']!r}")
    bits = getattr(np.random, rng["bit_generator"])(0)
    bits.state = rng
    return Resume(np.random.Generator(bits), solver, state)
