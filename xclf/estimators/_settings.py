"""Hyperparameters: what each may be, which solver uses it, and its default there."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf._array_api import is_device_name
from xclf._warnings import warn_caller
from xclf.accelerate import check_switch
from xclf.objectives import Loss
from xclf.optim import SCHEDULES, SOLVERS, Solver
from xclf.rows import PRECISIONS, parse_bytes

#: Values of the parameter `solver`.
SOLVER_NAMES = ("auto", *SOLVERS)

# Parameters that only some solvers read; None (or False) means "not set".
_FOR_MINIBATCH = (
    "batch_size",
    "learning_rate",
    "lr_schedule",
    "early_stopping",
    "n_iter_no_change",
)

_SOLVERS_OF_OTHERS = ("newton-cg", "newton-cholesky", "liblinear", "sag", "saga")

Check = tuple[Callable[[Any], bool], str]


def _integer(low: int) -> Check:
    def good(value: Any) -> bool:
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)
        return whole and int(value) >= low

    return good, f"an integer >= {low}"


def _real(test: Callable[[float], bool], words: str) -> Check:
    def good(value: Any) -> bool:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
        return real and math.isfinite(float(value)) and test(float(value))

    return good, words


def _one_of(*choices: str) -> Check:
    words = "one of " + ", ".join(repr(choice) for choice in choices)
    return lambda value: isinstance(value, str) and value in choices, words


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check[0](value), f"None or {check[1]}"


def _class_weight(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return value is None or (isinstance(value, str) and value == "balanced")
    good = _real(lambda v: v >= 0.0, "")[0]
    return all(good(weight) for weight in value.values())


def _callbacks(value: Any) -> bool:
    return value is None or (
        isinstance(value, list | tuple) and all(callable(entry) for entry in value)
    )


def _random_state(value: Any) -> bool:
    if isinstance(value, np.random.RandomState | np.random.Generator) or value is None:
        return True
    return _integer(0)[0](value)


_FLAG: Check = (lambda value: isinstance(value, bool | np.bool_), "True or False")


def _size(value: Any) -> bool:
    try:
        parse_bytes(value)
    except ValueError:
        return False
    return True


CHECKS: dict[str, Check] = {
    "reg": _real(lambda v: v >= 0.0, "a finite number >= 0"),
    "margin": _real(lambda v: v > 0.0, "a finite number > 0"),
    "hidden": _integer(1),
    "fit_intercept": _FLAG,
    "standardize": _FLAG,
    "solver": _one_of(*SOLVER_NAMES),
    "max_iter": _or_none(_integer(1)),
    "tol": _or_none(_real(lambda v: v >= 0.0, "a finite number >= 0")),
    "batch_size": _or_none(_integer(1)),
    "learning_rate": _or_none(_real(lambda v: v > 0.0, "a finite number > 0")),
    "momentum": _or_none(_real(lambda v: 0.0 <= v < 1.0, "a number in [0, 1)")),
    "lr_schedule": _or_none(_one_of(*SCHEDULES)),
    "class_weight": (_class_weight, "None, 'balanced' or a dict of weights >= 0 by class"),
    "early_stopping": _FLAG,
    "validation_fraction": _or_none(_real(lambda v: 0.0 < v < 1.0, "a number in (0, 1)")),
    "n_iter_no_change": _or_none(_integer(1)),
    "warm_start": _FLAG,
    "random_state": (_random_state, "None, an integer >= 0, a Generator or a RandomState"),
    "callbacks": (_callbacks, "None or a list of callables"),
    "verbose": (lambda v: _FLAG[0](v) or _integer(0)[0](v), "True, False or an integer >= 0"),
    "device": (
        lambda value: value is None or is_device_name(value),
        "None, 'auto', 'cpu', 'cuda', 'cuda:N', 'cuda:all' or a tuple of 'cuda:N'",
    ),
    "precision": _or_none(_one_of(*PRECISIONS)),
    "max_memory": (_size, "None, a number of bytes or a size such as '500MB' or '2GB'"),
}


def check_parameters(kind: Any, params: Mapping[str, Any]) -> None:
    """ValueError for the first hyperparameter of an estimator class that is out of its range, and
    for a switch of accelerators that says nothing."""
    check_switch()
    name, checks = kind.__name__, CHECKS | {"loss": _one_of(*kind._losses)}
    for key, value in params.items():
        if key not in checks:
            continue  # a parameter of a subclass, which checks it itself
        good, words = checks[key]
        if good(value):
            continue
        hint = ""
        if key == "solver" and value in _SOLVERS_OF_OTHERS:
            hint = ": 'auto' takes the place of scikit-learn's solvers"
        raise ValueError(f"{name}: {key} must be {words}, got {value!r}{hint}")


@dataclass(frozen=True)
class Settings:
    """The hyperparameters of one fit that are not part of its objective, every default filled in.

    rule_parameters : of the solver's update rule, such as momentum, by name
    """

    solver: Solver
    max_iter: int
    tol: float
    batch_size: int
    learning_rate: float
    rule_parameters: dict[str, float]
    lr_schedule: str
    patience: int
    validation_fraction: float | None


def resolve(est: Any, *, auto: str, loss: type[Loss], single: bool) -> Settings:
    """Settings of a fit; warns about parameters that the solver does not use.

    auto : the solver that "auto" stands for;  single : whether products run in float32
    """
    solver = SOLVERS[auto if est.solver == "auto" else est.solver]
    _warn_unused(est, solver)
    if solver.full_batch:
        defaults = loss.full_batch
        max_iter, tol = defaults.max_iter, defaults.tol32 if single else defaults.tol64
    else:
        max_iter, tol = 100, 1e-4
    fraction = 0.1 if est.validation_fraction is None else float(est.validation_fraction)
    given = {name: getattr(est, name) for name in solver.parameters}
    default = {} if solver.full_batch else vars(solver.make_rule())
    return Settings(
        solver=solver,
        max_iter=max_iter if est.max_iter is None else int(est.max_iter),
        tol=tol if est.tol is None else float(est.tol),
        batch_size=200 if est.batch_size is None else int(est.batch_size),
        learning_rate=float(est.learning_rate or solver.learning_rate),
        rule_parameters={
            name: float(default[name] if value is None else value) for name, value in given.items()
        },
        lr_schedule=est.lr_schedule or "constant",
        patience=10 if est.n_iter_no_change is None else int(est.n_iter_no_change),
        validation_fraction=fraction if est.early_stopping else None,
    )


def uses_full_batches(est: Any) -> bool:
    """Whether `fit` counts iterations over all rows, not epochs of minibatches."""
    return SOLVERS[est._auto_solver if est.solver == "auto" else est.solver].full_batch


def resolve_in_parts(est: Any, loss: type[Loss]) -> Settings:
    """Settings of a `partial_fit`; ValueError for what it cannot do, as it sees some rows only."""
    for name in ("standardize", "early_stopping"):
        if getattr(est, name):
            raise ValueError(f"partial_fit does not support {name}=True: it needs all rows")
    if isinstance(est.class_weight, str):
        raise ValueError(
            "partial_fit does not support class_weight='balanced': it needs all labels; pass "
            "a dict of weights by class"
        )
    if est.lr_schedule not in (None, "constant"):
        raise ValueError(
            f"partial_fit does not support lr_schedule={est.lr_schedule!r}: it needs the number "
            "of epochs; leave it at None, and set learning_rate between calls"
        )
    return resolve(est, auto="adam", loss=loss, single=True)


def unused_parameters(est: Any) -> list[str]:
    """The parameters of an estimator that are set, and that its solver does not use."""
    return _unused(est, SOLVERS[est._auto_solver if est.solver == "auto" else est.solver])


def _unused(est: Any, solver: Solver) -> list[str]:
    unused = [
        key
        for key in _FOR_MINIBATCH
        if solver.full_batch and getattr(est, key) not in (None, False)
    ]
    of_rules = {name for one in SOLVERS.values() for name in one.parameters}
    unused += [
        name for name in sorted(of_rules - set(solver.parameters)) if getattr(est, name) is not None
    ]
    if est.validation_fraction is not None and not est.early_stopping:
        unused.append("validation_fraction")
    return unused


def _warn_unused(est: Any, solver: Solver) -> None:
    if unused := _unused(est, solver):
        what = "without early_stopping=True" if unused == ["validation_fraction"] else ""
        warn_caller(
            f"{type(est).__name__}: solver {solver.name!r} does not use {', '.join(unused)}"
            + (f" {what}" if what else "")
        )
