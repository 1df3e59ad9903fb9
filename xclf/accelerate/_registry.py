"""The selection of accelerators for a fit, and the switch that turns them off."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from xclf._array_api import Array
from xclf.objectives import FORMULAS, Loss, Network, Operations
from xclf.optim import Rule

#: Takes the steps of an epoch: (objective, rule, rows, theta, state, batches) -> (theta, state).
Steps: TypeAlias = Callable[..., tuple[Array, tuple[Any, ...]]]

MODES = ("off", "default", "all")
VARIABLE = "XCLF_ACCELERATE"


@dataclass(frozen=True)
class Request:
    """The properties of a fit by which accelerators decide whether they take part.

    x : the rows, as `Rows.x`;  dtype : in which they are computed
    steps : minibatch steps in all, 0 for a full-batch fit
    bounded : whether the user has bounded the fit's memory
    label_sets : whether heads have labels of their own
    """

    x: Array
    dtype: Any
    network: Network
    loss: Loss
    n_rows: int
    rule: Rule | None = None
    steps: int = 0
    bounded: bool = False
    label_sets: bool = False


class Accelerated(NamedTuple):
    """The operations of a fit, and its minibatch steps; None stands for `plain_steps`."""

    operations: Operations = FORMULAS
    steps: Steps | None = None


class Accelerator:
    """An optional, faster way to compute some formula, tested against it.

    name, summary : for people, and for the switch
    default : whether it is on without any setting: only with a committed measurement
    missing : the reason why it cannot work here, or None
    accelerate : adds itself to what a fit computes with, where it takes part in that fit
    """

    def __init__(
        self,
        name: str,
        summary: str,
        *,
        default: bool,
        missing: Callable[[], str | None],
        accelerate: Callable[[Accelerated, Request], Accelerated],
    ) -> None:
        self.name, self.summary, self.default = name, summary, default
        self.missing = missing
        self.accelerate = accelerate
        #: Why it was switched off after a failure, or None.
        self.failure: str | None = None

    def disable(self, why: str) -> None:
        """Leave it out of all later fits of this process."""
        self.failure = why


class AcceleratorState(NamedTuple):
    """One line of `accelerators()`: state is "on", "off" or "unavailable"."""

    name: str
    state: str
    why: str
    summary: str


_known: list[Accelerator] = []
_choice: frozenset[str] | str | None = None  # None: what the environment says


def register(*accelerators: Accelerator) -> None:
    """Make accelerators known, in the order in which they are applied."""
    _known.extend(accelerators)


def accelerators(choice: str | Iterable[str] | None = None) -> list[AcceleratorState]:
    """Set which accelerators later fits of this process use, and list all of them.

    choice : "off", the formulas alone; "default", those with a committed measurement; "all"; the
        name of one, or several names; None changes nothing. At first the environment variable
        XCLF_ACCELERATE counts, which takes the same words and names separated by commas.

    Raises ValueError for an unknown word.
    """
    global _choice
    if choice is not None:
        _choice = _parse(choice, "accelerators")
    return [_state(one) for one in _known]


def check_switch() -> None:
    """Raise ValueError for an environment variable that is no choice."""
    if _choice is None:
        _parse(os.environ.get(VARIABLE) or "default", VARIABLE)


def select(request: Request) -> Accelerated:
    """The formulas, with those replaced for which an accelerator is on and takes part."""
    chosen = Accelerated()
    for one in _known:
        if one.failure is None and _wanted(one)[0]:
            chosen = one.accelerate(chosen, request)
    return chosen


def _parse(choice: str | Iterable[str], source: str) -> frozenset[str] | str:
    words = [choice] if isinstance(choice, str) else list(choice)
    words = [word.strip() for entry in words for word in entry.split(",") if word.strip()]
    if len(words) == 1 and words[0] in MODES:
        return words[0]
    names = {one.name for one in _known}
    unknown = [word for word in words if word not in names]
    if unknown or not words:
        raise ValueError(
            f"{source} must be one of {MODES} or names of accelerators, {sorted(names)}; "
            f"got {unknown or choice!r}"
        )
    return frozenset(words)


def _wanted(one: Accelerator) -> tuple[bool, str]:
    """Whether the switch turns it on, and why, in words."""
    choice, source = _choice, "xclf.accelerators"
    if choice is None:
        source = VARIABLE
        choice = _parse(os.environ.get(VARIABLE) or "default", VARIABLE)
    if choice == "default":
        return one.default, "by default" if one.default else "not by default: see its summary"
    if isinstance(choice, str):
        return choice == "all", f"{source} is {choice!r}"
    return one.name in choice, f"{source} names {', '.join(sorted(choice))}"


def _state(one: Accelerator) -> AcceleratorState:
    wanted, why = _wanted(one)
    state = "on" if wanted else "off"
    if one.failure is not None:
        state, why = "off", one.failure
    missing = one.missing()
    if missing is not None:
        state, why = "unavailable", missing
    return AcceleratorState(one.name, state, why, one.summary)
