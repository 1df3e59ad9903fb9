"""Which options were typed, and errors for those that have no effect.

Options also come from a file and from the environment, for every command that has them: of these
none is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from xclf.cli._console import UserError
from xclf.estimators import unused_parameters as unused_by_solver
from xclf.estimators import uses_full_batches

#: Names of the arguments of the command that were typed; None where a command is called by itself.
typed: ContextVar[frozenset[str] | None] = ContextVar("typed", default=None)


def typed_arguments(context: Any) -> frozenset[str]:
    """The names of the arguments that the parser met on the command line."""
    sources = ((name, context.get_parameter_source(name)) for name in context.params)
    return frozenset(name for name, source in sources if source and source.name == "COMMANDLINE")


def was_typed(name: str) -> bool:
    names = typed.get()
    return names is None or name in names


def spelled(name: str) -> str:
    """An argument's name as an option: --batch-size for batch_size, --x for x_name."""
    return "--" + name.removesuffix("_name").removesuffix("_path").replace("_", "-")


def refuse(names: Iterable[str], given: dict[str, Any], why: str) -> None:
    """`UserError` for the first of the options that was typed, and has no effect."""
    for name in names:
        if given.get(name) not in (None, False) and was_typed(name):
            raise UserError(f"{spelled(name)} has no effect: {why}")


def refuse_unused(estimator: Any, options: Iterable[str]) -> None:
    """`UserError` for the first of the options whose parameter the estimator's solver ignores."""
    unused = unused_by_solver(estimator)
    for name in options:
        if name not in unused or not was_typed(name):
            continue
        if name == "validation_fraction":
            why = "it is of --early-stopping"
        elif uses_full_batches(estimator):
            why = "all rows are in every step; a minibatch solver such as --solver adam uses it"
        else:
            why = f"--solver {estimator.solver} does not use it"
        raise UserError(f"{spelled(name)} has no effect: {why}")
