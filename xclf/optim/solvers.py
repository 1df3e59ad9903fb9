"""The solvers by name: one record each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xclf.optim.rules import SGD, Adam, Momentum, Nesterov, RMSProp, Rule


@dataclass(frozen=True)
class Solver:
    """How parameters are fitted.

    name : as estimators, model files and the shell spell it
    rule : the update rule of a minibatch solver; None for one that uses all rows in every step,
        whose method the loss names
    learning_rate : default of a minibatch solver
    parameters : parameters of the rule that estimators set; each may be one number for each head
    scale_free : whether the size of a step is the rate, whatever the gradient's
    """

    name: str
    rule: type[Rule] | None = None
    learning_rate: float = 0.0
    parameters: tuple[str, ...] = ()
    scale_free: bool = False

    def __post_init__(self) -> None:
        if self.rule is not None and not self.learning_rate > 0.0:
            raise TypeError(f"the solver {self.name} must say what its default learning_rate is")

    @property
    def full_batch(self) -> bool:
        return self.rule is None

    def make_rule(self, **parameters: Any) -> Rule:
        """The update rule; of `parameters` it takes those that it has."""
        assert self.rule is not None, f"{self.name} has no update rule"
        own = {key: value for key, value in parameters.items() if key in self.parameters}
        return self.rule(**own)


#: Every solver by its name. To add a minibatch solver: its rule in `rules.py`, and its entry here.
SOLVERS = {
    solver.name: solver
    for solver in (
        Solver("lbfgs"),
        Solver("sgd", SGD, 1e-2),
        Solver("momentum", Momentum, 1e-2, ("momentum",)),
        Solver("nesterov", Nesterov, 1e-2, ("momentum",)),
        Solver("rmsprop", RMSProp, 1e-3, scale_free=True),
        Solver("adam", Adam, 1e-3, scale_free=True),
    )
}
